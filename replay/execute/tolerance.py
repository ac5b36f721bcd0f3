"""Defines which differences a replay may ignore."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from trajrec.redaction.redactor import Redactor
from trajrec.replay.execute.report import ulp_distance
from trajrec.values.diff import Change
from trajrec.values.json import to_field
from trajrec.values.projection import Projection

# `gymnasium.wrappers.RecordEpisodeStatistics` measures the seconds that an episode took. No replay
# takes exactly as long as the recording did.
WALL_CLOCK = frozenset({"info/episode/t"})


class Tolerance(NamedTuple):
    """The differences that a replay ignores and notes in its report.

    Attributes:
        paths: Paths of values that may differ, written as a divergence names them.
        ulps: The largest distance between two floats that counts as equal, in units in the last
            place.
        projection: The rule for the values that count; None if all of them count.
        redactor: The redactor of the recording, if it was not the default one. It decides nothing
            about values without redacted secrets.
    """

    paths: frozenset[str] = frozenset()
    ulps: int = 0
    projection: Projection | None = None
    redactor: Redactor | None = None

    @property
    def is_exact(self) -> bool:
        """Whether no difference at all is ignored."""
        return not self.paths and not self.ulps and self.projection is None

    @property
    def ignores_digests(self) -> bool:
        """Whether states may differ although their digests do: a digest has no distance."""
        return self.ulps > 0 or self.projection is not None

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
        if self.ulps:
            distance = ulp_distance(change.before, change.after)
            if distance is not None and distance <= self.ulps:
                return f"floats within {self.ulps} ulp"
        return None

    def note(self, ignored: Iterable[str]) -> str:
        """Return the note of a report about the labels of all ignored differences."""
        rule = "" if self.projection is None else f" (under projection {self.projection})"
        return f"not the same, and ignored{rule}: {', '.join(sorted(ignored))}"


EXACT = Tolerance()
"""Ignores nothing."""
