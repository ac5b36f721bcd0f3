"""Frozen blocks: the process has its own clock and randomness again, in whatever order they end."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import numpy as np

import trajrec
from trajrec.agents.freeze import fixed_entropy, seeded_globals


def test_calls_at_the_same_time_leave_no_seeded_randomness(tmp_path: Path) -> None:
    async def draw(wait_s: float) -> float:
        await asyncio.sleep(wait_s)
        return random.random()

    async def agent() -> None:
        with trajrec.episode(tmp_path, deterministic=True) as ep:
            tool = ep.tool(draw)
            await asyncio.gather(tool(0.01), tool(0.03), tool(0.02))

    before = os.urandom, random._urandom, random.getstate()  # type: ignore[attr-defined]
    words = np.random.get_state()[1].copy()
    asyncio.run(agent())
    after = os.urandom, random._urandom, random.getstate()  # type: ignore[attr-defined]
    assert after == before
    assert (np.random.get_state()[1] == words).all()
    assert time.time() > 1.7e9


def test_a_block_within_another_restores_the_outer_one() -> None:
    with seeded_globals(1), fixed_entropy(1):
        expected = random.random(), os.urandom(4)
    with seeded_globals(1), fixed_entropy(1):
        with seeded_globals(2), fixed_entropy(2):
            assert random.random() != expected[0]
        assert (random.random(), os.urandom(4)) == expected
