"""Which of several alternatives of an answer the agent took: those that later requests go on from.

A request may ask for `n` answers. Only the one that the agent went on from was said, and only its
calls were made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import takewhile

from trajrec.corpus.attempts import Attempt
from trajrec.corpus.call_contents import CallContent, alternatives_of, content_of
from trajrec.corpus.model_calls import ModelCall
from trajrec.values.json import to_canonical_json
from trajrec.wire.alternatives import Alternative, has_alternatives
from trajrec.wire.contents import Message


def mark_taken(calls: Sequence[ModelCall], attempts: Callable[[], Sequence[Attempt]]) -> None:
    """Note in each model call which alternatives of its answer the agent went on from.

    Args:
        calls: The model calls of an episode.
        attempts: Returns the attempts at tool calls that were recorded as they ran.
    """
    # Most episodes have none, and are indexed by the ten thousand.
    if not any(has_alternatives(call.answer) for call in calls):
        return
    contents = [content_of(call) for call in calls]
    for number, call in enumerate(calls):
        others = alternatives_of(contents[number])
        if not others:
            continue
        taken = _continued(contents[number], others, contents[number + 1 :])
        taken = taken or _executed(call, others, attempts())
        if not taken and len({_key_of(other.message) for other in others}) == 1:
            taken = (0,)
        call.taken = taken


def shown_alternative(call: ModelCall) -> str | None:
    """Say which alternative of an answer `content_of` returns; None if there is only one."""
    content = content_of(call)
    n_others = len(alternatives_of(content))
    unsure = "" if call.taken else "; unknown which one the agent took"
    return f"{content.choice + 1} of {n_others}{unsure}" if n_others else None


def _continued(
    content: CallContent, others: Sequence[Alternative], later: Sequence[CallContent]
) -> tuple[int, ...]:
    """Return the alternatives that later requests have behind the messages of the call."""
    own = list(content.messages)
    found: set[int] = set()
    told: set[str | None] = set()
    for other in later:
        messages = other.messages
        if len(messages) <= len(own) or list(messages[: len(own)]) != own:
            continue
        answer, *rest = (other.message(value)[0] for value in messages[len(own) :])
        found.update(_equal(answer, others))
        for said in takewhile(lambda said: said.role != "assistant", rest):
            told.update(result.call_id for result in said.results)
    # A program may have changed the text beside the calls.
    return tuple(sorted(found)) or _with_ids(told, others)


def _executed(
    call: ModelCall, others: Sequence[Alternative], attempts: Sequence[Attempt]
) -> tuple[int, ...]:
    """Return the alternatives whose calls ran."""
    # Not those of other steps: a provider may give the calls of each answer the same ids.
    of_step = [attempt for attempt in attempts if attempt.start.step == call.start.step]
    by_id = _with_ids({attempt.start.call_id for attempt in of_step}, others)
    if by_id:
        return by_id
    ran = [(one.tool, one.arguments) for one in of_step if not one.start.attempt]
    for number, other in enumerate(others):
        if ran and [(asked.name, asked.arguments) for asked in other.message.calls] == ran:
            return (number,)
    return ()


def _equal(message: Message, others: Sequence[Alternative]) -> list[int]:
    """Return the alternative that says the same, of several that one whose calls have its ids."""
    key = _key_of(message)
    found = [number for number, other in enumerate(others) if _key_of(other.message) == key]
    ids = [call.call_id for call in message.calls]
    with_ids = [n for n in found if [call.call_id for call in others[n].message.calls] == ids]
    return (with_ids or found)[:1]


def _key_of(message: Message) -> str:
    calls = [[call.name, call.arguments] for call in message.calls]
    return to_canonical_json([message.role, message.text.strip(), calls])


def _with_ids(ids: Collection[str | None], others: Sequence[Alternative]) -> tuple[int, ...]:
    """Return the alternatives with a call of one of the ids, which no other one has."""
    of_calls = [{call.call_id for call in other.message.calls if call.call_id} for other in others]
    return tuple(
        number
        for number, own in enumerate(of_calls)
        if not own.difference(*of_calls[:number], *of_calls[number + 1 :]).isdisjoint(ids)
    )
