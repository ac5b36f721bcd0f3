"""The options of every replay, and their defaults."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TypedDict

from trajrec.redaction.redactor import Redactor
from trajrec.replay.execute.tolerance import WALL_CLOCK, Tolerance
from trajrec.replay.execute.trust import module_prefixes
from trajrec.types import AnyEnv, Value
from trajrec.values.projection import Projection


class ReplayOptions(TypedDict, total=False):
    """Keywords of `replay_episode`, `replay_episodes`, `Replayer` and the fixture `trajrec_replay`.

    Attributes:
        allow: Module prefixes that may be imported because a log names them. Default: none.
        state: The function that computes the state of an environment, if the recorder was given
            one. Default: the adapter that the log names.
        ignore: Paths of values that may differ, as a divergence names them. If one differs, the
            grade is "state" and a note names the path. Default: the seconds that
            `gymnasium.wrappers.RecordEpisodeStatistics` measures.
        ulps: The largest distance between two floats that counts as equal, in units in the last
            place; the grade is then "state". For machines whose math library rounds differently.
            States that are stored as digests only are not compared then. Default: 0.
        projection: The rule for the values that count. If only other values differ, the grade is
            "state" and a note names the projection. States that are stored as digests only are
            not compared then. Default: all values count.
        resync: After each step that differs, restore the recorded state and go on. The report's
            `differing_steps` then has the steps that differ by themselves, not because an earlier
            step did. The environment's states must be restorable (its own `set_state`, classic
            control, toy text, MuJoCo, tool worlds) and stored whole, as `keep_states="all"` stores
            them. Default: False.
        first: The first step to compare, from 0. It is reached by the fastest available method,
            and the grade is "partial" at best. In an agent's episode, the calls before it are made
            and not compared; the state that they lead to is. Default: 0.
        explain: Run a diverged episode again under changed conditions to find the likely cause.
            Default: True.
        redact: The `Redactor` that the episode was recorded with, if it was not the default one:
            recorded and live values must pass the same rules.
    """

    allow: Iterable[str]
    state: Callable[[AnyEnv], Value] | None
    ignore: Collection[str]
    ulps: int
    projection: Projection | None
    resync: bool
    first: int
    explain: bool
    redact: Redactor | None


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Checked `ReplayOptions`, with the defaults filled in. Other processes receive it pickled.

    Attributes:
        tolerance: The differences that are ignored.
    """

    allow: tuple[str, ...]
    state: Callable[[AnyEnv], Value] | None
    tolerance: Tolerance
    resync: bool
    first: int
    explain: bool

    def as_options(self) -> ReplayOptions:
        """Return the options again, as values that can be used twice and sent elsewhere."""
        return {
            "allow": self.allow,
            "state": self.state,
            "ignore": self.tolerance.paths,
            "ulps": self.tolerance.ulps,
            "projection": self.tolerance.projection,
            "resync": self.resync,
            "first": self.first,
            "explain": self.explain,
            "redact": self.tolerance.redactor,
        }


def replay_config(
    *,
    allow: Iterable[str] = (),
    state: Callable[[AnyEnv], Value] | None = None,
    ignore: Collection[str] = WALL_CLOCK,
    ulps: int = 0,
    projection: Projection | None = None,
    resync: bool = False,
    first: int = 0,
    explain: bool = True,
    redact: Redactor | None = None,
) -> ReplayConfig:
    """Check `ReplayOptions` and fill in the defaults.

    Raises:
        ValueError: `first` or `ulps` is negative.
        TypeError: `allow` or `ignore` is one text, and not several.
    """
    if isinstance(ignore, str):
        raise TypeError(f"ignore must be a list of paths, got {ignore!r}")
    for name, value in (("first", first), ("ulps", ulps)):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value!r}")
    return ReplayConfig(
        allow=module_prefixes(allow),
        state=state,
        tolerance=Tolerance(frozenset(ignore), ulps, projection, redact),
        resync=resync,
        first=first,
        explain=explain,
    )
