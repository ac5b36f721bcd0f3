"""The table of a run: its estimates, its rollouts, and the notes needed to read them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload

from trajrec.replay.credit.results.estimates import Estimate, format_interval
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.forks.batch import Controls
from trajrec.statistics.intervals import Interval
from trajrec.types import Value
from trajrec.values.html_cards import (
    MAX_ROWS,
    card,
    card_method,
    interval_picture,
    lines,
    plot_limit,
    table,
)

# Wide enough for "-0.123 [-0.456, -0.789]" with a column's name above it.
ESTIMATE_WIDTH = 26
ACTION_WIDTH = 12
"""The least width of the actions."""

MAX_ACTION_WIDTH = 40
"""A longer action is cut: the dict of many players, or a call with its arguments."""


class ArmRollouts(NamedTuple):
    """The rollouts of one arm.

    Attributes:
        step: The step that they start from.
        arm: Name of the arm: "value", "action", ...
        rollouts: The rollouts.
    """

    step: int
    arm: str
    rollouts: Sequence[Rollout]


class SkillLuckSplit(NamedTuple):
    """The sources of an episode's return: R - V(s0) = skill + luck.

    Attributes:
        episode_return: R: the episode's return, or its score.
        value: V(s0): the policy's value of the first state.
        skill: Sum of the advantages of the recorded actions.
        luck: Sum of the differences between each outcome and its action's value.
        error: Difference of the two sides of the equation: rounding, and rollouts without a result.
    """

    episode_return: float
    value: Interval
    skill: Interval
    luck: Interval
    error: float

    def __str__(self) -> str:
        parts = [("V(s0)", self.value), ("skill", self.skill), ("luck", self.luck)]
        texts = [f"{name} {format_interval(part)}" for name, part in parts]
        return f"R {self.episode_return:+.3f} = {', '.join(texts)}"


@dataclass(kw_only=True)
class CreditTable(Sequence[Estimate]):
    """The estimates of a run, in the order of steps. Prints as a table.

    Attributes:
        run_id: 16 hex digits; "" if the run is not stored.
        episode_id: The episode.
        policy_id: The policy of the rollouts.
        estimates: The rows.
        noise: See `Estimate`.
        seed: Seed of the noise.
        restore: How steps were reached.
        split: The split into skill and luck; None if it was not computed.
        notes: Facts that a reader of the numbers must know.
        arms: The rollouts of each arm.
        scouts: Rollouts in further scenarios, which only showed how far returns spread.
        controls: The controls and repeats among the rollouts, which have held.
    """

    run_id: str
    episode_id: str
    policy_id: str
    estimates: list[Estimate]
    noise: str = "none"
    seed: int = 0
    restore: str = ""
    split: SkillLuckSplit | None = None
    notes: tuple[str, ...] = ()
    arms: list[ArmRollouts] = field(default_factory=list, repr=False)
    scouts: tuple[Rollout, ...] = field(default=(), repr=False)
    controls: Controls = field(default_factory=Controls)

    def __len__(self) -> int:
        return len(self.estimates)

    @overload
    def __getitem__(self, index: int) -> Estimate: ...

    @overload
    def __getitem__(self, index: slice) -> list[Estimate]: ...

    def __getitem__(self, index: int | slice) -> Estimate | list[Estimate]:
        return self.estimates[index]

    def __iter__(self) -> Iterator[Estimate]:
        return iter(self.estimates)

    def of(self, estimator: str) -> list[Estimate]:
        """Return the rows of one estimator, in the order of steps."""
        return [estimate for estimate in self.estimates if estimate.estimator == estimator]

    @property
    def env_steps(self) -> int:
        """Steps of the environment that all rollouts took."""
        return sum(rollout.env_steps for rollout in self._rollouts)

    @property
    def policy_calls(self) -> int:
        """Actions that the policy was asked for in all rollouts."""
        return sum(rollout.policy_calls for rollout in self._rollouts)

    @property
    def _rollouts(self) -> Iterator[Rollout]:
        for arm in self.arms:
            yield from arm.rollouts
        yield from self.scouts

    def __str__(self) -> str:
        lines = [
            f"episode {self.episode_id}, policy {self.policy_id}, {self.noise} noise, "
            f"{self.env_steps} env steps"
        ]
        if self.split is not None:
            lines.append(str(self.split))
        lines += [f"note: {note}" for note in self.notes]
        if self.controls.n:
            lines.append(str(self.controls))
        names = list(dict.fromkeys(estimate.estimator for estimate in self.estimates))
        heads = [name.ljust(ESTIMATE_WIDTH) for name in names]
        by_step: dict[int, dict[str, Estimate]] = {}
        for estimate in self.estimates:
            by_step.setdefault(estimate.step, {})[estimate.estimator] = estimate
        actions = [_action_text(row) for row in by_step.values()]
        width = max(ACTION_WIDTH, *map(len, actions)) if actions else ACTION_WIDTH
        lines.append("  ".join(["step", "action".ljust(width), *heads]).rstrip())
        lines += [
            _line(step, action.ljust(width), row, names)
            for (step, row), action in zip(by_step.items(), actions, strict=True)
        ]
        return "\n".join(lines)

    @card_method
    def _repr_html_(self) -> str:
        names = {estimate.estimator for estimate in self.estimates}
        shown = [e for e in self.estimates if e.estimator == "advantage" or len(names) == 1]
        shown = shown or self.estimates
        ends = [end for e in shown for end in (e.value, e.ci_low, e.ci_high)]
        limit = plot_limit(ends)
        # Those that differ most from 0; a number that is not known is the last.
        shown = sorted(shown, key=lambda e: -abs(e.value) if math.isfinite(e.value) else 1.0)
        rows: list[tuple[Value, ...]] = [
            (
                e.step,
                e.estimator,
                "" if e.action is None else e.action,
                format_interval(e) if math.isfinite(e.value) else "unknown",
                interval_picture(e.value, e.ci_low, e.ci_high, limit=limit),
                e.n,
            )
            for e in shown[:MAX_ROWS]
        ]
        split = [] if self.split is None else [str(self.split)]
        controls = [str(self.controls)] if self.controls.n else []
        heads = ("step", "estimator", "action", "estimate and 95 % interval", "", "n")
        return card(
            f"Credit of episode {self.episode_id}",
            [
                ("policy", self.policy_id),
                ("noise", self.noise),
                ("env steps", f"{self.env_steps:,}"),
                ("run", self.run_id or "not stored"),
            ],
            lines([*split, *(f"note: {note}" for note in self.notes[:MAX_ROWS]), *controls]),
            table(heads, rows, n_rows=len(shown)),
            lines(["A hollow point: the interval holds 0."] * bool(rows)),
        )


def _action_text(row: dict[str, Estimate]) -> str:
    """Return the action that a step's estimates judge."""
    actions = (str(e.action) for e in row.values() if e.action is not None)
    # On one line: a recorded text must not look like a line of the table.
    text = " ".join(next(actions, "").split())
    return text if len(text) <= MAX_ACTION_WIDTH else text[: MAX_ACTION_WIDTH - 1] + "…"


def _line(step: int, action: str, row: dict[str, Estimate], names: Sequence[str]) -> str:
    """Return one step's line of the printed table."""
    cells = [format_interval(row[name]) if name in row else "" for name in names]
    padded = [cell.ljust(ESTIMATE_WIDTH) for cell in cells]
    return "  ".join([f"{step:4}", action, *padded]).rstrip()
