"""Decoded rows of selected episodes, from which transitions are gathered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trajrec.datasets.stores import Store
from trajrec.types import Array, IntArray

TERMINATED = 1
TRUNCATED = 2
CUT = 4
AFTER_FAILURE = 8
LOST = 16

FLAGS = {
    "terminated": TERMINATED,
    "truncated": TRUNCATED,
    "cut": CUT,
    "after_failure": AFTER_FAILURE,
}
"""The columns that are bits of one byte."""

Batch = dict[str, Array]
"""Columns by name: an array (B, *shape) each."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of steps, and the observations before and after them.

    Attributes:
        observations: The observations by leaf.
        steps: The columns of actions and rewards by leaf, (R, *shape) each.
        segment: The segment of each row, (R,) int32.
        step: The number of each row's step, (R,) int32.
        flags: The flags of each row, (R,) uint8.
        codes: The episode of each segment, (S,) int32.
        shifts: For each segment, the row of an observation minus that of the step after it, (S,).
    """

    observations: Mapping[str, Store]
    steps: Mapping[str, Array]
    segment: Array
    step: Array
    flags: Array
    codes: Array
    shifts: IntArray

    def usable_rows(self, *, with_failed: bool) -> IntArray | None:
        """Return the rows that are transitions; None if all are."""
        excluded = LOST if with_failed else LOST | AFTER_FAILURE
        usable = (self.flags & excluded) == 0
        return None if usable.all() else np.flatnonzero(usable)

    def gather(self, rows: IntArray | slice, columns: Sequence[str]) -> Batch:
        """Return the columns of some rows. All arrays are copies.

        Args:
            rows: The numbers of the rows, or a slice of them.
            columns: The names of the columns: leaves, `next_` before those of observations, and
                "terminated", "truncated", "cut", "after_failure", "episode", "step".
        """
        segment = self.segment[rows]
        numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        before = numbers + self.shifts.take(segment)
        batch: Batch = {}
        pairs: dict[str, tuple[Array, Array]] = {}
        for name in columns:
            leaf = name.removeprefix("next_")
            if name in FLAGS:
                batch[name] = (self.flags[rows] & FLAGS[name]) != 0
            elif name == "episode":
                batch[name] = self.codes.take(segment)
            elif name == "step":
                batch[name] = self._taken(self.step, rows)
            elif name in self.steps:
                batch[name] = self._taken(self.steps[name], rows)
            elif f"next_{leaf}" in columns and leaf in columns:
                if leaf not in pairs:
                    pairs[leaf] = self.observations[leaf].take_pair(before, before + 1)
                batch[name] = pairs[leaf][name != leaf]
            else:
                batch[name] = self.observations[leaf].take(before if name == leaf else before + 1)
        return batch

    @staticmethod
    def _taken(column: Array, rows: IntArray | slice) -> Array:
        return column[rows].copy() if isinstance(rows, slice) else column.take(rows, axis=0)
