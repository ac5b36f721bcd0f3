"""A user's program for type checkers alone: public names are exported, and decorators keep types."""

from __future__ import annotations

from typing import Any, assert_type

import gymnasium as gym

import trajrec
from trajrec.replay import fork, replay_episode
from trajrec.replay.credit import estimate
from trajrec.replay.execute.report import ReplayReport


async def program(env: gym.Env[Any, Any]) -> None:
    """Use the names of the README."""
    trajrec.record(env, "runs").close()
    trajrec.capture("runs").stop()

    @trajrec.verifier(id="solved", version="1")
    def solved(world: Any) -> bool:
        return bool(world)

    assert_type(solved(env), bool)
    with trajrec.episode("runs", task="t", checks=[solved]) as ep:

        @ep.tool(access="write")
        async def refund(order: str, cents: int = 0) -> str:
            return f"{order} {cents}"

        @ep.tool
        def look(order: str) -> int:
            return len(order)

        assert_type(await refund("a", cents=2), str)
        assert_type(look("a"), int)
    with trajrec.open("runs") as corpus:
        episode = corpus.episode("3f2a")
    assert_type(replay_episode(episode), ReplayReport)
    assert_type(estimate(episode, len, n_rollouts=4)[0].value, float)
    with fork(episode, at=3) as branch:
        branch.step(0)
    with trajrec.rerun(episode) as rerun:
        assert_type(rerun.tool(look)("a"), int)
    current = trajrec.current_episode()
    if current is not None:
        assert_type(current.tool(look)("a"), int)
