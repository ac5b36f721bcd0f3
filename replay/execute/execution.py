"""The values that a re-execution returned, kept until the episode is compared."""

from __future__ import annotations

import array
from collections.abc import Callable, Container
from typing import NamedTuple

import numpy as np

from trajrec.log.schema import Failure
from trajrec.replay.execute.kept_values import Encoded, restored
from trajrec.replay.execute.report import Divergence
from trajrec.types import Array, Observation, Value
from trajrec.values.digest import (
    CHECK_BYTES,
    KEY_BYTES,
    MASK,
    DigestBytes,
    Digests,
    digest_function,
)


class LiveEnd(NamedTuple):
    """The end of a re-executed episode.

    Attributes:
        row: The row of the last action, from 0.
        terminated: The flag that its step returned.
        truncated: The flag that its step returned.
    """

    row: int
    terminated: bool
    truncated: bool


class LiveFailure(NamedTuple):
    """An exception that was raised and not recorded, or recorded and not raised.

    Attributes:
        step: The step; -1 is the reset.
        recorded: The recorded exception; None if the step returned when it was recorded.
        raised: The exception that was raised now; None if the step returned now.
    """

    step: int
    recorded: Failure | None
    raised: BaseException | None


class Execution:
    """The values that a re-execution returned.

    Rows of observations and states begin with the reset; rows of rewards and infos begin with the
    first step.

    Attributes:
        template: The observation of the reset if it is an array, else None.
        collect: Takes each observation that has the dtype and shape of `template`; returns its
            bytes, or None if it was compared at once and is the recorded one.
        skip: Is called for each other observation, so that `collect` stays in step.
        observations: The bytes of arrays like `template`, None for those that are known to be the
            recorded ones, and `Encoded` for all others; without a template, as `keep` returned
            them, but an `Encoded` for None.
        rewards: The rewards.
        n_raised: The number of steps that raised as they did in the recording; they have no rows.
        infos: The infos that are not empty, by row, as `keep` returned them.
        reset_info: The info of the reset, encoded; b"" if it was not compared.
        has_states: Whether states were captured.
        keeps_digests: Whether `states` has the digests of the states. Without them every row has
            its state in `whole_states`.
        whole_rows: The rows of which the log has the whole state.
        states: The digests of the states; of checks only the low 24 bits count.
        state_dtype: The dtype of the reset's state if that is an array of numbers, else None.
        whole_states: The states of the rows that the log stores whole, as `keep` returned them.
        end: The end of the episode; None if no step ended it.
        failure: The exception that only the recording or only the re-execution has.
        early_divergence: A difference on the way to the first compared row.
        problem: The reason if nothing could be executed.
        ignored: Labels of the differences that the tolerance ignores.
    """

    def __init__(self, digest_bytes: DigestBytes = CHECK_BYTES) -> None:
        self.template: Array | None = None
        self.collect: Callable[[Array], bytes | None] = np.ndarray.tobytes
        self.skip: Callable[[], object] = lambda: None
        self.observations: list[Value] = []
        self.rewards: list[Value] = []
        self.n_raised = 0
        self.infos: dict[int, Value] = {}
        self.reset_info = b""
        self.has_states = False
        self.keeps_digests = True
        self.whole_rows: Container[int] = ()
        self._digest_bytes = digest_bytes
        # 4 or 8 bytes a step: an episode of a million steps must not cost a list of a million ints.
        self.states = array.array("Q" if digest_bytes == KEY_BYTES else "I")
        self.state_dtype: np.dtype[np.generic] | None = None
        self.whole_states: dict[int, Value] = {}
        self.end: LiveEnd | None = None
        self.failure: LiveFailure | None = None
        self.early_divergence: Divergence | None = None
        self.problem: str | None = None
        self.ignored: set[str] = set()

    @property
    def n_states(self) -> int:
        """The number of rows of which states were captured."""
        return len(self.observations) if self.has_states else 0

    def observation(self, row: int) -> Observation:
        """Return the observation of a row that was not compared when it was collected."""
        item = self.observations[row]
        if self.template is None or type(item) is Encoded:
            return restored(item)
        assert item is not None
        return np.frombuffer(item, self.template.dtype).reshape(self.template.shape)

    def state_digests(self) -> Digests:
        """Return the digests of the states as the log holds them: uint32 checks, or uint64 keys."""
        if not self.keeps_digests:
            digest = digest_function(self._digest_bytes)
            self.states.extend(digest(restored(state)) for state in self.whole_states.values())
            self.keeps_digests = True
        if self.states.typecode == "Q":
            return np.frombuffer(self.states, np.uint64)
        return np.frombuffer(self.states, np.uint32) & np.uint32(MASK)
