"""An agent that solves a task of the shop by the calls that are known to solve it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import trajrec
from trajrec.envs import Shop
from trajrec.envs.shop import PaymentTimeout


@trajrec.verifier(id="solved", version="2", family="environmental")
def solved(shop: Shop) -> bool:
    return shop.task_solved()


def solve(folder: Path, task: int, seed: int = 7) -> str:
    """Record an episode that solves a task; return its id."""
    with trajrec.episode(
        folder, task=f"shop-{task}", world=Shop(seed=seed), options={"task": task}, checks=[solved]
    ) as ep:
        for name, arguments in ep.world.ground_truth_calls():
            with contextlib.suppress(PaymentTimeout):
                ep.call(name, **arguments)
        ep.stop("done", claimed_done=True)
    return ep.id
