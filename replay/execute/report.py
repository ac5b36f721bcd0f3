"""What a replay found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from trajrec.errors import DivergenceError

Grade = Literal["exact", "state", "partial", "diverged", "refused"]
"""exact: every recorded value came out again. state: every one but those that were told to be ignored. partial: a part of it,
because the log has lost steps or only later ones were asked for. diverged: at a step and field. refused: nothing was executed,
because the environment may not be imported, is missing, or cannot be made again."""

CLOSE_ULPS = 1 << 20
"""From here on a distance is not said: 0.0 and 1.0 are 4607182418800017408 apart, which tells nobody anything."""


@dataclass(frozen=True)
class Divergence:
    """The first place where a replay was not the recording.

    Attributes:
        step: The step, from 0; -1 for the reset.
        field: Where in it: "observation", "reward", "terminated", "truncated", "info", "state" or "failure", with the path to
            the value below, e.g. "observation/2".
        expected: The recorded value.
        actual: The value that came out.
        cause: What it most likely comes from, found by running again where that could tell.
        ulps: How many floating-point numbers lie between the two values, where both are of one float type.
    """

    step: int
    field: str
    expected: Any
    actual: Any
    cause: str = ""
    ulps: int | None = None

    @property
    def where(self) -> str:
        """The step in words."""
        return "the reset" if self.step < 0 else f"step {self.step}"

    def __str__(self) -> str:
        distance = (
            f" ({self.ulps} ulp apart)" if self.ulps is not None and self.ulps < CLOSE_ULPS else ""
        )
        cause = f"; likely cause: {self.cause}" if self.cause else ""
        return f"{self.where}, {self.field}: recorded {short(self.expected)}, replayed {short(self.actual)}{distance}{cause}"


@dataclass(frozen=True)
class ReplayReport:
    """What the replay of one episode found.

    Attributes:
        episode_id: The episode.
        grade: exact, state, partial, diverged or refused.
        n_steps: Steps executed.
        divergence: The first difference, where it diverged.
        compared: The fields that were compared at every step.
        notes: What a reader of the grade must know: what could not be compared, what the log has lost, why it was refused.
        total_reward: Sum of the rewards that came out now; None where they are not numbers, or of an agent's world.
        ending: How it ended now: terminated, truncated or error; "" where the recorded actions did not end it.
        differing_steps: Of a state-forced replay, the steps that differ by themselves.
    """

    episode_id: str
    grade: Grade
    n_steps: int
    divergence: Divergence | None = None
    compared: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    differing_steps: tuple[int, ...] = ()
    total_reward: float | None = None
    ending: str = ""

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes, and which steps differ by themselves."""
        steps = ", ".join("the reset" if step < 0 else str(step) for step in self.differing_steps)
        return (*((f"differing by themselves: {steps}",) if steps else ()), *self.notes)

    def __str__(self) -> str:
        text = f"{self.episode_id} {self.grade}, {self.n_steps} steps"
        if self.divergence is not None:
            text += f"; first difference at {self.divergence}"
        return text + "".join(f"; {remark}" for remark in self.remarks)

    def raise_if_diverged(self) -> None:
        """Raise where the episode was not the same.

        Raises:
            DivergenceError: It diverged.
        """
        if self.divergence is not None:
            d = self.divergence
            raise DivergenceError(
                str(d),
                episode_id=self.episode_id,
                step=d.step,
                field=d.field,
                expected=d.expected,
                actual=d.actual,
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        d = self.divergence
        return {
            "episode_id": self.episode_id,
            "grade": self.grade,
            "n_steps": self.n_steps,
            "compared": list(self.compared),
            "notes": list(self.notes),
            "differing_steps": list(self.differing_steps),
            "total_reward": self.total_reward,
            "ending": self.ending or None,
            "divergence": None
            if d is None
            else {
                "step": d.step,
                "field": d.field,
                "expected": short(d.expected),
                "actual": short(d.actual),
                "cause": d.cause,
                "ulps": d.ulps,
            },
        }


@dataclass
class ReplaySummary:
    """The grades of many replays."""

    grades: Counter[str] = field(default_factory=Counter)
    n_steps: int = 0

    def add(self, report: ReplayReport) -> None:
        """Count a report."""
        self.grades[report.grade] += 1
        self.n_steps += report.n_steps

    @property
    def n_episodes(self) -> int:
        """Episodes counted."""
        return sum(self.grades.values())

    @property
    def is_all_the_same(self) -> bool:
        """Whether every episode was replayed and none diverged."""
        return not self.grades["diverged"] and not self.grades["refused"]

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {grade}" for grade, n in self.grades.most_common())
        return f"{self.n_episodes} episodes, {self.n_steps} steps: {counts or 'nothing to replay'}"


def ulp_distance(a: Any, b: Any) -> int | None:
    """Return how many floats lie between two floats of one type, or None where they are not such.

    >>> ulp_distance(1.0, 1.0 + 2**-52)
    1
    """
    a, b = (np.float64(x) if type(x) is float else x for x in (a, b))
    if not isinstance(a, np.floating) or type(a) is not type(b) or a.itemsize not in (2, 4, 8):
        return None
    if not (np.isfinite(a) and np.isfinite(b)):
        return None
    bits = np.array([a, b]).view(f"i{a.itemsize}").astype(object)
    floor = -(1 << (8 * a.itemsize - 1))
    ordered = [int(x) if x >= 0 else floor - int(x) for x in bits]
    return abs(ordered[0] - ordered[1])


def short(value: Any) -> str:
    """Return a value for people, on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else text[:117] + "..."
