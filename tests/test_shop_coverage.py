"""Repeated experiments with a scripted agent in the shop: the claim, and how often intervals hold.

A pool of rollouts is recorded, in which the true differences are known by counting. Each
repetition draws tasks and rollouts from it, and compares them as a user does.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from counter_runs import interface, of_run
from tiers import Share, suite

import trajrec
from trajrec.analysis.comparison import Comparison
from trajrec.corpus.recheck import recheck
from trajrec.envs import Shop
from trajrec.recording.event_log import close_logs
from trajrec.run_interface import missing

LEAST_COVERAGE = 0.935

# Tasks, and rollouts of each, that one repetition draws for each run.
N_TASKS = 12
N_ROLLOUTS = 4


def database_of(world: Any) -> Any:
    """Return the database of a shop, or of its recorded state."""
    state = world.watch()() if isinstance(world, Shop) else world
    return state["database"]


@trajrec.verifier(id="refunded", version="1")
def refunded(world: Any) -> bool:
    return any(order["refunded"] > 0 for order in database_of(world)["orders"].values())


@trajrec.verifier(id="refunded", version="2")
def refunded_or_told(world: Any) -> bool:
    database = database_of(world)
    is_refunded = any(order["refunded"] > 0 for order in database["orders"].values())
    return is_refunded or bool(database["messages"])


class Change(NamedTuple):
    """A run, and what is different in it from the run "base".

    Attributes:
        fields: Fields of its interface.
        gain: What its agent does better, in logits.
        verifier: The verifier.
        claim: The claim that must follow.
    """

    fields: dict[str, Any]
    gain: float
    verifier: Any
    claim: str


OTHER_PROMPT = {"prompt": "B", "tools": 1}

CHANGES = {
    "nothing": Change({}, 0.0, refunded, "noise floor"),
    "one field": Change({"scaffold": OTHER_PROMPT}, 0.8, refunded, "attributable"),
    "two fields": Change(
        {"scaffold": OTHER_PROMPT, "budget": {"steps": 9}}, 0.8, refunded, "confounded"
    ),
    "unknown": Change({"budget": missing("unknown")}, 0.8, refunded, "unlicensed"),
    "verifier": Change(
        {"verifier": {"id": "refunded", "version": "2"}}, 0.4, refunded_or_told, "verifier"
    ),
}
BASE = Change({}, 0.0, refunded, "")


def play(ep: Any, solves: float, luck: random.Random) -> None:
    """Refund the order, or only say so, or do nothing but look."""
    order = next(iter(ep.world.watch()()["database"]["orders"]))
    found = ep.call("get_order", order=order)
    tells = True
    if luck.random() < solves:
        ep.call("refund_order", order=order, cents=min(100, found["cents"]))
    else:
        tells = luck.random() < 0.5
    if tells:
        ep.call("send_message", customer=found["customer"], text="refunded")
    ep.stop("done", claimed_done=True)


def record_pool(folder: Path, seed: int, *, n_tasks: int, n_rollouts: int) -> None:
    """Record rollouts of each task in each run; the tasks differ in how hard they are."""
    rates = np.random.default_rng(seed).beta(2.0, 2.0, n_tasks)
    luck = random.Random(seed)
    for run, change in {"base": BASE, **CHANGES}.items():
        whole = interface(**{"verifier": {"id": "refunded", "version": "1"}, **change.fields})
        odds = rates / (1 - rates) * np.exp(change.gain)
        for task, solves in enumerate(odds / (1 + odds)):
            for _ in range(n_rollouts):
                with trajrec.episode(
                    folder,
                    task=f"refund {task}",
                    world=Shop(seed=task),
                    options={"task": 0},
                    checks=[change.verifier],
                    interface=whole,
                    metadata={"run": run},
                ) as ep:
                    play(ep, solves, luck)
    close_logs()


class Pool:
    """The recorded rollouts of each run, by task, and their verdicts by version."""

    def __init__(self, corpus: trajrec.Corpus) -> None:
        self.corpus = corpus
        self.rollouts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        query = "SELECT metadata->>'$.run', task, episode_id FROM episodes ORDER BY episode_id"
        for run, task, episode_id in corpus.sql(query).fetchall():
            self.rollouts[run][task].append(episode_id)
        self.tasks = sorted(self.rollouts["base"])

    def rate(self, run: str, version: str) -> float:
        """Return the share of a run's rollouts that a version passes; each task has as many."""
        query = f"""
            SELECT avg(c.verdict::INT), count(*) FROM episodes e JOIN checks c USING (episode_id)
            WHERE {of_run(run).replace("metadata", "e.metadata")} AND c.version = ?"""
        ((rate, n),) = self.corpus.sql(query, params=[version]).fetchall()
        assert n == sum(map(len, self.rollouts[run].values()))
        return float(rate)

    def compare(self, run: str, luck: random.Random) -> Comparison:
        """Compare a run with "base" over some tasks and rollouts of them."""
        tasks = luck.sample(self.tasks, N_TASKS)
        sides = [
            among(
                episode_id
                for task in tasks
                for episode_id in luck.sample(self.rollouts[side][task], N_ROLLOUTS)
            )
            for side in ("base", run)
        ]
        return self.corpus.compare(a=sides[0], b=sides[1], check="refunded")


def among(ids: Iterable[str]) -> str:
    """Return the condition that selects some episodes."""
    return f"episode_id IN ({', '.join(map(repr, ids))})"


def true_parts(pool: Pool, run: str) -> dict[str, float]:
    """Return the true difference of a run, and its parts if the verifier changed."""
    version = CHANGES[run].verifier.verifier_version
    parts = {"difference": pool.rate(run, version) - pool.rate("base", "1")}
    if version == "2":
        by = {(side, v): pool.rate(side, v) for side in ("base", run) for v in ("1", "2")}
        behaviour = [by[run, v] - by["base", v] for v in ("1", "2")]
        parts["behaviour"] = sum(behaviour) / 2
        parts["verifier"] = parts["difference"] - parts["behaviour"]
    return parts


def covered(comparison: Comparison, truth: Mapping[str, float]) -> dict[str, bool]:
    """Return for each part whether its interval holds the truth."""
    estimates = {"difference": comparison.difference}
    if "behaviour" in truth:
        split = comparison.cross_grade()
        estimates |= {"behaviour": split.behaviour, "verifier": split.verifier}
    held = {}
    for part, estimate in estimates.items():
        assert estimate is not None
        assert estimate.ci_low < estimate.ci_high
        held[part] = estimate.ci_low <= truth[part] <= estimate.ci_high
    return held


@suite("attribution", fixed=0, drawn=2, whole=1000)
def test_experiments_in_the_shop_give_claims_that_hold(share: Share, tmp_path: Path) -> None:
    size = (
        {"n_tasks": 150, "n_rollouts": 10} if share.is_whole else {"n_tasks": 14, "n_rollouts": 5}
    )
    record_pool(tmp_path, share.seed, **size)
    luck = random.Random(share.seed)
    with trajrec.open(tmp_path) as corpus:
        list(recheck(corpus, refunded_or_told, where=of_run("base")))
        list(recheck(corpus, refunded, where=of_run("verifier")))
        # A log that is open is read again before each query.
        close_logs()
        pool = Pool(corpus)
        for run, change in CHANGES.items():
            truth = true_parts(pool, run)
            held = defaultdict(list)
            for _ in range(share.size or 0):
                comparison = pool.compare(run, luck)
                assert comparison.claim == change.claim
                for part, holds in covered(comparison, truth).items():
                    held[part].append(holds)
            if share.is_whole:
                for part, values in held.items():
                    assert np.mean(values) >= LEAST_COVERAGE, (run, part)
