"""Rows of the index's tables, as Python gathers them before DuckDB takes them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from trajrec.corpus.index.cells import stored_json, to_timestamp
from trajrec.corpus.index.views import EpisodeKind
from trajrec.log.annotations import PostHocCheck, ReplayVerdict
from trajrec.log.schema import Check, Failure

Time: TypeAlias = int | datetime.datetime
"""Microseconds since 1970 UTC. Rows that DuckDB returns have times of Python."""


class Row(msgspec.Struct, gc=False):
    """A row of a table: made in two thirds of the time of a named tuple. It holds no containers."""


class EpisodeRow(Row, kw_only=True):
    """A row of `all_episodes`: later chunks of a log set what is not set at first."""

    episode_id: str
    env_id: str | None
    number: int
    first_frame: int
    last_frame: int
    end_step: int = 0
    total_reward: float | None = 0.0
    ending: str | None = None
    outcome: str | None = None
    fault: str | None = None
    task: str | None = None
    task_revision: str | None = None
    metadata: str | None = None
    goal_digest: str | None = None
    tools_digest: str | None = None
    offered_digest: str | None = None
    system_digest: str | None = None
    prompt_digest: str | None = None
    stop_reason: str | None = None
    claimed_done: bool | None = None
    unseen: str | None = None
    terminated: bool | None = None
    truncated: bool | None = None
    n_failures: int = 0
    error_types: str | None = None
    tools_called: str | None = None
    missing_steps: int = 0
    redacted_step: int | None = None
    started_at: Time | None = None
    ended_at: Time | None = None
    seed: int | None = None
    seed_origin: str | None = None
    options: str | None = None
    parent_id: str | None = None
    fork_step: int | None = None
    caller_id: str | None = None
    caller_step: int | None = None
    state_adapter: str | None = None
    reset_key: int | None = None
    interface: str | None = None
    interface_id: str | None = None
    source: str | None = None
    reported: str | None = None
    extra: str | None = None
    is_copy: bool = False

    @property
    def n_steps(self) -> int:
        """Number of the episode's own steps."""
        return self.end_step - (self.fork_step or 0)

    @property
    def kind(self) -> EpisodeKind:
        """Kind of the episode."""
        if self.is_copy or self.parent_id is not None:
            return "copy" if self.is_copy else "fork"
        return "rollout" if self.caller_id is None else "nested"


class StepRow(Row, kw_only=True):
    """A row of `steps`, for an agent's decision. Steps of environments come as columns."""

    episode_id: str
    kind: EpisodeKind
    step: int
    action: str | None
    reward: float | None = None
    info: str | None = None
    state_key: int | None = None
    state_check: int | None = None
    extra: str | None = None


class FailureRow(Row, kw_only=True):
    """A row of `failures`."""

    episode_id: str
    kind: EpisodeKind
    step: int
    call: int | None = None
    attempt: int
    phase: str
    failure_kind: str
    origin: str
    error_type: str
    message: str
    traceback: str
    action: str | None = None
    recovered_at: int | None = None
    recovered_by: str | None = None
    failed_at: Time | None


class StateChangeRow(Row, kw_only=True):
    """A row of `state_changes`."""

    episode_id: str
    kind: EpisodeKind
    step: int
    call: int | None = None
    attempt: int | None = None
    actor: str = "agent"
    part: str = ""
    path: str
    keys: str | None
    before: str | None
    after: str | None
    origin: str = "observed"


class CheckRow(Row, kw_only=True):
    """A row of `checks`. A post-hoc check does not know the kind of its episode: the view does."""

    episode_id: str
    kind: EpisodeKind | None
    step: int
    check_id: str
    version: str
    family: str
    phase: str
    status: str
    verdict: bool | None
    score: float | None
    evidence: str | None
    code_digest: str | None
    state_digest: str | None
    is_primary: bool
    checked_at: Time | None
    extra: str | None = None


# The defaults are those of an attempt without an end.
class AttemptRow(Row, kw_only=True):
    """A row of `attempts`."""

    episode_id: str
    kind: EpisodeKind
    step: int
    call: int
    attempt: int
    tool: str
    call_id: str | None
    arguments: str
    access: str
    invalid: str | None
    outcome: str = "open"
    result: str | None = None
    is_raised: bool | None = None
    error_type: str | None = None
    message: str | None = None
    latency_ms: float | None = None
    backoff_ms: float
    retry_by: str | None
    retry_of_step: int | None = None
    retry_of_call: int | None = None
    followed_by_step: int | None = None
    followed_by_call: int | None = None
    argument_changes: str | None
    state_digest: str | None
    finding: str | None
    is_redacted: bool
    actor: str
    started_at: Time | None
    extra: str | None = None


class ModelCallRow(Row, kw_only=True):
    """A row of `model_calls`."""

    episode_id: str
    kind: EpisodeKind
    number: int
    step: int
    attempt: int
    model: str | None
    dialect: str | None
    tools: str | None
    n_messages: int
    parameters: str
    answer: str | None
    finish_reason: str | None
    is_complete: bool | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    cost: float | None
    outcome: str
    status: int | None
    error_type: str | None
    message: str | None
    retry_by: str | None
    latency_ms: float | None
    is_streamed: bool | None
    is_reconstructed: bool = False
    started_at: Time | None
    extra: str | None = None


class MessageRow(Row, kw_only=True):
    """A row of `messages`."""

    episode_id: str
    kind: EpisodeKind
    number: int
    model_call: int | None
    step: int
    role: str
    origin: str
    tool: str | None
    call_ids: str
    digest: str
    n_chars: int
    text: str


class SideEffectRow(Row, kw_only=True):
    """A row of `side_effects`."""

    episode_id: str
    kind: EpisodeKind
    number: int
    step: int
    name: str
    arguments: str
    value: str | None
    error_type: str | None
    is_redacted: bool
    entered_at: Time | None


class CreditRow(Row, kw_only=True):
    """A row of `credit`. The kind of its episode is in another log: the view finds it."""

    run_id: str
    episode_id: str
    kind: EpisodeKind | None = None
    step: int
    estimator: str
    estimand: str
    value: float | None
    ci_low: float
    ci_high: float
    ci_method: str
    n: int
    n_discordant: int | None
    n_invalid: int
    env_steps: int
    policy_calls: int
    action: str | None
    policy_id: str
    noise: str
    seed: int
    restore: str
    notes: str
    created_at: Time | None


class RolloutRow(Row, kw_only=True):
    """A row of `rollouts`. The kind of its episode is in another log: the view finds it."""

    run_id: str
    episode_id: str
    kind: EpisodeKind | None = None
    fork_step: int
    arm: str
    scenario: int
    episode_return: float
    score: float | None
    length: int
    env_steps: int
    coalesced_at: int | None
    status: str


class ReplayRow(Row, kw_only=True):
    """A row of `replays`. Like a post-hoc check, it does not know the kind of its episode."""

    run_id: str
    episode_id: str
    kind: EpisodeKind | None = None
    against: str
    grade: str
    n_steps: int
    step: int | None
    field: str | None
    expected: str | None
    actual: str | None
    cause: str | None
    ulps: int | None
    compared: str
    notes: str
    versions: str | None
    replayed_at: Time | None


def replay_row(event: ReplayVerdict) -> ReplayRow:
    """Return the row of the verdict of a replay."""
    return ReplayRow(
        run_id=event.run_id,
        episode_id=event.target,
        against=event.against,
        grade=event.grade,
        n_steps=event.n_steps,
        step=event.step,
        field=event.field or None,
        expected=stored_json(event.expected_data),
        actual=stored_json(event.actual_data),
        cause=event.cause or None,
        ulps=event.ulps or None,
        compared=json.dumps(event.compared),
        notes=json.dumps(event.notes),
        versions=stored_json(event.versions_data),
        replayed_at=to_timestamp(event.time_ns),
    )


def failure_row(episode: EpisodeRow, event: Failure) -> FailureRow:
    """Return the row of an exception, which refers to no stored value."""
    return FailureRow(
        episode_id=episode.episode_id,
        kind=episode.kind,
        step=event.step,
        attempt=event.attempt,
        phase=event.phase,
        failure_kind="error",
        origin=event.origin,
        error_type=event.error_type,
        message=event.message,
        traceback=event.traceback,
        action=stored_json(event.action_data),
        failed_at=to_timestamp(event.time_ns),
    )


def check_row(
    episode_id: str,
    kind: EpisodeKind | None,
    event: Check | PostHocCheck,
    *,
    is_primary: bool = False,
    to_json: Callable[[bytes | None], str | None] = stored_json,
    extra: str | None = None,
) -> CheckRow:
    """Return the row of a verdict.

    Args:
        episode_id: The episode.
        kind: Its kind, None if it is unknown.
        event: The verdict.
        is_primary: Whether it decides the outcome.
        to_json: Returns an encoded value as JSON; an agent's may refer to a stored value.
        extra: Facts of an imported check without a column, as JSON.
    """
    return CheckRow(
        episode_id=episode_id,
        kind=kind,
        step=event.step,
        check_id=event.check_id,
        version=event.version,
        family=event.family,
        phase=event.phase if isinstance(event, Check) else "post-hoc",
        status=event.status,
        verdict=event.verdict,
        score=event.score,
        evidence=to_json(event.evidence_data),
        code_digest=event.code_digest,
        state_digest=event.state_digest,
        is_primary=is_primary,
        checked_at=to_timestamp(event.time_ns),
        extra=extra,
    )
