"""Frozen blocks: the process has its own clock and randomness again, in whatever order they end."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import trajrec
from trajrec.agents.freeze import derive_seed, fixed_entropy, frozen, seeded_globals


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


def test_generators_run_frozen_but_their_readers_do_not(tmp_path: Path) -> None:
    def draw() -> Iterator[tuple[float, float]]:
        while True:
            yield time.time(), random.random()

    async def draw_later() -> AsyncIterator[tuple[float, float]]:
        while True:
            yield time.time(), random.random()

    def run() -> list[tuple[float, float]]:
        with trajrec.episode(tmp_path, deterministic=True) as ep:
            items = ep.tool(draw)()
            first = next(items)
            time.sleep(0.01)
            assert time.time() > first[0]
            second = next(items)
            items.close()
            return [first, second, *asyncio.run(read(ep.tool(draw_later)))]

    async def read(tool: Any) -> list[tuple[float, float]]:
        items = tool()
        read = [await anext(items), await anext(items)]
        await items.aclose()
        return read

    before = random.getstate()
    drawn = run()
    assert random.getstate() == before
    # The clock stands at the beginning of each call, and no two items have the same randomness.
    assert drawn[0][0] == drawn[1][0] <= drawn[2][0] == drawn[3][0]
    assert len({number for _, number in drawn}) == 4
    (episode,) = trajrec.open(tmp_path).episodes()
    task = episode.transcript.task_start
    assert task is not None
    assert task.held_seed is not None
    for number, (seconds, value) in enumerate(drawn):
        step, item = divmod(number, 2)
        with frozen(round(seconds * 1e9), derive_seed(task.held_seed, step, 0, 0, item)):
            assert random.random() == value


def test_a_block_within_another_restores_the_outer_one() -> None:
    with seeded_globals(1), fixed_entropy(1):
        expected = random.random(), os.urandom(4)
    with seeded_globals(1), fixed_entropy(1):
        with seeded_globals(2), fixed_entropy(2):
            assert random.random() != expected[0]
        assert (random.random(), os.urandom(4)) == expected
