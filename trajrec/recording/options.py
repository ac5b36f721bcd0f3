"""The options of a recorder, as one typed group of keywords."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias, TypedDict, get_args

from trajrec.log.schema import Header
from trajrec.log.writer import Durability, OnFull
from trajrec.protocols import StateAdapter, Verifier
from trajrec.redaction.redactor import Redactor
from trajrec.types import JsonObject, Value

TaskOfReset: TypeAlias = str | Callable[[int | None, JsonObject | None], str]
"""A task's id, or a function of the seed and the options of a reset that returns it."""

KeepStates = Literal["auto", "keys", "all", "digests"]
"""The option `keep_states`."""

StoredStates = Literal["every", "digest", "key", "none"]
"""The states that a log has: each one, the checks or keys, or none; see `StateRecord.keep`."""

DIGESTED: frozenset[StoredStates] = frozenset(("digest", "key"))
"""The words for logs that store each state as a digest, and a few whole."""


class RecordOptions(TypedDict, total=False):
    """Options of `trajrec.record` and `trajrec.Recorder`; each may be left out.

    Attributes:
        checks: Verifiers. Each runs on the environment at the end of every episode that terminated
            or was truncated, and its verdict is recorded.
        primary: The check, or its id, whose verdict is the outcome of an episode. By default the
            first one.
        task: Id of the task of each episode, or a function of the seed and the options of its reset
            that returns the id.
        task_revision: Version of the task.
        metadata: Further plain data of each episode. The keys run, group, trial, family, split,
            privacy and probe have a meaning of their own; see `trajrec.task_options`.
        state: A function of the environment that returns its state as plain data or an array. By
            default an adapter for the environment's class is used, if there is one. False records
            no state.
        keep_states: Which states are stored. "auto" (the default) stores each state if states are
            small, else a check of 24 bits of each and a few states whole. "keys" does the same with
            a key of 64 bits, by which SQL and credit tell states apart; it takes 5 bytes a step
            more. "all" stores each state. "digests" stores the check of each, and whole only the
            first and the last state of an episode and the first of a block. Each way, a replay can
            verify every step.
        interface: The interface of the run (verifier, base model, lineage, optimizer, scaffold,
            budget, ...) as plain data; see `trajrec.interface`.
        on_full: The effect of a log that cannot be written, for instance because the disk is full.
            "stop-recording" (the default) warns once and goes on without recording. "raise" raises
            LogWriteError from a later `step`, `reset` or `close`.
        durability: "process" (the default): every step that returned survives the end of the
            process by any signal. "machine": an ended episode also survives a power failure,
            because the log is forced to the disk at each end of an episode.
        every: Record the first of so many episodes, and no other. The others cost nothing.
        max_bytes: The most bytes that the recorder's log may take, with `keep_last` all of its logs
            together. Before it would take more, it is sealed, and `on_full` decides what follows.
        keep_last: Keep at least the last so many episodes. The recorder begins a new log after a
            quarter of so many, and deletes its own logs of which all episodes are older.
        redact: Whether to keep secrets out of the log (the default), or the `Redactor` that does
            so. Numbers and arrays of numbers are never searched. False suits environments that
            hold no secrets, and whose texts must be stored as they are.
        factory: A function that makes the environment, with its wrappers, for an environment that
            cannot be made again from its log, as a warning says. It must stand at the top of a
            module that other processes can import; replays import it if its module is allowed.
    """

    checks: Sequence[Verifier]
    primary: Verifier | str | None
    task: TaskOfReset
    task_revision: str
    metadata: Mapping[str, Value] | None
    state: Callable[[Value], Value] | bool
    keep_states: KeepStates
    interface: Mapping[str, Value] | None
    on_full: OnFull
    durability: Durability
    every: int
    max_bytes: int | None
    keep_last: int | None
    redact: bool | Redactor
    factory: Callable[[], Value] | None


class LogOrigin(NamedTuple):
    """The parts of a new log that forks, tests and samples choose themselves.

    Attributes:
        name: The file's name without its suffix; the log's id is then derived from it. None for a
            random id, which is also the name.
        clock_ns: Returns the wall-clock time in ns; None for the system's clock.
        parent: The header of the log that a fork continues: the new log takes over its
            descriptions of the environment and of its state.
    """

    name: str | None = None
    clock_ns: Callable[[], int] | None = None
    parent: Header | None = None


def check_volume(*, every: int, max_bytes: int | None, keep_last: int | None) -> None:
    """Check the options that limit the volume of a recording.

    Raises:
        ValueError: One of them is below 1.
    """
    limits = {"every": every, "max_bytes": max_bytes, "keep_last": keep_last}
    for name, value in limits.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}")


def check_keep_states(keep_states: KeepStates) -> None:
    """Check the option `keep_states`.

    Raises:
        ValueError: It is none of its words.
    """
    if keep_states not in get_args(KeepStates):
        words = ", ".join(map(repr, get_args(KeepStates)))
        raise ValueError(f"keep_states must be one of {words}, got {keep_states!r}")


def stored_states(adapter: StateAdapter | None, keep_states: KeepStates) -> StoredStates:
    """Return the states that a log has; none if no adapter fits."""
    if adapter is None:
        return "none"
    if keep_states == "all":
        return "every"
    if keep_states == "digests":
        return "digest"
    return "key" if keep_states == "keys" and adapter.keep == "digest" else adapter.keep
