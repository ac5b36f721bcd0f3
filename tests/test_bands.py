"""Bands, pass^k and plans: known answers on real logs."""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counter_runs import counts, interface, of_run, reached, record_one, record_run
from tiers import third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.recheck import recheck
from trajrec.recording.event_log import close_logs
from trajrec.run_interface import missing
from trajrec.statistics.pass_k import pass_at_k, pass_hat_k

RESULTS: dict[str, list[bool | str]] = {
    **counts(never=(0, 8), always=(8, 8)),
    "mixed": [True, True, True, False, False, False, False, False, "infra", "infra", "verifier"],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trajrec.Corpus]:
    folder = tmp_path_factory.mktemp("bands")
    record_run(folder, "k1", RESULTS)
    record_run(folder, "unknown", counts(never=(0, 8)), of=interface(base=missing("unknown")))
    tasks = {f"s{passed}": (passed, 4) for passed in range(5)}
    record_run(folder, "k11", counts(**tasks), of=interface(scaffold={"prompt": "C"}))
    with trajrec.open(folder) as opened:
        yield opened


def shown(corpus: trajrec.Corpus) -> dict[str, Any]:
    return {
        band.task: (band.n_passed, band.n, band.band, band.band_sure, band.excluded)
        for band in corpus.bands(of_run("k1"))
    }


@pytest.mark.slow
def test_bands_of_different_numbers_have_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One task was tried again until it passed: its rate of a half is none.
    record_run(tmp_path, "k1", {**counts(kept=(1, 4)), "retried": [False, True]})
    with trajrec.open(tmp_path) as corpus:
        bands = corpus.bands(min_n=1)
        assert "different numbers of rollouts" in bands.note
        # Without a rate there is nothing to warn of.
        assert corpus.bands(min_n=9).note == ""
        # An interface is compared with itself alone, and a lost rollout was begun too.
        record_run(tmp_path, "k2", {"kept": [True, True, "infra", "infra"]})
        assert corpus.bands("task <> 'retried'", min_n=1).note == ""
    assert main(["bands", str(tmp_path), "--min-n", "1"]) == 0
    assert "note: tasks have different numbers" in capsys.readouterr().out
    assert main(["bands", str(tmp_path), "--min-n", "4"]) == 0
    assert "note: 1 row has fewer than 4 graded rollouts, and so no band" in capsys.readouterr().out


@pytest.mark.slow
def test_bands_show_counts_intervals_and_exclusions(corpus: trajrec.Corpus) -> None:
    assert shown(corpus) == {
        "never": (0, 8, "always_fail", None, {}),
        "always": (8, 8, "always_pass", None, {}),
        "mixed": (3, 8, "active", "active", {"infra": 2, "verifier": 1}),
    }
    ends = {band.task: (band.ci_low, band.ci_high) for band in corpus.bands(of_run("k1"))}
    # 0 of 8 may be a rate of 0.32.
    assert ends["never"] == (0.0, pytest.approx(0.324, abs=5e-4))
    assert ends["always"] == (pytest.approx(0.676, abs=5e-4), 1.0)
    assert corpus.bands(of_run("k1")).tasks("active") == ["mixed"]
    assert {band.band for band in corpus.bands(of_run("k1"), min_n=9)} == {"unmeasured"}


@pytest.mark.slow
def test_an_unknown_part_of_the_interface_leaves_no_rate(corpus: trajrec.Corpus) -> None:
    (band,) = corpus.bands(of_run("unknown"))
    assert (band.band, band.rate, band.unknown) == ("unmeasured", None, ("base",))
    rows = corpus.sql("SELECT count(*) FROM bands WHERE task = 'never' AND rate = 0").fetchall()
    assert rows == [(1,)]


def test_bands_use_other_rollouts_than_the_compared_ones(corpus: trajrec.Corpus) -> None:
    past = datetime.datetime(2000, 1, 1)
    assert len(corpus.bands(before=past)) == 0
    with pytest.raises(ValueError, match="selected by outcomes"):
        corpus.bands("outcome = 'success'")


def test_unknown_code_of_a_check_is_not_that_of_another(tmp_path: Path) -> None:
    # Code of no file has no source.
    names: dict[str, Any] = {}
    exec("def won(state): return state['count'] >= 3", names)
    unknown = trajrec.verifier(id="reached", version="0")(names["won"])
    for verifier in (reached, unknown):
        record_one(tmp_path, True, task="t", checks=[verifier], interface=interface())
    record_one(tmp_path, "cut", task="t", interface=interface())
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT check_name, check_code IS NULL, n, excluded FROM bands ORDER BY ALL"
        assert corpus.sql(query).fetchall() == [
            ("reached@0", True, 1, {}),
            ("reached@1", False, 1, {"no verdict": 1}),
        ]


@pytest.mark.slow
@third_slow("attribution")
def test_forks_and_later_checks_change_no_band(tmp_path: Path) -> None:
    @trajrec.verifier(id="reached", version="2")
    def never(state: dict[str, Any]) -> bool:
        return False

    record_run(tmp_path, "k1", RESULTS)
    with trajrec.open(tmp_path) as corpus:
        before = shown(corpus)
        pass_k = repr(corpus.pass_k(2, "task <> 'mixed'"))
        for _ in range(3):
            assert sum(1 for _ in recheck(corpus, never)) > 20
            assert sum(1 for _ in recheck(corpus, reached)) > 20
        assert shown(corpus) == before
        assert repr(corpus.pass_k(2, "task <> 'mixed'")) == pass_k
        of_two = {band.task: band.n_passed for band in corpus.bands(check="reached@2")}
        assert of_two == {"never": 0, "always": 0, "mixed": 0}


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_pass_k_equals_the_count_over_all_subsets(corpus: trajrec.Corpus, k: int) -> None:
    at = []
    hat = []
    for passed in range(5):
        subsets = list(itertools.combinations([True] * passed + [False] * (4 - passed), k))
        at.append(np.mean([any(subset) for subset in subsets]))
        hat.append(np.mean([all(subset) for subset in subsets]))
        assert pass_at_k(4, passed, k) == pytest.approx(at[-1], abs=1e-15)
        assert pass_hat_k(4, passed, k) == pytest.approx(hat[-1], abs=1e-15)
    found = corpus.pass_k(k, of_run("k11"))
    assert found.pass_at_k is not None
    assert found.pass_hat_k is not None
    assert found.pass_at_k.value == pytest.approx(np.mean(at), abs=1e-12)
    assert found.pass_hat_k.value == pytest.approx(np.mean(hat), abs=1e-12)
    assert found.pass_hat_k.ci_low < found.pass_hat_k.value < found.pass_hat_k.ci_high
    assert (found.n_tasks, found.n_dropped, found.n_rollouts) == (5, 0, 20)


def test_pass_k_of_too_few_or_unplanned_rollouts_is_refused(tmp_path: Path) -> None:
    # Retried until the first success.
    record_run(tmp_path, "retried", {"t0": [True], "t1": [False, True], "t2": [False] * 3 + [True]})
    with trajrec.open(tmp_path) as corpus:
        refused = corpus.pass_k(2)
        assert (refused.pass_hat_k, refused.pass_at_k) == (None, None)
        assert "eval_protocol.trials is not declared" in refused.reason
        assert "no task has 9 graded rollouts" in repr(corpus.pass_k(9, "task = 't0'"))
        with pytest.raises(ValueError, match="k must be at least 1"):
            corpus.pass_k(0)


def test_rate_of_unplanned_rollouts_is_that_of_the_first(tmp_path: Path) -> None:
    # Retried until the first success: one of three tasks succeeds at once.
    record_run(tmp_path, "retried", {"t0": [True], "t1": [False, True], "t2": [False] * 3 + [True]})
    with trajrec.open(tmp_path) as corpus:
        found = corpus.pass_k(1)
    assert found.pass_at_k is not None
    assert found.pass_at_k.value == pytest.approx(1 / 3)
    assert (found.n_tasks, found.n_rollouts) == (3, 3)
    assert "only the first rollout of each task counts" in repr(found)


@pytest.mark.slow
@third_slow("attribution")
def test_a_plan_asks_for_fewer_tasks_with_more_rollouts(
    corpus: trajrec.Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = corpus.plan(0.1, of_run("k11"))
    needed = [row.n_tasks for row in plan.rows]
    assert needed == sorted(needed, reverse=True)
    assert all(row.n_tasks <= row.n_tasks_high for row in plan.rows)
    # The variance of a rollout: s (4 - s) / (4 * 3), mean over s.
    assert plan.within.value == pytest.approx(np.mean([0, 3 / 12, 4 / 12, 3 / 12, 0]))
    assert main(["plan", str(corpus.path), "--effect", "0.1", "--where", of_run("k11")]) == 0
    assert "To show a difference of 0.1" in capsys.readouterr().out
    assert main(["bands", str(corpus.path), "--where", of_run("k1"), "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {record["task"]: record["band"] for record in records}["mixed"] == "active"
    assert main(["bands", str(corpus.path)]) == 0
    assert "always_fail" in capsys.readouterr().out
