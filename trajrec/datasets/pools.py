"""Pools of chunks: the part of a stream that is decoded at once, and mixed.

The order of all transitions follows from seed and epoch alone: which chunks a pool has, and the
order of the transitions in it. So any process can make any batch.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from trajrec.datasets.decode import ChunkPlace, ChunkSource, TableBuilder
from trajrec.datasets.plan import Plan
from trajrec.datasets.stores import MemoryWriter, is_framed
from trajrec.datasets.table import Table
from trajrec.types import Array, IntArray

RUN = 4
"""Chunks that follow each other in a log and stay together when chunks are shuffled: only the first
of them needs the chunk before it, which has the observation before its first step."""

MAX_POOL_BYTES = 1 << 29
"""The most bytes of decoded rows in a pool, unless a single run has more."""


class Pools(Protocol):
    """The transitions of one epoch, in pools.

    Attributes:
        ends: For each pool, the number of transitions up to its end.
    """

    ends: list[int]

    def load(self, index: int) -> tuple[Table, IntArray | None]:
        """Return the table of a pool, and its rows in the order of the epoch.

        None stands for all rows, one after the other.
        """
        ...

    def close(self) -> None:
        """Close what is open, and forget what was decoded."""
        ...


class StreamPools:
    """Pools that are decoded when they are asked for. One stays in memory.

    Args:
        plan: The rows to read.
        n_chunks: The chunks in a pool.
        seed: The seed of the order; None for the order of the logs.
        epoch: The epoch, which changes the order.
        with_failed: Whether transitions after a failed step are among them.
    """

    def __init__(
        self, plan: Plan, n_chunks: int, *, seed: int | None, epoch: int, with_failed: bool
    ) -> None:
        self._plan = plan
        self._seed = seed
        self._epoch = epoch
        self._with_failed = with_failed
        self._source = ChunkSource(plan)
        self._places, counts = _pools_of(plan, n_chunks, seed, epoch, with_failed)
        self.ends = np.cumsum(counts, dtype=np.int64).tolist()
        self._loaded = -1
        self._table: tuple[Table, IntArray | None] | None = None

    def load(self, index: int) -> tuple[Table, IntArray | None]:
        """Return the table of a pool, and its rows in the order of the epoch."""
        if self._loaded != index or self._table is None:
            # Before the next one is decoded: one pool fills the memory.
            self._table = None
            builder = TableBuilder(self._plan, self._source, MemoryWriter)
            # In the order of the logs: a chunk and the one before it are then read once.
            builder.add(sorted(self._places[index]))
            table = builder.finish()
            rows = table.usable_rows(with_failed=self._with_failed)
            if self._seed is not None:
                if rows is None:
                    rows = np.arange(len(table.step))
                # A copy or a new array: nobody else sees the new order.
                np.random.default_rng([self._seed, self._epoch, index]).shuffle(rows)
            self._table = table, rows
            self._loaded = index
        return self._table

    def close(self) -> None:
        """Close the log, and forget the pool."""
        self._table = None
        self._source.close()


class TablePools:
    """One pool that holds everything.

    Args:
        table: The rows.
        rows: Its transitions; None if all rows are transitions.
        seed: The seed of the order; None for the order of the logs.
        epoch: The epoch, which changes the order.
    """

    def __init__(
        self, table: Table, rows: IntArray | None, *, seed: int | None, epoch: int
    ) -> None:
        n = len(table.step) if rows is None else len(rows)
        self.ends = [n]
        self._table = table
        if seed is not None:
            numbers: Array = np.arange(n, dtype=np.int32 if n < 1 << 31 else np.int64)
            np.random.default_rng([seed, epoch]).shuffle(numbers)
            rows = numbers if rows is None else rows[numbers]
        self._rows = rows

    def load(self, index: int) -> tuple[Table, IntArray | None]:
        """Return the table, and its rows in the order of the epoch."""
        return self._table, self._rows

    def close(self) -> None:
        """Nothing is open."""


def row_bytes(plan: Plan) -> int:
    """Return the bytes of a decoded row, frames counted once."""
    total = 0
    for leaf in plan.leaves.leaves.values():
        size = leaf.dtype.itemsize * int(np.prod(leaf.shape, dtype=np.int64))
        total += size // leaf.shape[leaf.axis or 0] if is_framed(leaf) else size
    return total


def all_places(plan: Plan) -> list[ChunkPlace]:
    """Return all chunks, in the order of the logs."""
    return [
        ChunkPlace(number, chunk)
        for number, log in enumerate(plan.logs)
        for chunk in range(len(log.chunks))
    ]


def _pools_of(
    plan: Plan, n_chunks: int, seed: int | None, epoch: int, with_failed: bool
) -> tuple[list[list[ChunkPlace]], list[int]]:
    """Return the chunks of each pool, and the number of its transitions."""
    counts = [log.n_rows(with_failed=with_failed).tolist() for log in plan.logs]
    sizes = [
        (np.add.reduceat(log.segments.n, log.bounds[:-1]) * row_bytes(plan)).tolist()
        for log in plan.logs
    ]
    runs = []
    for number, log in enumerate(plan.logs):
        places = [ChunkPlace(number, chunk) for chunk in range(len(log.chunks))]
        runs += [places[start : start + RUN] for start in range(0, len(places), RUN)]
    if seed is not None:
        order = np.random.default_rng([seed, epoch]).permutation(len(runs)).tolist()
        runs = [runs[number] for number in order]
    pools: list[list[ChunkPlace]] = []
    totals: list[int] = []
    n_bytes = 0
    for run in runs:
        run_bytes = sum(sizes[place.log][place.chunk] for place in run)
        is_full = pools and (
            len(pools[-1]) + len(run) > n_chunks or n_bytes + run_bytes > MAX_POOL_BYTES
        )
        if not pools or is_full:
            pools.append([])
            totals.append(0)
            n_bytes = 0
        pools[-1] += run
        totals[-1] += sum(counts[place.log][place.chunk] for place in run)
        n_bytes += run_bytes
    return pools, totals
