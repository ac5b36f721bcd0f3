"""Transitions in batches: from the logs as a stream, or from a cache of decoded columns."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trajrec.datasets.leaves import FIELDS, Leaf
from trajrec.datasets.plan import Plan
from trajrec.datasets.pools import Pools, StreamPools, TablePools
from trajrec.datasets.table import FLAGS, Batch, Table
from trajrec.values.per_process import renew_in_children

COLUMNS = (
    "obs",
    "action",
    "reward",
    "next_obs",
    "terminated",
    "truncated",
    "episode",
    "step",
)
"""The columns of a batch if none are named."""

KNOWN_COLUMNS = (*FIELDS, "next_obs", *FLAGS, "episode", "step", "values")

# Apart from the orders of epochs, which are counted from 0.
_SAMPLING = 2**32 - 1


class Transitions:
    """Transitions of the selected episodes, an iterable of batches.

    Each batch is a dict of arrays (B, *shape). `obs` and `next_obs` are the observations before and
    after the step; of composed observations each part is a column, as `obs/image`. `episode` is a
    number in `episode_ids`.

    The same logs and the same seed give the same batches, also in another process. Iterating does
    not change `epoch`: set it to have another order. Threads may share it.

    Attributes:
        epoch: The epoch, from 0. It changes the order if batches are shuffled.
        batch_size: The transitions of a batch; the last one may have fewer.
        columns: The names of the columns.
        episode_ids: The id of each selected episode, by the numbers of the column `episode`.
        texts: The texts that each column of texts has codes for, by name.
        dropped: Steps without a transition, since the log has lost the observation before them.
        n_after_failure: Steps after one that raised. They are left out unless `with_failed`.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        columns: Sequence[str] = COLUMNS,
        batch_size: int = 256,
        shuffle: bool = True,
        seed: int = 0,
        pool: int = 64,
        drop_last: bool = False,
        with_failed: bool = False,
        table: Table | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        check_seed(seed)
        if pool < 1:
            raise ValueError(f"pool must be at least 1 chunk, got {pool}")
        self.epoch = 0
        self.batch_size = batch_size
        self.columns = expand(columns, plan.leaves.leaves)
        self.episode_ids = plan.selection.ids
        self.texts = {name: list(codes) for name, codes in plan.leaves.texts.items()}
        self.dropped = plan.n_dropped
        self.n_after_failure = plan.n_after_failure
        self._plan = plan
        self._shuffle = shuffle
        self._seed = seed
        self._n_chunks = pool
        self._drop_last = drop_last
        self._with_failed = with_failed
        self._table = table
        self._usable = None if table is None else table.usable_rows(with_failed=with_failed)
        self._n = sum(int(log.n_rows(with_failed=with_failed).sum()) for log in plan.logs)
        self._pools: tuple[int, Pools] | None = None
        self._rng = np.random.default_rng([seed, _SAMPLING])
        # A stream has one pool in memory, and one reader.
        self._lock = threading.RLock()
        renew_in_children(self, Transitions._renew_lock)

    def __len__(self) -> int:
        """Return the number of transitions."""
        return self._n

    def __repr__(self) -> str:
        return f"<Transitions {self._n} of {len(self.episode_ids)} episodes>"

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.n_batches):
            yield self.batch(number)

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens the logs itself.
        state = self.__dict__ | {"_pools": None}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._lock = threading.RLock()
        renew_in_children(self, Transitions._renew_lock)

    def _renew_lock(self) -> None:
        """Forget the pool that a thread of the parent was reading."""
        self._lock = threading.RLock()
        self._pools = None

    @property
    def n_batches(self) -> int:
        """The number of batches of an epoch."""
        whole, rest = divmod(self._n, self.batch_size)
        return whole + (rest > 0 and not self._drop_last)

    @property
    def digest(self) -> str:
        """The digest of the selected episodes and of the contents of their logs, 32 hex digits."""
        return self._plan.selection.digest()

    def form(self, column: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Return dtype and shape of a row of a column."""
        leaf = self._plan.leaves.leaves.get(column.removeprefix("next_"))
        if leaf is not None:
            return leaf.dtype, leaf.shape
        return np.dtype(np.bool_ if column in FLAGS else np.int32), ()

    def batch(self, number: int) -> Batch:
        """Return a batch of the present epoch by its number.

        A stream keeps one pool in memory, so ask for batches in order.

        Raises:
            IndexError: There is no such batch.
            LogError: A log cannot be read any more.
        """
        if not 0 <= number < self.n_batches:
            raise IndexError(f"batch must be in [0, {self.n_batches}), got {number}")
        with self._lock:
            return self._batch(number)

    def _batch(self, number: int) -> Batch:
        pools = self._pools_of_epoch()
        first = number * self.batch_size
        stop = min(first + self.batch_size, self._n)
        parts = []
        for index in range(bisect_right(pools.ends, first), len(pools.ends)):
            table, order = pools.load(index)
            pool_start = pools.ends[index - 1] if index else 0
            start = max(first - pool_start, 0)
            end = min(stop, pools.ends[index]) - pool_start
            rows = slice(start, end) if order is None else order[start:end]
            parts.append(table.gather(rows, self.columns))
            if stop <= pools.ends[index]:
                break
        if len(parts) == 1:
            return parts[0]
        return {
            name: np.concatenate([part[name] for part in parts], dtype=parts[0][name].dtype)
            for name in self.columns
        }

    def sample(self, n: int) -> Batch:
        """Return n transitions drawn with replacement, from the cache.

        Raises:
            ValueError: There is no cache, or no transition.
        """
        if self._table is None:
            raise ValueError(
                "sample reads single transitions, which a stream cannot: pass cache=True"
            )
        if not self._n:
            raise ValueError("there is no transition to sample from")
        numbers = self._rng.integers(0, self._n, n)
        rows = numbers if self._usable is None else self._usable[numbers]
        return self._table.gather(rows, self.columns)

    def close(self) -> None:
        """Close the logs and forget what was decoded. Twice is harmless."""
        with self._lock:
            if self._pools is not None:
                self._pools[1].close()
                self._pools = None

    def _pools_of_epoch(self) -> Pools:
        if self._pools is not None and self._pools[0] == self.epoch:
            return self._pools[1]
        self.close()
        seed = self._seed if self._shuffle else None
        pools: Pools
        if self._table is not None:
            pools = TablePools(self._table, self._usable, seed=seed, epoch=self.epoch)
        else:
            pools = StreamPools(
                self._plan,
                self._n_chunks,
                seed=seed,
                epoch=self.epoch,
                with_failed=self._with_failed,
            )
        self._pools = (self.epoch, pools)
        return pools


def check_seed(seed: int) -> None:
    """Refuse a seed that is no whole number from 0 on.

    Raises:
        ValueError: It is none.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a whole number, at least 0, got {seed!r}")


def wanted_fields(columns: Sequence[str]) -> list[str]:
    """Return the fields, parts of fields, and named values that some columns need.

    Raises:
        ValueError: A column is unknown.
    """
    if not columns:
        raise ValueError("columns must name at least one column")
    for name in columns:
        if name.partition("/")[0] not in KNOWN_COLUMNS or name == "values":
            raise ValueError(f"columns must be among {', '.join(KNOWN_COLUMNS)}, got {name!r}")
    names = [name.removeprefix("next_") for name in columns]
    fields = (*FIELDS, "values")
    return [name for name in dict.fromkeys(names) if name.partition("/")[0] in fields]


def expand(columns: Sequence[str], leaves: Mapping[str, Leaf]) -> tuple[str, ...]:
    """Return the columns with the parts of composed fields in place of the fields.

    Raises:
        ValueError: There is no such part.
    """
    names: list[str] = []
    for name in columns:
        leaf = name.removeprefix("next_")
        prefix = name[: len(name) - len(leaf)]
        if leaf.partition("/")[0] not in FIELDS:
            names.append(name)
            continue
        parts = [part for part in leaves if part == leaf or part.startswith(f"{leaf}/")]
        if not parts:
            raise ValueError(f"no column {name!r}; obs, action and reward give their parts")
        names += [prefix + part for part in parts]
    return tuple(dict.fromkeys(names))
