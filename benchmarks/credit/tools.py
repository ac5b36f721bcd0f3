"""Faults of agents that call tools: the bank, one fault in a task of the shop, and whether the decisive step is found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import trajrec
from benchmarks import scratch_folder
from benchmarks.credit.truths import Criterion, at_least, at_most
from trajrec.corpus.episode import Episode
from trajrec.envs import Bank, Shop
from trajrec.replay.credit import Decision, decisive_step

Call = tuple[str, dict[str, Any]]


def gambler(context: Any, rng: np.random.Generator) -> Any:
    """Pay in 100, choose 50 or 150, take it out."""
    plan = [
        ("deposit", {"amount": 100}),
        ("choose", {"amount": 50 if rng.random() < 0.5 else 150}),
        ("withdraw", {}),
    ]
    return plan[context.step] if context.step < len(plan) else None


def bank_episode(amount: int = 150) -> Episode:
    """Record a run of the bank."""
    folder = scratch_folder()
    with trajrec.episode(folder, task="bank", world=Bank()) as ep:
        ep.call("deposit", amount=100)
        ep.call("choose", amount=amount)
        ep.call("withdraw")
        ep.stop("done", claimed_done=True)
    trajrec.recording.event_log.close_logs()  # type: ignore[attr-defined]
    return next(trajrec.open(folder).episodes())


class PlanPolicy:
    """Makes the calls of a plan in order; what of it went wrong it makes good at a later step, with a probability at each.

    Args:
        plan: The calls.
        rate: The probability.
    """

    def __init__(self, plan: Sequence[Call], rate: float) -> None:
        self.plan, self.rate, self.id = list(plan), rate, f"plan-{rate:g}"

    def act(self, context: Any, rng: np.random.Generator) -> Call | None:
        """Return a call; None when the plan is done."""
        u = rng.random()
        position, missing = 0, []
        for made in context.calls:
            call = made.tool, made.arguments
            if position < len(self.plan) and call == self.plan[position]:
                position += 1
            elif call in missing:
                missing.remove(call)
            else:
                missing.append(self.plan[position])
                position += 1
        if missing and u < self.rate:
            return missing[0]
        return self.plan[position] if position < len(self.plan) else None


QUEUE = 21
"""The shop's task of 12 calls."""


def spoiled(call: Call, rng: np.random.Generator) -> Call:
    """Return a call that the shop refuses or that does nothing: it can be made good later."""
    name, arguments = call
    for key, value in arguments.items():
        if isinstance(value, str) and key in ("order", "customer", "item"):
            return name, {**arguments, key: str(rng.choice(["O9999", "C99", "unknown"]))}
    return "list_stock", {}


def shop_cases(n: int) -> list[tuple[Episode, int, list[Call]]]:
    """Record n tasks of the shop with one call spoiled; return them with its step and the plan. All are lost by it."""
    folder = scratch_folder()
    rng = np.random.default_rng(0)
    found = []
    seed = 0
    while len(found) < n:
        shop = Shop(seed=seed)
        seed += 1
        shop.reset(options={"task": QUEUE})
        plan = [*shop.ground_truth_calls()][:-1]
        writes = [
            k
            for k, (name, _) in enumerate(plan)
            if not name.startswith(("get", "list", "find", "read"))
        ]
        fault = int(rng.choice(writes))
        calls = [*plan[:fault], spoiled(plan[fault], rng), *plan[fault + 1 :]]
        with trajrec.episode(
            folder, task=f"{seed}/{fault}", world=shop, options={"task": QUEUE}
        ) as ep:
            for name, arguments in calls:
                try:
                    ep.call(name, **arguments)
                except Exception:
                    continue
            is_lost = not shop.task_solved()
            ep.stop("done", claimed_done=True)
        if is_lost:
            found.append((ep.id, fault, plan))
    trajrec.recording.event_log.close_logs()  # type: ignore[attr-defined]
    corpus = trajrec.open(folder)
    return [(corpus.episode(name), fault, plan) for name, fault, plan in found]


def bank() -> list[Criterion]:
    """The test that message replay fails: the innocent deposit is not blamed, the choice is, with its true probability."""
    decision = decisive_step(bank_episode(), gambler)
    redrawn = decision.redrawn
    assert redrawn is not None
    lost = 1 - redrawn.ci_high, 1 - redrawn.ci_low
    return [
        Criterion(
            "bank: decisive step",
            float(-1 if decision.step is None else decision.step),
            "1",
            decision.step == 1,
        ),
        Criterion(
            f"bank: P(fail | redrawn) in [{lost[0]:.2f}, {lost[1]:.2f}]",
            1 - redrawn.value,
            "0.5 in it",
            lost[0] <= 0.5 <= lost[1],
        ),
    ]


def judged(
    name: str, decisions: Sequence[Decision], faults: Sequence[int], bar: float
) -> list[Criterion]:
    """Return how often a decision is right, how often there is none, and whether its confidence holds."""
    decided = [(d, fault) for d, fault in zip(decisions, faults, strict=True) if d.step is not None]
    right = [d.step == fault for d, fault in decided]
    sure = [
        d.step == fault for d, fault in decided if d.confidence is not None and d.confidence >= 0.95
    ]
    return [
        at_least(
            f"{name}: right, of {len(decided)} decided",
            float(np.mean(right)) if right else 0.0,
            bar,
        ),
        at_most(f"{name}: undecided", 1 - len(decided) / len(decisions), 0.20),
        at_least(
            f"{name}: of {len(sure)} that claim 0.95, right",
            float(np.mean(sure)) if sure else 0.0,
            0.90,
        ),
    ]


def shop(n: int = 50) -> list[Criterion]:
    """One fault in a task of 12 calls, and a policy that makes it good with probability 0, 0.05 or 0.2 a step."""
    cases = shop_cases(n)
    found = []
    for rate, bar in ((0.0, 0.95), (0.05, 0.90), (0.2, 0.80)):
        decisions = [
            decisive_step(e, PlanPolicy(plan, rate), seed=k) for k, (e, _, plan) in enumerate(cases)
        ]
        found += judged(f"shop, repair {rate:g}", decisions, [fault for _, fault, _ in cases], bar)
    return found
