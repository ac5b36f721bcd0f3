"""What `trajrec view` and `trajrec report` show, refuse and never run."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from starlette.testclient import TestClient
from taken_signals import taken
from tiers import third_slow

import trajrec
from trajrec.agents import outcomes
from trajrec.cli.main import main
from trajrec.corpus.recheck import recheck
from trajrec.log.schema import EpisodeEnd
from trajrec.recording import episode_writer
from trajrec.view.app import make_app
from trajrec.view.lanes import evidence_lane
from trajrec.view.report import make_report
from trajrec.view.rows import agent_steps, environment_rows
from trajrec.view.served_corpus import ServedCorpus
from trajrec.view.svg import bars, marks, step_line
from trajrec.view.tree import Changer, Node, make_tree

ROOT = Path(__file__).resolve().parent.parent
PORT = 7007
TOKEN = "a-token-of-a-test"
SECURITY = ("content-security-policy", "x-content-type-options", "referrer-policy")

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>"
    "\"' onmouseover='alert(3)' javascript:alert(4) </pre></template>"
    "\x1b[31m\x00\u202e\ud800{{ 7*7 }}<!--"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with samples, an agent's episode with failures, and one of hostile texts."""
    runs = tmp_path_factory.mktemp("view") / "runs"
    shutil.copytree(ROOT / "sample_trajectories", runs, ignore=shutil.ignore_patterns("support"))
    record_shop(runs)
    record_hostile(runs)
    trajrec.close_logs()
    return runs


def record_shop(runs: Path) -> None:
    """Record a refund that is refused first and succeeds with other arguments."""
    shop = trajrec.envs.Shop(seed=7)
    with trajrec.episode(
        runs, task="refund-17", goal="Refund O1001.", world=shop, options={"task": 0}
    ) as ep:

        def think(text: str) -> None:
            ep.model(lambda **_: text, messages=[{"role": "user", "content": "What next?"}])

        think("I look at the order.")
        order: Any = ep.call("get_order", order="O1001")
        think("I refund too much.")
        with contextlib.suppress(Exception):
            ep.call("refund_order", order="O1001", cents=10**6)
        think("I refund its price.")
        ep.call("refund_order", order="O1001", cents=order["cents"])
        think("I look for another one.")
        with contextlib.suppress(Exception):
            ep.call("get_order", order="O9999")
        ep.check(trajrec.verifier(id="solved", version="1")(lambda shop: shop.task_solved()))


def record_hostile(runs: Path) -> None:
    """Record an episode of which every text tries to break out of a page."""
    state: dict[str, Any] = {"text": HOSTILE, HOSTILE: 1}

    def change(**arguments: Any) -> Any:
        state["text"] = arguments["text"] + "!"
        return {"said": arguments["text"], HOSTILE: float("nan"), "long": "<b>" * 100_000}

    def fail(**arguments: Any) -> Any:
        raise ValueError(HOSTILE)

    with trajrec.episode(runs, task=HOSTILE, goal=HOSTILE, watch=state) as ep:
        ep.tool(change, name="change" + HOSTILE, access="write")
        ep.tool(fail, name="fail", access="read")
        ep.model(
            lambda **_: HOSTILE, model=HOSTILE, messages=[{"role": HOSTILE, "content": HOSTILE}]
        )
        ep.call("change" + HOSTILE, text=HOSTILE)
        with ep.step(), contextlib.suppress(ValueError):
            ep.call("fail", text=HOSTILE)
        ep.check(trajrec.verifier(id=HOSTILE, version="1")(lambda _: False))


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Iterator[trajrec.Corpus]:
    with trajrec.open(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(corpus: trajrec.Corpus) -> TestClient:
    """A browser that has opened the printed address."""
    browser = stranger(corpus)
    assert browser.get(f"/?token={TOKEN}").status_code == 200
    return browser


def stranger(corpus: trajrec.Corpus) -> TestClient:
    app = make_app(ServedCorpus(corpus), port=PORT, token=TOKEN)
    return TestClient(app, base_url=f"http://127.0.0.1:{PORT}", follow_redirects=False)


def signed_in(corpus: trajrec.Corpus) -> TestClient:
    client = stranger(corpus)
    client.get(f"/?token={TOKEN}")
    return client


def id_of(corpus: trajrec.Corpus, where: str) -> str:
    found = corpus.sql(f"SELECT episode_id FROM episodes WHERE {where} ORDER BY 1").fetchall()
    return str(found[0][0])


class Elements(HTMLParser):
    """The elements of a page, as a browser would find them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def assert_harmless(page: str) -> None:
    """Assert that a page has only elements and attributes of our own."""
    for tag, attributes in Elements(page).found:
        assert tag not in ("img", "b-", "iframe", "object", "base"), tag
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        if tag == "script":
            assert attributes.get("src") == "/static/view.js"
        if "href" in attributes:
            assert re.match(r"/|\?|#|data:,$", attributes["href"] or ""), attributes["href"]
    for hidden in ("\x1b", "\x00", "\u202e", "\ud800"):
        assert hidden not in page


# The guard


def test_a_stranger_without_the_token_sees_nothing(corpus: trajrec.Corpus) -> None:
    for address in ("/", "/static/view.js", "/e/0", "/nothing"):
        answer = stranger(corpus).get(address)
        assert answer.status_code == 403
        assert "CartPole" not in answer.text


def test_the_token_is_swapped_for_a_strict_cookie(corpus: trajrec.Corpus) -> None:
    browser = stranger(corpus)
    answer = browser.get(f"/e/1?token={TOKEN}&tab=state")
    cookie = answer.headers["set-cookie"].lower()
    assert f"trajrec-{PORT}={TOKEN}" in cookie
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert 'url=/e/1?tab=state"' in answer.text
    assert TOKEN not in answer.text
    assert browser.get("/").status_code == 200
    assert browser.get("/?token=another").status_code == 403


def test_the_token_opens_no_other_host(corpus: trajrec.Corpus) -> None:
    answer = stranger(corpus).get(f"//evil.example/?token={TOKEN}")
    assert "evil" not in answer.text or 'url=/evil.example/"' in answer.text


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost:1", "evil.example:7007"])
def test_a_name_bound_anew_to_this_machine_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 400


def test_requests_of_other_sites_are_refused(client: TestClient) -> None:
    for site in ("cross-site", "same-site", "other"):
        assert client.get("/", headers={"sec-fetch-site": site}).status_code == 403
    assert client.get("/", headers={"sec-fetch-site": "same-origin"}).status_code == 200


def test_the_viewer_only_answers_get(client: TestClient) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert client.request(method, "/").status_code == 405


@pytest.mark.slow
def test_every_answer_carries_the_strict_headers(
    client: TestClient, corpus: trajrec.Corpus
) -> None:
    episode = id_of(corpus, "task = 'refund-17'")
    for address in (
        "/",
        f"/e/{episode}",
        f"/e/{episode}/1/raw",
        "/static/view.css",
        "/no",
        "/e/zz",
    ):
        headers = client.get(address).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
    assert stranger(corpus).get("/").headers["content-security-policy"] == policy


@pytest.mark.parametrize(
    "address",
    ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/e/../../etc/passwd"],
)
def test_paths_lead_out_of_no_folder(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 404
    assert "import" not in answer.text


# Pages


def test_the_table_lists_fresh_rollouts_and_filters(client: TestClient) -> None:
    page = client.get("/").text
    assert "<b>15</b> episodes" in page
    page = client.get("/?env_id=CartPole-v1&ending=terminated&sort=n_steps&dir=desc").text
    assert "<b>5</b> episodes" in page
    assert page.index(">ef6ec1b938<") < page.index(">6d9ae4e353<")
    assert re.search('aria-current="true" title="CartPole-v1: 5 episodes', page)
    assert "No episode fits" in client.get("/?task=nothing").text


def test_unknown_parameters_of_the_table_do_no_harm(client: TestClient) -> None:
    for query in ("sort=1;DROP&dir=up", "offset=-5&q=%00'", "offset=9999999999999&x=1"):
        assert client.get(f"/?{query}").status_code == 200


def test_the_table_names_the_logs_that_are_damaged(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "runs", ignore=shutil.ignore_patterns(".trajrec"))
    data = bytearray((tmp_path / "runs" / "won-shop.trj").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "runs" / "won-shop.trj").write_bytes(data)
    with trajrec.open(tmp_path / "runs") as corpus:
        browser = stranger(corpus)
        browser.get(f"/?token={TOKEN}")
        assert re.search(
            r'class="note failed">won-shop.trj: .*the rest is shown', browser.get("/").text
        )


def test_a_prefix_of_an_id_leads_to_the_episode(client: TestClient) -> None:
    answer = client.get("/e/ef6ec1/5")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/e/ef6ec1b93854f230/5"
    answer = client.get("/e/nothing")
    assert answer.status_code == 404
    assert "no episode" in answer.text


def test_an_episode_opens_at_the_failure_not_overcome(
    client: TestClient, corpus: trajrec.Corpus
) -> None:
    episode = id_of(corpus, "task = 'refund-17'")
    page = client.get(f"/e/{episode}").text
    assert "<h2>Step 3</h2>" in page
    assert "no order O9999" in page
    assert "Refund O1001." in page


def test_a_step_shows_failure_retry_and_changed_arguments(
    client: TestClient, corpus: trajrec.Corpus
) -> None:
    episode = id_of(corpus, "task = 'refund-17'")
    page = client.get(f"/e/{episode}/1/pane").text
    assert "overcome at 2, other arguments" in page
    page = client.get(f"/e/{episode}/2/pane").text
    assert "with other arguments" in page
    assert "<del>1000000</del>" in page
    assert "/database/orders" in page or "/database/" in page
    assert "I look at the order." in client.get(f"/e/{episode}/0/pane").text


def test_the_whole_state_after_a_step_is_that_of_the_log(
    client: TestClient, corpus: trajrec.Corpus
) -> None:
    episode = corpus.episode(id_of(corpus, "task = 'refund-17'"))
    for step in range(episode.n_steps):
        told = client.get(f"/e/{episode.id}/{step}/state.json").json()
        assert told == json.loads(json.dumps(episode.state(step + 1)))
    assert "object of" in client.get(f"/e/{episode.id}/1?tab=state").text


def test_an_unknown_state_is_called_unknown(client: TestClient) -> None:
    answer = client.get("/e/ef6ec1b93854f230/5/state.json")
    assert answer.status_code == 404
    assert "only the digest" in answer.json()["unknown"]
    assert "only the digest" in client.get("/e/ef6ec1b93854f230/5?tab=state").text


def test_a_step_that_is_not_there_is_no_page(client: TestClient) -> None:
    for step in ("47", "99999999999999999999999"):
        assert client.get(f"/e/ef6ec1b93854f230/{step}").status_code == 404


def test_steps_that_raised_are_marked_in_list_and_timeline(client: TestClient) -> None:
    page = client.get("/e/4c35651d5e807dbc").text
    assert "the motor did not answer" in page
    assert page.count('class="row failed"') == 4
    assert 'class="failed" d="M8 0h1v1h-1zM17' in page


def test_every_page_can_be_used_without_scripts(client: TestClient) -> None:
    page = client.get("/e/ef6ec1b93854f230/5").text
    links = {attributes.get("href") for tag, attributes in Elements(page).found if tag == "a"}
    assert {"/", "/e/ef6ec1b93854f230/4", "/e/ef6ec1b93854f230/6"} <= links
    assert {f"/e/ef6ec1b93854f230/{k}#s{k}" for k in range(47)} <= links


@pytest.mark.slow
def test_a_verdict_that_was_given_later_is_on_the_page(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "runs")
    with trajrec.open(tmp_path / "runs") as corpus:
        browser = stranger(corpus)
        browser.get(f"/?token={TOKEN}")
        episode = id_of(corpus, "task = 'refund-17'")
        assert "given later" not in browser.get(f"/e/{episode}").text
        never = trajrec.verifier(id="never", version="3")(lambda state: False)
        list(recheck(corpus, never, where=f"episode_id = '{episode}'"))
        assert "check never version 3, given later" in browser.get(f"/e/{episode}").text


# Hostile recordings


def test_hostile_texts_are_shown_as_text(client: TestClient, corpus: trajrec.Corpus) -> None:
    episode = id_of(corpus, "task LIKE '%script%'")
    assert_harmless(client.get("/").text)
    for address in ("", "/0", "/1", "/0/pane?tab=state", "/1?tab=state"):
        answer = client.get(f"/e/{episode}{address}")
        assert answer.status_code == 200
        assert "&lt;script&gt;alert(1)" in answer.text
        assert "\\x1b[31m" in answer.text
        assert_harmless(answer.text)
        assert len(answer.text) < 200_000


def test_long_values_are_cut_and_counted(client: TestClient, corpus: trajrec.Corpus) -> None:
    episode = id_of(corpus, "task LIKE '%script%'")
    page = client.get(f"/e/{episode}/0/pane").text
    assert re.search(r"\d{3},\d{3} more characters are not shown", page)
    raw = client.get(f"/e/{episode}/0/raw")
    assert raw.headers["content-type"].startswith("text/plain")
    assert raw.json()["attempts"][0]["result"]["long"] == "<b>" * 100_000


def test_a_filter_in_the_address_cannot_break_the_page(client: TestClient) -> None:
    answer = client.get("/", params={"q": '"><script>alert(1)</script>', "task": "'\x1b"})
    assert answer.status_code == 200
    assert_harmless(answer.text)


@pytest.mark.slow
@third_slow("pages")
def test_no_damage_of_a_log_breaks_a_page(tmp_path: Path) -> None:
    record_shop(tmp_path / "whole")
    trajrec.close_logs()
    (log,) = (tmp_path / "whole").glob("*.trj")
    drawn = random.Random(7)
    for number in range(12):
        data = bytearray(log.read_bytes())
        data[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / log.name).write_bytes(data)
        with trajrec.open(folder) as corpus:
            browser = stranger(corpus)
            browser.get(f"/?token={TOKEN}")
            assert browser.get("/").status_code == 200
            for (episode,) in corpus.sql("SELECT episode_id FROM all_episodes").fetchall():
                assert browser.get(f"/e/{episode}").status_code == 200
                for step in range(4):
                    answer = browser.get(f"/e/{episode}/{step}?tab=state")
                    assert answer.status_code in (200, 404)


# The report


def panes_of(report: str) -> dict[str, str]:
    found = re.search(r'<script type="text/plain" id="panes">([^<]*)</script>', report)
    assert found is not None
    return dict(json.loads(zlib.decompress(base64.b64decode(found[1]), -15)))


def test_a_report_has_every_step_and_the_same_bytes(corpus: trajrec.Corpus) -> None:
    episode = id_of(corpus, "task = 'refund-17'")
    report = make_report(corpus, episode)
    assert make_report(corpus, episode) == report
    panes = panes_of(report)
    assert list(panes) == ["0", "1", "2", "3"]
    assert "overcome at 2, other arguments" in panes["1"]
    # The packed panes are letters of base64, among which these may stand by chance.
    page = re.sub(r"<script.*?</script>", "", report, flags=re.DOTALL)
    assert all("/e/" not in text for text in (page, *panes.values()))


def test_a_report_shows_no_state_where_none_was_watched(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, task="idle") as ep:
        ep.execute("look", {}, run=lambda: 1)
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        report = make_report(corpus, episode.id)
    assert "no state was watched" in report
    assert "whole state after step" not in report


def test_a_report_allows_its_own_script_alone(corpus: trajrec.Corpus) -> None:
    report = make_report(corpus, id_of(corpus, "task LIKE '%script%'"))
    scripts = [a for tag, a in Elements(report).found if tag == "script"]
    assert scripts == [{"type": "text/plain", "id": "panes"}, {}]
    assert "default-src 'none'" in report.replace("&#39;", "'")
    assert "unsafe" not in report[: report.index("<body")]
    for pane in panes_of(report).values():
        assert_harmless(pane)


def test_a_report_that_grows_too_large_says_so(corpus: trajrec.Corpus) -> None:
    report = make_report(corpus, "ef6ec1b93854f230", max_bytes=2_000)
    assert "steps are left out, for the size of the file" in report
    assert 1 <= len(panes_of(report)) < 47


def test_the_command_writes_a_report(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "episode.html"
    assert main(["report", str(folder), "ef6ec1", "-o", str(out)]) == 0
    assert "CartPole-v1" in out.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["episode.html"]
    assert "kB" in capsys.readouterr().out


def test_without_the_extra_the_commands_name_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["view", str(folder), "--no-browser"]) == 2
    assert "pip install 'trajrec[view]'" in capsys.readouterr().err
    assert main(["report", str(folder), "ef6ec1", "-o", "x.html"]) == 2
    assert "pip install 'trajrec[view]'" in capsys.readouterr().err


# Paths of SVG


def test_long_lanes_have_a_thousand_marks_at_most() -> None:
    assert marks(range(0, 100_000, 7), 100_000).count("M") <= 1_000
    assert bars({step: step % 5 + 1.0 for step in range(100_000)}, 100_000).count("M") <= 1_000


def test_a_long_line_keeps_its_lowest_and_highest_value() -> None:
    values = [(step, float(step * 7919 % 1000)) for step in range(100_000)]
    line = step_line(values, 100_000)
    assert len(line) < 60_000
    heights = {float(text) for text in re.findall(r"[MV](?:\d+ )?([0-9.]+)", line)}
    assert (min(heights), max(heights)) == (0.1, 0.9)


def test_no_path_holds_nan_or_infinity() -> None:
    odd = [float("nan"), float("inf"), 1e308, -1e308, 5.0]
    line = step_line(list(enumerate(odd)), 5)
    assert re.fullmatch(r"[MHVhvz0-9. -]*", line + bars(dict(enumerate(odd)), 5))


# The wheel


@pytest.mark.sources
def test_the_wheel_lists_every_file_of_the_pages() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["trajrec.view"]
    room = ROOT / "trajrec" / "view"
    listed = {path for pattern in patterns for path in room.glob(pattern)}
    there = {path for name in ("templates", "static") for path in (room / name).iterdir()}
    assert listed == there
    assert sum(path.stat().st_size for path in there) < 150_000
    assert (room / "static" / "view.js").stat().st_size < 25_000


@pytest.mark.slow
def test_the_address_that_the_command_prints_is_served(folder: Path) -> None:
    import urllib.error
    import urllib.request

    command = [sys.executable, "-m", "trajrec", "view", str(folder), "--no-browser", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        try:
            with urllib.request.urlopen(address, timeout=20) as answer:
                assert answer.status == 200
                assert "trajrec-" in answer.headers["set-cookie"]
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(address.partition("?")[0], timeout=20)
        finally:
            process.terminate()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_viewer_that_a_signal_ends_leaves_no_files(
    folder: Path, tmp_path: Path, name: str
) -> None:
    command = [sys.executable, "-m", "trajrec", "view", str(folder), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "BROWSER": "true"}
    with (
        taken(getattr(signal, name)),
        subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process,
    ):
        try:
            deadline = time.monotonic() + 20
            while not list(tmp_path.glob("*/open.html")) and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(getattr(signal, name))
            assert process.wait(20) == 130
        finally:
            process.kill()
    assert not list(tmp_path.iterdir())


def test_a_whole_state_says_which_call_changed_each_place(corpus: trajrec.Corpus) -> None:
    view = ServedCorpus(corpus).episode(id_of(corpus, "task = 'refund-17'"))
    before, _ = view.state(1)
    after, reason = view.state(view.steps[-1])
    assert before is not None
    assert after is not None, reason
    refund = next(item for item in view.rows(0) if item.n_changes)
    assert before.changed is None
    assert after.changed is not None
    assert after.changed[1:] == (refund.step, "refund_order")

    def leaves(node: Node) -> list[Node]:
        return (
            [node] if not node.children else [x for child in node.children for x in leaves(child)]
        )

    changed = [node for node in leaves(after) if node.changed]
    assert 0 < len(changed) < len(leaves(after))
    assert {node.changed[1:] for node in changed} == {(refund.step, "refund_order")}


def test_a_place_inside_of_a_replaced_one_has_changed() -> None:
    tree = make_tree(
        {"a": {"b": 1}, "c": 2},
        {"/a": Changer(3, 2, "put"), "/c": Changer(1, 1, "get"), "/a/x": Changer(4, 2, "a")},
    )
    a, c = tree.children
    assert (tree.changed, a.changed, c.changed) == ((4, 2, "a"), (4, 2, "a"), (1, 1, "get"))
    assert a.children[0].changed == (3, 2, "put")


def test_a_place_that_the_program_changed_last_names_the_program(tmp_path: Path) -> None:
    state = {"n": 0, "m": 0, "k": 0}
    with trajrec.episode(tmp_path, watch=state) as ep:
        state["k"] = 1
        ep.tool(lambda: state.update(n=1, m=1), name="z", access="write")()
        ep.tool(lambda: state.update(n=2), name="a", access="write")()
        state["m"] = 2
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        view = ServedCorpus(corpus).episode(id_of(corpus, "true"))
        tree, _ = view.state(view.steps[-1])
    assert tree is not None
    told = {node.key: node.changed and node.changed.who for node in tree.children}
    program = "the agent's own program"
    assert told == {"n": "a", "m": program, "k": program}


def test_rewards_in_the_list_have_six_digits(tmp_path: Path) -> None:
    env = trajrec.record(gym.wrappers.TransformReward(gym.make("CartPole-v1"), pay), tmp_path)
    env.reset(seed=1)
    env.step(0)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (row,) = environment_rows(next(corpus.episodes()), 0, 1)
    assert row.result == "0.03"


def pay(reward: Any) -> float:
    return 0.05 - 0.02 + 1e-17


@pytest.mark.slow
def test_an_end_of_billions_of_steps_fills_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong_end(**fields: Any) -> EpisodeEnd:
        return EpisodeEnd(**{**fields, "n_steps": 2**31 - 1})

    monkeypatch.setattr(outcomes, "EpisodeEnd", wrong_end)
    with trajrec.episode(tmp_path, task="t") as ep:
        ep.tool(lambda x: x, name="echo")(x=1)
    trajrec.close_logs()
    (episode,) = trajrec.open(tmp_path).episodes()
    steps = agent_steps(episode)
    assert [len(step.attempts) for step in steps[:2]] == [1, 0]
    assert len(steps) == 100_000


@pytest.mark.slow
def test_billions_of_lost_steps_fill_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_steps = 2**31 - 1

    def wrong_end(**fields: Any) -> EpisodeEnd:
        return EpisodeEnd(**{**fields, "n_steps": n_steps})

    monkeypatch.setattr(episode_writer, "EpisodeEnd", wrong_end)
    with trajrec.record(gym.make("FrozenLake-v1"), tmp_path) as env:
        env.reset(seed=0)
        env.step(0)
    trajrec.close_logs()
    with trajrec.open(tmp_path) as opened:
        (episode,) = opened.episodes()
        browser = signed_in(opened)
        page = browser.get(f"/e/{episode.id}").text
        assert f"failed steps</span> {n_steps - 1}</span>" in page
        assert f"1 steps, 0 of them raised, {n_steps - 1} lost" in page
        assert len(page) < 10**6
        assert browser.get(f"/e/{episode.id}/{n_steps - 1}").status_code == 200
        assert browser.get(f"/e/{episode.id}/credit").status_code == 200
        assert browser.get(f"/diff/{episode.id}/{episode.id}").status_code == 200
        steps = range(n_steps)
        lane = evidence_lane("replay", {"same": steps}, episode, "", {})
    assert lane.paths["same"] == marks([0], 1).replace("h1", f"h{n_steps}").replace(
        "h-1", f"h-{n_steps}"
    )


class ClosedWorld:
    """A world that cannot be reset."""

    def reset(self, **_: Any) -> Any:
        raise RuntimeError("the world is <closed>")

    def tools(self) -> tuple[()]:
        return ()

    def call(self, name: str, arguments: Any, /) -> Any:
        raise AssertionError


class ClosedEnv(gym.Env[Any, Any]):
    """An environment that cannot be reset."""

    observation_space = action_space = gym.spaces.Discrete(2)

    def reset(self, **_: Any) -> Any:
        raise RuntimeError("the world is <closed>")


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("is_agent", [True, False])
def test_a_failed_reset_is_shown_without_any_step(tmp_path: Path, is_agent: bool) -> None:
    with contextlib.suppress(RuntimeError):
        if is_agent:
            with trajrec.episode(tmp_path, world=ClosedWorld()):
                pass
        else:
            with trajrec.record(ClosedEnv(), tmp_path, factory=ClosedEnv) as env:
                env.reset()
    trajrec.close_logs()
    with trajrec.open(tmp_path) as opened:
        browser = signed_in(opened)
        page = browser.get(f"/e/{id_of(opened, 'true')}").text
    assert "reset, fault of env" in page
    assert "RuntimeError: the world is &lt;closed&gt;" in page
    assert "No step is recorded" in page
    assert "/-1" not in page


@pytest.mark.slow
def test_new_messages_that_are_not_shown_are_counted(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        messages = [{"role": "user", "content": f"line {k}"} for k in range(50)]
        ep.model(lambda **_: "done", messages=messages, stop="x" * 200)
    trajrec.close_logs()
    with trajrec.open(tmp_path) as opened:
        page = signed_in(opened).get(f"/e/{id_of(opened, 'true')}").text
    assert "new since the last turn (50)" in page
    assert "10 more messages are not shown" in page
    assert f"{'x' * 118}…" in page
