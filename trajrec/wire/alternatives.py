"""The alternatives of an answer, of which an agent takes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from trajrec.types import Value
from trajrec.values.codec import Plain
from trajrec.wire.contents import Message
from trajrec.wire.json_bodies import as_dict, as_text, dicts_in


class Alternative(NamedTuple):
    """One of several alternatives of an answer.

    Attributes:
        message: Its message.
        value: The message as the dialect writes it.
        finish_reason: The reason for its end, None if it is missing.
    """

    message: Message
    value: Value
    finish_reason: str | None


# The member that holds them, that of a message in one, and that of the reason for its end.
_PLACES = (("choices", "message", "finish_reason"), ("candidates", "content", "finishReason"))


def has_alternatives(answer: Value) -> bool:
    """Return whether an answer, also as an object of a client, may have several alternatives.

    >>> has_alternatives({"choices": [{}, {}]}), has_alternatives({"choices": [{}]})
    (True, False)
    """
    fields = answer.fields if isinstance(answer, Plain) else as_dict(answer)
    found = (fields.get(holder) for holder, _, _ in _PLACES)
    return any(isinstance(choices, (list, tuple)) and len(choices) > 1 for choices in found)


def alternatives_in(
    answer: Value, read: Callable[[Value], tuple[Message, Value]]
) -> list[Alternative]:
    """Return the alternatives of an answer; none if it has only one, or they are no messages.

    Args:
        answer: The whole answer.
        read: Returns a message in the words that all dialects share, and as JSON values.
    """
    fields = as_dict(answer)
    found: list[tuple[Value, str | None]] = []
    for holder, place, reason in _PLACES:
        choices = dicts_in(fields.get(holder))
        if len(choices) > 1:
            found += [(choice.get(place), as_text(choice.get(reason))) for choice in choices]
    if not all(type(value) is dict for value, _ in found):
        return []
    messages = [read(value) for value, _ in found]
    return [
        Alternative(message._replace(role="assistant"), value, reason)
        for (message, value), (_, reason) in zip(messages, found, strict=True)
    ]
