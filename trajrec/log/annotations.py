"""Records about episodes of other logs: later checks, credit, replays, labels, imports, removals.

Each is appended in a log of its own, so that the log of the episode stays as it was recorded. Their
field `episode` is -1.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trajrec.log.bounds import Count, CountOrNone, Time
from trajrec.log.events import Record

Elsewhere = Annotated[int, msgspec.Meta(ge=-1, le=-1)]
"""The field `episode` of an annotation: -1, since its episode is in another log."""


class PostHocCheck(Record, tag="post_hoc_check", frozen=True, kw_only=True):
    """A later check of a recorded episode, whose own checks stay as they are.

    The other fields are those of `trajrec.log.schema.Check`.

    Attributes:
        episode: -1, since the episode is not in this log.
        target: The id of the episode.
    """

    episode: Elsewhere
    target: str
    step: CountOrNone
    time_ns: Time
    check_id: str
    version: str
    family: str
    status: Literal["ok", "error", "not_evaluated"]
    verdict: bool | None
    score: float | None
    evidence_data: bytes | None
    code_digest: str | None
    state_digest: str | None
    is_primary: bool = False
    extra_data: bytes | None = None


class CreditRun(Record, tag="credit", frozen=True, kw_only=True):
    """Estimates for the steps of a recorded episode. A later run is another record.

    Attributes:
        episode: -1, since the episode is not in this log.
        target: The id of the episode.
        estimates_data: Columns by name: docs/reference/log-format.md lists them.
        rollouts_data: Columns by name, with one value for each rollout.
    """

    episode: Elsewhere
    target: str
    run_id: str
    time_ns: Time
    policy: str
    noise: str
    seed: int
    restore: str
    notes: list[str]
    estimates_data: bytes
    rollouts_data: bytes
    extra_data: bytes | None = None


class ReplayVerdict(Record, tag="replay", frozen=True, kw_only=True):
    """The result of one replay of a recorded episode.

    Attributes:
        target: The id of the episode.
        against: The environment, world or agent that the episode was replayed in.
        grade: The grade of the report.
        n_steps: The number of steps that were compared.
        step: The first step that diverged, None if none did.
        field: The field that diverged there, "" if none did.
        expected_data: Its recorded value.
        actual_data: Its value in the replay.
        cause: The cause that an experiment showed, "" if none did.
        compared: The fields that were compared.
        versions_data: The versions and settings of the replaying process, as in a header.
    """

    episode: Elsewhere
    target: str
    run_id: str
    time_ns: Time
    against: str
    grade: str
    n_steps: Count
    step: CountOrNone | None
    field: str
    expected_data: bytes | None
    actual_data: bytes | None
    cause: str
    ulps: Count
    compared: list[str]
    notes: list[str]
    versions_data: bytes | None
    extra_data: bytes | None = None


class Label(Record, tag="label", frozen=True, kw_only=True):
    """A label of an episode or of a step, by a person, a judge or a program.

    Attributes:
        target: The id of the episode.
        step: The step, None if the label is of the whole episode.
        name: The name of the label: "correct", "mistake", a tag of the user.
        value_data: Its value, None for a tag without one.
        by: Who gave it.
        author: The name of the person, model or program.
    """

    episode: Elsewhere
    target: str
    step: CountOrNone | None
    time_ns: Time
    name: str
    value_data: bytes | None
    by: Literal["person", "judge", "program"]
    author: str = ""
    rationale: str = ""
    extra_data: bytes | None = None


class ImportRecord(Record, tag="import", frozen=True, kw_only=True):
    """The origin of imported episodes, and the account of the import.

    Attributes:
        source: The name of the file or record.
        sha256: The digest of its bytes, in hex.
        format: The name of its format.
        format_version: The version that it states, "" if none.
        importer: The program that imported it, with its version.
        targets: The ids of the imported episodes.
        report_data: The account: the numbers found, placed, unknown, kept as extra, and dropped.
    """

    episode: Elsewhere
    time_ns: Time
    source: str
    sha256: str
    format: str
    format_version: str
    importer: str
    targets: list[str]
    report_data: bytes | None = None
    extra_data: bytes | None = None


class Tombstone(Record, tag="removed", frozen=True, kw_only=True):
    """Episodes that somebody removed from the corpus.

    Attributes:
        log_id: The log that held them.
        targets: The ids of the episodes.
        reason: The reason that was given.
    """

    episode: Elsewhere
    time_ns: Time
    log_id: str
    targets: list[str]
    reason: str
    extra_data: bytes | None = None


Annotation = PostHocCheck | CreditRun | ReplayVerdict | Label | ImportRecord | Tombstone
