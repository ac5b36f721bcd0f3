"""Windows of consecutive steps of one episode, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from trajrec.datasets.plan import Plan
from trajrec.datasets.table import AFTER_FAILURE, LOST, Batch, Table
from trajrec.datasets.transitions import check_seed, expand
from trajrec.types import Array, IntArray

# Apart from the orders of epochs, which are counted from 0.
_SAMPLING = 2**32 - 1


class Sequences:
    """Windows of consecutive steps of one episode, an iterable of batches.

    Each batch is a dict of arrays (B, length, *shape). A window never crosses the end of an
    episode, nor a step that the log has lost or that raised.

    Attributes:
        epoch: The epoch, from 0. It changes the order if batches are shuffled.
        batch_size: The windows of a batch; the last one may have fewer.
        columns: The names of the columns; with `pad` also "mask".
        length: The steps of a window.
        episode_ids: The id of each selected episode, by the numbers of the column `episode`.
        texts: The texts that each column of texts has codes for, by name.
    """

    def __init__(
        self,
        plan: Plan,
        table: Table,
        *,
        length: int,
        stride: int = 1,
        pad: bool = False,
        columns: Sequence[str],
        batch_size: int = 64,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        check_seed(seed)
        if min(length, stride, batch_size) < 1:
            raise ValueError(
                "length, stride and batch_size must be at least 1, "
                f"got {length}, {stride} and {batch_size}"
            )
        self.epoch = 0
        self.batch_size = batch_size
        self.length = length
        self.columns = expand(columns, plan.leaves.leaves)
        self.episode_ids = plan.selection.ids
        self.texts = {name: list(codes) for name, codes in plan.leaves.texts.items()}
        self._table = table
        self._pad = pad
        self._shuffle = shuffle
        self._seed = seed
        self._drop_last = drop_last
        self._starts, self._lengths = _windows(table, length, stride, pad=pad)
        self._order: tuple[int, IntArray] | None = None
        self._rng = np.random.default_rng([seed, _SAMPLING])

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self._starts)

    def __repr__(self) -> str:
        return f"<Sequences {len(self)} windows of {self.length} steps>"

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.n_batches):
            yield self.batch(number)

    @property
    def n_batches(self) -> int:
        """The number of batches of an epoch."""
        whole, rest = divmod(len(self), self.batch_size)
        return whole + (rest > 0 and not self._drop_last)

    def batch(self, number: int) -> Batch:
        """Return a batch of the present epoch by its number.

        Raises:
            IndexError: There is no such batch.
        """
        if not 0 <= number < self.n_batches:
            raise IndexError(f"batch must be in [0, {self.n_batches}), got {number}")
        chosen = slice(number * self.batch_size, (number + 1) * self.batch_size)
        return self._gather(self._order_of_epoch()[chosen])

    def sample(self, n: int) -> Batch:
        """Return n windows drawn with replacement.

        Raises:
            ValueError: There is no window.
        """
        if not len(self):
            raise ValueError(
                f"no episode has {self.length} consecutive steps: take a smaller length"
            )
        return self._gather(self._rng.integers(0, len(self), n))

    def _order_of_epoch(self) -> IntArray:
        if self._order is None or self._order[0] != self.epoch:
            order = np.arange(len(self))
            if self._shuffle:
                np.random.default_rng([self._seed, self.epoch]).shuffle(order)
            self._order = (self.epoch, order)
        return self._order[1]

    def _gather(self, windows: IntArray) -> Batch:
        lengths = self._lengths[windows]
        places = np.arange(self.length)
        # Behind the end of an episode its last row stands, and is overwritten below.
        rows = self._starts[windows][:, None] + np.minimum(places, lengths[:, None] - 1)
        flat = self._table.gather(rows.reshape(-1), self.columns)
        shape = (len(windows), self.length)
        batch = {name: array.reshape(*shape, *array.shape[1:]) for name, array in flat.items()}
        if self._pad:
            mask = places < lengths[:, None]
            batch = {name: _padded(array, mask) for name, array in batch.items()}
            batch["mask"] = mask
        return batch


def _padded(array: Array, mask: Array) -> Array:
    """Return a column with zeros outside of a mask."""
    if not array.flags.writeable:
        array = array.copy()
    array[~mask] = 0
    return array


def _windows(table: Table, length: int, stride: int, *, pad: bool) -> tuple[IntArray, IntArray]:
    """Return the first row of each window, and its steps."""
    is_excluded = (table.flags & (LOST | AFTER_FAILURE)) != 0
    episode = table.codes[table.segment]
    n = len(episode)
    begins = np.ones(n, np.bool_)
    begins[1:] = (episode[1:] != episode[:-1]) | (table.step[1:] != table.step[:-1] + 1)
    # An excluded row is in no run, and the row behind it begins one.
    begins[1:] |= is_excluded[:-1]
    starts = np.flatnonzero(begins & ~is_excluded)
    stops = np.append(np.flatnonzero(begins), n)
    ends = stops[np.searchsorted(stops, starts, side="right")]
    n_steps = ends - starts
    counts = -(-n_steps // stride) if pad else np.maximum((n_steps - length) // stride + 1, 0)
    run = np.repeat(np.arange(len(starts)), counts)
    offsets = (np.arange(len(run)) - np.repeat(np.cumsum(counts) - counts, counts)) * stride
    return starts[run] + offsets, np.minimum(n_steps[run] - offsets, length)
