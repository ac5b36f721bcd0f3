"""Answers of models and of the outside, by which an agent's loop can be run again."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.plain import PLAIN_TYPES

MODEL = "model"
SIDE_EFFECT = "side effect"
EXCHANGE = "HTTP"

OPEN = "it was still being answered when the agent made a call, so the answer is unknown"
"""Stands for an answer that has no end yet."""


class RecordedAnswer(NamedTuple):
    """One answer to a model request or a side effect, and the request that it belongs to.

    Attributes:
        request_digest: Digest of the encoded request.
        answer: The encoded answer, of a stream the list of its pieces; None if there was none.
        error_type: Type of the exception that was raised instead; "" if none was.
        message: Message of the exception.
        is_streamed: Whether the answer was streamed.
        is_async: Whether the answer was awaited.
        is_partial: Whether the agent made a tool call while the answer was still streamed, so that
            later pieces are unknown.
        request: The request if the recording has it, to show how another one differs; else None.
        key: Digest of all of this.
    """

    request_digest: bytes
    answer: bytes | None
    error_type: str
    message: str
    is_streamed: bool
    is_async: bool
    is_partial: bool
    request: Value
    key: bytes

    @classmethod
    def from_request(
        cls,
        encoded_request: bytes,
        answer: bytes | None,
        error: tuple[str, str] = ("", ""),
        *,
        is_streamed: bool = False,
        is_async: bool = False,
        request: Value = None,
    ) -> RecordedAnswer:
        """Return the answer to a request.

        Args:
            encoded_request: The encoded request.
            answer: See the attributes.
            error: Type and message of the exception.
            is_streamed: See the attributes.
            is_async: See the attributes.
            request: See the attributes.
        """
        digest = digest_request(encoded_request)
        key = codec.encode([digest, answer, *error, is_streamed])
        return cls(
            request_digest=digest,
            answer=answer,
            error_type=error[0],
            message=error[1],
            is_streamed=is_streamed,
            is_async=is_async,
            is_partial=False,
            request=request,
            key=hashlib.blake2b(key, digest_size=16).digest(),
        )


def digest_request(encoded_request: bytes) -> bytes:
    """Return the BLAKE2b-128 digest by which requests are compared."""
    return hashlib.blake2b(encoded_request, digest_size=16).digest()


def are_certainly_same(recorded: Value, live: Value) -> bool:
    """Return whether two values are plain data, and the same by type and bits."""
    kind = type(recorded)
    if kind is not type(live):
        return False
    if kind is dict:
        return len(recorded) == len(live) and all(
            type(key) is str and key in live and are_certainly_same(item, live[key])
            for key, item in recorded.items()
        )
    if kind is list:
        return len(recorded) == len(live) and all(map(are_certainly_same, recorded, live))
    if kind is float:
        # A zero has a sign, which a comparison does not see.
        return bool(recorded == live and recorded)
    return kind in PLAIN_TYPES and bool(recorded == live)


Answers = dict[str, list[RecordedAnswer | str]]
"""The answers of each kind (`MODEL`, `SIDE_EFFECT`, `EXCHANGE`), in the order of the requests. A text stands
for an unknown answer, and says why it is unknown."""


def no_answers() -> Answers:
    """Return the answers before the first request."""
    return {MODEL: [], SIDE_EFFECT: [], EXCHANGE: []}


def copy_answers(answers: Answers) -> Answers:
    """Return answers to which more can be appended."""
    return {kind: list(rows) for kind, rows in answers.items()}


def answers_key(answers: Answers) -> bytes:
    """Return a digest of answers."""
    digest = hashlib.blake2b(digest_size=16)
    for rows in answers.values():
        for row in rows:
            digest.update(row.encode() if isinstance(row, str) else row.key)
        digest.update(b"/")
    return digest.digest()
