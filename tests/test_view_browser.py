"""The pages in a real Chromium: nothing runs, nothing leaves, and keys and screen readers do."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from chromium import Chromium, Page, find_chromium, served
from test_view import HOSTILE, panes_of, record_hostile, record_shop
from tiers import third_slow

import trajrec
from trajrec.view.report import make_report

ROOT = Path(__file__).resolve().parent.parent
CHECKS = (Path(__file__).parent / "page_checks.js").read_text("utf-8")
PHONE = (390, 844)
DESKTOP = (1440, 900)

COMMAND = find_chromium()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMMAND is None, reason="no Chromium is installed"),
]

# Roles that somebody can use or that stand for a picture: each needs a name.
NAMED_ROLES = {"button", "link", "textbox", "searchbox", "combobox", "image", "img", "region"}


class Site(NamedTuple):
    """A served folder.

    Attributes:
        base: Scheme, host and port.
        entry: The address with the token.
        pages: A name for each page, and its path.
    """

    base: str
    entry: str
    pages: dict[str, str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes with credit, forks and verdicts, hostile ones, and one with values of 1 MB."""
    runs = tmp_path_factory.mktemp("browser") / "runs"
    shutil.copytree(
        ROOT / "sample_trajectories", runs, ignore=shutil.ignore_patterns(".trajrec", "*.py")
    )
    record_shop(runs)
    record_hostile(runs)
    record_large(runs)
    trajrec.close_logs()
    return runs


def record_large(runs: Path) -> None:
    """Record calls whose arguments, results and states have a megabyte of markup."""
    large = (HOSTILE + "<b>") * (1_000_000 // (len(HOSTILE) + 3))
    state: dict[str, Any] = {}

    def keep(text: str) -> str:
        state[text[:10]] = text
        return text

    given = trajrec.interface(
        base={"model": "m-1", "revision": trajrec.run_interface.missing("not_captured")},
        scaffold={"prompt": large, HOSTILE: [1, 2]},
        optimizer=trajrec.run_interface.missing("not_applicable"),
    )
    with trajrec.episode(runs, task="large", goal=large, watch=state, interface=given) as ep:
        ep.tool(keep, name="keep", access="write")
        ep.model(lambda **_: large, messages=[{"role": "user", "content": large}])
        ep.call("keep", text=large)
        ep.call("keep", text="small " + large)


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    with served(folder) as entry:
        yield Site(entry.partition("/?")[0], entry, pages_of(folder))


def pages_of(folder: Path) -> dict[str, str]:
    with trajrec.open(folder) as corpus:

        def one(query: str) -> str:
            return str(corpus.sql(query).fetchall()[0][0])

        credited = one("SELECT episode_id FROM credit GROUP BY 1 ORDER BY count(*) DESC")
        fork = one("SELECT episode_id FROM forks ORDER BY 1")
        hostile = one("SELECT episode_id FROM episodes WHERE contains(task, 'script')")
        interface = one("SELECT interface_id FROM interfaces")
        large = one("SELECT episode_id FROM episodes WHERE task = 'large'")
        pole = one("SELECT episode_id FROM episodes WHERE env_id = 'CartPole-v1' ORDER BY 1")
    return {
        "corpus": "/?forks=1",
        "filtered": "/?outcome=failure&n_steps_min=2",
        "nothing fits": "/?task=none",
        "failures": "/failures",
        "compare": "/compare",
        "interfaces": "/interfaces",
        "interface": f"/i/{interface}",
        "no interface": "/i/none",
        "two interfaces": f"/i/{interface}/vs/none",
        "sql": "/sql?q=SELECT+*+FROM+attempts",
        "agent": f"/e/{credited}",
        "state": f"/e/{credited}/1?tab=state",
        "places": f"/e/{credited}/state",
        "place": f"/e/{credited}/state?path=&at=1",
        "environment": f"/e/{pole}",
        "credit": f"/e/{credited}/credit",
        "no credit": f"/e/{pole}/credit",
        "forks": f"/e/{credited}/forks",
        "diff": f"/diff/{credited}/{fork}",
        "hostile": f"/e/{hostile}/0?tab=state",
        "hostile failure": f"/e/{hostile}/1",
        "large": f"/e/{large}/0?tab=state",
        "hostile places": f"/e/{hostile}/state",
        "hostile place": f"/e/{hostile}/state?path=/text",
        "large places": f"/e/{large}/state",
        "large place": f"/e/{large}/state?path=",
        "large diff": f"/diff/{large}/{hostile}",
    }


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    assert COMMAND is not None
    browser = Chromium(COMMAND)
    try:
        yield browser
    finally:
        browser.close()


@contextlib.contextmanager
def opened(
    chromium: Chromium, site: Site, size: tuple[int, int] = DESKTOP, *, is_dark: bool = False
) -> Iterator[Page]:
    """Open the printed address in a new page."""
    page = chromium.new_page(width=size[0], height=size[1], is_dark=is_dark)
    try:
        page.goto(site.entry)
        page.wait_until("location.search === '' && document.readyState === 'complete'")
        yield page
    finally:
        page.close()


def test_each_page_is_quiet_and_asks_no_other_host(chromium: Chromium, site: Site) -> None:
    with opened(chromium, site) as page:
        for name, path in site.pages.items():
            page.goto(site.base + path)
            assert page.evaluate("document.querySelector('h1').textContent"), name
            assert page.errors == [], name
            strangers = [url for url in page.requests if not url.startswith((site.base, "data:,"))]
            assert strangers == [], name
            # One script, ours: of all that was recorded, none became one.
            assert page.evaluate("document.scripts.length") == 1, name
            assert page.evaluate("document.querySelectorAll('img, iframe').length") == 0, name
            assert page.evaluate("document.documentElement.outerHTML.length") < 2_000_000, name


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_each_page_can_be_read_in_both_themes(
    chromium: Chromium, site: Site, size: tuple[int, int], is_dark: bool
) -> None:
    with opened(chromium, site, size, is_dark=is_dark) as page:
        for name, path in site.pages.items():
            page.goto(site.base + path)
            assert page.evaluate(CHECKS) == [], name


def test_each_control_has_a_name_for_screen_readers(chromium: Chromium, site: Site) -> None:
    with opened(chromium, site) as page:
        for name, path in site.pages.items():
            page.goto(site.base + path)
            controls = [item for item in page.controls() if item[0] in NAMED_ROLES]
            assert len(controls) > 3, name
            assert [role for role, words in controls if not words] == [], name


def step_of(page: Page) -> str:
    return str(page.evaluate("document.querySelector('#pane h2').textContent"))


def press(page: Page, key: str, step: int) -> None:
    """Press a key, and wait until the page and its address are those of a step."""
    page.press(key)
    page.wait_until(f"document.querySelector('#pane h2')?.textContent === 'Step {step}'")
    page.wait_until(f"location.pathname.endsWith('/{step}')")
    marked = "document.querySelector('#steps [aria-current]').dataset.step"
    assert page.evaluate(marked) == str(step)


def test_keys_walk_through_the_steps(chromium: Chromium, site: Site) -> None:
    with opened(chromium, site) as page:
        start = site.pages["agent"]
        page.goto(site.base + start + "/0")
        for key, step in [
            ("j", 1), ("j", 2), ("k", 1), ("G", 5), ("g", 0), ("J", 5), ("K", 0),
            ("n", 1), ("n", 2), ("p", 1), ("g", 0), ("c", 1), ("j", 2),
        ]:  # fmt: skip
            press(page, key, step)
        assert page.evaluate("document.querySelector('.tree')") is None
        page.press("w")
        page.wait_until("document.querySelector('.tree') !== null")
        press(page, "j", 3)
        assert page.evaluate("location.search") == "?tab=state"
        page.press("?")
        assert page.evaluate("document.getElementById('help').open")
        page.press("Escape")
        page.wait_until("!document.getElementById('help').open")
        page.press("u")
        page.wait_until("location.pathname === '/' && document.readyState === 'complete'")
        page.press("j")
        first = page.evaluate("document.activeElement.getAttribute('href')")
        assert first.startswith("/e/")
        page.press("Enter")
        page.wait_until(f"location.pathname === '{first}'")
        assert page.errors == []


def test_a_key_in_a_field_is_a_letter(chromium: Chromium, site: Site) -> None:
    with opened(chromium, site) as page:
        page.press("/")
        assert page.evaluate("document.activeElement.name") == "q"
        page.press("j")
        assert page.evaluate("document.activeElement.value") == "j"


def test_a_click_on_a_step_can_be_taken_back(chromium: Chromium, site: Site) -> None:
    with opened(chromium, site) as page:
        page.goto(site.base + site.pages["agent"] + "/0")
        page.evaluate("document.getElementById('s3').click()")
        page.wait_until("document.querySelector('#pane h2').textContent === 'Step 3'")
        page.evaluate("history.back()")
        page.wait_until("document.querySelector('#pane h2').textContent === 'Step 0'")


def test_copy_buttons_copy_the_command_beside_them(chromium: Chromium, site: Site) -> None:
    rights = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    chromium.call("Browser.grantPermissions", {"origin": site.base, **rights})
    with opened(chromium, site) as page:
        page.goto(site.base + site.pages["agent"] + "/1")
        page.call("Page.bringToFront")
        page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
        page.evaluate("document.querySelector('#pane .commands button.copy').click()")
        read = "navigator.clipboard.readText()"
        page.wait_until(f"(async () => (await {read}).includes('--step 1'))()")
        assert page.evaluate(read).startswith("trajrec tag ")
        page.evaluate("document.querySelector('button.address').click()")
        page.wait_until(f"(async () => (await {read}) === location.href)()")


def test_pages_without_scripts_show_the_same(chromium: Chromium, site: Site) -> None:
    with opened(chromium, site) as page:
        page.call("Emulation.setScriptExecutionDisabled", {"value": True})
        for name in ("agent", "credit", "corpus"):
            page.goto(site.base + site.pages[name])
            links = [words for role, words in page.controls() if role == "link"]
            assert len(links) > 5, name
            # A button that would do nothing is not there.
            assert "copy address" not in [words for _, words in page.controls()], name


def test_a_report_opens_from_a_file_without_network(
    chromium: Chromium, folder: Path, tmp_path: Path
) -> None:
    with trajrec.open(folder) as corpus:
        query = "SELECT episode_id FROM credit GROUP BY 1 ORDER BY count(*) DESC LIMIT 1"
        ((credited,),) = corpus.sql(query).fetchall()
        ((hostile,),) = corpus.sql(
            "SELECT episode_id FROM episodes WHERE contains(task, 'script')"
        ).fetchall()
        for episode in (credited, hostile):
            (tmp_path / f"{episode}.html").write_text(make_report(corpus, episode), "utf-8")
    page = chromium.new_page()
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    page.call("Network.emulateNetworkConditions", offline)
    for episode in (credited, hostile):
        page.goto((tmp_path / f"{episode}.html").as_uri())
        page.press("g")
        page.wait_until("document.querySelector('#pane h2').textContent === 'Step 0'")
        page.press("j")
        page.wait_until("document.querySelector('#pane h2').textContent === 'Step 1'")
        assert page.evaluate("location.hash") == "#1"
        assert page.errors == []
        assert page.evaluate(CHECKS) == []
        assert all(url.startswith(("file:", "data:,")) for url in page.requests)
    page.close()


def test_a_step_that_a_report_leaves_out_is_named(
    chromium: Chromium, folder: Path, tmp_path: Path
) -> None:
    with trajrec.open(folder) as corpus:
        text = make_report(corpus, "ef6ec1b93854f230", max_bytes=2_000)
    (tmp_path / "report.html").write_text(text, "utf-8")
    step = next(step for step in range(47) if str(step) not in panes_of(text))
    page = chromium.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    page.evaluate(f"document.getElementById('s{step}').click()")
    page.wait_until(f"document.querySelector('#pane h2').textContent === 'Step {step}'")
    assert "This step is left out" in page.evaluate("document.querySelector('#pane').textContent")
    assert page.errors == []
    page.close()


def test_the_buttons_of_a_phone_lie_above_the_list(chromium: Chromium, site: Site) -> None:
    with opened(chromium, site, PHONE) as page:
        page.goto(site.base + site.pages["agent"])
        top = "document.querySelector('.titles').getBoundingClientRect().top"
        for name in ("previous", "next"):
            box = f"document.getElementById('{name}').getBoundingClientRect()"
            page.evaluate(f"scrollBy(0, {top} - {box}.top)")
            assert page.evaluate(f"document.elementFromPoint({box}.x + 5, {box}.y + 8).id") == name
            assert page.evaluate(f"{box}.height") >= 44


def record_long_names(runs: Path) -> None:
    """Record two runs in which each name is one word of 120 letters."""
    word = "longname" * 15

    @trajrec.verifier(id=word, version=word)
    def passes(state: dict[str, int]) -> bool:
        return state[word] > 0

    for run in ("a", "b"):
        state = {word: 0}
        with trajrec.episode(
            runs,
            task=word,
            goal=word,
            watch=state,
            checks=[passes],
            interface=trajrec.interface(base={word: word}, scaffold={word: run}),
            metadata={"run": run + word},
        ) as ep:
            ep.tool(state.update, name=word, access="write")
            with contextlib.suppress(TypeError):
                ep.call(word, **{word: 1})
                ep.call(word, wrong=word)
            ep.call(word, **{word: 2})
            ep.stop(word)


@third_slow("pages")
def test_no_long_name_makes_a_page_wider_than_a_phone(chromium: Chromium, tmp_path: Path) -> None:
    record_long_names(tmp_path)
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        ids = [row[0] for row in corpus.sql("SELECT episode_id FROM episodes").fetchall()]
        given = [row[0] for row in corpus.sql("SELECT interface_id FROM interfaces").fetchall()]
        ((place,),) = corpus.sql("SELECT DISTINCT path FROM state_changes LIMIT 1").fetchall()
    pages = [
        "/",
        "/failures",
        f"/compare?a=interface_id='{given[0]}'&b=interface_id='{given[1]}'",
        "/interfaces",
        f"/i/{given[0]}",
        f"/i/{given[0]}/vs/{given[1]}",
        "/sql?q=SELECT+*+FROM+attempts",
        *(f"/e/{ids[0]}{page}" for page in ("", "/1", "/state", "/forks", "/credit")),
        f"/e/{ids[0]}/state?path={place}",
        f"/diff/{ids[0]}/{ids[1]}",
    ]
    with served(tmp_path) as entry:
        site = Site(entry.partition("/?")[0], entry, {})
        with opened(chromium, site, PHONE) as page:
            widths = {}
            for path in pages:
                page.goto(site.base + path)
                widths[path] = page.evaluate("document.documentElement.scrollWidth")
    assert {path: width for path, width in widths.items() if width > PHONE[0]} == {}
