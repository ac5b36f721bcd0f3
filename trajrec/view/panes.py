"""One step of an episode whole: the model's turn, each try at each call, and the state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from trajrec.corpus.alternatives import shown_alternative
from trajrec.corpus.attempts import Attempt, AttemptKey
from trajrec.corpus.call_contents import content_of
from trajrec.corpus.episode import Episode
from trajrec.corpus.place_history import MadeChange, place_pointer
from trajrec.corpus.transcript import ModelCall
from trajrec.errors import CorpusError, LogError, StateUnknownError
from trajrec.log.schema import Check, Failure
from trajrec.types import JsonObject, Value
from trajrec.values.diff import MISSING, Change, diff
from trajrec.values.json import describe_path, to_json_value, to_pointer, with_named_arrays
from trajrec.view.rows import AgentStep, attempt_status
from trajrec.view.text import Shown, cell, json_text, shown, shown_message, shown_text

LastChanges: TypeAlias = dict[tuple[str, str], list[tuple[int, int]]]
"""Part and path of each place of the state -> number and step of each of its changes."""

MAX_CHANGES = 200
"""Changes of the state that a step shows; the rest is counted."""

MAX_MESSAGES = 40
"""New messages of a model's turn that a step shows."""


@dataclass(frozen=True, kw_only=True)
class MessageView:
    """A message that a model call has and no earlier one had."""

    role: str
    tool: str | None
    text: Shown


@dataclass(frozen=True, kw_only=True)
class TurnView:
    """A model call.

    Attributes:
        facts: Facts by name, such as the tokens.
        messages: New messages, the first of them.
        n_new: All new messages.
        answer: The text of the answer, None if there is none.
        asked: The name and arguments of each tool call that the answer asks for.
        error: The error; "" if there was none.
    """

    model: str
    outcome: str
    facts: JsonObject
    messages: Sequence[MessageView]
    n_new: int
    n_messages: int
    answer: Shown | None
    asked: Sequence[tuple[str, Shown]]
    error: str


@dataclass(frozen=True, kw_only=True)
class ChangeView:
    """A change of one place of the state.

    Attributes:
        place: The place, in words.
        before: The value before; None if there was none.
        after: The value after; None if there is none.
        pointer: The place as an address has it.
        who: Who made it, if the page has no other place for that.
        last_changed: The step that had changed it before; None if none had.
    """

    place: str
    before: Shown | None
    after: Shown | None
    pointer: str = ""
    who: str = ""
    last_changed: int | None = None


@dataclass(frozen=True, kw_only=True)
class AttemptView:
    """A try at a call of a tool.

    Attributes:
        status: A key of the list's colours.
        words: The status in words.
        retried: The step of the failed attempt that it repeats; None if it repeats none.
        argument_changes: Changes of the arguments since that attempt.
    """

    tool: str
    call: int
    attempt: int
    status: str
    words: str
    recovered_at: int | None
    facts: JsonObject
    arguments: Shown
    result: Shown | None
    error: Shown | None
    retried: int | None
    retry_by: str
    argument_changes: Sequence[ChangeView]
    notes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class FailureView:
    """An exception."""

    title: str
    message: Shown
    traceback: Shown | None


@dataclass(frozen=True, kw_only=True)
class CheckView:
    """A verdict."""

    title: str
    status: str
    words: str
    evidence: Shown | None


@dataclass(frozen=True, kw_only=True)
class Pane:
    """All that the page shows of a step.

    Attributes:
        values: Values of a step of an environment by name: action, reward, observation, info.
        state_note: Why the changes of the state are unknown; "" if they are known.
        n_changes: All changes, of which `changes` has the first.
    """

    step: int
    turns: Sequence[TurnView] = ()
    attempts: Sequence[AttemptView] = ()
    values: Sequence[tuple[str, Shown]] = ()
    failures: Sequence[FailureView] = ()
    checks: Sequence[CheckView] = ()
    changes: Sequence[ChangeView] = ()
    n_changes: int = 0
    state_note: str = ""


def agent_pane(
    episode: Episode,
    item: AgentStep,
    *,
    overcome: dict[AttemptKey, str],
    argument_changes: dict[AttemptKey, list[Change]],
    made: Sequence[MadeChange],
    last_changes: LastChanges,
) -> Pane:
    """Return a step of an agent.

    Args:
        episode: The episode.
        item: The step.
        overcome: See `trajrec.view.rows.overcome_words`.
        argument_changes: See `trajrec.corpus.attempts.argument_changes`.
        made: The changes of the state in this step.
        last_changes: The changes of each place of the state.
    """
    changes = [
        _state_change(one, change, last_changes, is_only=len(item.attempts) == 1)
        for one in made
        for change in one.changes
    ]
    is_watched = bool(episode.transcript.initial_digests)
    return Pane(
        step=item.step,
        turns=[_turn(episode, call) for call in item.model_calls],
        attempts=[
            _attempt(attempt, overcome.get(attempt.key), argument_changes.get(attempt.key, []))
            for attempt in item.attempts
        ],
        failures=list(map(failure_view, item.failures)),
        checks=_checks(episode, item.step),
        changes=changes[:MAX_CHANGES],
        n_changes=len(changes),
        state_note="" if is_watched else "no state was watched",
    )


def environment_pane(episode: Episode, step: int) -> Pane:
    """Return a step of an environment."""
    failures = [failure_view(failure) for failure in episode.failures if failure.step == step]
    checks = _checks(episode, step)
    try:
        found = episode.step_at(step)
    except (CorpusError, LogError) as exc:
        lost = FailureView(title="lost", message=shown_text(str(exc)), traceback=None)
        return Pane(step=step, failures=[lost, *failures], checks=checks)
    values: list[tuple[str, Shown]] = [("action", shown(found.action))]
    if found.failure is None:
        values += [("reward", shown(found.reward)), ("observation", shown(found.observation))]
    if found.info:
        values.append(("info", shown(found.info)))
    changes, note = _state_changes(episode, step)
    return Pane(
        step=step,
        values=values,
        failures=failures,
        checks=checks,
        changes=[
            replace(change_view(change), pointer=to_pointer(change.path))
            for change in changes[:MAX_CHANGES]
        ],
        n_changes=len(changes),
        state_note=note,
    )


def state_text(episode: Episode, step: int, *, is_page: bool = False) -> tuple[Value, str]:
    """Return the state before a step as JSON values, or None and the reason why it is unknown.

    On a page a large array stands by its dtype and shape; for programs it is null.
    """
    try:
        state = episode.state(step)
        return to_json_value(with_named_arrays(state) if is_page else state), ""
    except StateUnknownError as exc:
        return None, exc.what
    except (CorpusError, LogError, IndexError) as exc:
        return None, str(exc)
    except RecursionError:
        return None, "it is nested too deeply to show"


def _state_changes(episode: Episode, step: int) -> tuple[list[Change], str]:
    """Return the changes by a step of an environment, or the reason why they are unknown."""
    try:
        return diff(episode.state(step), episode.state(step + 1)), ""
    except StateUnknownError as exc:
        return [], exc.what
    except (CorpusError, LogError, IndexError) as exc:
        return [], str(exc)
    except RecursionError:
        return [], "the state is nested too deeply to compare"


def _turn(episode: Episode, call: ModelCall) -> TurnView:
    content = content_of(call)
    answer = content.answer
    new = [
        message
        for message in episode.transcript.messages
        if message.model_call == call.start.number and message.origin == "request"
    ]
    error = ""
    if call.end is not None and call.end.error_type:
        error = f"{call.end.error_type}: {call.end.message}"
    text: Shown | None = None
    if answer is not None and answer.text is not None:
        text = shown_text(answer.text)
    elif call.has_answer and not (answer is not None and answer.calls):
        text = shown(call.answer)
    asked = [] if answer is None else answer.calls
    return TurnView(
        model=str(call.request.get("model") or (answer.model if answer else None) or ""),
        outcome=call.outcome,
        facts=_turn_facts(call),
        messages=[
            MessageView(role=message.role, tool=message.tool, text=shown_message(message))
            for message in new[:MAX_MESSAGES]
        ],
        n_new=len(new),
        n_messages=len(content.messages),
        answer=text,
        asked=[(tool.name or "(no name)", shown(tool.arguments)) for tool in asked],
        error=error,
    )


def _turn_facts(call: ModelCall) -> JsonObject:
    answer = content_of(call).answer
    facts: JsonObject = {"alternative": shown_alternative(call)}
    if answer is not None:
        facts["tokens in"] = answer.usage.input
        facts["tokens out"] = answer.usage.output
        facts["finish"] = answer.finish_reason
    for name, value in call.request.items():
        if name not in ("model", "messages", "input", "contents", "tools", "system", "args"):
            facts[name] = cell(json_text(value), 120)
    return {name: value for name, value in facts.items() if value is not None}


def _attempt(
    attempt: Attempt, overcome: str | None, argument_changes: Sequence[Change]
) -> AttemptView:
    status = attempt_status(attempt)
    error = None
    if attempt.end is not None and attempt.has_failed:
        kind = attempt.end.error_type
        error = shown_text(f"{kind}: {attempt.end.message}" if kind else attempt.end.message)
    is_returned = attempt.end is not None and not attempt.end.is_raised
    latency = attempt.latency_ms
    facts: JsonObject = {
        "latency": None if latency is None else f"{latency:,.1f} ms",
        "waited before": _milliseconds(attempt.start.backoff_ns),
        "access": attempt.start.access,
    }
    return AttemptView(
        tool=attempt.tool,
        call=attempt.start.call,
        attempt=attempt.start.attempt,
        status=status,
        words=overcome or _outcome_words(attempt, status),
        recovered_at=attempt.recovered_at,
        facts={name: value for name, value in facts.items() if value},
        arguments=shown(attempt.arguments),
        result=shown(attempt.result) if is_returned or attempt.left_ns else None,
        error=error,
        retried=None if attempt.retry_of is None else attempt.retry_of[0],
        retry_by=attempt.retry_by,
        argument_changes=[change_view(change) for change in argument_changes],
        notes=attempt.notes,
    )


def _outcome_words(attempt: Attempt, status: str) -> str:
    if status == "open":
        return "open when the episode ended" if attempt.left_ns else "no end recorded"
    if status == "unknown":
        return "outcome unknown"
    return attempt.outcome if attempt.has_failed else "ok"


def _milliseconds(time_ns: int) -> str | None:
    return f"{time_ns / 1e6:,.1f} ms" if time_ns else None


def change_view(change: Change) -> ChangeView:
    """Return a change of a value for the page."""
    return ChangeView(
        place=describe_path(change.path),
        before=None if change.before is MISSING else shown(change.before),
        after=None if change.after is MISSING else shown(change.after),
    )


def _state_change(
    made: MadeChange, change: Change, last_changes: LastChanges, *, is_only: bool
) -> ChangeView:
    path = describe_path(change.path)
    earlier = [
        step for number, step in last_changes.get((made.part, path), ()) if number < made.number
    ]
    # A step with one call needs no word on who changed the state, unless it was not that call.
    is_clear = is_only and made.call is not None
    return replace(
        change_view(change),
        place=f"{made.part}{path}" or "(whole state)",
        pointer=place_pointer(made.part, change.path),
        who="" if is_clear else made.who,
        last_changed=earlier[-1] if earlier else None,
    )


def failure_view(failure: Failure) -> FailureView:
    """Return an exception for the page."""
    kind = f"{failure.error_type}: " if failure.error_type else ""
    return FailureView(
        title=f"{failure.phase}, fault of {failure.origin}",
        message=shown_text(f"{kind}{failure.message}"),
        traceback=shown_text(failure.traceback) if failure.traceback else None,
    )


def _checks(episode: Episode, step: int) -> list[CheckView]:
    """Return the verdicts on the state after a step."""
    return [check_view(episode, check) for check in episode.checks if check.step == step + 1]


def check_view(episode: Episode, check: Check) -> CheckView:
    """Return a verdict for the page."""
    words = {True: "passed", False: "failed", None: check.status}[check.verdict]
    score = "" if check.score is None else f", score {check.score:g}"
    evidence = None
    if check.evidence_data is not None:
        try:
            evidence = shown(episode.value(check.evidence_data))
        except LogError as exc:
            evidence = shown_text(str(exc))
    version = f" version {check.version}" if check.version else ""
    return CheckView(
        title=f"check {check.check_id}{version}",
        status={True: "ok", False: "failed", None: "unknown"}[check.verdict],
        words=f"{words}{score}",
        evidence=evidence,
    )
