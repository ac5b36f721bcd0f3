"""Message histories at the price of what is new in them: each request of a conversation repeats all that was said before."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec

from trajrec.values import codec
from trajrec.values.objects import declared_fields

REMEMBERED = 4
"""How many conversations may take turns and still be recognised."""

Encode = Callable[[Any], tuple[bytes, bool]]


class Request(NamedTuple):
    """The messages of a request: their bytes one after the other, and where each ends."""

    number: int
    body: bytes
    ends: list[int]


class Conversation:
    """The messages of an episode's last requests."""

    def __init__(self) -> None:
        self._last: list[Request] = []

    def add(
        self, number: int, messages: Sequence[Any], encode: Encode
    ) -> tuple[int, int, list[bytes], bool]:
        """Take in the messages of model call `number`.

        Returns:
            The earlier call that has the most of them in common from the beginning (-1 where none has any), how many, the
            others encoded, and whether any of these was redacted.
        """
        body = _body(messages)
        best, kept = None, 0
        for earlier in self._last:
            common = bisect_left(
                earlier.ends,
                True,
                key=lambda end, e=earlier: not body.startswith(e.body[:end]),  # type: ignore[misc]
            )
            if common > kept:
                best, kept = earlier, common
        # What goes on from a request takes its place.
        is_longer = best is not None and kept == len(best.ends)
        self._last = [request for request in self._last if not (is_longer and request is best)][
            1 - REMEMBERED :
        ]
        known = best.ends[:kept] if best is not None else []
        new = accumulate(
            (len(_body([message])) for message in messages[kept:]),
            initial=known[-1] if known else 0,
        )
        self._last.append(Request(number, body, [*known, *list(new)[1:]]))
        found = [encode(message) for message in messages[kept:]]
        return (
            -1 if best is None else best.number,
            kept,
            [data for data, _ in found],
            any(r for _, r in found),
        )


def _body(messages: Sequence[Any]) -> bytes:
    """Return the messages' bytes, one after the other: to compare, not to keep."""
    try:
        data = _encode(list(messages))
    except (TypeError, ValueError, OverflowError):
        return b"".join(codec.encode(message, opaque=True) for message in messages)
    return data[1 if len(messages) < 16 else 3 if len(messages) < 1 << 16 else 5 :]


def _hook(value: Any) -> Any:
    fields = declared_fields(value)
    if fields is value:
        raise TypeError
    return [codec.type_name(value), fields]


_encode = msgspec.msgpack.Encoder(enc_hook=_hook).encode
