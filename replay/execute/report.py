"""The report of a replay: its grade, its first difference, and a summary of many reports."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from trajrec.errors import DivergenceError
from trajrec.types import Value
from trajrec.values.diff import Change
from trajrec.values.html_cards import MAX_ROWS, card, card_method, lines, table
from trajrec.values.json import describe_field, to_field, typed_keys
from trajrec.values.paths import Path
from trajrec.values.shown import counted, short_pair

Grade = Literal["exact", "state", "partial", "observed-only", "diverged", "refused"]
"""The grade of a replay.

exact: every compared value is the recorded one. state: every value except those that the options
ignore, and those of states that the log does not tell (a note says so; the digest is the recorded
one). partial: every compared value, but the log has lost steps, or only later steps were asked for.
observed-only: every compared value, but nothing is proved from some step on: its action or state
had a secret, which was redacted; or nothing was executed, because the episode was imported from a
record that holds neither the world nor its state (a note says so). diverged: a value differs.
refused: nothing was executed, because the environment is missing, may not be imported, or cannot be
made again, or because the log has no result of the reset.
"""

# A larger distance is not shown: 0.0 and 1.0 are 4607182418800017408 ulps apart, a number that
# helps nobody.
CLOSE_ULPS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first difference between a replay and its recording.

    Attributes:
        step: The step, from 0; -1 is the reset.
        field: "observation", "reward", "terminated", "truncated", "info", "state" or "failure",
            and in agents' episodes "result", "error", "state" or "check", then the JSON Pointer
            of the value below: "observation/2".
        expected: The recorded value.
        actual: The value of the replay.
        path: The path of the differing value with the types of its keys, the first name of `field`
            in front: ("observation", 2). It tells the keys 7 and "7" apart, which look alike in
            `field`.
        cause: The likely cause, as far as experiments could show it; "" if none was looked for.
        ulps: The number of floating-point numbers between the two values, if both have the same
            float type; else None.
    """

    step: int
    field: str
    expected: Value
    actual: Value
    path: Path = ()
    cause: str = ""
    ulps: int | None = None

    @property
    def place(self) -> str:
        """The step and the field, in words."""
        step = "the reset" if self.step < 0 else f"step {self.step}"
        return f"{step}, {describe_field(self.path) or self.field}"

    def __str__(self) -> str:
        is_close = self.ulps is not None and self.ulps < CLOSE_ULPS
        distance = f" ({self.ulps} ulp apart)" if is_close else ""
        cause = f"; likely cause: {self.cause}" if self.cause else ""
        recorded, replayed = self.shown_values()
        return f"{self.place}: recorded {recorded}, replayed {replayed}{distance}{cause}"

    def shown_values(self) -> tuple[str, str]:
        """Return the recorded and the replayed value as short texts that show how they differ."""
        return short_pair(self.expected, self.actual)

    def as_dict(self) -> dict[str, Value]:
        """Return the divergence as plain data, with its values as text."""
        expected, actual = self.shown_values()
        return {
            "step": self.step,
            "field": self.field,
            "path": typed_keys(self.path),
            "expected": expected,
            "actual": actual,
            "cause": self.cause,
            "ulps": self.ulps,
        }


@dataclass(frozen=True, kw_only=True)
class ReplayReport:
    """The result of replaying one episode.

    Attributes:
        episode_id: The episode.
        grade: exact, state, partial, observed-only, diverged or refused; see `Grade`.
        n_steps: The number of steps that were executed, with those that raised again.
        divergence: The first difference; None unless the grade is "diverged".
        compared: The fields that were compared in every step.
        notes: Facts that qualify the grade: fields that could not be compared, steps that the log
            has lost, differences that were ignored, the reason of a refusal.
        differing_steps: The steps that differ by themselves, of a replay with `resync`; -1 is the
            reset.
        total_reward: The sum of the replayed rewards; None if they are not numbers, and for agents'
            episodes.
        ending: The replayed ending: terminated, truncated or error; "" if the recorded actions did
            not end the episode.
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
        """The steps that differ by themselves, as a sentence, and the notes."""
        if not self.differing_steps:
            return self.notes
        steps = ", ".join("the reset" if step < 0 else str(step) for step in self.differing_steps)
        return (f"differing by themselves: {steps}", *self.notes)

    def __str__(self) -> str:
        text = f"{self.episode_id} {self.grade}, {self.n_steps} steps"
        if self.divergence is not None:
            text += f"; first difference at {self.divergence}"
        return text + "".join(f"; {remark}" for remark in self.remarks)

    @card_method
    def _repr_html_(self) -> str:
        at = self.divergence
        rows = []
        if at is not None:
            recorded, replayed = at.shown_values()
            rows = [("recorded", recorded), ("replayed", replayed)]
        return card(
            f"Replay of {self.episode_id}: {self.grade}",
            [
                ("steps executed", f"{self.n_steps:,}"),
                ("first difference", None if at is None else at.place),
                ("likely cause", None if at is None else at.cause),
                ("ending", self.ending),
                ("compared", ", ".join(self.compared)),
            ],
            table(("", "value"), rows),
            lines(self.remarks[:MAX_ROWS]),
        )

    def raise_if_diverged(self) -> None:
        """Raise if a value differed.

        Raises:
            DivergenceError: The replay diverged.
        """
        if self.divergence is not None:
            raise DivergenceError(
                str(self.divergence),
                episode_id=self.episode_id,
                step=self.divergence.step,
                field=self.divergence.field,
                expected=self.divergence.expected,
                actual=self.divergence.actual,
            )

    def as_dict(self) -> dict[str, Value]:
        """Return the report as plain data."""
        return {
            "episode_id": self.episode_id,
            "grade": self.grade,
            "n_steps": self.n_steps,
            "compared": list(self.compared),
            "notes": list(self.notes),
            "differing_steps": list(self.differing_steps),
            "total_reward": self.total_reward,
            "ending": self.ending or None,
            "divergence": None if self.divergence is None else self.divergence.as_dict(),
        }


def refusal(episode_id: str, why: str) -> ReplayReport:
    """Return the report of an episode that was not executed."""
    return ReplayReport(episode_id=episode_id, grade="refused", n_steps=0, notes=(why,))


@dataclass
class ReplaySummary:
    """The number of replays of each grade."""

    grades: Counter[str] = field(default_factory=Counter)
    n_steps: int = 0

    def add(self, report: ReplayReport) -> None:
        """Count a report."""
        self.grades[report.grade] += 1
        self.n_steps += report.n_steps

    @property
    def n_episodes(self) -> int:
        """The number of reports that were counted."""
        return sum(self.grades.values())

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {grade}" for grade, n in self.grades.most_common())
        episodes = counted(self.n_episodes, "episode")
        steps = counted(self.n_steps, "step")
        return f"{episodes}, {steps}: {counts or 'nothing to replay'}"


def divergence_of(step: int, change: Change) -> Divergence:
    """Return a difference in a step, from the recorded value to the live one, as a divergence."""
    return Divergence(
        step=step,
        field=to_field(change.path),
        path=change.path,
        expected=change.before,
        actual=change.after,
        ulps=ulp_distance(change.before, change.after),
    )


def ulp_distance(a: Value, b: Value) -> int | None:
    """Return the number of floats between two floats of one type, else None.

    >>> ulp_distance(1.0, 1.0 + 2**-52)
    1
    """
    a, b = (np.float64(x) if type(x) is float else x for x in (a, b))
    if not isinstance(a, np.floating) or type(a) is not type(b) or a.itemsize not in (2, 4, 8):
        return None
    if not (np.isfinite(a) and np.isfinite(b)):
        return None
    # Finite floats of one sign are ordered as their bits are; those of a negative sign are
    # mirrored below zero. Python's integers, because the distance may need 65 bits.
    bits = np.array([a, b]).view(f"i{a.itemsize}").astype(object)
    floor = -(1 << (8 * a.itemsize - 1))
    first, second = (int(x) if x >= 0 else floor - int(x) for x in bits)
    return abs(first - second)
