"""The steps of an episode as arrays for training, and the named values of its steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trajrec.corpus.cached import cached_property
from trajrec.corpus.episode_rows import EpisodeRows
from trajrec.log.events import AgentEvent, StepValues
from trajrec.log.schema import EpisodeEnd, EpisodeStart
from trajrec.types import Action, Array, Info, Value
from trajrec.values import codec
from trajrec.values.presented import presented, presented_rows


class StepArrays:
    """The arrays of an episode that follow from its rows and its end.

    Attributes:
        start: The reset; None if the log has lost it.
        rows: The rows of its steps.
        end: Its end; None if it has none.
        agent_events: Its events.
    """

    start: EpisodeStart | None
    rows: EpisodeRows
    end: EpisodeEnd | None
    agent_events: list[AgentEvent]

    def value(self, data: bytes | None) -> Value:
        """Return an encoded value of the episode's records."""
        raise NotImplementedError

    @property
    def observations(self) -> Value:
        """Observations: first the reset's, then one for each step."""
        raise NotImplementedError

    @property
    def actions(self) -> list[Action]:
        """Actions as they were given."""
        raise NotImplementedError

    @cached_property
    def action_array(self) -> Value:
        """Actions as an array (T, *shape): the rows of `actions` in the dtype that they have.

        A dict or tuple of such arrays if they are composed; a list of values if they have no common
        type, dtype and shape. Numbers of Python are int64, float64 and bool.

        >>> episode.action_array[:3], episode.action_array.dtype
        (array([0, 1, 1]), dtype('int64'))
        """
        try:
            rows = self.rows.step_array("action")
        except (ValueError, TypeError, KeyError):
            return list(self.actions)
        return presented_rows(rows)

    @property
    def has_reset(self) -> bool:
        """Whether the log has the observation of the reset: a damaged log may have lost it."""
        return self.rows.has_reset

    @property
    def next_observations(self) -> Value:
        """Observation after each step, length T: `observations` without the reset's.

        It shares the memory of `observations`.
        """
        return _without_first(self.observations) if self.rows.has_reset else self.observations

    @property
    def reset_options(self) -> Value:
        """Options of the reset; None if it had none."""
        return None if self.start is None else self.value(self.start.options_data)

    @property
    def reset_info(self) -> Info:
        """Info of the reset."""
        return {} if self.start is None else codec.decode_info(self.start.info_data)

    @cached_property
    def infos(self) -> list[Info]:
        """Infos of the steps, length T; the reset's is `reset_info`."""
        return list(map(presented, self.rows.infos()))

    @cached_property
    def has_infos(self) -> bool:
        """Whether any step has an info that is not empty."""
        return self.rows.has_infos()

    @cached_property
    def terminations(self) -> Array:
        """Whether the environment ended the episode with each step, (T,) bool."""
        return self._flags(self.end is not None and self.end.terminated)

    @cached_property
    def truncations(self) -> Array:
        """Whether a limit ended the episode with each step, (T,) bool."""
        return self._flags(self.end is not None and self.end.truncated)

    def _flags(self, is_set: bool) -> Array:
        """Return a flag of the last step for all rows; a last step that is lost or raised has none."""
        steps = self.rows.step_numbers()
        flags = np.zeros(len(steps), np.bool_)
        if is_set and self.end is not None and len(steps):
            flags[-1] = steps[-1] == self.end.n_steps - 1
        return flags

    @cached_property
    def step_values(self) -> dict[int, dict[str, Value]]:
        """Named values that the loop added to steps, by step: see `Recorder.annotate`."""
        return step_values(self.agent_events)


def step_values(events: Sequence[AgentEvent]) -> dict[int, dict[str, Value]]:
    """Return the named values of some events, by step; of several under one name the last counts."""
    values: dict[int, dict[str, Value]] = {}
    for event in events:
        if type(event) is StepValues:
            named = codec.decode_map(event.values_data)
            values.setdefault(event.step, {}).update(named)
    return values


def _without_first(rows: Value) -> Value:
    if isinstance(rows, dict):
        return {key: _without_first(item) for key, item in rows.items()}
    if isinstance(rows, tuple):
        return tuple(map(_without_first, rows))
    return rows[1:]
