"""What a log holds, as records. docs/format.md describes the same, byte by byte.

Structs are stored as msgpack arrays: a field may be appended with a default, never removed or moved. Fields called `*_data`
hold bytes of `trajrec.codec.encode`.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

FORMAT_VERSION = 1

Ending = Literal["terminated", "truncated", "abandoned", "error"]
"""How an episode ended: by the environment, a limit, a reset or close in its middle, an exception. One whose process is gone
has no end record; readers call it "interrupted", or "running" while its writer lives."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """What every record is."""


class EnvRecord(Record, frozen=True):
    """The environment, as far as needed to make it again.

    `kwargs_data` is a dict; `wrappers` lists what was put around `gymnasium.make`'s own result, innermost first, as
    (class name, kwargs data or None where they are unknown). `recreatable` is "" where the environment can be made from
    this record, else the reason why not.
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
    """How the state was captured: adapter and version ("" where none fits), and what is kept of it."""

    adapter: str = ""
    version: int = 0
    keep: Literal["every", "digest", "none"] = "none"


class Header(Record, frozen=True):
    """The first record of a log: who recorded what, under which conditions.

    `runtime` holds versions (python, platform, cpu, packages) and settings that can change results (hash seed, threads).
    `interface_data` holds the interface as the caller gave it, or None where unknown.
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
    """Consecutive steps of one episode in a chunk. With `has_reset`, an observation and state row of the reset come first."""

    episode: int
    first_step: int
    n_steps: int
    has_reset: bool


class Column(Record, frozen=True):
    """One column of a chunk; its bytes lie in the data part at `offset`, zstd-compressed from `raw_bytes` to `size`.

    `kind` says what a row is: "array" (one array of `dtype` and `shape`), "scalar" (one number of `type_name`), "value" (one
    encoded value), "const" (the same encoded value in every row). `rows` gives the rows (of `n_total`) that have a value,
    encoded, where not all have one.
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


class EpisodeStart(Record, tag="start", frozen=True):
    """A reset. `seed_origin` says whether the caller gave the seed or the recorder did because nothing else was reproducible.
    `rng_data` holds the state of the environment's generators just before the reset, where it was not seeded."""

    episode: int
    time_ns: int
    seed: int | None
    seed_origin: Literal["caller", "recorder", "none"]
    options_data: bytes | None
    rng_data: bytes | None
    info_data: bytes


class Fork(Record, tag="fork", frozen=True):
    """Says that an episode goes on from another one: follows its EpisodeStart, the other's with a time of its own. Its steps
    begin with `step`. `kind`: what is different from there on. `noise`: "recorded" where the environment's generators went on,
    else what they were seeded from. `level`: how the state was reached. docs/format.md says more."""

    episode: int
    parent_id: str
    step: int
    kind: Literal["actions", "policy", "agent"]
    noise: str = "recorded"
    level: str = "prefix"
    metadata_data: bytes | None = None


class Keyframe(Record, tag="keyframe", frozen=True):
    """The state of the environment before a step of a long episode, as plain data: see trajrec.state.keyframes."""

    episode: int
    step: int
    data: bytes


class EpisodeEnd(Record, tag="end", frozen=True):
    """The end of an episode after `n_steps` steps. Done and succeeded are different things: see `Check`.

    Of an agent's episode: `stop_reason` says why its loop ended ("" where unknown), `said_done` what the agent claimed.
    """

    episode: int
    time_ns: int
    n_steps: int
    ending: Ending
    terminated: bool
    truncated: bool
    stop_reason: str = ""
    said_done: bool | None = None


class Failure(Record, tag="failure", frozen=True):
    """An exception, by where it came from. `step` is the step that failed, -1 for a reset; `action_data` what was tried."""

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


class Check(Record, tag="check", frozen=True):
    """One verdict of one version of one verifier on one state. `verdict` is None where the check gave none."""

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


class TaskStart(Record, tag="task", frozen=True):
    """What an agent was asked to do and where: follows the EpisodeStart of an agent's episode.

    `world` names the world's class as "module:Class", "" where there is none; `world_data` its arguments, None where unknown.
    `tools_data` lists (name, JSON schema or None, effect); `parts` how each part of the state was captured, as (part, adapter,
    version). `within_id` and `within_step` say in which episode, at which step, this one was begun. With `held_seed` the
    clock was held at the time of the reset and of each call, and what draws unseeded was seeded from it and the call's place.
    """

    episode: int
    task: str
    goal_data: bytes | None
    world: str
    world_data: bytes | None
    tools_data: bytes
    parts: list[tuple[str, str, int]]
    interface_data: bytes | None
    metadata_data: bytes | None
    within_id: str | None = None
    within_step: int | None = None
    held_seed: int | None = None


Effect = Literal["read", "write", "external", "unknown"]
"""What a tool does: looks, changes the recorded world, reaches beyond it."""

RetryBy = Literal["", "agent", "scaffold", "transport", "harness"]


class CallStart(Record, tag="call", frozen=True):
    """One attempt at a tool call. `call` counts the calls of a step, `attempt` the tries of a call.

    `invalid` says why the call could not be what the agent meant (an unknown tool, arguments that do not fit), "" where it
    could. `retry_by` says who tried again, for attempts beyond the first.
    """

    episode: int
    step: int
    call: int
    attempt: int
    time_ns: int
    tool: str
    call_id: str
    arguments_data: bytes
    effect: Effect
    invalid: str = ""
    retry_by: RetryBy = ""
    backoff_ns: int = 0
    is_redacted: bool = False


class CallEnd(Record, tag="result", frozen=True):
    """What came of an attempt. Without one the attempt was open when the log ended.

    `outcome` "error" covers what the tool raised and what it returned as an error (`is_raised` tells them apart).
    """

    episode: int
    step: int
    call: int
    attempt: int
    time_ns: int
    outcome: Literal["ok", "error", "timeout", "cancelled"]
    result_data: bytes | None
    is_raised: bool = False
    origin: str = ""
    error_type: str = ""
    message: str = ""
    traceback: str = ""
    is_redacted: bool = False
    is_async: bool = False


class StateChange(Record, tag="state", frozen=True):
    """What an attempt changed in one part of the state; step -1 is the reset, where `data` holds the part whole.

    Otherwise `data` holds the changes, in the part's own form, or None where only the digest is known. `note` says what is
    remarkable: a tool that was declared to read wrote; the state could not be captured.
    """

    episode: int
    step: int
    call: int
    attempt: int
    part: str
    digest: str
    data: bytes | None
    note: str = ""


class ModelStart(Record, tag="model", frozen=True):
    """One attempt at a model call, which opens a step. The messages are those of an earlier call of the episode and new ones:
    the first `kept` of model call `base` (-1: none), then `messages`. `request_data` holds the other arguments. Large values
    are references to blobs."""

    episode: int
    step: int
    number: int
    time_ns: int
    function: str
    request_data: bytes
    base: int
    kept: int
    messages: list[bytes]
    attempt: int = 0
    retry_by: RetryBy = ""
    is_redacted: bool = False


class ModelEnd(Record, tag="answer", frozen=True):
    """What a model answered; streamed answers come as the list of their pieces."""

    episode: int
    number: int
    time_ns: int
    outcome: Literal["ok", "error", "cancelled"]
    answer_data: bytes | None
    is_streamed: bool = False
    error_type: str = ""
    message: str = ""
    traceback: str = ""
    is_redacted: bool = False
    is_async: bool = False


class EffectValue(Record, tag="effect", frozen=True):
    """A value that entered from outside the program: clock, random, network. Given back when the agent is run again."""

    episode: int
    step: int
    time_ns: int
    name: str
    arguments_data: bytes
    value_data: bytes | None
    error_type: str = ""
    message: str = ""
    is_redacted: bool = False


class Blob(Record, tag="blob", frozen=True):
    """A value stored once in a log; others refer to it by its digest (BLAKE2b-128 of `data`)."""

    episode: int
    digest: bytes
    data: bytes


class Regrade(Record, tag="regrade", frozen=True):
    """A check of an episode that was recorded before, in whatever log: `target` is its id. Nothing recorded is overwritten.

    The fields are those of `Check`; `episode` is -1, for it is none of this log's.
    """

    episode: int
    target: str
    step: int
    time_ns: int
    check_id: str
    version: str
    family: str
    status: Literal["ok", "error", "not_evaluated"]
    verdict: bool | None
    score: float | None
    evidence_data: bytes | None
    code_digest: str | None
    state_digest: str | None


AgentEvent = TaskStart | CallStart | CallEnd | StateChange | ModelStart | ModelEnd | EffectValue | Blob | Regrade
"""What only logs of agents hold."""

Event = EpisodeStart | Fork | Keyframe | EpisodeEnd | Failure | Check | AgentEvent


class Chunk(Record, frozen=True):
    """What one flush hands over: the steps of some segments by column, and the events among them.

    `layouts` says for each field how its columns make up a value: ["leaf", column index], ["dict", keys, layouts] or
    ["tuple", layouts]. `irregular` lists infos that did not fit the layout as (episode, step, data).
    """

    time_ns: int
    segments: list[Segment]
    columns: list[Column]
    layouts: dict[str, Any]
    events: list[Event]
    irregular: list[tuple[int, int, bytes]] = []


class FrameEntry(Record, frozen=True):
    """Where a frame lies, and which episodes have steps or events in it."""

    offset: int
    size: int
    kind: int
    episodes: list[int]


class Footer(Record, frozen=True):
    """The last record of a sealed log: the header again, and the directory of its frames."""

    header: Header
    frames: list[FrameEntry]
    n_episodes: int
    n_steps: int


def episode_id(log_id: str, episode: int) -> str:
    """Return the id of an episode: BLAKE2b-64 of its log's id and its number there, as 16 hex digits.

    >>> episode_id("c0ffee", 0)
    '99227362d0452b1a'
    """
    return hashlib.blake2b(f"{log_id}/{episode}".encode(), digest_size=8).hexdigest()
