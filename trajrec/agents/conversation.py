"""Message histories without repetition, though each request repeats all messages before it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeAlias

import msgspec

from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.objects import declared_fields

# Requests that a new one is compared with: so many conversations may take turns.
REMEMBERED = 4

_CANNOT_ENCODE = (TypeError, ValueError, OverflowError, RecursionError)

Encode: TypeAlias = Callable[[Value], tuple[bytes, bool]]


class Request(NamedTuple):
    """The messages of a request.

    Attributes:
        number: Number of the model call.
        body: Bytes of the messages, one after the other.
        ends: End of each message in `body`.
    """

    number: int
    body: bytes
    ends: list[int]


class NewMessages(NamedTuple):
    """The messages of a request that an earlier one does not have.

    Attributes:
        base: The earlier call that begins with the most of the messages, -1 if none does.
        n_common: The number of messages that they have in common.
        encoded: The other messages.
        is_redacted: Whether any of those was redacted.
        last: The requests that later ones are compared with.
    """

    base: int
    n_common: int
    encoded: list[bytes]
    is_redacted: bool
    last: list[Request]


class Conversation:
    """The messages of an episode's last requests."""

    def __init__(self) -> None:
        self._last: list[Request] = []

    def compare(self, number: int, messages: Sequence[Value], encode: Encode) -> NewMessages:
        """Compare the messages of model call `number` with those of earlier ones."""
        # Messages are compared as bytes: a prefix of messages is a prefix of their bytes, so
        # bisection finds the number of common ones without comparing message by message.
        body = _body(messages)
        best = None
        n_common = 0
        for earlier in self._last:
            common = bisect_left(
                earlier.ends,
                True,
                key=lambda end, e=earlier: not body.startswith(e.body[:end]),  # type: ignore[misc]
            )
            if common > n_common:
                best = earlier
                n_common = common
        # A request that continues another one replaces it.
        is_longer = best is not None and n_common == len(best.ends)
        kept = [request for request in self._last if not (is_longer and request is best)]
        ends = best.ends[:n_common] if best is not None else []
        new = accumulate(
            (len(_message_body(message)) for message in messages[n_common:]),
            initial=ends[-1] if ends else 0,
        )
        request = Request(number, body, [*ends, *list(new)[1:]])
        encoded = [encode(message) for message in messages[n_common:]]
        return NewMessages(
            base=-1 if best is None else best.number,
            n_common=n_common,
            encoded=[data for data, _ in encoded],
            is_redacted=any(is_redacted for _, is_redacted in encoded),
            last=[*kept[1 - REMEMBERED :], request],
        )

    def add(self, messages: NewMessages) -> None:
        """Compare later requests with this one, because it is in the log now."""
        self._last = messages.last


def _body(messages: Sequence[Value]) -> bytes:
    """Return the messages' bytes, one after the other, for comparisons only."""
    try:
        # msgspec encodes a whole history much faster than the codec, which keeps exact types.
        data = _encode(list(messages))
    except _CANNOT_ENCODE:
        return b"".join(map(_message_body, messages))
    # Without the header of msgpack's array, which has 1, 3 or 5 bytes with the number of messages:
    # it would make histories of different length differ from the start.
    return data[1 if len(messages) < 16 else 3 if len(messages) < 1 << 16 else 5 :]


def _message_body(message: Value) -> bytes:
    """Return a message's bytes. In the body of any request, it has just these."""
    try:
        return _encode(message)
    except _CANNOT_ENCODE:
        pass
    try:
        return codec.encode(message, opaque=True)
    except Exception as exc:
        if not _raises(message):
            # Not by the message: by a signal handler, for instance, and for the agent to see.
            raise
        # As it is stored: a message that nests deeply, or whose own code raises, is left out.
        return codec.encode(codec.left_out(message, exc))


def _raises(message: Value) -> bool:
    try:
        codec.encode(message, opaque=True)
    except Exception:
        return True
    return False


def _hook(value: Value) -> Value:
    fields = declared_fields(value)
    if fields is value:
        raise TypeError
    return [codec.type_name(value), fields]


_encode = msgspec.msgpack.Encoder(enc_hook=_hook).encode
