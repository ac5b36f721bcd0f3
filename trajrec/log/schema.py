"""The records of a log. docs/reference/log-format.md specifies them byte by byte.

Records are stored as msgpack arrays, so a field may be appended with a default, but never removed
or moved. A field whose name ends in `_data` holds bytes of `trajrec.values.codec.encode`.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from trajrec.log.events import AgentEvent, Record

# Raise the version whenever an older reader would misread a log, and add a golden log.
FORMAT_VERSION = 1

Ending = Literal["terminated", "truncated", "abandoned", "error"]
"""How an episode ended: by the environment, by a limit, by a reset or close in its middle, or by an
exception. One without an end record is "running" or, if its writer is gone, "interrupted"."""

SeedOrigin = Literal["caller", "recorder", "none"]
"""Who chose the seed of a reset."""


class EnvRecord(Record, frozen=True, kw_only=True):
    """The environment, with the data that are needed to make it again.

    Attributes:
        kwargs_data: The arguments that it was made with, as a dict.
        wrappers: The wrappers around the result of `gymnasium.make`, innermost first, as (class
            name, arguments or None if they are unknown).
        recreatable: "", or the reason why the environment cannot be made from this record.
    """

    env_id: str
    entry_point: str
    kwargs_data: bytes
    max_episode_steps: int | None
    spec_fields: dict[str, Any]
    wrappers: list[tuple[str, bytes | None]]
    class_name: str
    recreatable: str = ""
    observation_space: str = ""
    action_space: str = ""


class StateRecord(Record, frozen=True):
    """How states were captured.

    Attributes:
        adapter: The name of the state adapter, "" if none fits the environment.
        version: The version of the adapter.
        keep: Whether every state is stored whole, or its digest, or nothing.
    """

    adapter: str = ""
    version: int = 0
    keep: Literal["every", "digest", "none"] = "none"


class Header(Record, frozen=True, kw_only=True):
    """The first record of a log: the environment, the recorder, and the machine.

    Attributes:
        record: How many states were kept: "default", "full" or "minimal".
        runtime: Versions (python, platform, cpu, packages) and settings that can change results
            (hash seed, threads).
        interface_data: The interface of the run as the caller gave it, or None.
    """

    log_id: str
    created_ns: int
    writer: str
    env: EnvRecord
    state: StateRecord
    record: str
    runtime: dict[str, Any]
    process_id: int
    host: str
    interface_data: bytes | None = None


class Segment(Record, frozen=True):
    """Consecutive steps of one episode in a chunk.

    Attributes:
        has_reset: Whether the observations and states have one more row in front: the reset's.
    """

    episode: int
    first_step: int
    n_steps: int
    has_reset: bool


class Column(Record, frozen=True, kw_only=True):
    """One column of a chunk. Its bytes lie in the data part of the frame.

    Attributes:
        kind: The form of a row: "array" (an array of `dtype` and `shape`), "scalar" (a number of
            type `type_name`), "value" (an encoded value), or "const" (all rows are one value).
        n: The number of rows.
        filter: The filter that was applied before compression, and its parameters.
        offset: The position of the column in the data part.
        size: Its bytes, compressed.
        raw_bytes: Its bytes, decompressed.
        rows_data: If only some steps have a value: the numbers of their rows, as differences.
    """

    name: str
    kind: Literal["array", "scalar", "value", "const"]
    n: int
    dtype: str = ""
    shape: tuple[int, ...] = ()
    type_name: str = ""
    filter: tuple[int, ...] = ()
    offset: int = 0
    size: int = 0
    raw_bytes: int = 0
    rows_data: bytes | None = None


class EpisodeStart(Record, tag="start", frozen=True, kw_only=True):
    """A reset.

    Attributes:
        seed_origin: Who chose the seed. The recorder chooses one if the reset could not be
            reproduced otherwise.
        rng_data: If the reset was not seeded: the state of the environment's generators before it.
    """

    episode: int
    time_ns: int
    seed: int | None
    seed_origin: SeedOrigin
    options_data: bytes | None
    rng_data: bytes | None
    info_data: bytes


class Fork(Record, tag="fork", frozen=True, kw_only=True):
    """Marks an episode that branches off a recorded one. It follows the EpisodeStart.

    The EpisodeStart is the parent's with a time of its own. The steps of the fork begin with
    `step`.

    Attributes:
        kind: The difference to the parent: given actions, another policy, or a live agent.
        noise: "recorded" if the generators continued from their state, else the text that they
            were seeded from.
        level: How the step was reached: a stored word of `RESTORE_WORDS`.
    """

    episode: int
    parent_id: str
    step: int
    kind: Literal["actions", "policy", "agent"]
    noise: str = "recorded"
    level: str = "prefix"
    metadata_data: bytes | None = None


RESTORE_WORDS = {
    "prefix": "reexecute",
    "native": "snapshot",
    "pickle": "pickle",
    "sandbox": "env_snapshot",
    "process": "os_fork",
}
"""Stored word -> the word that users write and see, for the ways to restore a step.

Format 1 keeps the first words, so that its logs stay readable; everything else uses the second.
"""

STORED_RESTORE_WORDS = {word: stored for stored, word in RESTORE_WORDS.items()}


class Keyframe(Record, tag="keyframe", frozen=True):
    """The state of the environment before a step of a long episode, as plain data.

    `trajrec.envstate.keyframes` writes and restores it.
    """

    episode: int
    step: int
    data: bytes


class EpisodeEnd(Record, tag="end", frozen=True, kw_only=True):
    """The end of an episode. It does not say whether the episode succeeded: a `Check` does.

    Attributes:
        stop_reason: Why the agent's loop ended, "" if unknown.
        claimed_done: Whether the agent claimed to be done, None if unknown.
    """

    episode: int
    time_ns: int
    n_steps: int
    ending: Ending
    terminated: bool
    truncated: bool
    stop_reason: str = ""
    claimed_done: bool | None = None


class Failure(Record, tag="failure", frozen=True, kw_only=True):
    """An exception.

    Attributes:
        step: The step that failed, -1 for a reset.
        origin: The component that raised.
        action_data: The action of the failed step.
    """

    episode: int
    step: int
    attempt: int
    time_ns: int
    phase: Literal["reset", "step", "state", "check", "loop"]
    origin: Literal["agent", "env", "tool", "scaffold", "infra", "verifier"]
    error_type: str
    message: str
    traceback: str
    action_data: bytes | None = None


class Check(Record, tag="check", frozen=True, kw_only=True):
    """The verdict of one version of one verifier on one state, None if it gave no verdict."""

    episode: int
    step: int
    time_ns: int
    check_id: str
    version: str
    family: str
    phase: Literal["step", "terminal", "post-hoc"]
    status: Literal["ok", "error", "not_evaluated"]
    verdict: bool | None
    score: float | None
    evidence_data: bytes | None
    code_digest: str | None
    state_digest: str | None


Event = EpisodeStart | Fork | Keyframe | EpisodeEnd | Failure | Check | AgentEvent


class Chunk(Record, frozen=True, kw_only=True):
    """The steps of some segments by column, and the events among them: the contents of one flush.

    Attributes:
        layouts: How the columns of each field make up a value: ["leaf", index of the column],
            ["dict", keys, layouts] or ["tuple", layouts].
        irregular: Infos that did not fit the layout, as (episode, step, data).
    """

    time_ns: int
    segments: list[Segment]
    columns: list[Column]
    layouts: dict[str, Any]
    events: list[Event]
    irregular: list[tuple[int, int, bytes]] = msgspec.field(default_factory=list)


class FrameEntry(Record, frozen=True):
    """The position of a frame, and the episodes that have steps or events in it."""

    offset: int
    size: int
    kind: int
    episodes: list[int]


class Footer(Record, frozen=True):
    """The last record of a sealed log: a copy of the header, and the directory of its frames."""

    header: Header
    frames: list[FrameEntry]
    n_episodes: int
    n_steps: int


def episode_id(log_id: str, episode: int) -> str:
    """Return the id of an episode, 16 hex digits: BLAKE2b-64 of its log's id and its number.

    >>> episode_id("c0ffee", 0)
    '99227362d0452b1a'
    """
    return hashlib.blake2b(f"{log_id}/{episode}".encode(), digest_size=8).hexdigest()
