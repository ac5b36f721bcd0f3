"""Defines which differences a replay may ignore."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np

from trajrec.log.source_facts import INFOS, NUMBER_TYPES
from trajrec.redaction.redactor import Redactor
from trajrec.replay.execute.report import ulp_distance
from trajrec.types import Value
from trajrec.values.diff import MISSING, Change, is_same
from trajrec.values.json import to_field
from trajrec.values.projection import Projection

# `gymnasium.wrappers.RecordEpisodeStatistics` measures the seconds that an episode took. No replay
# takes exactly as long as the recording did.
WALL_CLOCK = frozenset({"info/episode/t"})


_NUMBERS = frozenset((bool, int, float, complex))

OTHER_TYPES = "types of numbers, which the imported files do not tell"
"""The label of numbers that differ by their types alone."""


LOST_INFOS = "infos that the imported files do not have"
"""The label of keys of infos that a recording lacks."""


class Tolerance(NamedTuple):
    """The differences that a replay ignores and notes in its report.

    Attributes:
        paths: Paths of values that may differ, written as a divergence names them.
        ulps: The largest distance between two floats that counts as equal, in units in the last
            place.
        projection: The rule for the values that count; None if all of them count.
        redactor: The redactor of the recording, if it was not the default one. It decides nothing
            about values without redacted secrets.
        number_types: Whether two numbers differ that are of another type, Python's or NumPy's, and
            else the same.
        infos: Whether keys of infos count that the recording lacks.
    """

    paths: frozenset[str] = frozenset()
    ulps: int = 0
    projection: Projection | None = None
    redactor: Redactor | None = None
    number_types: bool = True
    infos: bool = True

    @property
    def is_exact(self) -> bool:
        """Whether no difference at all is ignored."""
        is_whole = not self.paths and not self.ulps and self.projection is None
        return is_whole and self.number_types and self.infos

    @property
    def ignores_digests(self) -> bool:
        """Whether states may differ although their digests do: a digest has no distance."""
        return self.ulps > 0 or self.projection is not None

    def for_source(self, unknown: Collection[str]) -> Tolerance:
        """Return the tolerance for episodes whose source does not tell some facts.

        Args:
            unknown: The facts, as `trajrec.log.source_facts.unknown_of` returns them.
        """
        if not unknown:
            return self
        return self._replace(number_types=NUMBER_TYPES not in unknown, infos=INFOS not in unknown)

    def label(self, change: Change) -> str | None:
        """Return the label of a difference that is ignored, or None if the difference counts.

        Args:
            change: The two values, and their path with the field in front: ("observation", 2).
        """
        field = to_field(change.path)
        if field in self.paths:
            return field
        if self.projection is not None and not self.projection.counts(change):
            return field
        if not self.infos and change.path[0] == "info" and change.before is MISSING:
            return LOST_INFOS
        if not self.number_types and _is_same_number(change.before, change.after):
            return OTHER_TYPES
        if self.ulps:
            distance = ulp_distance(change.before, change.after)
            if distance is not None and distance <= self.ulps:
                return f"floats within {self.ulps} ulp"
        return None

    def note(self, ignored: Iterable[str]) -> str:
        """Return the note of a report about the labels of all ignored differences."""
        rule = "" if self.projection is None else f" (under projection {self.projection})"
        return f"not the same, and ignored{rule}: {', '.join(sorted(ignored))}"


def _is_same_number(before: Value, after: Value) -> bool:
    """Return whether two values are one number, perhaps of Python and of NumPy."""
    a = _plain(before)
    b = _plain(after)
    if type(a) not in _NUMBERS or type(b) not in _NUMBERS:
        return False
    if type(a) is type(b):
        return is_same(a, b)
    return bool not in (type(a), type(b)) and bool(a == b)


def _plain(value: Value) -> Value:
    is_single = isinstance(value, np.generic | np.ndarray) and value.shape == ()
    return value.item() if is_single else value


EXACT = Tolerance()
"""Ignores nothing."""
