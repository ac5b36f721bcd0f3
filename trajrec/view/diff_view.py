"""Two episodes beside each other, step by step: the same parts folded, the others told apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from trajrec.corpus.call_contents import content_of
from trajrec.corpus.episode import Episode
from trajrec.corpus.transcript import ModelCall
from trajrec.types import Value
from trajrec.values.diff import is_same
from trajrec.values.json import describe_path
from trajrec.values.shown import short_pair, short_texts
from trajrec.view.episode_view import EpisodeView
from trajrec.view.rows import AgentStep, agent_steps
from trajrec.view.svg import marks
from trajrec.view.text import Difference, difference, json_text

MAX_STEPS = 20_000
"""Steps that are compared; the page says how many it leaves out."""

RESET = -1
"""Stands for the reset of an environment."""

MAX_ROWS = 200
"""Steps that differ, of which the page shows the values; of more, it shows the numbers alone."""

_Fields = Mapping[str, Value]

_OF_MODEL = "model "
"""Begins the names of the fields of a model's turn."""


@dataclass(frozen=True, kw_only=True)
class FieldDifference:
    """A field that differs in a step."""

    name: str
    difference: Difference


@dataclass(frozen=True, kw_only=True)
class Part:
    """Steps in a row that are alike, or one step that differs.

    Attributes:
        kind: "same", "differs", "a" or "b" (that one alone has these steps), or "more" (steps that
            differ, whose values are not shown).
        first: The first step; `RESET` for the reset.
        last: The last step.
        fields: The fields that differ.
        has_met: Whether the state after it is the same in both, and was not the same before.
    """

    kind: str
    first: int
    last: int
    fields: Sequence[FieldDifference] = ()
    has_met: bool = False


@dataclass(frozen=True, kw_only=True)
class DiffView:
    """Two episodes.

    Attributes:
        parts: All steps, in order.
        n_differing: Steps that differ, those that one alone has not counted.
        first: The first step that differs, maybe `RESET`; None if none does.
        paths: Class of the style sheet -> path: the steps on one axis.
        width: Steps of that axis.
        n_shared: Steps that both have, the reset included.
        n_same: Steps that are the same, the reset not included.
        n_left: Steps that are not compared.
        remark: What is not compared, in words; "" if all is.
    """

    a: EpisodeView
    b: EpisodeView
    parts: Sequence[Part]
    n_differing: int
    first: int | None
    paths: Mapping[str, str]
    width: int
    n_shared: int
    n_same: int
    n_left: int
    remark: str


def compare_views(a: EpisodeView, b: EpisodeView) -> DiffView:
    """Return two episodes of agents, or two of environments, compared step by step."""
    steps_a = _steps(a)
    steps_b = _steps(b)
    states_a = _states(a)
    states_b = _states(b)
    shared = _shared(a, b, steps_a) | _shared(b, a, steps_b)
    steps_a |= {step: fields for step, fields in shared.items() if step not in steps_a}
    steps_b |= {step: fields for step, fields in shared.items() if step not in steps_b}
    _leave_out_turns(a, b, steps_a, steps_b)
    numbers = sorted(steps_a.keys() | steps_b.keys())[:MAX_STEPS]
    parts: list[Part] = []
    have_parted = False
    for step in numbers:
        part = _part(step, steps_a.get(step), steps_b.get(step))
        state_a = states_a.get(step)
        state_b = states_b.get(step)
        is_known = state_a is not None and state_b is not None
        has_met = is_known and have_parted and state_a == state_b
        have_parted = state_a != state_b if is_known else have_parted
        parts.append(
            Part(kind=part.kind, first=step, last=step, fields=part.fields, has_met=has_met)
        )
    kinds = {part.first: part.kind for part in parts}
    width = max(numbers, default=0) + 1
    differing = [step for step, kind in kinds.items() if kind == "differs"]
    n_left = _n_left(a, b, len(steps_a.keys() | steps_b.keys()), numbers)
    return DiffView(
        a=a,
        b=b,
        parts=list(_folded(parts)),
        n_differing=len(differing),
        first=differing[0] if differing else None,
        paths={
            "same": marks([step for step, kind in kinds.items() if kind == "same"], width),
            "failed": marks(differing, width),
            "lost": marks([step for step, kind in kinds.items() if kind in "ab"], width),
        },
        width=width,
        n_shared=len(steps_a.keys() & steps_b.keys()),
        n_same=sum(kind == "same" and step != RESET for step, kind in kinds.items()),
        n_left=n_left,
        remark=_remark(a, b, n_left),
    )


def _n_left(a: EpisodeView, b: EpisodeView, n_read: int, numbers: Sequence[int]) -> int:
    """Return the number of steps that are not compared, those that were not even read included."""
    if a.is_agent or not numbers:
        return n_read - len(numbers)
    return max(a.episode.end_step, b.episode.end_step) - 1 - numbers[-1]


def _shared(
    parent: EpisodeView, fork: EpisodeView, steps: dict[int, _Fields]
) -> dict[int, _Fields]:
    """Return the steps of an episode that are also those of its fork: all before the fork."""
    origin = fork.episode.fork
    if origin is None or origin.parent_id != parent.id:
        return {}
    return {step: fields for step, fields in steps.items() if step < origin.step}


def _leave_out_turns(
    a: EpisodeView, b: EpisodeView, steps_a: dict[int, _Fields], steps_b: dict[int, _Fields]
) -> None:
    """Leave out the model's turns that one of the two does not have in its log.

    Those are all turns of an episode without a model call, such as a control of a what-if
    experiment, and the turn of a step behind which one was forked.
    """
    if _without_model(a, b):
        for steps in (steps_a, steps_b):
            for step in steps:
                steps[step] = _without_turn(steps[step])
        return
    for parent, fork in ((a, b), (b, a)):
        origin = fork.episode.fork
        if not fork.is_agent or origin is None or origin.parent_id != parent.id:
            continue
        if any(start.start.step == origin.step for start in fork.episode.transcript.model_calls):
            continue
        for steps in (steps_a, steps_b):
            if origin.step in steps:
                steps[origin.step] = _without_turn(steps[origin.step])


def _without_turn(fields: _Fields) -> _Fields:
    return {name: value for name, value in fields.items() if not name.startswith(_OF_MODEL)}


def _without_model(a: EpisodeView, b: EpisodeView) -> str:
    """Return which of two agents' episodes has no model call, if the other has some; else ""."""
    if not a.is_agent:
        return ""
    have = [bool(view.episode.transcript.model_calls) for view in (a, b)]
    return "" if have[0] == have[1] else "AB"[have.index(False)]


def _remark(a: EpisodeView, b: EpisodeView, n_left: int) -> str:
    remarks = []
    for view, name in ((a, "A"), (b, "B")):
        fork = view.episode.fork
        if fork is not None:
            remarks.append(
                f"{name} is a fork: its log begins at step {fork.step}, and what came before is that "
                f"of its parent {fork.parent_id[:10]}"
            )
    if name := _without_model(a, b):
        remarks.append(f"{name} has no model call in its log, so no turn of the model is compared")
    if n_left:
        remarks.append(f"The last {n_left:,} steps are not compared")
    remarks.append(
        "Ids, times and tokens are not compared"
        if a.is_agent
        else "States are compared as far as the logs have keys of them"
    )
    return ". ".join(remarks)


def _part(step: int, a: _Fields | None, b: _Fields | None) -> Part:
    if a is None or b is None:
        return Part(kind="b" if a is None else "a", first=step, last=step)
    fields = [
        FieldDifference(name=name, difference=_shown(a.get(name), b.get(name)))
        for name in dict.fromkeys([*a, *b])
        if not is_same(a.get(name), b.get(name))
    ]
    return Part(kind="differs" if fields else "same", first=step, last=step, fields=fields)


def _shown(a: Value, b: Value) -> Difference:
    left, right = _texts(a, b)
    # A call, a result or a change that one of them does not have.
    return difference(
        "(nothing)" if _is_nothing(a) else left,
        "(nothing)" if _is_nothing(b) else right,
    )


def _texts(a: Value, b: Value) -> tuple[str, str]:
    """Return two values as texts: calls as JSON, as on other pages, unless it cannot hold them."""
    if isinstance(a, (list, dict)) and isinstance(b, (list, dict)):
        left = json_text(a)
        right = json_text(b)
        # JSON has null for an array or NaN, and one text for some values of different types.
        if left != right and "null" not in left + right:
            return short_texts(left, right)
    return short_pair(a, b)


def _is_nothing(value: Value) -> bool:
    return value is None or (isinstance(value, list) and not value)


def _folded(parts: Sequence[Part]) -> Iterator[Part]:
    """Yield the steps with those of one kind in a row folded, unless they differ."""
    n_shown = 0
    for (kind, has_met, _), group in itertools.groupby(parts, _group):
        steps = list(group)
        shown = steps[: max(0, MAX_ROWS - n_shown)] if kind == "differs" else []
        n_shown += len(shown)
        yield from shown
        rest = steps[len(shown) :]
        if rest:
            yield Part(
                kind="more" if kind == "differs" else kind,
                first=rest[0].first,
                last=rest[-1].last,
                has_met=has_met,
            )


def _group(part: Part) -> tuple[str, bool, bool]:
    return part.kind, part.has_met, part.first == RESET


def _steps(view: EpisodeView) -> dict[int, _Fields]:
    """Return the fields of each step that are compared."""
    if view.is_agent:
        return {item.step: _agent_fields(item) for item in agent_steps(view.episode)}
    episode = view.episode
    fields: dict[int, _Fields] = {}
    # A fork begins at a state of its parent, which is no reset.
    if episode.has_reset and episode.fork is None:
        fields[RESET] = {
            "observation": episode.observation_values[0],
            "info": episode.reset_info,
        }
    for step in itertools.islice(episode.steps(), MAX_STEPS):
        failure = step.failure
        fields[step.step] = {
            "action": step.action,
            "observation": step.observation,
            "reward": step.reward,
            "info": step.info,
            "failure": None if failure is None else f"{failure.error_type}: {failure.message}",
        }
    return fields


def _agent_fields(item: AgentStep) -> _Fields:
    answers = [content_of(call).answer for call in item.model_calls]
    said = [_said(call) for call in item.model_calls]
    asked = [
        [tool.name, tool.arguments]
        for answer in answers
        if answer is not None
        for tool in answer.calls
    ]
    errors = [
        f"{call.end.error_type}: {call.end.message}"
        for call in item.model_calls
        if call.end is not None and call.end.error_type
    ]
    ends = [
        attempt.result
        if attempt.end is None or not attempt.has_failed
        else f"{attempt.outcome}: {attempt.end.message}"
        for attempt in item.attempts
    ]
    changes = [
        f"{part}{describe_path(change.path)}: {change.before!r} -> {change.after!r}"
        for attempt in item.attempts
        for part, found in attempt.changes.items()
        for change in found
    ]
    return {
        "model said": [text for text in said if text is not None],
        "model asked for": asked,
        "model error": errors,
        "calls": [[attempt.tool, attempt.arguments] for attempt in item.attempts],
        "results": ends,
        "changes of the state": changes,
        "exceptions": [f"{f.phase}: {f.error_type}: {f.message}" for f in item.failures],
    }


def _said(call: ModelCall) -> Value:
    """Return the text of an answer; the answer as it is if it has neither text nor tool calls."""
    answer = content_of(call).answer
    if answer is not None and answer.text is not None:
        return answer.text
    return call.answer if call.has_answer and not (answer is not None and answer.calls) else None


def _states(view: EpisodeView) -> dict[int, Value]:
    """Return a key of the state after each step, which is equal for equal states alone."""
    if view.is_agent:
        return {
            attempt.start.step: attempt.state_digest
            for attempt in view.episode.transcript.attempts
            if attempt.state_digest is not None
        }
    return _environment_states(view.episode)


def _environment_states(episode: Episode) -> dict[int, Value]:
    keys = episode.state_keys
    if keys is None:
        return {}
    after = keys.tolist()[1 if episode.has_reset else 0 :]
    return dict(zip(episode.step_numbers.tolist(), after, strict=False))
