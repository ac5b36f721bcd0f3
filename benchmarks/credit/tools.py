"""Faults of agents that call tools: the bank, and one fault in a task of the shop.

The decisive step that trajrec names is compared with the fault that was planted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

import trajrec
from benchmarks import scratch_folder
from benchmarks.credit.truths import Criterion, at_least, at_most
from trajrec.corpus.episode import Episode
from trajrec.envs import Bank, Shop
from trajrec.envs.shop_tasks import Call
from trajrec.replay.credit import Decision, decisive_step
from trajrec.types import Value

# The shop's task of 12 calls.
QUEUE = 21


class FaultyEpisode(NamedTuple):
    """An episode, the step of its fault, and the calls without the fault."""

    episode: Episode
    fault: int
    plan: list[Call]


class PlanPolicy:
    """Makes the calls of a plan in order, and repairs a wrong call later with a fixed probability.

    Args:
        plan: The calls.
        rate: The probability of a repair at each step.
    """

    def __init__(self, plan: Sequence[Call], rate: float) -> None:
        self.plan = list(plan)
        self.rate = rate
        self.id = f"plan-{rate:g}"

    def act(self, context: Value, rng: np.random.Generator) -> Call | None:
        """Return a call; None when the plan is done."""
        # Drawn at every step, so that later draws do not depend on whether a call is missing.
        repairs = rng.random() < self.rate
        position = 0
        missing: list[Call] = []
        for made in context.calls:
            call = (made.tool, made.arguments)
            if position < len(self.plan) and call == self.plan[position]:
                position += 1
            elif call in missing:
                missing.remove(call)
            else:
                missing.append(self.plan[position])
                position += 1
        if missing and repairs:
            return missing[0]
        return self.plan[position] if position < len(self.plan) else None


def gambler(context: Value, rng: np.random.Generator) -> Call | None:
    """Pay in 100, choose 50 or 150, withdraw."""
    amount = 50 if rng.random() < 0.5 else 150
    plan: list[Call] = [
        ("deposit", {"amount": 100}),
        ("choose", {"amount": amount}),
        ("withdraw", {}),
    ]
    return plan[context.step] if context.step < len(plan) else None


def bank_episode(amount: int = 150) -> Episode:
    """Record an episode in the bank that chooses an amount."""
    folder = scratch_folder()
    with trajrec.episode(folder, task="bank", world=Bank()) as ep:
        ep.call("deposit", amount=100)
        ep.call("choose", amount=amount)
        ep.call("withdraw")
        ep.stop("done", claimed_done=True)
    trajrec.close_logs()
    return next(trajrec.open(folder).episodes())


def bank() -> list[Criterion]:
    """Blame the choice, with its exact probability of 1/2, and not the innocent deposit.

    A method that replays messages only fails here: it finds an empty account.
    """
    decision = decisive_step(bank_episode(), gambler)
    redrawn = decision.redrawn
    low = 1 - redrawn.ci_high
    high = 1 - redrawn.ci_low
    step = -1 if decision.step is None else decision.step
    return [
        Criterion("bank: decisive step", float(step), "1", decision.step == 1),
        Criterion(
            f"bank: P(fail | redrawn) in [{low:.2f}, {high:.2f}]",
            1 - redrawn.value,
            "0.5 in it",
            low <= 0.5 <= high,
        ),
    ]


def spoiled(call: Call, rng: np.random.Generator) -> Call:
    """Return a call that the shop refuses, or a read; either can be repaired later."""
    name, arguments = call
    for key, value in arguments.items():
        if isinstance(value, str) and key in ("order", "customer", "item"):
            return name, {**arguments, key: str(rng.choice(["O9999", "C99", "unknown"]))}
    return "list_stock", {}


def shop_cases(n: int) -> list[FaultyEpisode]:
    """Record n tasks of the shop with one spoiled call; the call makes each of them fail."""
    folder = scratch_folder()
    rng = np.random.default_rng(0)
    recorded: list[tuple[str, int, list[Call]]] = []
    seed = 0
    while len(recorded) < n:
        shop = Shop(seed=seed)
        seed += 1
        shop.reset(options={"task": QUEUE})
        # Without `finish`: the episode ends by itself.
        plan = shop.ground_truth_calls()[:-1]
        writes = [k for k, (name, _) in enumerate(plan) if not name.startswith(("get", "read"))]
        fault = int(rng.choice(writes))
        calls = [*plan[:fault], spoiled(plan[fault], rng), *plan[fault + 1 :]]
        task = f"{seed}/{fault}"
        with trajrec.episode(folder, task=task, world=shop, options={"task": QUEUE}) as ep:
            for name, arguments in calls:
                # A refused call is part of the recording.
                with contextlib.suppress(Exception):
                    ep.call(name, **arguments)
            is_failed = not shop.task_solved()
            ep.stop("done", claimed_done=True)
        # Some spoiled calls do no harm.
        if is_failed:
            recorded.append((ep.id, fault, plan))
    trajrec.close_logs()
    corpus = trajrec.open(folder)
    return [FaultyEpisode(corpus.episode(name), fault, plan) for name, fault, plan in recorded]


def shop(n: int = 50) -> list[Criterion]:
    """Find one fault in a task of 12 calls, with a policy that repairs it at three rates."""
    cases = shop_cases(n)
    faults = [case.fault for case in cases]
    criteria = []
    for rate, least_right in ((0.0, 0.95), (0.05, 0.90), (0.2, 0.80)):
        decisions = [
            decisive_step(case.episode, PlanPolicy(case.plan, rate), seed=k)
            for k, case in enumerate(cases)
        ]
        criteria += _judge(f"shop, repair {rate:g}", decisions, faults, least_right)
    return criteria


def _judge(
    name: str, decisions: Sequence[Decision], faults: Sequence[int], least_right: float
) -> list[Criterion]:
    """Return how many decisions are right, how many are missing, and whether confidence holds."""
    decided = [
        (decision, fault)
        for decision, fault in zip(decisions, faults, strict=True)
        if decision.step is not None
    ]
    right = [decision.step == fault for decision, fault in decided]
    sure = [
        decision.step == fault
        for decision, fault in decided
        if decision.confidence is not None and decision.confidence >= 0.95
    ]
    return [
        at_least(f"{name}: right, of {len(decided)} decided", _share(right), least_right),
        at_most(f"{name}: undecided", 1 - len(decided) / len(decisions), 0.20),
        at_least(f"{name}: right, of {len(sure)} that claim 0.95", _share(sure), 0.90),
    ]


def _share(flags: Sequence[bool]) -> float:
    return float(np.mean(flags)) if flags else 0.0
