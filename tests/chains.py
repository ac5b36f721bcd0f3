"""Recorded chains with a known fault."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym

import trajrec
import trajrec.envs
from trajrec.corpus.episode import Episode
from trajrec.envs.solved import SPOIL, WORK

assert trajrec.envs


def chain(folder: Path, size: int, fault: int) -> Episode:
    """Record a chain of `size` steps whose action at step `fault` spoils it."""
    env = trajrec.record(gym.make("trajrec/FaultChain-v0", size=size), folder)
    env.reset(seed=0)
    for step in range(size):
        env.step(SPOIL if step == fault else WORK)
    env.close()
    return next(trajrec.open(folder).episodes())
