"""Columns of named values of steps, which a loop has added: see `Recorder.annotate`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trajrec.datasets.leaves import Leaf, has_whole_numbers
from trajrec.datasets.selection import LogSelection
from trajrec.errors import CorpusError
from trajrec.log.chunk import LogChunk
from trajrec.log.events import StepValues
from trajrec.types import Array, IntArray, Value
from trajrec.values import codec

PREFIX = "values/"
"""Before the name of a value in the names of columns."""

# Above the steps of an episode in a key of 64 bits.
_STEP_BITS = 32


@dataclass(frozen=True)
class NamedColumn:
    """The values of one name.

    Attributes:
        leaf: The column.
        keys: Episode and step of each value, ascending, (V,) int64.
        values: The values, (V, *shape).
    """

    leaf: Leaf
    keys: IntArray
    values: Array

    def of_rows(self, codes: IntArray, steps: IntArray) -> Array:
        """Return the values of some rows, (n, *shape); NaN for a row that has none.

        Raises:
            CorpusError: A row has none, and the values are no floats.
        """
        keys = (codes << _STEP_BITS) | steps
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        found = self.values[places]
        is_missing = self.keys[places] != keys
        if is_missing.any():
            if found.dtype.kind != "f":
                raise CorpusError(
                    f"{self.leaf.name!r} is missing in {int(is_missing.sum())} steps, and "
                    f"{found.dtype} has no value for that; select episodes that have it in all "
                    "steps, or annotate floats"
                )
            found[is_missing] = np.nan
        return found


class NamedValues:
    """Gathers the values of some names.

    Args:
        columns: The names of columns; those without `PREFIX` are left out.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.names = [name[len(PREFIX) :] for name in columns if name.startswith(PREFIX)]
        # Of several values under one name the last counts.
        self._values: dict[str, dict[int, Value]] = {name: {} for name in self.names}

    def add(self, chunks: Iterable[LogChunk], log: LogSelection) -> None:
        """Add the values of the selected episodes in some chunks of a log.

        Raises:
            CorpusError: A record has no map of values.
        """
        code_of = dict(zip(log.numbers.tolist(), log.codes.tolist(), strict=True))
        for chunk in chunks:
            for event in chunk.record.events:
                if isinstance(event, StepValues) and event.episode in code_of:
                    key = (code_of[event.episode] << _STEP_BITS) | event.step
                    self._add(key, event.values_data, log)

    def _add(self, key: int, data: bytes, log: LogSelection) -> None:
        try:
            values = codec.decode_map(data)
        except ValueError as exc:
            raise CorpusError(f"{log.path}: the values of a step are malformed: {exc}") from exc
        for name in self.names:
            if name in values:
                self._values[name][key] = values[name]

    def columns(self) -> dict[str, NamedColumn]:
        """Return the columns by name.

        Raises:
            CorpusError: No step has a value of a name, or values are no numbers or arrays of one
                dtype and shape.
        """
        return {PREFIX + name: _column(name, self._values[name]) for name in self.names}


def _numbers(rows: Iterable[Value]) -> Iterator[Value]:
    """Yield the numbers in rows, which may be lists of them; those of arrays are exact anyway."""
    for row in rows:
        if isinstance(row, list | tuple):
            yield from _numbers(row)
        elif isinstance(row, np.ndarray):
            yield from row.ravel().tolist()
        else:
            yield row


def _column(name: str, values: dict[int, Value]) -> NamedColumn:
    if not values:
        raise CorpusError(f"no selected step has a value {name!r}; env.annotate records them")
    keys = np.array(sorted(values), np.int64)
    rows = [values[key] for key in keys.tolist()]
    forms = {(type(row), getattr(row, "dtype", None), getattr(row, "shape", ())) for row in rows}
    is_number = all(isinstance(row, bool | int | float | np.generic) for row in rows)
    try:
        array = np.array(rows) if is_number or len(forms) == 1 else np.zeros(0, object)
    except ValueError:
        # Lists of several lengths.
        array = np.zeros(0, object)
    if array.dtype.kind not in "biuf":
        raise CorpusError(
            f"the values {name!r} are no numbers or arrays of one dtype and shape; leave "
            f"{PREFIX + name!r} out of columns="
        )
    if not has_whole_numbers(list(_numbers(rows)), array.ravel()):
        raise CorpusError(
            f"the values {name!r} hold integers that {array.dtype} cannot hold exactly; leave "
            f"{PREFIX + name!r} out of columns="
        )
    leaf = Leaf(PREFIX + name, array.dtype, array.shape[1:], is_scalar=is_number)
    return NamedColumn(leaf, keys, array)
