"""An episode as the rows of its list: one line for each step."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trajrec.corpus.attempts import Attempt, AttemptKey
from trajrec.corpus.call_contents import content_of
from trajrec.corpus.episode import Episode
from trajrec.corpus.transcript import ModelCall
from trajrec.errors import LogError
from trajrec.log.schema import API_FIELD, Failure
from trajrec.types import JsonObject, Value
from trajrec.values.diff import diff
from trajrec.values.json import to_json_value
from trajrec.view.text import cell, json_text

WINDOW = 500
"""Steps in a list of an episode that is too long to be listed whole."""

MAX_LISTED = 2_000
"""Steps of the longest episode that is listed whole."""

MAX_EMPTY_STEPS = 100_000
"""Steps that are looked at without a record of them: a forged end may state billions."""

_NAME = 60
_CELL = 90

MAX_PLAYERS = 8
"""Players of which the head of an episode has the returns."""


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """A line of the list.

    Attributes:
        step: The step.
        name: The tool or the action.
        arguments: The arguments of the call.
        status: ok, failed, overcome, again, open, unknown, or "" if there is nothing to tell.
        words: The status in words.
        result: The result, the error, or the reward.
        n_changes: Changes of the state.
    """

    step: int
    name: str
    arguments: str = ""
    status: str = ""
    words: str = ""
    result: str = ""
    n_changes: int = 0


@dataclass(frozen=True, kw_only=True)
class AgentStep:
    """What an agent's episode holds of one step."""

    step: int
    model_calls: Sequence[ModelCall]
    attempts: Sequence[Attempt]
    failures: Sequence[Failure]


def agent_steps(episode: Episode) -> list[AgentStep]:
    """Return the steps of an agent's episode, in order, with their calls and failures."""
    transcript = episode.transcript
    models: dict[int, list[ModelCall]] = {}
    attempts: dict[int, list[Attempt]] = {}
    failures: dict[int, list[Failure]] = {}
    for call in transcript.model_calls:
        models.setdefault(call.start.step, []).append(call)
    for attempt in transcript.attempts:
        attempts.setdefault(attempt.start.step, []).append(attempt)
    for failure in episode.failures:
        failures.setdefault(failure.step, []).append(failure)
    first = episode.first_step
    stated = range(first, min(episode.end_step, first + MAX_EMPTY_STEPS))
    steps = {*stated, *models, *attempts, *failures}
    return [
        AgentStep(
            step=step,
            model_calls=models.get(step, []),
            attempts=attempts.get(step, []),
            failures=failures.get(step, []),
        )
        for step in sorted(steps)
    ]


def raw_step(item: AgentStep) -> JsonObject:
    """Return the values of a step whole, as JSON values."""
    return {
        "step": item.step,
        "model_calls": [
            {
                "request": to_json_value(call.request),
                "messages": to_json_value(call.messages),
                "answer": to_json_value(call.answer),
                "outcome": call.outcome,
            }
            for call in item.model_calls
        ],
        "attempts": [
            {
                "tool": attempt.tool,
                "call": attempt.start.call,
                "attempt": attempt.start.attempt,
                "arguments": to_json_value(attempt.arguments),
                "outcome": attempt.outcome,
                "result": to_json_value(attempt.result),
                "message": attempt.end.message if attempt.end is not None else None,
            }
            for attempt in item.attempts
        ],
    }


def overcome_words(attempts: Sequence[Attempt]) -> dict[AttemptKey, str]:
    """Return, for each failed attempt that was overcome, when, and with which arguments.

    A success with other arguments may be another thing altogether, so the words tell them apart.
    """
    retries = {attempt.retry_of: attempt for attempt in attempts if attempt.retry_of is not None}
    words = {}
    for attempt in attempts:
        if attempt.recovered_at is None:
            continue
        retry: Attempt | None = retries.get(attempt.key)
        seen = {attempt.key}
        while retry is not None and retry.outcome != "ok" and retry.key not in seen:
            seen.add(retry.key)
            retry = retries.get(retry.key)
        kind = ""
        if retry is not None:
            is_same = not diff(attempt.arguments, retry.arguments)
            kind = ", same arguments" if is_same else ", other arguments"
        words[attempt.key] = f"overcome at {attempt.recovered_at}{kind}"
    return words


def agent_row(item: AgentStep, overcome: dict[AttemptKey, str], n_changes: int) -> StepRow:
    """Return the line of a step of an agent, which changed some values of the state."""
    if not item.attempts:
        return replace(_row_without_calls(item), n_changes=n_changes)
    last_of_call = {attempt.start.call: attempt for attempt in item.attempts}
    first = last_of_call[min(last_of_call)]
    worst = max(item.attempts, key=lambda attempt: _SEVERITY[attempt_status(attempt)])
    n_more = len(last_of_call) - 1
    shown_attempt = worst if attempt_status(worst) in ("failed", "overcome") else first
    # The tool whose arguments and result the line has.
    name = shown_attempt.tool if not n_more else f"{shown_attempt.tool} +{n_more}"
    error = shown_attempt.end.message if shown_attempt.end is not None else ""
    result: Value = error if shown_attempt.has_failed and error else shown_attempt.result
    status = attempt_status(worst)
    words = _words(worst, overcome)
    of_model = model_status(item)
    if of_model and _SEVERITY[of_model] > _SEVERITY[status]:
        status = of_model
        words = _model_words(item, of_model)
    return StepRow(
        step=item.step,
        name=cell(name, _NAME),
        arguments=cell(shown_attempt.arguments, _CELL),
        status=status,
        words=words,
        result="" if result is None else cell(result, _CELL),
        n_changes=n_changes,
    )


def _words(attempt: Attempt, overcome: dict[AttemptKey, str]) -> str:
    if attempt.key in overcome:
        # The list is narrow: the step's page says with which arguments.
        return f"overcome {attempt.recovered_at}"
    return _WORDS[attempt_status(attempt)]


_FAILED = frozenset({"error", "cancelled"})
_SEVERITY = {"ok": 0, "again": 1, "unknown": 2, "open": 3, "overcome": 4, "failed": 5}
_WORDS = {
    "ok": "",
    "again": "again",
    "unknown": "unknown",
    "open": "no end",
    "overcome": "overcome",
    "failed": "failed",
}


def attempt_status(attempt: Attempt) -> str:
    """Return the status of an attempt: a key of the list's colours."""
    if attempt.outcome in ("open", "unknown"):
        return attempt.outcome
    if attempt.has_failed:
        return "failed" if attempt.recovered_at is None else "overcome"
    return "again" if attempt.retry_by else "ok"


def model_status(item: AgentStep) -> str:
    """Return failed or overcome if a model call of a step failed, "" if none did."""
    outcomes = [call.outcome for call in item.model_calls]
    if not _FAILED.intersection(outcomes):
        return ""
    return "overcome" if outcomes[-1] == "ok" else "failed"


def _model_words(item: AgentStep, status: str) -> str:
    if status == "overcome":
        return f"overcome {item.step}"
    return item.model_calls[-1].outcome if status else ""


def _row_without_calls(item: AgentStep) -> StepRow:
    failure = item.failures[0] if item.failures else None
    if failure is not None:
        return StepRow(
            step=item.step,
            name=f"{failure.phase} failed",
            status="failed",
            words="failed",
            result=cell(f"{failure.error_type}: {failure.message}", _CELL),
        )
    if not item.model_calls:
        return StepRow(step=item.step, name="(nothing recorded)")
    call = item.model_calls[-1]
    answer = content_of(call).answer
    text = answer.text if answer is not None and answer.text is not None else ""
    status = model_status(item)
    if status == "failed" and call.end is not None:
        text = call.end.message or text
    return StepRow(
        step=item.step,
        name="model",
        arguments=cell(str(call.request.get("model") or ""), _CELL),
        status=status,
        words=_model_words(item, status),
        result=cell(text, _CELL),
    )


def environment_rows(episode: Episode, first: int, last: int) -> list[StepRow]:
    """Return the lines of some steps of an environment: from the first one, before the last."""
    raised = {failure.step: failure for failure in episode.failures if failure.phase == "step"}
    numbers = episode.step_numbers.tolist()
    places = {step: place for place, step in enumerate(numbers) if first <= step < last}
    rows = []
    for step in range(first, last):
        failure = raised.get(step)
        if failure is not None:
            rows.append(_raised_row(step, failure))
        elif step in places:
            place = places[step]
            rows.append(
                StepRow(
                    step=step,
                    name=_action_text(episode, place),
                    result=_reward_text(episode.reward_values[place]),
                )
            )
        else:
            rows.append(StepRow(step=step, name="(lost)", status="failed", words="lost"))
    return rows


def environment_failures(episode: Episode) -> tuple[list[int], int]:
    """Return the steps of an environment that raised or were lost, and how many these are.

    Of lost steps, which a forged end may make billions, the first 100,000 are returned.
    """
    raised = {failure.step for failure in episode.failures if failure.phase == "step"}
    lost = itertools.chain.from_iterable(range(a, b) for a, b in episode.missing_steps)
    steps = sorted({*raised, *itertools.islice(lost, MAX_EMPTY_STEPS)})
    return steps, len(raised) + sum(b - a for a, b in episode.missing_steps)


def _action_text(episode: Episode, place: int) -> str:
    """Return an action; that of a turn of an AEC environment with its player."""
    action = episode.actions[place]
    if episode.header.env.spec_fields.get(API_FIELD) != "aec":
        return cell(action, _CELL)
    return cell(f"{episode.infos[place].get('agent')}: {json_text(action)}", _CELL)


def reward_text(episode: Episode) -> str | None:
    """Return the return of an episode, or of each of its players; None if it is unknown."""
    if not math.isnan(episode.total_reward):
        return f"{episode.total_reward:g}"
    by_player = [
        f"{name}: {'unknown' if math.isnan(total) else f'{total:g}'}"
        for name, total in episode.rewards_by_agent.items()
    ]
    more = [f"and {len(by_player) - MAX_PLAYERS} more"] if len(by_player) > MAX_PLAYERS else []
    return ", ".join([*by_player[:MAX_PLAYERS], *more]) or None


def options_text(episode: Episode) -> str | None:
    """Return the options of the reset; None if it had none."""
    try:
        options = episode.reset_options
    except LogError as exc:
        return str(exc)
    return None if options is None else cell(options, _NAME)


def _reward_text(reward: Value) -> str:
    """Return a reward with six digits, as `trajrec show` does; the step itself shows all."""
    if isinstance(reward, (float, np.floating)):
        return f"{float(reward):.6g}"
    return cell(reward, _CELL)


def _raised_row(step: int, failure: Failure) -> StepRow:
    return StepRow(
        step=step,
        name="raised",
        status="failed",
        words="failed",
        result=cell(f"{failure.error_type}: {failure.message}", _CELL),
    )


def window(step: int, steps: Sequence[int]) -> tuple[int, int]:
    """Return the places of the first and last step that a list shows around a step.

    >>> window(1700, range(2000)), window(1700, range(3000))
    ((0, 2000), (1500, 2000))
    """
    if len(steps) <= MAX_LISTED:
        return 0, len(steps)
    place = min(bisect_left(steps, step), len(steps) - 1)
    start = place // WINDOW * WINDOW
    return start, min(start + WINDOW, len(steps))
