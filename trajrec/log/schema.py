"""What a log holds, as records. docs/reference/log-format.md describes the same, byte by byte.

Structs are stored as msgpack arrays: a field may be appended with a default, never removed or moved. Fields called `*_data`
hold bytes of `trajrec.values.codec.encode`.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from trajrec.log.events import AgentEvent, Record

FORMAT_VERSION = 1

Ending = Literal["terminated", "truncated", "abandoned", "error"]
"""How an episode ended: by the environment, a limit, a reset or close in its middle, an exception. One whose process is gone
has no end record; readers call it "interrupted", or "running" while its writer lives."""


class EnvRecord(Record, frozen=True, kw_only=True):
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


class Header(Record, frozen=True, kw_only=True):
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


class Column(Record, frozen=True, kw_only=True):
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


class EpisodeStart(Record, tag="start", frozen=True, kw_only=True):
    """A reset. `seed_origin` says whether the caller gave the seed or the recorder did because nothing else was reproducible.
    `rng_data` holds the state of the environment's generators just before the reset, where it was not seeded."""

    episode: int
    time_ns: int
    seed: int | None
    seed_origin: Literal["caller", "recorder", "none"]
    options_data: bytes | None
    rng_data: bytes | None
    info_data: bytes


class Fork(Record, tag="fork", frozen=True, kw_only=True):
    """Says that an episode goes on from another one: follows its EpisodeStart, the other's with a time of its own. Its steps
    begin with `step`. `kind`: what is different from there on. `noise`: "recorded" where the environment's generators went on,
    else what they were seeded from. `level`: how the state was reached. docs/reference/log-format.md says more."""

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
    """The state of the environment before a step of a long episode, as plain data: see trajrec.envstate.keyframes."""

    episode: int
    step: int
    data: bytes


class EpisodeEnd(Record, tag="end", frozen=True, kw_only=True):
    """The end of an episode after `n_steps` steps. Done and succeeded are different things: see `Check`.

    Of an agent's episode: `stop_reason` says why its loop ended ("" where unknown), `claimed_done` what the agent claimed.
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


class Check(Record, tag="check", frozen=True, kw_only=True):
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


Event = EpisodeStart | Fork | Keyframe | EpisodeEnd | Failure | Check | AgentEvent


class Chunk(Record, frozen=True, kw_only=True):
    """What one flush hands over: the steps of some segments by column, and the events among them.

    `layouts` says for each field how its columns make up a value: ["leaf", column index], ["dict", keys, layouts] or
    ["tuple", layouts]. `irregular` lists infos that did not fit the layout as (episode, step, data).
    """

    time_ns: int
    segments: list[Segment]
    columns: list[Column]
    layouts: dict[str, Any]
    events: list[Event]
    irregular: list[tuple[int, int, bytes]] = msgspec.field(default_factory=list)


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
