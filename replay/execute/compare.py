"""Compares what a replay returned with what was recorded, a whole episode at once: bytes against bytes first; only where those
differ is the first difference looked for, by type and bits."""

from __future__ import annotations

import array
import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.log.fields import dense_columns
from trajrec.log.rows import ColumnRows
from trajrec.log.schema import Failure
from trajrec.replay.execute.report import Divergence, ulp_distance
from trajrec.replay.execute.tolerance import Tolerance
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.diff import Change, diff, first_change
from trajrec.values.digest import MASK


class EncodedObs(NamedTuple):
    """An observation that is not an array like the reset's, encoded."""

    data: bytes


_PLAIN = frozenset((float, int, bool, str, type(None)))

DIGESTS_ONLY = "states of which only digests are stored"
"""What differs and may, by how much nobody knows, where floats may lie apart."""

LARGE_BYTES = 4096
"""Observations from this size on are compared as they come: to copy a frame takes longer than to compare it."""


class Run:
    """What a re-execution returned, row by row; `failure` is an exception that the recording does not have (or the reverse),
    `early` a divergence on the way to the first row, `problem` why nothing could be executed.

    An observation is None where it was found to be the recorded one when it came. `take` is called with one that is an array
    like the reset's, `skip` for one that is not.
    """

    def __init__(self) -> None:
        self.observations: list[bytes | EncodedObs | None] = []
        self.like: np.ndarray[Any, Any] | None = None
        self.take: Callable[[Any], bytes | None] = np.ndarray.tobytes
        self.skip: Callable[[], Any] = lambda: None
        self.rewards: list[Any] = []
        self.infos: dict[int, bytes | dict[str, Any]] = {}
        self.reset_info = b""
        self.states = array.array("I")
        self.state_dtype: np.dtype[Any] | None = None
        self.whole_states: dict[int, bytes | np.ndarray[Any, Any]] = {}
        self.flags: tuple[int, bool, bool] | None = None
        self.failure: tuple[int, Failure | None, BaseException | None] | None = None
        self.early: Divergence | None = None
        self.problem: str | None = None
        self.ignored: set[str] = set()

    def digest(self) -> bytes:
        """Return a digest of observations, rewards, states and ending. Not of infos: measured times are among them."""
        kept = [item.data if isinstance(item, EncodedObs) else item for item in self.observations]
        failed = None if self.failure is None else self.failure[0]
        data = codec.encode(
            [kept, self.rewards, self.states.tobytes(), self.flags, failed], opaque=True
        )
        return hashlib.blake2b(data, digest_size=16).digest()


def compare(episode: Episode, run: Run, tolerance: Tolerance) -> Divergence | None:
    """Return the first difference, by step and then by field as a reader sees them: what is visible before what is not."""
    if run.early is not None:
        return run.early
    found: list[tuple[int, int, str, Any, Any]] = []
    n = len(run.rewards)

    def note(row: int, order: int, field: str, change: Change | None) -> None:
        if change is not None:
            path = f"{field}/{change.path}" if change.path else field
            found.append((row, order, path, change.before, change.after))

    offset = 0 if episode.has_reset else 1
    note(*_observations(episode, run, offset, tolerance))
    note(*_rewards(episode, run, n, tolerance))
    note(*_flags(episode, run, n))
    note(*_infos(episode, run, n, tolerance))
    if run.states:
        note(*_states(episode, run, offset, tolerance))
    candidates = []
    for row, order, path, expected, actual in found:
        step = int(episode.step_numbers[row - 1]) if row > 0 else episode.first_step - 1
        candidates.append((step, order, path, expected, actual))
    if run.failure is not None:
        step, recorded, raised = run.failure
        candidates.append((step, 9, "failure", describe(recorded), describe(raised)))
    if not candidates:
        return None
    step, _, path, expected, actual = min(candidates, key=lambda candidate: candidate[:2])
    return Divergence(step, path, expected, actual, ulps=ulp_distance(expected, actual))


_Found = tuple[int, int, str, Change | None]


def first_unlike(
    field: str, recorded: Value, live: Value, run: Run, tolerance: Tolerance
) -> Change | None:
    """Return the first difference of two values that counts; note those that are ignored."""
    if tolerance.is_exact:
        return first_change(recorded, live)
    for change in diff(recorded, live):
        path = f"{field}/{change.path}" if change.path else field
        label = tolerance.label(path, change)
        if label is None:
            return change
        run.ignored.add(label)
    return None


def _observations(episode: Episode, run: Run, offset: int, tolerance: Tolerance) -> _Found:
    like, got = run.like, run.observations[offset:]
    if all(item is None for item in got):
        return 0, 0, "observation", None
    recorded = episode.observations
    if (
        like is not None
        and isinstance(recorded, np.ndarray)
        and (recorded.dtype, recorded.shape[1:]) == (like.dtype, like.shape)
    ):
        # One comparison for the whole episode: joining refuses what is not bytes, an observation unlike the first.
        with contextlib.suppress(TypeError):
            if b"".join(got) == recorded[: len(got)].tobytes():  # type: ignore[arg-type]
                return 0, 0, "observation", None
    for row, (expected, actual) in enumerate(zip(episode.observation_values, got, strict=False)):
        if actual is None:
            continue
        if isinstance(actual, EncodedObs):
            live = codec.decode(actual.data)
        else:
            assert like is not None
            live = np.frombuffer(actual, like.dtype).reshape(like.shape)
        change = first_unlike("observation", expected, live, run, tolerance)
        if change is not None:
            return row + offset, 0, "observation", change
    return 0, 0, "observation", None


def _rewards(episode: Episode, run: Run, n: int, tolerance: Tolerance) -> _Found:
    if _are_same_rewards(episode, run, n):
        return 0, 1, "reward", None
    for row, (expected, actual) in enumerate(
        zip(episode.reward_values[:n], run.rewards, strict=True)
    ):
        change = first_unlike(
            "reward", expected, codec.decode(codec.encode(actual, opaque=True)), run, tolerance
        )
        if change is not None:
            return row + 1, 1, "reward", change
    return 0, 1, "reward", None


def _are_same_rewards(episode: Episode, run: Run, n: int) -> bool:
    """Say whether rewards are surely the same."""
    row = 0
    for chunk, span in episode.parts:
        live = run.rewards[row : row + span.segment.n_steps]
        row += len(live)
        column = (dense_columns(chunk, "reward") or {}).get(None)
        if live and (column is None or not _is_same_column(column, span.start, live)):
            return False
    return row == n


def _is_same_column(rows: ColumnRows, start: int, live: list[Any]) -> bool:
    """Say whether values are surely those of a column's rows from `start` on, type for type and bit for bit, without looking at
    each."""
    stop, kinds = start + len(live), set(map(type, live))
    if kinds <= _PLAIN:
        # Nothing else that a log gives back is packed as these are; a scalar of numpy is refused.
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return msgspec.msgpack.encode(live) == msgspec.msgpack.encode(rows.values(start, stop))
        return False
    kind = kinds.pop()
    recorded = (
        rows.numpy_bytes(start, stop)
        if not kinds and issubclass(kind, np.number | np.bool_)
        else None
    )
    # A timedelta has a unit besides its type.
    if recorded is None or recorded[0] is not kind or kind is np.timedelta64:
        return False
    return np.fromiter(live, kind, len(live)).tobytes() == recorded[1]


def _flags(episode: Episode, run: Run, n: int) -> _Found:
    """Compare where the episode ended, and how."""
    end, total = episode.end, len(episode.actions)
    if not total:
        return 0, 2, "terminated", None
    is_over = end is not None and end.ending in ("terminated", "truncated")
    recorded = (total - 1, end.terminated, end.truncated) if end is not None and is_over else None
    if run.flags == recorded or (run.flags is None and (run.failure is not None or n < total)):
        return 0, 2, "terminated", None
    row, terminated, truncated = run.flags if run.flags is not None else (total - 1, False, False)
    _, was_terminated, was_truncated = (
        recorded if recorded is not None and recorded[0] == row else (row, False, False)
    )
    if terminated != was_terminated:
        return row + 1, 2, "terminated", Change("", was_terminated, terminated)
    return row + 1, 3, "truncated", Change("", was_truncated, truncated)


def make_obs_collector(episode: Episode, run: Run) -> Callable[[Any], bytes | None]:
    """Return what makes of an observation like the first what is kept of it: nothing, where it is large and as recorded."""
    like = run.like
    if like is None or like.nbytes < LARGE_BYTES or like.nbytes % 8:
        return np.ndarray.tobytes
    expected = _words(episode, like)
    for _ in range(len(run.observations) - (0 if episode.has_reset else 1)):
        next(expected, None)

    run.skip = lambda: next(expected, None)

    def take(obs: Any) -> bytes | None:
        words = next(expected, None)
        if words is not None and (obs.reshape(-1).view(np.uint64) == words).all():
            return None
        data: bytes = obs.tobytes()
        return data

    return take


def _words(episode: Episode, like: Any) -> Iterator[Any]:
    """Yield the recorded observations as words of 8 bytes; stop where one is not like the first."""
    for recorded in episode.observation_views():
        if (recorded.dtype, recorded.shape) != (
            like.dtype,
            like.shape,
        ) or not recorded.flags.c_contiguous:
            return
        yield recorded.reshape(-1).view(np.uint64)


def _are_same_infos(episode: Episode, run: Run, n: int) -> bool:
    """Say whether infos are surely the same, key by key; where each step has the same keys, and values that are fixed."""
    if episode.irregular or len(run.infos) != n:
        return False
    rows = iter(run.infos.values())
    for chunk, span in episode.parts:
        live: list[Any] = list(itertools.islice(rows, span.segment.n_steps))
        recorded = dense_columns(chunk, "info") or {}
        names = list(recorded)
        if names in ([], [None]) or any(
            type(info) is not dict or list(info) != names for info in live
        ):
            return False
        if live and not all(
            _is_same_column(rows, span.start, [info[k] for info in live])
            for k, rows in recorded.items()
        ):
            return False
    return True


def _infos(episode: Episode, run: Run, n: int, tolerance: Tolerance) -> _Found:
    assert episode.start is not None
    if run.reset_info and run.reset_info != episode.start.info_data:
        change = first_unlike(
            "info",
            codec.decode(episode.start.info_data),
            codec.decode(run.reset_info),
            run,
            tolerance,
        )
        if change is not None:
            return 0, 4, "info", change
    if not run.infos and not episode.has_infos:
        return 0, 4, "info", None
    if _are_same_infos(episode, run, n):
        return 0, 4, "info", None
    for row, info in enumerate(episode.infos[:n]):
        kept = run.infos.get(row, {})
        if isinstance(kept, dict):
            live = kept
        elif codec.encode(info, opaque=True) != kept:
            live = codec.decode(kept)
        else:
            continue
        change = first_unlike("info", info, live, run, tolerance)
        if change is not None:
            return row + 1, 4, "info", change
    return 0, 4, "info", None


def _states(episode: Episode, run: Run, offset: int, tolerance: Tolerance) -> _Found:
    digests = episode.state_digests
    if digests is None:
        return 0, 5, "state", None
    if tolerance.ignores_digests:
        # A digest says nothing of how far two states are apart: those that are stored whole are compared.
        for row in sorted(run.whole_states):
            change = first_unlike(
                "state", episode.states[row - offset], _state(run.whole_states[row]), run, tolerance
            )
            if change is not None:
                return row, 5, "state", change
    got = np.frombuffer(run.states, np.uint32)[offset:] & MASK
    expected = digests[: len(got)]
    differs = expected != got[: len(expected)]
    if tolerance.ignores_digests:
        if differs.any():
            run.ignored.add(DIGESTS_ONLY)
        return 0, 5, "state", None
    first = int(differs.argmax()) + offset if differs.any() else None
    for row in sorted(run.whole_states):
        if first is not None and row > first:
            break
        recorded, live = episode.states[row - offset], run.whole_states[row]
        if (
            codec.encode(recorded) == live
            if isinstance(live, bytes)
            else _is_same_array(recorded, live)
        ):
            continue
        change = first_change(recorded, _state(live))
        if change is not None:
            return row, 5, "state", change
    if first is None:
        return 0, 5, "state", None
    return (
        first,
        5,
        "state",
        Change(
            "",
            f"digest {int(expected[first - offset]):06x}",
            f"digest {int(got[first - offset]):06x}",
        ),
    )


def _is_same_array(recorded: Any, live: np.ndarray[Any, Any]) -> bool:
    is_alike = type(recorded) is np.ndarray and (recorded.dtype, recorded.shape) == (
        live.dtype,
        live.shape,
    )
    return is_alike and recorded.tobytes() == live.tobytes()


def _state(kept: Any) -> Any:
    return codec.decode(kept) if isinstance(kept, bytes) else kept


def describe(failure: Failure | BaseException | None) -> str:
    """Return an exception, or the record of one, for people."""
    if failure is None:
        return "no exception"
    if isinstance(failure, Failure):
        return f"{failure.error_type}: {failure.message}"
    return f"{codec.type_name(failure)}: {failure}"
