"""The records of a log. docs/reference/log-format.md specifies them byte by byte.

Records are stored as msgpack arrays, so a field may be appended with a default, but never removed
or moved. A field whose name ends in `_data` holds bytes of `trajrec.values.codec.encode`. A field
`extra_data` holds a map of facts that have no field of their own. A time of 0 is unknown.

`trajrec.log.format1` turns the records of format 1 into these.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from trajrec.log.annotations import Annotation
from trajrec.log.bounds import Count, CountOrNone, FirstStep, LargeCount, LargeCountOrNone, Time
from trajrec.log.events import AgentEvent, Record

# Raise the version whenever an older reader would misread a log, and add a golden log.
FORMAT_VERSION = 2

Ending = Literal["terminated", "truncated", "abandoned", "error"]
"""How an episode ended: by the environment, by a limit, by a reset or close in its middle, or by an
exception. One without an end record is "running" or, if its writer is gone, "interrupted"."""

SeedOrigin = Literal["caller", "recorder", "none"]
"""Who chose the seed of a reset."""

API_FIELD = "pettingzoo"
"""Key in `EnvRecord.spec_fields` with the API of a PettingZoo environment: "aec" or "parallel"."""

FACTORY_FIELD = "factory"
"""Key in `EnvRecord.spec_fields` with a function that makes the environment, as "module:name"."""


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
    extra_data: bytes | None = None


class StateRecord(Record, frozen=True):
    """How states were captured.

    Attributes:
        adapter: The name of the state adapter, "" if none fits the environment.
        version: The version of the adapter.
        keep: What is stored of every state: "every" the state itself, "digest" its check of 24
            bits, "key" its key of 64 bits, "none" nothing; see `trajrec.values.digest`.
    """

    adapter: str = ""
    version: int = 0
    keep: Literal["every", "digest", "key", "none"] = "none"


class Header(Record, frozen=True, kw_only=True):
    """The first record of a log: the environment, the recorder, and the machine.

    Attributes:
        keep_states: The option of that name: "auto", "keys", "all" or "digests".
        runtime: Versions (python, platform, cpu, packages) and settings that can change results
            (hash seed, threads).
        interface_data: The interface of the run as the caller gave it, or None.
    """

    log_id: str
    created_ns: Time
    writer: str
    env: EnvRecord
    state: StateRecord
    keep_states: str
    runtime: dict[str, Any]
    process_id: int
    host: str
    interface_data: bytes | None = None
    extra_data: bytes | None = None


class Segment(Record, frozen=True):
    """Consecutive steps of one episode in a chunk.

    Attributes:
        has_reset: Whether the observations and states have one more row in front: the reset's.
    """

    episode: Count
    first_step: FirstStep
    n_steps: Count
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
        checksum: CRC-32 of the column's bytes in the data part; None in a log of format 1, whose
            frames have one checksum for all of their bytes.
        const_data: The value of a "const" column. It stands here, and the column has no bytes in
            the data part; in format 1 it is the other way round.
    """

    name: str
    kind: Literal["array", "scalar", "value", "const"]
    n: Count
    dtype: str = ""
    shape: tuple[Count, ...] = ()
    type_name: str = ""
    filter: tuple[Count, ...] = ()
    offset: Count = 0
    size: Count = 0
    raw_bytes: Count = 0
    rows_data: bytes | None = None
    checksum: int | None = None
    const_data: bytes | None = None


class EpisodeStart(Record, tag="start", frozen=True, kw_only=True):
    """A reset.

    Attributes:
        seed_origin: Who chose the seed. The recorder chooses one if the reset could not be
            reproduced otherwise.
        rng_data: If the reset was not seeded: the state of the environment's generators before it.
    """

    episode: Count
    time_ns: Time
    seed: int | None
    seed_origin: SeedOrigin
    options_data: bytes | None
    rng_data: bytes | None
    info_data: bytes
    extra_data: bytes | None = None


class Fork(Record, tag="fork", frozen=True, kw_only=True):
    """Marks an episode that branches off a recorded one. It follows the EpisodeStart.

    The EpisodeStart is the parent's with a time of its own. The steps of the fork begin with
    `step`.

    Attributes:
        kind: The difference to the parent: given actions, another policy, or a live agent.
        noise: "recorded" if the generators continued from their state, else the text that they
            were seeded from.
        restore: The way in which the step was reached: a word of `RESTORE_WORDS`.
    """

    episode: Count
    parent_id: str
    step: Count
    kind: Literal["actions", "policy", "agent"]
    noise: str = "recorded"
    restore: str = "reexecute"
    metadata_data: bytes | None = None
    extra_data: bytes | None = None


RESTORE_WORDS = ("reexecute", "snapshot", "pickle", "env_snapshot", "os_fork")
"""The ways to restore a step."""


class Keyframe(Record, tag="keyframe", frozen=True):
    """The state of the environment before a step of a long episode, as plain data.

    `trajrec.envstate.keyframes` writes and restores it.
    """

    episode: Count
    step: Count
    data: bytes


class EpisodeEnd(Record, tag="end", frozen=True, kw_only=True):
    """The end of an episode. It does not say whether the episode succeeded: a `Check` does.

    Attributes:
        stop_reason: Why the agent's loop ended, "" if unknown.
        claimed_done: Whether the agent claimed to be done, None if unknown.
        fault: The component whose fault ended the episode ("infra", "verifier", "env"), "" if none
            is to blame or it is unknown.
        reported_data: Totals that the source of an imported episode states (tokens, cost).
    """

    episode: Count
    time_ns: Time
    n_steps: Count
    ending: Ending
    terminated: bool
    truncated: bool
    stop_reason: str = ""
    claimed_done: bool | None = None
    fault: str = ""
    reported_data: bytes | None = None
    extra_data: bytes | None = None


class Failure(Record, tag="failure", frozen=True, kw_only=True):
    """An exception.

    Attributes:
        step: The step that failed, -1 for a reset.
        origin: The component that raised.
        action_data: The action of the failed step.
    """

    episode: Count
    step: CountOrNone
    attempt: Count
    time_ns: Time
    phase: Literal["reset", "step", "state", "check", "loop"]
    origin: Literal["agent", "env", "tool", "scaffold", "infra", "verifier"]
    error_type: str
    message: str
    traceback: str
    action_data: bytes | None = None
    extra_data: bytes | None = None


class Check(Record, tag="check", frozen=True, kw_only=True):
    """The verdict of one version of one verifier on one state, None if it gave no verdict.

    Attributes:
        is_primary: Whether the outcome of the episode follows from this check.
    """

    episode: Count
    step: CountOrNone
    time_ns: Time
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
    is_primary: bool = False
    extra_data: bytes | None = None


Event = EpisodeStart | Fork | Keyframe | EpisodeEnd | Failure | Check | AgentEvent | Annotation


class EventTable(Record, frozen=True):
    """The events of one kind in a chunk, by field. `trajrec.log.event_tables` packs them.

    Attributes:
        tag: The kind.
        n: The number of events.
        fields: The values of each field: ["const", value], ["differences", integers],
            ["bytes", lengths, bytes] or ["values", values].
    """

    tag: str
    n: Count
    fields: list[list[Any]]


class Chunk(Record, frozen=True, kw_only=True):
    """The steps of some segments by column, and the events among them: the contents of one flush.

    Attributes:
        layouts: How the columns of each field make up a value: ["leaf", index of the column],
            ["dict", keys, layouts] or ["tuple", layouts].
        irregular: Infos that did not fit the layout, as (episode, step, data).
        journal: The number of the last record of the journal whose contents are in this chunk or
            before it, -1 if the log has no journal.
        tables: The events by kind, in a chunk that was compacted; `events` is empty then. A reader
            turns them into `events`.
        order: The number of the table that each event comes from, a byte an event.
    """

    time_ns: Time
    segments: list[Segment]
    columns: list[Column]
    layouts: dict[str, Any]
    events: list[Event]
    irregular: list[tuple[Count, Count, bytes]] = msgspec.field(default_factory=list)
    journal: LargeCountOrNone = -1
    tables: list[EventTable] = msgspec.field(default_factory=list)
    order: bytes = b""


class FrameTable(Record, frozen=True):
    """The frames before the footer. They lie back to back, and are numbered from 0."""

    sizes: list[Count]
    kinds: list[Count]


class StepTable(Record, frozen=True):
    """The steps of each frame: a row for each episode that has rows or events in it.

    Attributes:
        frames: The numbers of the frames, as differences.
        episodes: The numbers of the episodes, as differences.
        n_steps: The number of steps from the first on, 0 if there are events of no step alone.
    """

    frames: list[Count]
    episodes: list[int]
    first_steps: list[LargeCount]
    n_steps: list[LargeCount]


class EpisodeTable(Record, frozen=True, kw_only=True):
    """The episodes of the log: a row for each. `trajrec.log.directory` explains the fields.

    Attributes:
        numbers: As differences.
        started_ns: As differences.
        durations_ns: Time of the end minus time of the reset; None without an end.
        first_frames: As differences.
        n_frames: The number of frames from the first to the last that have a part of the episode.
    """

    numbers: list[Count]
    kinds: list[str]
    tasks: list[str]
    seeds: list[int | None]
    started_ns: list[int]
    durations_ns: list[int | None]
    first_steps: list[LargeCount]
    end_steps: list[LargeCount]
    endings: list[str]
    total_rewards: list[float]
    first_frames: list[int]
    n_frames: list[Count]
    parent_ids: list[str]


class BlobTable(Record, frozen=True):
    """The values that are stored once.

    Attributes:
        digests: The digests, 16 bytes each, back to back.
        frames: The numbers of the frames that have them, as differences.
    """

    digests: bytes
    frames: list[Count]


class Footer(Record, frozen=True, kw_only=True):
    """The last record of a sealed log: a copy of the header, and the directory of its contents.

    Attributes:
        generation: 0 as the recorder wrote the log; each rewrite (`recover`, `compact`) adds one.
        content: The seal: BLAKE2b-128 over the headers of all frames before the footer.
    """

    header: Header
    generation: Count
    content: bytes
    n_episodes: Count
    n_steps: LargeCount
    frames: FrameTable
    steps: StepTable
    episodes: EpisodeTable
    blobs: BlobTable


def episode_id(log_id: str, episode: int) -> str:
    """Return the id of an episode, 16 hex digits: BLAKE2b-64 of its log's id and its number.

    >>> episode_id("c0ffee", 0)
    '99227362d0452b1a'
    """
    return hashlib.blake2b(f"{log_id}/{episode}".encode(), digest_size=8).hexdigest()
