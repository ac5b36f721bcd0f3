"""The proof of a run of rollouts: controls and repeats among them.

A control takes the recorded actions and must reproduce the recording. A repeat runs a rollout again
in another environment, which re-executes the way to its step, in another order and without merging;
it must be equal bit for bit. If one fails, the whole run is void.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import NamedTuple, TypeVar

from trajrec.corpus.episode import Episode
from trajrec.errors import ControlError
from trajrec.replay.credit.sampling.options import RolloutConfig
from trajrec.replay.credit.sampling.request import SampleRequest
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.forks.batch import Controls
from trajrec.replay.forks.control import SHARE, Control, check_control
from trajrec.replay.forks.fallback import with_fallback
from trajrec.replay.forks.noise_watch import UnsetNoise
from trajrec.replay.forks.options import RestoreChoice

T = TypeVar("T")

_Result = tuple[bytes, bytes | None, int, str]
"""Return, score, length and status of a rollout, bit for bit."""

FEWEST_REPEATS = 2
"""Rollouts that are run twice, if a run has so many."""

MOST_RESULTS = 256
"""Different results of which one rollout each is kept, to be run twice if the result is rare."""


class MergingError(ControlError):
    """A rollout that was merged with another one has another end if it is run alone."""


class Rerun(NamedTuple):
    """A rollout that may be run again.

    Attributes:
        request: The request, with the rollout's scenario alone.
        rollout: The rollout, without its visits.
    """

    request: SampleRequest
    rollout: Rollout


class Proof:
    """The controls and repeats of a run.

    Args:
        episode: The episode.
        is_on: Whether there are any.

    Attributes:
        controls: How many have held.
        is_open: Whether rollouts have run since the last control.
        unset: What the rollouts show of noise that no scenario sets.
    """

    def __init__(self, episode: Episode, *, is_on: bool) -> None:
        self.controls = Controls()
        self.is_open = False
        self.unset = UnsetNoise()
        self._is_on = is_on
        self._episode = episode
        self._n_steps = 0
        self._candidates: list[Rerun] = []
        # Result -> its first rollout, and how often it came.
        self._by_result: dict[_Result, tuple[Rerun, int]] = {}

    @property
    def is_due(self) -> bool:
        """Whether a control is to run now: a twentieth of all steps are controls."""
        controls = self.controls
        if not self._is_on:
            return False
        return not controls.n or controls.n_steps < SHARE * self._n_steps

    def add_control(self, control: Control) -> None:
        """Add a control.

        Raises:
            ControlError: It did not reproduce the recording.
        """
        check_control(control, self._episode)
        self.is_open = False
        controls = self.controls
        self.controls = controls._replace(
            n=controls.n + 1, n_steps=controls.n_steps + control.n_steps
        )

    def refuse_merging(self, control: Control) -> None:
        """Refuse rollouts that were merged although they have changed a variable outside.

        Raises:
            MergingError: Always.
        """
        raise MergingError(
            "merging rollouts is not right for this environment: its steps change the variable "
            f"{control.changed}",
            episode_id=self._episode.id,
            restore=control.restore,
            start=control.step,
        )

    def add_other(self, controls: Controls) -> None:
        """Add the controls of another process, which held."""
        self.controls = Controls(*map(sum, zip(self.controls, controls, strict=True)))

    def note(self, request: SampleRequest, rollouts: Sequence[Rollout]) -> None:
        """Take note of rollouts: the first merged one and the longest may be run again.

        So may the first one of each result: state that is wrong may show in few rollouts only, and
        these have results that others do not have.
        """
        for rollout in rollouts:
            self.unset.add(rollout.noise_seen)
        if not self._is_on:
            return
        self.is_open = True
        self._n_steps += sum(rollout.env_steps for rollout in rollouts)
        whole = [rollout for rollout in rollouts if rollout.status in ("ended", "cut")]
        merged = [rollout for rollout in whole if rollout.coalesced_at >= 0]
        chosen = [*merged[:1], *sorted(whole, key=lambda rollout: -rollout.env_steps)[:1]]
        for scenario, rollout in {rollout.scenario: rollout for rollout in chosen}.items():
            alone = request._replace(scenarios=(scenario,))
            self._candidates.append(Rerun(alone, rollout._replace(visits=())))
        for rollout in whole:
            result = _result(rollout)
            known = self._by_result.get(result)
            if known is not None:
                self._by_result[result] = known[0], known[1] + 1
            elif len(self._by_result) < MOST_RESULTS:
                alone = request._replace(scenarios=(rollout.scenario,))
                self._by_result[result] = Rerun(alone, rollout._replace(visits=())), 1

    def take_reruns(self) -> list[Rerun]:
        """Return the rollouts to run again, a twentieth of all steps; forget the others.

        Every second one has a result that is rare among the rollouts.
        """
        candidates = self._candidates
        by_rarity = sorted(self._by_result.values(), key=lambda item: item[1])
        rare = iter([rerun for rerun, _ in by_rarity])
        self._candidates = []
        self._by_result = {}
        chosen: list[Rerun] = []
        n_steps = 0
        # From the last one on, in strides: spread over all, and in another order than at first.
        stride = max(1, len(candidates) // 16)
        order = [k for start in range(stride) for k in range(start, len(candidates), stride)]
        for candidate in _alternate((candidates[k] for k in reversed(order)), rare):
            if len(chosen) >= FEWEST_REPEATS and n_steps > SHARE * self._n_steps:
                break
            chosen.append(candidate)
            n_steps += candidate.rollout.length
        return chosen

    def check_rerun(self, rerun: Rerun, second: Rollout, restore: RestoreChoice) -> None:
        """Compare a rollout with its second run.

        Raises:
            MergingError: They differ, and the first one was merged with another one.
            ControlError: They differ.
        """
        first = rerun.rollout
        if second.is_invalid:
            return
        if _result(first) != _result(second):
            is_merged = first.coalesced_at >= 0
            kind = MergingError if is_merged else ControlError
            reason = "merging rollouts" if is_merged else f"restore={restore!r}"
            raise kind(
                f"{reason} is not right for this environment: a rollout from step "
                f"{rerun.request.step}, run twice, has the results {_shown(first)} and "
                f"{_shown(second)}",
                episode_id=self._episode.id,
                restore=restore,
                start=rerun.request.step,
            )
        controls = self.controls
        self.controls = controls._replace(
            n_repeats=controls.n_repeats + 1, n_repeat_steps=controls.n_repeat_steps + second.length
        )


def _alternate(first: Iterator[T], second: Iterator[T]) -> Iterator[T]:
    """Yield items of two iterators by turns, and then the rest of the longer one."""
    for pair in zip_longest(first, second):
        yield from (item for item in pair if item is not None)


def _result(rollout: Rollout) -> _Result:
    score = None if rollout.score is None else struct.pack("<d", rollout.score)
    return struct.pack("<d", rollout.episode_return), score, rollout.length, rollout.status


def _shown(rollout: Rollout) -> str:
    value = rollout.episode_return if rollout.score is None else rollout.score
    return f"{value:g} after {rollout.length} steps"


def run_proved(
    config: RolloutConfig, run: Callable[[RolloutConfig], T], *, forks: bool = True
) -> T:
    """Return the result of a run whose controls and repeats have held.

    A merged rollout that differs from the same one alone ends merging, and a control that fails
    ends the way of reaching steps (see `with_fallback`). The run then begins anew.

    Args:
        config: The options.
        run: The run; a function of the options.
        forks: Whether processes may be forked for it; not for a tool world.

    Raises:
        ControlError: No way is left.
        DivergenceError: The environment is not in the recorded state at a step.
    """

    def run_or_unmerge(attempt: RolloutConfig) -> T:
        try:
            return run(attempt)
        except MergingError as exc:
            alone = replace(attempt, merge_rollouts=False)
            return run(_with_remark(alone, f"rollouts were not merged: {exc.what}"))

    return with_fallback(config, run_or_unmerge, forks=forks, remark=_with_remark)


def _with_remark(config: RolloutConfig, remark: str) -> RolloutConfig:
    return replace(config, remarks=(*config.remarks, remark))
