"""Runs of scripted agents in the shop: the claim follows from what changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from counter_runs import interface, of_run
from tiers import third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.recheck import recheck
from trajrec.envs import Shop
from trajrec.envs.scripted import AGENTS
from trajrec.recording.event_log import close_logs
from trajrec.run_interface import missing

pytestmark = pytest.mark.slow

SEEDS = range(5)


@trajrec.verifier(id="solved", version="1")
def solved(shop: Shop) -> bool:
    return shop.task_solved()


@trajrec.verifier(id="solved", version="2")
def solved_or_not(shop: Any) -> bool:
    return True


OTHER = "loops"

# Run -> the agent, the fields of its interface that differ, and its verifier.
RUNS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "base": (OTHER, {}, solved),
    "again": (OTHER, {}, solved),
    "prompt": ("solver", {"scaffold": {"prompt": "B", "tools": 1}}, solved),
    "prompt and budget": (
        "solver",
        {"scaffold": {"prompt": "B", "tools": 1}, "budget": {"steps": 50}},
        solved,
    ),
    "unknown": ("solver", {"budget": missing("unknown")}, solved),
    "verifier": (OTHER, {"verifier": {"id": "solved", "version": "2"}}, solved_or_not),
}

CLAIMS = {
    "again": "noise floor",
    "prompt": "attributable",
    "prompt and budget": "confounded",
    "unknown": "unlicensed",
    "verifier": "verifier",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trajrec.Corpus]:
    folder = tmp_path_factory.mktemp("shops")
    for run, (agent, fields, verifier) in RUNS.items():
        for seed in SEEDS:
            for _ in range(2):
                with trajrec.episode(
                    folder,
                    task=f"refund {seed}",
                    world=Shop(seed=seed),
                    options={"task": 0},
                    checks=[verifier],
                    interface=interface(**fields),
                    metadata={"run": run},
                ) as ep:
                    AGENTS[agent](ep, ep.world.ground_truth_calls())
    close_logs()
    with trajrec.open(folder) as opened:
        yield opened


@pytest.mark.parametrize("run", CLAIMS)
def test_the_claim_follows_from_the_changed_fields(corpus: trajrec.Corpus, run: str) -> None:
    comparison = corpus.compare(a=of_run("base"), b=of_run(run))
    assert comparison.claim == CLAIMS[run]
    difference = comparison.difference
    assert difference is not None
    # The solver solves each task, and the other agent none.
    truth = 0.0 if run == "again" else 1.0
    assert difference.value == truth
    assert difference.ci_low <= truth <= difference.ci_high
    assert difference.ci_high > difference.ci_low


def test_a_split_needs_both_versions_on_the_states_of_both_runs(corpus: trajrec.Corpus) -> None:
    list(recheck(corpus, solved_or_not, where=of_run("base")))
    split = corpus.compare(a=of_run("base"), b=of_run("verifier")).cross_grade()
    # Version 1 takes the shop itself, so it cannot judge the recorded states of the other run.
    assert "no states: no task has rollouts of both runs" in split.reason
    assert (split.behaviour, split.n_dropped) == (None, 20)


def test_replays_are_counted_with_their_grades(corpus: trajrec.Corpus) -> None:
    (before,) = corpus.fidelity()
    assert (before.n_episodes, before.n_replayed, before.reproduced) == (60, 0, None)
    condition = of_run("prompt")
    assert main(["replay", str(corpus.path), "--where", condition]) == 0
    (after,) = corpus.fidelity()
    assert (after.n_replayed, sum(after.grades.values())) == (10, 10)
    assert after.reproduced is not None
    assert after.reproduced.value == 1.0
    assert after.reproduced.ci_low < 0.8
    claims = corpus.support(condition).claims
    assert "verified replay, or labels of steps" not in claims["trace"].missing


@third_slow("attribution")
def test_the_card_of_the_shop_can_be_written(corpus: trajrec.Corpus, tmp_path: Path) -> None:
    comparison = corpus.compare(a=of_run("base"), b=of_run("prompt"))
    release = corpus.card(tmp_path / "out", comparisons=[comparison])
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| attributable to scaffold; a gain is shown |" in text
    assert release.card["counts"]["outcomes"] == {"failure": 20, "success": 40}
