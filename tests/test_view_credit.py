"""The page of credit says what was estimated, and calls unknown what was not."""

from __future__ import annotations

import html
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from test_view import HOSTILE, ROOT, assert_harmless, signed_in
from tiers import third_slow

import trajrec
from trajrec.corpus import bounded_queries
from trajrec.corpus.index import live
from trajrec.replay.credit.results.estimates import Estimate
from trajrec.replay.credit.results.store import append_run
from trajrec.replay.credit.results.table import CreditTable
from trajrec.view import credit_chart, credit_view
from trajrec.view.credit_view import CreditView, read_credit
from trajrec.view.episode_view import EpisodeView
from trajrec.view.evidence import read_evidence
from trajrec.view.report import make_report

EPISODE = "ef6ec1b93854f230"
OTHER = "9039cac23bdaeffd"
N_STEPS = 47


def estimate(step: int, estimator: str, value: float, low: float, high: float) -> Estimate:
    return Estimate(
        step=step,
        value=value,
        ci_low=low,
        ci_high=high,
        ci_method="wilson",
        n=16,
        n_discordant=None,
        estimator=estimator,
        estimand=f"the estimand of {estimator}",
        noise="shared",
    )


def append(
    folder: Path,
    run_id: str,
    *estimates: Estimate,
    episode_id: str = EPISODE,
    note: str = "a note",
) -> None:
    table = CreditTable(
        run_id=run_id,
        episode_id=episode_id,
        policy_id=f"policy of {run_id}",
        estimates=list(estimates),
        noise="shared",
        restore="snapshot",
        notes=(note,),
    )
    append_run(table, folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trajrec.Corpus]:
    """Three runs on one episode: advantages, values alone, and advantages that show nothing."""
    folder = tmp_path_factory.mktemp("credit")
    shutil.copytree(
        ROOT / "sample_trajectories",
        folder,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("support", ".trajrec", "*.py"),
    )
    append(
        folder,
        "unclear",
        estimate(1, "advantage", -0.4, -0.9, 0.1),
        estimate(3, "advantage", math.nan, -math.inf, math.inf),
    )
    append(
        folder,
        "clear",
        estimate(1, "value", 0.5, 0.3, 0.7),
        estimate(1, "advantage", -0.4, -0.5, -0.3),
        estimate(2, "advantage", 0.2, 0.1, 0.3),
        estimate(3, "advantage", 0.9, -math.inf, math.inf),
    )
    append(folder, "values", estimate(1, "value", 0.5, 0.3, 0.7))
    trajrec.close_logs()
    with trajrec.open(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser(corpus: trajrec.Corpus) -> TestClient:
    return signed_in(corpus)


def credit_of(corpus: trajrec.Corpus, run_id: str = "", sort: str = "") -> CreditView:
    return read_credit(corpus, EPISODE, range(N_STEPS), run_id=run_id, sort=sort)


@pytest.mark.slow
def test_an_episode_without_credit_is_called_unknown(browser: TestClient) -> None:
    page = browser.get(f"/e/{OTHER}/credit").text
    assert "<b>Unknown:</b> no credit was computed" in page
    assert f"{OTHER} --policy MODULE:POLICY</code>" in page
    assert re.search(
        r'credit</span> <a href="[^"]*/credit">unknown</a>', browser.get(f"/e/{OTHER}").text
    )


def test_the_largest_certain_effect_is_named(corpus: trajrec.Corpus, browser: TestClient) -> None:
    view = credit_of(corpus, "clear")
    assert view.decided == 1
    assert "Step 1 lost most: advantage -0.400, 95 % interval -0.500 to -0.300." in view.decision
    assert "Step 2 earned most: advantage +0.200" in view.decision
    assert "At no other step does the interval exclude 0." in view.decision
    assert (
        f'href="/e/{EPISODE}/1">open step 1</a>'
        in browser.get(f"/e/{EPISODE}/credit?run=clear").text
    )


def test_an_interval_that_holds_zero_decides_nothing(corpus: trajrec.Corpus) -> None:
    view = credit_of(corpus, "unclear")
    assert view.decided is None
    assert view.decision.startswith("Undecided")
    (chart,) = view.charts
    assert set(chart.paths) == {"zero", "hollow", "whisker"}


def test_an_estimate_without_interval_holds_nothing(tmp_path: Path) -> None:
    append(tmp_path, "bare", estimate(1, "advantage", 0.5, math.nan, math.nan))
    trajrec.close_logs()
    with trajrec.open(tmp_path) as opened:
        view = credit_of(opened, "bare")
    assert view.decision.endswith("some have no interval.")


def test_an_estimate_that_is_not_drawn_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credit_chart, "MAX_DRAWN", 1)
    known = [
        credit_chart.Estimate(
            step=step,
            estimator="effect",
            estimand="",
            value=0.5,
            low=0.1,
            high=0.9,
            ci_method="",
            n=1,
            n_invalid=0,
            action="",
        )
        for step in (0, 1)
    ]
    chart = credit_chart.draw_chart("effect", known, first=0, width=3)
    assert chart.unknown == [f"{100 * 2.5 / 3:.2f}"]


def test_values_alone_compare_no_actions(corpus: trajrec.Corpus) -> None:
    view = credit_of(corpus, "values")
    assert view.decided is None
    assert "compares no actions" in view.decision
    (chart,) = view.charts
    assert set(chart.paths) == {"zero", "level", "whisker"}


def test_steps_without_estimates_are_unknown_and_not_zero(corpus: trajrec.Corpus) -> None:
    view = credit_of(corpus, "clear")
    assert view.unknown == "0, 4 to 46"
    advantage = next(chart for chart in view.charts if chart.name == "advantage")
    assert len(advantage.unknown) == N_STEPS - 3
    assert "".join(advantage.paths.values()).count("M1.2 ") == 1
    assert "M0.2 " not in "".join(advantage.paths.values())


def test_numbers_that_are_not_finite_are_unknown(
    corpus: trajrec.Corpus, browser: TestClient
) -> None:
    (row,) = [row for row in credit_of(corpus, "unclear").rows if row.step == 3]
    assert row.text == "unknown"
    (row,) = [row for row in credit_of(corpus, "clear").rows if row.step == 3]
    assert row.text == "+0.900 (no interval)"
    page = browser.get(f"/e/{EPISODE}/credit?run=clear").text
    for path in re.findall(r' d="([^"]*)"', page):
        assert re.fullmatch(r"[MHVhvz0-9. -]*", path)


def test_the_default_run_is_the_latest_that_compares_actions(corpus: trajrec.Corpus) -> None:
    assert [run.id for run in credit_of(corpus).runs] == ["values", "clear", "unclear"]
    run = credit_of(corpus).run
    assert run is not None
    assert run.id == "clear"


def test_the_table_has_the_order_that_is_asked_for(corpus: trajrec.Corpus) -> None:
    values = [row.value for row in credit_of(corpus, "clear", "value").rows]
    assert values == [0.9, 0.5, -0.4, 0.2]
    assert credit_of(corpus, "unclear", "value").rows[-1].value is None
    assert [row.step for row in credit_of(corpus, "clear", "'; DROP").rows] == [1, 1, 2, 3]


def test_the_episode_opens_at_the_decisive_step(
    corpus: trajrec.Corpus, browser: TestClient
) -> None:
    view = EpisodeView(corpus.episode(EPISODE), read_evidence(corpus, EPISODE))
    assert view.credited_steps == [1, 2]
    assert view.telling_step == 1
    lane = next(lane for lane in view.lanes if lane.label == "credit")
    assert {name for name, path in lane.paths.items() if path} == {"earned", "failed", "unknown"}
    page = browser.get(f"/e/{EPISODE}").text
    assert "step 1 lost most: -0.400 [-0.500, -0.300]; step 2 earned most: +0.200" in page
    assert "what it earned or lost" in page
    assert "the estimand of advantage" in page
    assert "Credit of this step: unknown" in browser.get(f"/e/{EPISODE}/7/pane").text


def test_the_corpus_counts_the_steps_with_credit(browser: TestClient) -> None:
    assert f'<a href="/e/{EPISODE}/credit">3 steps</a>' in browser.get("/").text


@pytest.mark.slow
def test_an_undecided_search_names_no_decisive_step(tmp_path: Path) -> None:
    shutil.copy(ROOT / "sample_trajectories" / "won-shop.trj", tmp_path)
    with trajrec.open(tmp_path) as corpus:
        ((episode_id,),) = corpus.sql("SELECT episode_id FROM episodes LIMIT 1").fetchall()
        found = estimate(1, "decisive", -0.7, -0.8, -0.5)
        note = "undecided among steps 1, 0: 32 scenarios do not tell the steps apart"
        append(tmp_path, "run", found, episode_id=episode_id, note=note)
        trajrec.close_logs()
        credit = credit_view.read_latest_credit(corpus, episode_id)
        page = read_credit(corpus, episode_id, range(9), run_id="run", sort="step")
    assert credit_view.decision_words(credit) == "undecided"
    assert page.decision == "Undecided: the search found step 1 and could not be sure."
    assert page.decided is None


def test_a_decisive_step_is_not_called_the_largest(tmp_path: Path) -> None:
    shutil.copy(ROOT / "sample_trajectories" / "won-shop.trj", tmp_path)
    with trajrec.open(tmp_path) as corpus:
        ((episode_id,),) = corpus.sql("SELECT episode_id FROM episodes LIMIT 1").fetchall()
        gains = (estimate(1, "advantage", 0.2, 0.1, 0.3), estimate(2, "advantage", 0.5, 0.4, 0.6))
        append(tmp_path, "all steps", *gains, episode_id=episode_id)
        # The earliest step with at least a third of the largest effect.
        found = estimate(1, "decisive", 0.2, 0.1, 0.3)
        append(tmp_path, "the search", found, episode_id=episode_id)
        trajrec.close_logs()
        page = signed_in(corpus).get(f"/e/{episode_id}").text
    assert "step 1 decided it: +0.200 [+0.100, +0.300]" in page
    assert "earned most" not in page


def test_hostile_runs_are_shown_as_text(tmp_path: Path) -> None:
    shutil.copy(ROOT / "sample_trajectories" / "won-shop.trj", tmp_path)
    with trajrec.open(tmp_path) as corpus:
        ((episode_id,),) = corpus.sql("SELECT episode_id FROM episodes LIMIT 1").fetchall()
        row = estimate(0, HOSTILE.replace("\ud800", ""), 0.5, 0.1, 0.9)
        append(tmp_path, "<b>&run", row, episode_id=episode_id)
        trajrec.close_logs()
        page = signed_in(corpus).get(f"/e/{episode_id}/credit").text
        assert "&lt;b&gt;&amp;run" in page
        assert_harmless(page)


def test_a_report_has_the_charts_of_credit(corpus: trajrec.Corpus) -> None:
    report = make_report(corpus, EPISODE)
    body = re.sub(r"<(script|style).*?</\1>", "", report, flags=re.DOTALL)
    view = credit_of(corpus)
    assert view.decision in html.unescape(body)
    for chart in view.charts:
        assert f'aria-label="{chart.summary}"' in html.unescape(body)
    assert 'class="charts"' not in make_report(corpus, OTHER)


@pytest.mark.slow
@third_slow("pages")
def test_no_page_needs_a_process_for_its_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: trajrec.Corpus
) -> None:
    unbounded: list[str] = []

    def has_bounded_values(cursor: Any, query: str) -> bool:
        is_bounded = bounded_queries.has_bounded_values(cursor, query)
        if not is_bounded:
            unbounded.append(query)
        return is_bounded

    monkeypatch.setattr(live, "has_bounded_values", has_bounded_values)
    support = shutil.copytree(ROOT / "sample_trajectories" / "support", tmp_path / "support")
    n_of_kind: Counter[str] = Counter()
    with trajrec.open(support) as other:
        for opened, start in ((corpus, f"/e/{EPISODE}"), (other, "/")):
            browser = signed_in(opened)
            waiting, seen = [start, "/"], {start, "/"}
            while waiting:
                link = waiting.pop(0)
                # Pages of one kind differ in ids, numbers and the query.
                kind = re.sub(r"/[0-9a-f]{16}|/[0-9]+", "=", link.partition("?")[0])
                n_of_kind[kind] += 1
                if n_of_kind[kind] <= 8:
                    new = set(re.findall(r'href="(/[^"#]*)', browser.get(link).text)) - seen
                    seen |= new
                    waiting += map(html.unescape, sorted(new))
    assert {"/", "/failures", "/interfaces", "/e=", "/e=/credit"} <= set(n_of_kind)
    assert not unbounded


def test_estimates_that_are_not_read_are_not_called_unknown(
    corpus: trajrec.Corpus, browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_ESTIMATES", "_LATEST"):
        limit = f"LIMIT {credit_view.MAX_ESTIMATES}"
        monkeypatch.setattr(credit_view, name, getattr(credit_view, name).replace(limit, "LIMIT 1"))
    monkeypatch.setattr("trajrec.view.evidence.MAX_ESTIMATES", 1)
    view = credit_of(corpus, "clear")
    assert (view.n_estimates, view.n_read) == (4, 1)
    assert view.unknown.startswith("0, 4 to ")
    page = browser.get(f"/e/{EPISODE}/credit?run=clear").text
    assert "This run has 4 estimates: only those of its first steps, 1 in all, were read." in page
    page = browser.get(f"/e/{EPISODE}/3").text
    assert "unknown, the estimates of the first steps alone were read" in page


def test_steps_without_an_estimate_are_told_in_ranges(corpus: trajrec.Corpus) -> None:
    view = read_credit(corpus, EPISODE, [0, 1, 3, 4, 7], run_id="clear", sort="")
    assert view.unknown == "0, 4, 7"
    view = read_credit(corpus, EPISODE, range(2**31), run_id="clear", sort="")
    assert view.unknown == f"0, 4 to {2**31 - 1}"


def test_small_effects_are_not_shown_as_nothing(tmp_path: Path) -> None:
    small = estimate(1, "advantage", 0.0004, 0.0001, 0.0007)
    large = estimate(2, "advantage", 1e200, -1e200, 3e200)
    assert str(small).endswith("advantage +0.0004 [+0.0001, +0.0007]")
    assert str(large).endswith("advantage +1e+200 [-1e+200, +3e+200]")
    append(tmp_path, "small", small, large)
    trajrec.close_logs()
    with trajrec.open(tmp_path) as opened:
        view = credit_of(opened, "small")
    assert [item.text for item in view.rows] == [
        "+0.0004 [+0.0001, +0.0007]",
        "+1e+200 [-1e+200, +3e+200]",
    ]
    assert "advantage +0.0004, 95 % interval +0.0001 to +0.0007." in view.decision
