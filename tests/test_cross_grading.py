"""Behaviour and verifier, disagreement and support: known answers on real logs."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from counter_runs import counts, interface, of_run, reached, record_one, record_run
from tiers import third_slow

import trajrec
from trajrec.analysis.disagreement import mcnemar
from trajrec.cli.main import main
from trajrec.corpus.recheck import recheck
from trajrec.recording.event_log import close_logs
from trajrec.run_interface import missing


@trajrec.verifier(id="reached", version="2")
def lenient(state: dict[str, Any]) -> bool:
    return True


@trajrec.verifier(id="reached", version="1")
def strict_on_states(state: dict[str, Any]) -> bool:
    return reached(state)


RESULTS = counts(t0=(1, 2), t1=(2, 2), t2=(1, 2), t3=(0, 2))


def record_versions(folder: Path) -> None:
    """Record run a under version 1 and run b under version 2, which also passes what 1 fails."""
    record_run(folder, "a", RESULTS)
    newer = interface(verifier={"id": "reached", "version": "2"})
    record_run(folder, "b", RESULTS, of=newer, checks=[lenient])
    close_logs()


@pytest.mark.slow
@third_slow("attribution")
def test_a_changed_verifier_is_split_from_equal_behaviour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_versions(tmp_path)
    with trajrec.open(tmp_path) as corpus:
        before = corpus.compare(a=of_run("a"), b=of_run("b"), check="reached")
        assert before.claim == "verifier"
        assert before.differing_paths == ('verifier.version "1" -> "2"',)
        assert (
            "no states: no task has rollouts of both runs, of 16 in all"
            in before.cross_grade().reason
        )
        # All but one rollout of each run are graded by the other version too.
        assert len(list(recheck(corpus, lenient, where=f"{of_run('a')} AND number > 0"))) == 7
        list(recheck(corpus, reached, where=of_run("b")))
        comparison = corpus.compare(a=of_run("a"), b=of_run("b"), check="reached")
        split = comparison.cross_grade()
    # Rollout 0 of task t0 passed: without it a has 0 of 1 there, and 3 of 7 in all.
    assert (split.n_dropped, split.n_rollouts, split.n_tasks, split.reason) == (1, 15, 4, "")
    assert split.behaviour_second is not None
    assert split.verifier_b is not None
    assert split.behaviour_second.value == 0.0
    assert split.verifier_b.value == pytest.approx(0.5)
    assert split.behaviour is not None
    assert split.verifier is not None
    assert split.headline is not None
    total = split.behaviour.value + split.verifier.value
    assert split.headline.value == pytest.approx(total, abs=1e-12)
    assert split.behaviour.ci_low < 0 < split.behaviour.ci_high
    assert main(["compare", str(tmp_path), "--a", of_run("a"), "--b", of_run("b")]) == 0
    shown = capsys.readouterr().out
    assert "split     by grading both runs with both versions, 15 rollouts of 4 tasks" in shown


@pytest.mark.slow
@third_slow("attribution")
def test_behaviour_is_zero_and_the_verifier_has_the_known_share(tmp_path: Path) -> None:
    record_versions(tmp_path)
    with trajrec.open(tmp_path) as corpus:
        list(recheck(corpus, lenient, where=of_run("a")))
        list(recheck(corpus, reached, where=of_run("b")))
        split = corpus.compare(a=of_run("a"), b=of_run("b"), check="reached").cross_grade()
    values = [
        part.value if part is not None else None
        for part in (split.behaviour, split.verifier, split.verifier_a, split.verifier_b)
    ]
    assert values == [0.0, 0.5, 0.5, 0.5]
    assert split.n_dropped == 0


@pytest.mark.slow
def test_a_check_that_contradicts_itself_flakes(tmp_path: Path) -> None:
    turns = itertools.count()

    @trajrec.verifier(id="flaky", version="1")
    def flaky(state: dict[str, Any]) -> bool:
        return next(turns) % 4 != 0

    with contextlib.suppress(ConnectionError):
        record_one(tmp_path, True, task="t", checks=[reached])
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        for _ in range(4):
            list(recheck(corpus, flaky))
        found = corpus.disagreement()
    (flake,) = found.flakes
    # 3 of 4 verdicts pass: two of them differ with a chance of 2 * 3 * 1 / (4 * 3).
    assert (flake.rate.value, flake.n_states, flake.n_runs) == (0.5, 1, 4)
    assert (flake.rate.ci_low, flake.rate.ci_high) == (0.0, 1.0)
    (pair,) = found.pairs
    # One state, on which one of the two checks has no verdict of its own.
    assert (pair.n, pair.n_flaky) == (0, 1)


@pytest.mark.slow
def test_disagreement_is_counted_by_state_and_direction(tmp_path: Path) -> None:
    # Ten episodes end in two states.
    record_run(tmp_path, "a", {"t": [True] * 5 + [False] * 5})
    with trajrec.open(tmp_path) as corpus:
        list(recheck(corpus, lenient))
        (pair,) = corpus.disagreement(gold="reached@1").pairs
    assert pair.a.startswith("reached@1")
    assert (pair.n, pair.both, pair.a_only, pair.b_only, pair.neither) == (2, 1, 0, 1, 0)
    assert (pair.differ.value, pair.p_value) == (0.5, 1.0)
    assert pair.false_accept is not None
    assert pair.false_reject is not None
    assert (pair.false_accept.value, pair.false_reject.value) == (1.0, 0.0)
    assert mcnemar(400_000, 401_000) == pytest.approx(0.264, abs=1e-3)


def test_gold_check_that_nobody_gave_is_refused(tmp_path: Path) -> None:
    record_one(tmp_path, True, task="t", checks=[reached])
    close_logs()
    with (
        trajrec.open(tmp_path) as corpus,
        pytest.raises(ValueError, match="no episode has the check 'human@1'; checks: reached@1"),
    ):
        corpus.disagreement(gold="human@1")


@pytest.mark.slow
def test_support_names_each_missing_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = interface(
        verifier={"id": "reached", "extractor": missing("not_applicable"), "invalid": "fails"},
        lineage={"generator": "script", "teacher": "none", "filter": "none"},
    )
    record_run(tmp_path, "a", {"t": [True] * 8}, of=whole)
    record_run(tmp_path, "b", {"u": [True]}, of=trajrec.interface())
    with trajrec.open(tmp_path) as corpus:
        claims = corpus.support().claims
    assert claims["correctness"].n == 8
    assert claims["correctness"].missing == {"verifier.extractor": 1, "verifier.invalid": 1}
    assert claims["difficulty"].n == 8
    assert claims["difficulty"].missing == {
        "base": 1,
        "sampling": 1,
        "8 graded rollouts of the task": 1,
    }
    assert claims["trace"].missing == {"verified replay, or labels of steps": 9}
    assert claims["coverage"].missing["lineage.decontamination"] == 9
    assert claims["coverage"].missing["lineage.teacher"] == 1
    assert claims["trace"].verdict == "unlicensed (verified replay, or labels of steps)"
    assert main(["support", str(tmp_path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["coverage"]["verdict"].startswith("unlicensed (lineage.decontamination, split")
    assert main(["support", str(tmp_path)]) == 0
    assert "lineage.decontamination (9)" in capsys.readouterr().out


@pytest.mark.slow
@third_slow("attribution")
def test_a_split_is_of_the_difference_that_it_splits(tmp_path: Path) -> None:
    record_versions(tmp_path)
    with trajrec.open(tmp_path) as corpus:
        list(recheck(corpus, lenient, where=of_run("a")))
        list(recheck(corpus, reached, where=of_run("b")))
        runs = {"a": of_run("a"), "b": of_run("b"), "check": "reached"}
        chosen = corpus.compare(**runs, tasks=["t0", "t1", "t2"])
        split = chosen.cross_grade()
        by_group = corpus.compare(**runs, cluster="family").cross_grade()
    assert chosen.difference is not None
    assert split.headline is not None
    assert (split.n_tasks, split.headline.value) == (3, pytest.approx(chosen.difference.value))
    assert by_group.headline is None
    assert "over groups by family" in by_group.reason
