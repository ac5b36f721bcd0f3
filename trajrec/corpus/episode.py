"""An episode of a log, read when asked for: what happened, as arrays and as values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trajrec.corpus.transcript import Transcript
from trajrec.errors import CorpusError, LogCorruptError
from trajrec.log.chunk import LogChunk, Span
from trajrec.log.events import AgentEvent, CallStart, ModelStart
from trajrec.log.fields import concatenate, field_array, field_values, sparse_values
from trajrec.log.reader import LogReader
from trajrec.log.schema import Check, EpisodeEnd, EpisodeStart, Failure, Fork, Keyframe, episode_id
from trajrec.values import codec
from trajrec.values.digest import state_digest, unpack_digests

Array = np.ndarray[Any, Any]


class Step(NamedTuple):
    """One decision of the agent and what came of it. `failure` is set, and the outcome None, where the step raised."""

    step: int
    action: Any
    observation: Any
    reward: Any
    info: dict[str, Any]
    failure: Failure | None = None


class Episode:
    """One recorded episode.

    Attributes:
        id: 16 hex digits.
        number: Which episode of its log, from 0.
        path: The log file.
        header: Who recorded it, in which environment, under which conditions.
        start: Its reset; None where that part of the log is lost.
        fork: Where it goes on from, for an episode that was forked: its steps begin with `fork.step`.
        end: Its end; None where it still runs, where its process is gone, or where that part of the log is lost.
        failures: Exceptions, in order.
        keyframes: Whole states of the environment, in long episodes.
        checks: Verdicts, in order.
        parts: Where its rows are: chunks and spans in them, in order.
        irregular: Infos of another form than those beside them, encoded, by step.
        reader: Its log.
        agent_events: What an agent did, in order; `transcript` makes sense of it.
    """

    def __init__(self, reader: LogReader, number: int, chunks: Sequence[int] | None = None) -> None:
        self.number, self.path, self.header = number, reader.path, reader.header
        self.id = episode_id(reader.header.log_id, number)
        self.start: EpisodeStart | None = None
        self.end: EpisodeEnd | None = None
        self.fork: Fork | None = None
        self.find_parent: Callable[[str], Episode] | None = None
        self.failures: list[Failure] = []
        self.keyframes: list[Keyframe] = []
        self.checks: list[Check] = []
        self.agent_events: list[AgentEvent] = []
        self.parts: list[tuple[LogChunk, Span]] = []
        self.irregular: dict[int, bytes] = {}
        self.reader = reader
        wanted = range(len(reader.frames)) if chunks is None else chunks
        for chunk in _chunks(reader, wanted):
            self._take(chunk)

    def _take(self, chunk: LogChunk) -> None:
        for event in chunk.events_of(self.number):
            if isinstance(event, EpisodeStart):
                self.start = event
            elif isinstance(event, EpisodeEnd):
                self.end = event
            elif isinstance(event, Fork):
                self.fork = event
            elif isinstance(event, Keyframe):
                self.keyframes.append(event)
            elif isinstance(event, Failure):
                self.failures.append(event)
            elif isinstance(event, Check):
                self.checks.append(event)
            else:
                self.agent_events.append(event)
        self.parts += [(chunk, span) for span in chunk.spans_of(self.number)]
        if chunk.record.irregular:
            self.irregular.update(
                {
                    step: data
                    for number, step, data in chunk.record.irregular
                    if number == self.number
                }
            )

    def __repr__(self) -> str:
        return f"<Episode {self.id} {self.env_id} {self.n_steps} steps, {self.ending}>"

    @property
    def env_id(self) -> str:
        """The environment's Gymnasium id, or an agent's world as "module:Class"; "" where there is none."""
        return self.header.env.env_id or (self.transcript.world if self.is_agent_episode else "")

    @property
    def is_agent_episode(self) -> bool:
        """Whether it is an agent's episode, recorded with `trajrec.episode`."""
        return not self.header.env.class_name

    @cached_property
    def transcript(self) -> Transcript:
        """What an agent did: its calls with their attempts, its model calls, what they changed."""
        return Transcript(self.agent_events, self.reader.blob)

    @property
    def n_steps(self) -> int:
        """Number of its own steps, with those that raised; without the steps before a fork."""
        return self.end_step - self.first_step

    @property
    def end_step(self) -> int:
        """Number of its last step plus 1."""
        if self.end is not None:
            return self.end.n_steps
        steps = [span.segment.first_step + span.segment.n_steps for _, span in self.parts]
        steps += [
            event.step + 1
            for event in self.agent_events
            if isinstance(event, (CallStart, ModelStart))
        ]
        steps += [failure.step + 1 for failure in self.failures]
        return max([self.first_step, *steps])

    @property
    def ending(self) -> str:
        """How it ended: terminated, truncated, abandoned, error; without an end record, running or interrupted."""
        if self.end is not None:
            return self.end.ending
        return "running" if self.reader.is_being_written() else "interrupted"

    @property
    def outcome(self) -> str | None:
        """ "success" or "failure" by its last check that gave a verdict; None where none did."""
        verdicts = [check.verdict for check in self.checks if check.verdict is not None]
        return None if not verdicts else "success" if verdicts[-1] else "failure"

    @property
    def total_reward(self) -> float:
        """Sum of the rewards; NaN where they are not numbers (see `rewards_by_agent`)."""
        try:
            return float(np.sum(self.rewards)) if len(self.reward_values) else 0.0
        except (TypeError, ValueError):
            return float("nan")

    @property
    def rewards_by_agent(self) -> dict[Any, float]:
        """Sum of the rewards of each agent, where there are several and each has its own; else empty."""
        by_agent = [reward for reward in self.reward_values if isinstance(reward, dict)]
        return {
            agent: float(sum(r.get(agent, 0) for r in by_agent))
            for agent in dict.fromkeys(a for r in by_agent for a in r)
        }

    @cached_property
    def missing_steps(self) -> list[tuple[int, int]]:
        """Half-open ranges of steps that the log has lost."""
        covered = sorted(
            [(s.first_step, s.first_step + s.n_steps) for s in self._segments]
            + [
                (failure.step, failure.step + 1)
                for failure in self.failures
                if failure.phase == "step"
            ]
        )
        if self.is_agent_episode:
            return []
        missing, position = [], self.first_step
        for first, last in covered:
            if first > position:
                missing.append((position, first))
            position = max(position, last)
        if self.end is not None and position < self.end.n_steps:
            missing.append((position, self.end.n_steps))
        return missing

    @property
    def first_step(self) -> int:
        """Number of its first step: 0, but for a fork, whose earlier steps are its parent's."""
        return 0 if self.fork is None else self.fork.step

    @cached_property
    def parent(self) -> Episode | None:
        """The episode that it was forked from; None for a fresh rollout.

        Raises:
            CorpusError: The parent is not in the corpus, or the episode was not read from one.
        """
        if self.fork is None:
            return None
        if self.find_parent is None:
            raise CorpusError(
                f"episode {self.id} is a fork of {self.fork.parent_id}: read it from a corpus that has both"
            )
        return self.find_parent(self.fork.parent_id)

    @property
    def has_reset(self) -> bool:
        """Whether the observation of the reset is there (as it is but in a damaged log)."""
        return bool(self.parts) and self.parts[0][1].segment.has_reset

    @cached_property
    def step_numbers(self) -> Array:
        """Number of the step of each row of `actions` and `rewards`, (T,) int64; steps that raised have no row."""
        ranges = [np.arange(s.first_step, s.first_step + s.n_steps) for s in self._segments]
        return np.concatenate(ranges) if ranges else np.zeros(0, np.int64)

    @cached_property
    def actions(self) -> list[Any]:
        """Actions as they were given, length T, of the exact recorded types."""
        return self._values("action", of_steps=True)

    @cached_property
    def rewards(self) -> Array:
        """Rewards, (T,) or (T, k), of the recorded dtype; float64 for Python numbers."""
        return np.asarray(
            self.reward_values if self.reward_values else [],
            None if self.reward_values else np.float64,
        )

    @cached_property
    def reward_values(self) -> list[Any]:
        """Rewards one by one, length T, of the exact recorded types."""
        return self._values("reward", of_steps=True)

    @cached_property
    def observations(self) -> Any:
        """Observations: first the reset's, then one a step. An array (T + 1, *shape) where they are arrays of one dtype and
        shape; a dict or tuple of such where they are composed; else a list of values."""
        return self._array("obs")

    @cached_property
    def observation_values(self) -> list[Any]:
        """Observations one by one, length T + 1, of the exact recorded types."""
        return self._values("obs", of_steps=False)

    def observation_views(self) -> Iterator[Array]:
        """Yield the observations one by one, each good until the next is asked for; ends before one that is no array."""
        for chunk, span in self.parts:
            start, stop = self._bounds(span, of_steps=False)
            layout = chunk.layout("obs")
            views = (
                chunk.rows(layout[1]).views(start, stop)
                if stop > start and layout[0] == "leaf"
                else None
            )
            if views is None and stop > start:
                return
            yield from views or ()

    def observation_at(self, row: int) -> Any:
        """Return one observation, without reading those of other chunks: row 0 is the reset's."""
        base = 0
        for chunk, span in self.parts:
            start, stop = self._bounds(span, of_steps=False)
            if row < base + stop - start:
                return field_values(
                    chunk, chunk.layout("obs"), start + row - base, start + row - base + 1
                )[0]
            base += stop - start
        raise IndexError(f"episode {self.id} has {base} observations, not {row}")

    @cached_property
    def infos(self) -> list[dict[str, Any]]:
        """Infos of the steps, length T; that of the reset is `reset_info`."""
        found: list[dict[str, Any]] = []
        for chunk, span in self.parts:
            start, stop = span.start, span.start + span.segment.n_steps
            place, values = sparse_values(chunk, "info", start, stop)
            infos: list[dict[str, Any]] = [{} for _ in range(start, stop)]
            for row, value in zip(place, values, strict=True):
                infos[row - start] = value
            found += infos
        for step, data in self.irregular.items():
            row = int(np.searchsorted(self.step_numbers, step))
            if row < len(found) and self.step_numbers[row] == step:
                found[row] = codec.decode(data)
        return found

    @cached_property
    def has_infos(self) -> bool:
        """Whether any step had an info that was not empty."""
        return bool(self.irregular) or any(
            chunk.layout("info") is not None for chunk, _ in self.parts
        )

    @property
    def reset_info(self) -> dict[str, Any]:
        """Info of the reset."""
        return {} if self.start is None else dict(codec.decode(self.start.info_data))

    @cached_property
    def states(self) -> dict[int, Any]:
        """States that were stored whole, by row: row 0 is the reset's, row k + 1 that after row k of `actions`."""
        found, base = {}, 0
        for chunk, span in self.parts:
            start = span.obs_start
            stop = start + span.segment.has_reset + span.segment.n_steps
            place, values = sparse_values(chunk, "state", start, stop)
            found.update(
                {base + row - start: value for row, value in zip(place, values, strict=True)}
            )
            base += stop - start
        return found

    @cached_property
    def state_digests(self) -> Array | None:
        """Digest of the state of each observation row, (T + 1,) uint32; None where no state was captured."""
        found = []
        for chunk, span in self.parts:
            start = span.obs_start
            stop = start + span.segment.has_reset + span.segment.n_steps
            rows = chunk.column("state_digest")
            packed = None if rows is None else rows.array(start, stop)
            if packed is not None:
                found.append(unpack_digests(packed))
            else:
                place, values = sparse_values(chunk, "state", start, stop)
                if len(place) != stop - start:
                    return None
                found.append(np.array([state_digest(value) for value in values], np.uint32))
        return np.concatenate(found) if found else None

    def state(self, step: int) -> Any:
        """Return the state before a step; `step` may be `end_step` for the last state. Of an agent's world: its parts by name.

        Raises:
            IndexError: There is no such step.
            CorpusError: The state was not stored there (only digested, or never captured); says which steps have one.
        """
        if not self.first_step <= step <= self.end_step:
            raise IndexError(f"step must be in [{self.first_step}, {self.end_step}], got {step}")
        if self.is_agent_episode:
            return self.transcript.state(step)
        row = int(np.searchsorted(self.step_numbers, step)) if self.has_reset else -1
        if row in self.states:
            return self.states[row]
        if self.header.state.keep == "none":
            raise CorpusError(
                f"episode {self.id}: no state was captured (no adapter fits {self.header.env.class_name})"
            )
        raise CorpusError(
            f"episode {self.id} step {step}: only the digest of this state is stored; states are stored at rows "
            f"{sorted(self.states)[:6]}; replay the episode up to it, or record with keep_states='all'"
        )

    def step_at(self, step: int) -> Step:
        """Return one step, without reading what lies in other chunks.

        Raises:
            IndexError: There is no such step.
            CorpusError: The log has lost it.
        """
        if not self.first_step <= step < self.end_step:
            raise IndexError(f"step must be in [{self.first_step}, {self.end_step}), got {step}")
        for failure in self.failures:
            if failure.phase == "step" and failure.step == step:
                return Step(step, failed_action(failure), None, None, {}, failure)
        for chunk, span in self.parts:
            ahead = step - span.segment.first_step
            if 0 <= ahead < span.segment.n_steps:
                row, obs = span.start + ahead, span.obs_start + span.segment.has_reset + ahead
                at = {"action": row, "obs": obs, "reward": row}
                action, found, reward = (
                    field_values(chunk, chunk.layout(name), k, k + 1)[0] for name, k in at.items()
                )
                _, infos = sparse_values(chunk, "info", row, row + 1)
                odd = self.irregular.get(step)
                info = codec.decode(odd) if odd is not None else infos[0] if infos else {}
                return Step(step, action, found, reward, info)
        raise CorpusError(f"episode {self.id}: the log has lost step {step}")

    def steps(self) -> Iterator[Step]:
        """Yield the steps in order, those that raised among them."""
        failed = {failure.step: failure for failure in self.failures if failure.phase == "step"}
        offset = 1 if self.has_reset else 0
        rows = zip(
            self.step_numbers.tolist(),
            self.actions,
            self.observation_values[offset:],
            self.reward_values,
            self.infos,
            strict=True,
        )
        taken = [Step(*row) for row in rows]
        taken += [Step(k, failed_action(f), None, None, {}, f) for k, f in failed.items()]
        yield from sorted(taken, key=lambda step: step.step)

    @property
    def _segments(self) -> list[Any]:
        return [span.segment for _, span in self.parts]

    def _bounds(self, span: Span, of_steps: bool) -> tuple[int, int]:
        if of_steps:
            return span.start, span.start + span.segment.n_steps
        return span.obs_start, span.obs_start + span.segment.has_reset + span.segment.n_steps

    def _values(self, field: str, *, of_steps: bool) -> list[Any]:
        found: list[Any] = []
        for chunk, span in self.parts:
            start, stop = self._bounds(span, of_steps)
            layout = chunk.layout(field)
            if layout is not None and stop > start:
                found += field_values(chunk, layout, start, stop)
        return found

    def _array(self, field: str) -> Any:
        parts = []
        for chunk, span in self.parts:
            start, stop = self._bounds(span, of_steps=False)
            if stop > start:
                parts.append(field_array(chunk, chunk.layout(field), start, stop))
        try:
            return concatenate(parts)
        except (ValueError, TypeError, KeyError):
            return self.observation_values


def read_episode(path: Path, number: int, chunks: Sequence[int] | None = None) -> Episode:
    """Read one episode of a log file."""
    return Episode(LogReader(path), number, chunks)


def _chunks(reader: LogReader, wanted: Sequence[int]) -> Iterator[LogChunk]:
    from_frames = reader.frames
    for index in wanted:
        if 0 <= index < len(from_frames) and from_frames[index].kind == 2:
            try:
                yield reader.cached_chunk(index)
            except LogCorruptError:
                continue  # it is listed in reader.damage, and the episode's missing_steps show what it cost


def failed_action(failure: Failure) -> Any:
    """Return the action that was tried."""
    return None if failure.action_data is None else codec.decode(failure.action_data)
