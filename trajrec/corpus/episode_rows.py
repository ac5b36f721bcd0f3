"""The rows of one episode in the chunks of its log, decoded column by column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from trajrec.log.chunk import LogChunk, Span
from trajrec.log.fields import (
    concatenate,
    field_array,
    field_values,
    sparse_span,
    sparse_values,
)
from trajrec.log.schema import Segment
from trajrec.types import Array, Info, Value
from trajrec.values import codec
from trajrec.values.digest import state_check, state_key, unpack_digests


class EpisodePart(NamedTuple):
    """The rows of an episode in one chunk.

    Attributes:
        chunk: The chunk.
        span: The episode's rows in it.
    """

    chunk: LogChunk
    span: Span

    @property
    def segment(self) -> Segment:
        """The steps of the part."""
        return self.span.segment

    @property
    def end_step(self) -> int:
        """The number behind its last step."""
        return self.span.segment.first_step + self.span.segment.n_steps

    @property
    def step_rows(self) -> tuple[int, int]:
        """The rows [start, stop) of actions, rewards and infos."""
        return self.span.start, self.span.start + self.segment.n_steps

    @property
    def observation_rows(self) -> tuple[int, int]:
        """The rows [start, stop) of observations and states, the reset's included."""
        start = self.span.obs_start
        return start, start + self.segment.has_reset + self.segment.n_steps


class EpisodeRows:
    """The rows of an episode, in the order of steps.

    Args:
        parts: The parts, in order.
        irregular: Infos whose layout differs from the others', encoded, by step.
    """

    def __init__(self, parts: Sequence[EpisodePart], irregular: dict[int, bytes]) -> None:
        self.parts = list(parts)
        self.irregular = irregular

    @property
    def segments(self) -> list[Segment]:
        """The steps of each part."""
        return [part.segment for part in self.parts]

    @property
    def has_reset(self) -> bool:
        """Whether the first row of observations is the reset's."""
        return bool(self.parts) and self.parts[0].segment.has_reset

    def step_numbers(self) -> Array:
        """Return the step of each row of actions, (T,) int64."""
        ranges = [np.arange(s.first_step, s.first_step + s.n_steps) for s in self.segments]
        return np.concatenate(ranges) if ranges else np.zeros(0, np.int64)

    def step_values(self, field: str) -> list[Value]:
        """Return the values of a field of steps, length T, in their recorded types."""
        return self._values(field, [part.step_rows for part in self.parts])

    def observation_values(self) -> list[Value]:
        """Return the observations, length T + 1, in their recorded types."""
        return self._values("obs", [part.observation_rows for part in self.parts])

    def observation_array(self) -> Value:
        """Return the observations as an array, or a dict or tuple of arrays.

        Raises:
            ValueError, TypeError, KeyError: The observations have no common shape and dtype.
        """
        return self._array("obs", [part.observation_rows for part in self.parts])

    def step_array(self, field: str) -> Value:
        """Return the values of a field of steps as an array, or a dict or tuple of arrays.

        Raises:
            ValueError, TypeError, KeyError: The values have no common shape and dtype.
        """
        return self._array(field, [part.step_rows for part in self.parts])

    def observation_views(self) -> Iterator[Array]:
        """Yield the observations, each valid until the next; stop before one that is no array."""
        for part in self.parts:
            start, stop = part.observation_rows
            if stop <= start:
                continue
            layout = part.chunk.layout("obs")
            views = None
            if layout[0] == "leaf":
                views = part.chunk.rows(layout[1]).views(start, stop)
            if views is None:
                return
            yield from views

    @property
    def n_observations(self) -> int:
        """The number of observations: one for each step and, if it is not lost, the reset's."""
        return sum(stop - start for start, stop in (part.observation_rows for part in self.parts))

    def observation_at(self, row: int) -> Value:
        """Return one observation, and read only its chunk; row 0 is the reset's.

        Args:
            row: In [0, n_observations).
        """
        n_before = 0
        for part in self.parts:
            start, stop = part.observation_rows
            if row < n_before + stop - start:
                index = start + row - n_before
                layout = part.chunk.layout("obs")
                return field_values(part.chunk, layout, index, index + 1)[0]
            n_before += stop - start
        raise IndexError(f"row must be in [0, {n_before}), got {row}")

    def infos(self) -> list[Info]:
        """Return the infos of the steps, length T."""
        infos: list[Info] = []
        for part in self.parts:
            start, stop = part.step_rows
            rows, values = sparse_values(part.chunk, "info", start, stop)
            of_part: list[Info] = [{} for _ in range(start, stop)]
            for row, value in zip(rows, values, strict=True):
                of_part[row - start] = value
            infos += of_part
        steps = self.step_numbers()
        for step, data in self.irregular.items():
            row = int(np.searchsorted(steps, step))
            if row < len(infos) and steps[row] == step:
                infos[row] = codec.decode(data)
        return infos

    def has_infos(self) -> bool:
        """Return whether any step has an info that is not empty."""
        return bool(self.irregular) or any(
            part.chunk.layout("info") is not None for part in self.parts
        )

    def states(self) -> dict[int, Value]:
        """Return the states that are stored whole, by row of observations."""
        states: dict[int, Value] = {}
        n_before = 0
        for part in self.parts:
            start, stop = part.observation_rows
            rows, values = sparse_values(part.chunk, "state", start, stop)
            for row, value in zip(rows, values, strict=True):
                states[n_before + row - start] = value
            n_before += stop - start
        return states

    def state_row(self, step: int) -> int | None:
        """Return the row of the state before a step; None if the log has none.

        A step that raised, or that the log has lost, has no row, and so the state after it has none.
        """
        n_before = 0
        for part in self.parts:
            start, stop = part.observation_rows
            segment = part.segment
            if segment.has_reset and step == segment.first_step:
                return n_before
            if segment.first_step < step <= part.end_step:
                return n_before + segment.has_reset + step - segment.first_step - 1
            n_before += stop - start
        return None

    def state_rows(self) -> Iterator[int]:
        """Yield the rows of the states that are stored whole."""
        n_before = 0
        for part in self.parts:
            start, stop = part.observation_rows
            for row in sparse_span(part.chunk, "state", start, stop)[0]:
                yield n_before + row - start
            n_before += stop - start

    def state_at(self, row: int) -> tuple[Value, int | None] | None:
        """Return a state that is stored whole, and its recorded digest; read only its chunk.

        Returns:
            The state and the digest, which is None if the log has none, since it has every state
            whole. None if the state is not stored.
        """
        n_before = 0
        for part in self.parts:
            start, stop = part.observation_rows
            index = start + row - n_before
            if index < stop:
                _, values = sparse_values(part.chunk, "state", index, index + 1)
                if not values:
                    return None
                column = part.chunk.column("state_digest")
                packed = None if column is None else column.array(index, index + 1)
                return values[0], None if packed is None else int(unpack_digests(packed)[0])
            n_before += stop - start
        return None

    def state_digests(self) -> Array | None:
        """Return the digest of each row's state, (T + 1,); None if a row has no state.

        Checks are uint32, and keys uint64. States that are stored whole have checks.
        """
        digests = []
        for part in self.parts:
            start, stop = part.observation_rows
            column = part.chunk.column("state_digest")
            packed = None if column is None else column.array(start, stop)
            if packed is not None:
                digests.append(unpack_digests(packed))
                continue
            # A log that keeps every state whole has no column of digests.
            rows, values = sparse_values(part.chunk, "state", start, stop)
            if len(rows) != stop - start:
                return None
            digests.append(np.array([state_check(value) for value in values], np.uint32))
        if len(digests) == 1:
            return digests[0]
        return np.concatenate(digests) if digests else None

    def has_digests(self) -> bool:
        """Return whether the log has digests of states: it has none if it has every state whole."""
        return any(part.chunk.has_column("state_digest") for part in self.parts)

    def state_keys(self) -> Array | None:
        """Return the key of each row's state, (T + 1,) uint64; None if the key of one is unknown."""
        keys = []
        for part in self.parts:
            start, stop = part.observation_rows
            column = part.chunk.column("state_digest")
            packed = None if column is None else column.array(start, stop)
            if packed is not None:
                keys.append(unpack_digests(packed))
                if keys[-1].dtype != np.uint64:
                    return None
                continue
            rows, values = sparse_values(part.chunk, "state", start, stop)
            if len(rows) != stop - start:
                return None
            keys.append(np.array([state_key(value) for value in values], np.uint64))
        return np.concatenate(keys) if keys else None

    def step_at(self, step: int) -> tuple[Value, Value, Value, Info] | None:
        """Return action, observation, reward and info of a step, and read only its chunk.

        Returns:
            None if no part has the step.
        """
        for part in self.parts:
            ahead = step - part.segment.first_step
            if not 0 <= ahead < part.segment.n_steps:
                continue
            row = part.span.start + ahead
            obs_row = part.span.obs_start + part.segment.has_reset + ahead

            def value(field: str, index: int, chunk: LogChunk = part.chunk) -> Value:
                return field_values(chunk, chunk.layout(field), index, index + 1)[0]

            info: Info = {}
            if step in self.irregular:
                info = codec.decode(self.irregular[step])
            else:
                _, infos = sparse_values(part.chunk, "info", row, row + 1)
                info = infos[0] if infos else {}
            return value("action", row), value("obs", obs_row), value("reward", row), info
        return None

    def _array(self, field: str, bounds: Sequence[tuple[int, int]]) -> Value:
        arrays = []
        for part, (start, stop) in zip(self.parts, bounds, strict=True):
            if stop > start:
                layout = part.chunk.layout(field)
                arrays.append(field_array(part.chunk, layout, start, stop))
        return concatenate(arrays)

    def _values(self, field: str, bounds: Sequence[tuple[int, int]]) -> list[Value]:
        values: list[Value] = []
        for part, (start, stop) in zip(self.parts, bounds, strict=True):
            layout = part.chunk.layout(field)
            if layout is not None and stop > start:
                values += field_values(part.chunk, layout, start, stop)
        return values
