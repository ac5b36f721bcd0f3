"""An episode of a log, decoded when it is read: as arrays, and as values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trajrec.corpus.cached import cached_property
from trajrec.corpus.episode_parts import EpisodeParts
from trajrec.corpus.gaps import find_gaps
from trajrec.corpus.indices import check_index
from trajrec.corpus.notebook import EpisodeCard
from trajrec.corpus.outcomes import find_agents_fault, find_fault, outcome_of
from trajrec.corpus.parents import load_parent
from trajrec.corpus.redacted_steps import ACTION_FIELDS, LOST_FIELDS, first_redacted_step
from trajrec.corpus.reward_sums import sums_by_agent
from trajrec.corpus.said_messages import SaidMessage
from trajrec.corpus.step import Step, failed_step, in_order, unrecorded_steps
from trajrec.corpus.step_arrays import StepArrays
from trajrec.corpus.stored_values import StoredValues
from trajrec.corpus.transcript import Transcript
from trajrec.corpus.whole_states import whole_state
from trajrec.errors import CorpusError
from trajrec.log.events import TaskStart, step_of_request
from trajrec.log.reader import LogReader
from trajrec.log.schema import episode_id
from trajrec.log.source_facts import is_unknown, source_of
from trajrec.types import Action, Array, Observation, Value
from trajrec.values.digest import CHECK_BYTES, KEY_BYTES, DigestBytes, digest_function
from trajrec.values.presented import presented, presented_rows
from trajrec.values.real_numbers import sum_of


class Episode(StepArrays, EpisodeCard):
    """One recorded episode.

    Attributes:
        number: Number of the episode in its log, from 0.
        path: The log file.
        header: The recorder, the environment and the conditions of the log.
        start: The reset; None if the log has lost it.
        fork: The step that it was forked at, where its steps begin; None for other episodes.
        has_control: Whether controls ran with the fork (`ForkOptions.control`); None if unknown.
        unset_noise: Noise that a fork with fresh noise does not set; see `EpisodeParts`.
        end: The end; None if the episode runs, if its process was killed, or if the log lost it.
        failures: Exceptions, in order.
        keyframes: Whole states of the environment, in long episodes.
        checks: Verdicts, in order.
        rows: The rows of its steps, decoded by column, for code that reads many of them.
        reader: The reader of its log.
        agent_events: The recorded events of an agent, in order; see `transcript`.
        descendants: Ids of the forks as whose parent it was read.
    """

    def __init__(
        self, reader: LogReader, number: int, chunks: Sequence[int] | EpisodeParts | None = None
    ) -> None:
        self.number = number
        self.path = reader.path
        self.header = reader.header
        self.reader = reader
        self.find_parent: Callable[[str], Episode] | None = None
        self.descendants: frozenset[str] = frozenset()
        parts = chunks if isinstance(chunks, EpisodeParts) else EpisodeParts(reader, number, chunks)
        self.start = parts.start
        self.end = parts.end
        self.fork = parts.fork
        self.has_control = parts.has_control
        self.unset_noise = parts.unset_noise
        self.failures = parts.failures
        self.keyframes = parts.keyframes
        self.checks = parts.checks
        self.agent_events = parts.agent_events
        self.rows = parts.rows
        self._report = parts.report
        self._losses = parts.losses

    @cached_property
    def id(self) -> str:
        """16 hex digits."""
        return episode_id(self.header.log_id, self.number)

    def __repr__(self) -> str:
        return f"<Episode {self.id} {self.env_id} {self.n_steps} steps, {self.ending}>"

    @property
    def env_id(self) -> str:
        """Gymnasium id of the environment, its class without one, or an agent's world, if any."""
        env = self.header.env
        return env.env_id or env.class_name or self.transcript.world

    @cached_property
    def source(self) -> dict[str, Value] | None:
        """Origin of an imported episode: file, sha256, format, position; None if it was recorded."""
        return None if self.start is None else source_of(self.start.extra_data)

    @property
    def is_agent_episode(self) -> bool:
        """Whether it is an agent's episode, recorded with `trajrec.episode`."""
        return not self.header.env.class_name

    @cached_property
    def transcript(self) -> Transcript:
        """An agent's calls with their attempts and changes, and its model calls."""
        return self.transcribe()

    def transcribe(self, *, is_tolerant: bool = False) -> Transcript:
        """Return the transcript, read anew.

        Args:
            is_tolerant: Have an `Opaque` stand for a value that is lost, and raise no error.
        """
        values = StoredValues(
            self.agent_events,
            self.reader.blob,
            episode_id=self.id,
            path=self.path,
            report=self._report,
            is_tolerant=is_tolerant,
        )
        return Transcript(
            self.agent_events,
            values,
            self.id,
            ending=lambda: self.ending,
            end=self.end,
            losses=self._losses,
        )

    @property
    def messages(self) -> list[SaidMessage]:
        """The messages of an agent's conversations with models, each once, in order, with all text.

        >>> [(message.role, message.text) for message in corpus.episode("3f2a").messages]
        [('user', 'Is order O1 paid?'), ('assistant', 'Yes.')]
        """
        return self.transcript.messages

    def value(self, data: bytes | None) -> Value:
        """Return an encoded value of its records, with the large values that it refers to.

        Raises:
            LogCorruptError: The log has lost the value, or holds none there.
        """
        return self.transcript.value(data)

    @property
    def n_steps(self) -> int:
        """Number of its own steps: with those that raised, without those before a fork."""
        return self.end_step - self.first_step

    @property
    def end_step(self) -> int:
        """Number of its last step plus 1; of a fork that made no call, the step of the fork."""
        if self.end is not None:
            return max(self.first_step, self.end.n_steps)
        steps = [segment.first_step + segment.n_steps for segment in self.rows.segments]
        steps += [step_of_request(event) + 1 for event in self.agent_events]
        steps += [failure.step + 1 for failure in self.failures]
        return max([self.first_step, *steps])

    @property
    def ending(self) -> str:
        """terminated, truncated, abandoned or error, as the column of that name in `episodes`."""
        if self.end is not None:
            return "unknown" if is_unknown(self.end.extra_data) else self.end.ending
        return "running" if self.reader.is_being_written() else "interrupted"

    @cached_property
    def redacted_step(self) -> int | None:
        """First step of which the action or state had a secret; -1 for the reset, None for no step.

        A replay proves nothing from this step on.
        """
        return first_redacted_step(self.agent_events, LOST_FIELDS)

    @cached_property
    def redacted_action_step(self) -> int | None:
        """First step that cannot be executed again, because its action had a secret.

        -1 stands for the reset, of which the options had one.
        """
        return first_redacted_step(self.agent_events, ACTION_FIELDS)

    @property
    def outcome(self) -> str | None:
        """The verdict of its primary check: "success" or "failure"; None if it gave none."""
        return outcome_of(self.checks)

    @property
    def fault(self) -> str | None:
        """Whose fault left it without end or verdict: "infra", "env", "verifier"; None if unknown."""
        if not self.is_agent_episode:
            return find_fault(self.end, self.checks)
        said = self.transcript
        return find_agents_fault(self.end, self.checks, said.model_calls, said.attempts)

    @cached_property
    def task_start(self) -> TaskStart | None:
        """The record of its task; None if it has none."""
        tasks = (event for event in self.agent_events if isinstance(event, TaskStart))
        return next(tasks, None)

    @property
    def total_reward(self) -> float:
        """Sum of the rewards, as in SQL; NaN if some are lost, or no numbers, or several at once."""
        is_whole = not self.missing_steps and not unrecorded_steps(self.failures)
        return sum_of(self.reward_values) if is_whole else float("nan")

    @property
    def rewards_by_agent(self) -> dict[Value, float]:
        """Sum of each agent's rewards, or of each place in a list of rewards; NaN as `total_reward`."""
        is_whole = not self.missing_steps and not unrecorded_steps(self.failures)
        return sums_by_agent(self.reward_values, is_whole=is_whole)

    @cached_property
    def missing_steps(self) -> list[tuple[int, int]]:
        """Half-open ranges of steps that the log has lost."""
        if self.is_agent_episode:
            return []
        covered = [(s.first_step, s.first_step + s.n_steps) for s in self.rows.segments]
        covered += [(f.step, f.step + 1) for f in self.failures if f.phase == "step"]
        return find_gaps(covered, self.first_step, None if self.end is None else self.end.n_steps)

    @property
    def is_whole(self) -> bool:
        """Whether the log has all of it, as far as the log tells: no step or event is lost."""
        if self.is_agent_episode:
            return self.start is not None and not self._losses
        return self.has_reset and not self.missing_steps

    @property
    def first_step(self) -> int:
        """Number of its first step: 0, or for a fork the step at which it was forked."""
        return 0 if self.fork is None else self.fork.step

    @cached_property
    def parent(self) -> Episode | None:
        """The episode that it was forked from; None if it is no fork.

        Raises:
            CorpusError: The parent is not in the corpus, the episode was not read from one, or it
                is its own ancestor.
        """
        if self.fork is None:
            return None
        parent = load_parent(
            self.fork.parent_id, self.find_parent, of=self.id, descendants=self.descendants
        )
        parent.descendants = self.descendants | {self.id}
        return parent

    @cached_property
    def step_numbers(self) -> Array:
        """Step of each row of `actions` and `rewards`, (T,) int64, without steps that raised."""
        return self.rows.step_numbers()

    @cached_property
    def actions(self) -> list[Action]:
        """Actions as given, length T, in their recorded types; none of an agent: see `transcript`."""
        return self.rows.step_values("action")

    @cached_property
    def rewards(self) -> Array:
        """Rewards, (T,) or (T, k), of the recorded dtype; float64 for Python numbers.

        Objects (T,) if they differ in length, or nest too deeply for an array.
        """
        if not self.reward_values:
            return np.zeros(0, np.float64)
        try:
            return np.asarray(list(map(presented, self.reward_values)))
        except ValueError:
            return np.fromiter(self.reward_values, object, len(self.reward_values))

    @cached_property
    def reward_values(self) -> list[Value]:
        """Rewards one by one, length T, in their recorded types."""
        return self.rows.step_values("reward")

    @cached_property
    def observations(self) -> Value:
        """Observations: first the reset's, then one for each step.

        An array (T + 1, *shape) if all are arrays of one dtype and shape (or tensors), a dict or
        tuple of such arrays if they are composed, else a list of values. Numbers of Python are
        int64, float64 and bool.
        """
        return presented_rows(self.stored_observations)

    @cached_property
    def stored_observations(self) -> Value:
        """The same, but tensors and other objects are plain data, as in `observation_values`."""
        try:
            return self.rows.observation_array()
        except (ValueError, TypeError, KeyError):
            return self.observation_values

    @cached_property
    def observation_values(self) -> list[Observation]:
        """Observations one by one, length T + 1, in their recorded types."""
        return self.rows.observation_values()

    def observation_at(self, row: int) -> Observation:
        """Return one observation, and read only its chunk; row 0 is the reset's.

        Raises:
            IndexError: There is no such row.
        """
        check_index("row", row, 0, self.rows.n_observations - 1, self.id)
        return self.rows.observation_at(row)

    @cached_property
    def states(self) -> dict[int, Value]:
        """States that are stored whole, by row: 0 is the reset's, row k + 1 follows action k."""
        return self.rows.states()

    @cached_property
    def state_digests(self) -> Array | None:
        """Digest of the state of each observation, (T + 1,); None if none was captured.

        It verifies a replay: states with different digests are different. Checks of 24 bits
        (uint32) are no identity; `state_keys` are. With `keep_states="keys"` the two are the same.
        """
        return self.rows.state_digests()

    @cached_property
    def state_keys(self) -> Array | None:
        """Key of the state of each observation, (T + 1,) uint64: equal for equal states alone.

        None if no states were captured, or if the log has checks of 24 bits: `keep_states="keys"`
        and "all" give keys.
        """
        return self.rows.state_keys()

    @property
    def digest_bytes(self) -> DigestBytes:
        """Bytes of a digest in `state_digests`: 3 of a check, 8 of a key."""
        keep = self.header.state.keep
        if keep == "none" and self.state_digests is not None:
            # A damaged log has lost its header.
            return KEY_BYTES if self.state_digests.dtype == np.uint64 else CHECK_BYTES
        return KEY_BYTES if keep == "key" else CHECK_BYTES

    def digest_state(self, state: Value) -> int:
        """Return the digest of a live state as `state_digests` holds those of the log."""
        return digest_function(self.digest_bytes)(state)

    def state(self, step: int) -> Value:
        """Return the state before a step; of an agent's world, its parts by name.

        Args:
            step: The step; `end_step` for the last state.

        Raises:
            IndexError: There is no such step.
            StateUnknownError: The state is not stored there: it was digested only, or never
                captured; or it does not match its digest.
        """
        check_index("step", step, self.first_step, self.end_step, self.id)
        if self.is_agent_episode:
            return self.transcript.state(step)
        return whole_state(
            self.rows,
            step,
            episode_id=self.id,
            header=self.header,
            raised_steps={failure.step for failure in self.failures if failure.phase == "step"},
            digest_bytes=self.digest_bytes,
        )

    def step_at(self, step: int) -> Step:
        """Return one step, and read only its chunk.

        Raises:
            IndexError: There is no such step.
            CorpusError: The log has lost it.
        """
        check_index("step", step, self.first_step, self.end_step - 1, self.id)
        for failure in self.failures:
            if failure.phase == "step" and failure.step == step:
                return failed_step(failure)
        row = self.rows.step_at(step)
        if row is None:
            raise CorpusError(f"episode {self.id}: the log has lost step {step}")
        return Step(step, *row)

    def steps(self) -> Iterator[Step]:
        """Yield the steps in order, including those that raised."""
        first_row = 1 if self.has_reset else 0
        rows = zip(
            self.step_numbers.tolist(),
            self.actions,
            self.observation_values[first_row:],
            self.reward_values,
            self.rows.infos(),
            strict=True,
        )
        yield from in_order(rows, self.failures)
