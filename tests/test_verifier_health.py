"""Probes of checks: their verdicts are known, and no rate counts them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from counter_runs import counts, interface, of_run, reached, record_one, record_run
from tiers import third_slow

import trajrec
from trajrec.analysis.card import About, make_card
from trajrec.corpus.recheck import recheck
from trajrec.recording.event_log import close_logs
from trajrec.replay.credit import group_advantages
from trajrec.verifiers import run_check
from trajrec.view.corpus_query import CorpusQuery
from trajrec.view.corpus_view import read_corpus
from trajrec.view.facets import read_histograms
from trajrec.view.failures import read_failures
from trajrec.view.interface_view import read_interfaces


@trajrec.verifier(id="reached", version="2")
def lenient(state: dict[str, Any]) -> bool:
    return True


RESULTS = counts(t0=(1, 3), t1=(2, 3), t2=(0, 3), t3=(3, 3))


def record_runs(folder: Path) -> None:
    record_run(folder, "a", RESULTS)
    record_run(folder, "b", RESULTS, of=interface(scaffold={"prompt": "B", "tools": 1}))


def record_probes(folder: Path) -> None:
    """Record probes of the check, under the interface of run a, and in its name."""
    for probe, results in {"gold": [True, True, False], "no-op": [False, "verifier"]}.items():
        for result in results:
            record_one(
                folder,
                result,
                task="t0",
                checks=[reached],
                interface=interface(),
                metadata={"run": "a", "probe": probe},
            )
    close_logs()


def numbers(corpus: trajrec.Corpus) -> dict[str, Any]:
    comparison = corpus.compare(a=of_run("a"), b=of_run("b"))
    return {
        "compare": comparison.as_dict(),
        "bands": [band.as_dict() for band in corpus.bands(min_n=2)],
        "pass_k": corpus.pass_k(2, of_run("a")),
        "plan": corpus.plan(0.1, of_run("a")),
        "factors": corpus.factors([of_run("a"), of_run("b")]),
        "recovery": corpus.recovery(),
        "support": corpus.support(),
        "split": comparison.cross_grade(),
        "corpus page": [read_corpus(corpus, []).success, read_corpus(corpus, []).n_failed],
        "filters": [
            (facet.name, value.text, value.n, value.n_won, value.n_failed)
            for facet in read_corpus(corpus, []).facets
            for value in facet.values
        ],
        "histograms": read_histograms(corpus, CorpusQuery()),
        "failures page": read_failures(corpus, phase=None, tool=None),
        "notebook": corpus._repr_html_().split("<table")[1],
        "card": numbers_of_card(corpus),
        "interfaces page": [(row.n, row.n_won, row.success) for row in read_interfaces(corpus)],
        "groups": group_advantages(corpus, measure="outcome"),
    }


def numbers_of_card(corpus: trajrec.Corpus) -> dict[str, Any]:
    card = make_card(corpus, About(name="n", published=datetime.date(2026, 1, 1)))
    assert card["counts"].pop("probes") == read_corpus(corpus, []).n_probes
    for name in ("logs", "bytes"):
        del card["counts"][name]
    # The health of a check is about its probes, and its flakes about all states.
    for check in card["checks"]:
        del check["health"], check["flake"]
    del card["missing"]
    return card


@pytest.mark.slow
@third_slow("attribution")
def test_no_rate_counts_a_probe(tmp_path: Path) -> None:
    record_runs(tmp_path)
    with trajrec.open(tmp_path) as corpus:
        before = numbers(corpus)
        record_probes(tmp_path)
        assert corpus.sql("SELECT count(*) FROM episodes").fetchall() == [(29,)]
        after = numbers(corpus)
    assert before["compare"]["claim"] == "attributable"
    assert before["corpus page"] is not None
    assert before["interfaces page"]
    for name, value in before.items():
        assert after[name] == value, name


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("method", ["grpo", "gigpo"])
def test_no_group_of_rollouts_has_a_probe(tmp_path: Path, method: Any) -> None:
    def record(seeds: range, metadata: dict[str, Any]) -> None:
        made = gym.make("FrozenLake-v1", is_slippery=False)
        env = trajrec.record(made, tmp_path, task="lake", metadata=metadata)
        for seed in seeds:
            env.reset(seed=seed)
            env.action_space.seed(seed)
            is_over = False
            while not is_over:
                _, _, terminated, truncated, _ = env.step(env.action_space.sample())
                is_over = terminated or truncated
        env.close()

    record(range(6), {})
    with trajrec.open(tmp_path) as corpus:
        before = group_advantages(corpus, method)
        record(range(10, 13), {"probe": "gold"})
        after = group_advantages(corpus, method)
    assert len(before) == 6
    values = [[[e.value for e in table] for table in tables] for tables in (before, after)]
    assert np.array_equal(np.concatenate(values[0]), np.concatenate(values[1]), equal_nan=True)


@pytest.mark.slow
@third_slow("attribution")
def test_the_health_of_a_check_counts_its_probes(tmp_path: Path) -> None:
    record_runs(tmp_path)
    record_probes(tmp_path)
    with trajrec.open(tmp_path) as corpus:
        (health,) = corpus.verifier_health()
        # One gold probe was wrong, and an error fails no probe that does nothing.
        assert (health.n_gold, health.n_noop, health.n_attack) == (3, 2, 0)
        assert health.gold is not None
        assert health.noop is not None
        assert (health.gold.value, health.noop.value) == (pytest.approx(2 / 3), 0.5)
        assert health.gold.ci_low < 0.3
        assert (health.attack, health.untested) == (None, ("attack",))
        assert health.first_at is not None
        assert health.last_at is not None
        assert health.first_at < health.last_at
        list(recheck(corpus, lenient))
        close_logs()
        newer = corpus.verifier_health()[1]
        assert (newer.version, newer.n_gold, newer.n_noop) == ("2", 3, 2)
        assert newer.noop is not None
        assert newer.noop.value == 0.0
        card = corpus.card(tmp_path.parent / "release").card
    text = (tmp_path.parent / "release" / "README.md").read_text()
    assert "2 of 3 gold judged rightly, 1 of 2 no-op judged rightly" in text
    assert "5 probes of the checks, which no number of this page counts as rollouts" in text
    missing = [line for line in card["missing"] if line.startswith("probes of reached@")]
    assert [line[-8:] for line in missing] == [": attack", ": attack"]


def test_probe_that_a_check_once_failed_to_judge_did_not_pass(tmp_path: Path) -> None:
    turns = iter([True, False, False, True])

    @trajrec.verifier(id="moody", version="1")
    def moody(state: dict[str, Any]) -> bool:
        if next(turns):
            raise TimeoutError("no answer")
        return True

    for _ in range(2):
        record_one(tmp_path, True, task="t", checks=[moody], metadata={"probe": "gold"})
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        list(recheck(corpus, moody))
        (health,) = corpus.verifier_health()
    # Each was judged once, and once not, in either order.
    assert health.gold is not None
    assert (health.n_gold, health.gold.value) == (2, 0.0)


@pytest.mark.slow
def test_the_flakes_of_the_view_are_those_of_disagreement(tmp_path: Path) -> None:
    record_runs(tmp_path)

    @trajrec.verifier(id="odd", version="1")
    def odd(state: Any) -> bool:
        verdicts.append(len(verdicts) % 3 == 0)
        return verdicts[-1]

    verdicts: list[bool] = []
    with trajrec.open(tmp_path) as corpus:
        list(recheck(corpus, odd))
        of_states = {flake.check.split("@")[0]: flake for flake in corpus.disagreement().flakes}
        for health in corpus.verifier_health():
            flake = of_states[health.check_id]
            assert health.n_states == flake.n_states
            assert health.flake == pytest.approx(flake.rate.value)
        assert of_states["odd"].rate.value > 0


def test_a_state_of_two_tasks_is_judged_for_each(tmp_path: Path) -> None:
    goals = {"three": 3, "many": 30}
    for task, goal in goals.items():

        @trajrec.verifier(id="goal", version="1")
        def has_reached(state: dict[str, Any], goal: int = goal) -> bool:
            return bool(state["count"] >= goal)

        for _ in range(2):
            record_one(tmp_path, True, task=task, checks=[has_reached])
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        (health,) = corpus.verifier_health()
        (flake,) = corpus.disagreement().flakes
    assert (health.n_states, health.flake) == (2, 0.0)
    assert (flake.n_states, flake.n_runs, flake.rate.value) == (2, 4, 0.0)


def test_another_kind_of_probe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be one of gold, no-op, attack, got 'golden'"):
        record_one(tmp_path, True, task="t", metadata={"probe": "golden"})


def test_an_array_of_one_flag_is_a_verdict() -> None:
    assert run_check(lambda _: np.array(False), None).passed is False
    assert run_check(lambda _: np.array(True), None).score is None
    assert run_check(lambda _: np.array(0.5), None).score == 0.5
