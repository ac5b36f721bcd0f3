"""Redaction of the answers of models, in whichever form they are streamed.

Lines are searched while they come; see `trajrec.redaction.response_bodies`. Amazon's frames, the
array of Gemini's objects, and lines that no content type announces are searched at the end, each
object as a line, so that a secret that is cut over several is found.
"""

from __future__ import annotations

import re

from trajrec.redaction.redactor import Redactor
from trajrec.redaction.response_bodies import (
    HeldBody,
    LineRedactor,
    WholeRedactor,
    response_redactor,
)
from trajrec.redaction.token_data import without_tokens_in_json
from trajrec.wire import aws_stream
from trajrec.wire.json_stream import with_objects

_BREAKS = bytes.maketrans(b"\r\n", b"  ")

# Events, or objects of which each begins a line.
_LINES = re.compile(rb"\s*(?:(?:data|event|id|retry)?:|\{[^\r\n]*\}\s*\n\s*\{)")


def answer_redactor(
    redactor: Redactor, content_type: str, *, is_of_redacted: bool
) -> TokenRedactor:
    """Return the redactor of an answer.

    Args:
        redactor: Finds the secrets.
        content_type: The content type of the answer.
        is_of_redacted: Whether its request had secrets.
    """
    found = response_redactor(redactor, content_type)
    texts = found if isinstance(found, LineRedactor) else AnswerRedactor(redactor, content_type)
    return TokenRedactor(texts, is_of_redacted=is_of_redacted)


class TokenRedactor:
    """Takes the tokens out of an answer that has, or has read, a secret.

    Args:
        texts: Takes the secrets out of its texts.
        is_of_redacted: Whether its request had secrets, which the tokens of the prompt spell.
    """

    def __init__(self, texts: LineRedactor | AnswerRedactor, *, is_of_redacted: bool) -> None:
        self._texts = texts
        self._is_of_redacted = is_of_redacted
        self._n_prompts = 0

    @property
    def n_secrets(self) -> int:
        """Number of secrets that were replaced so far, the tokens of a prompt as one."""
        return self._texts.n_secrets + self._n_prompts

    def add(self, data: bytes) -> bytes:
        """Add the next bytes; return those in which all secrets are found."""
        return self._without_tokens(self._texts.add(data))

    def finish(self) -> bytes:
        """Return the rest, at the end of the answer."""
        return self._without_tokens(self._texts.finish())

    def _without_tokens(self, data: bytes) -> bytes:
        if self._texts.n_secrets:
            return without_tokens_in_json(data)
        if not self._is_of_redacted:
            return data
        cleaned = without_tokens_in_json(data, only_prompt=True)
        self._n_prompts += cleaned != data
        return cleaned


class AnswerRedactor(HeldBody):
    """Holds an answer back until its end, and takes the secrets out of its objects.

    Args:
        redactor: Finds the secrets.
        content_type: The content type of the answer.
    """

    def __init__(self, redactor: Redactor, content_type: str) -> None:
        super().__init__(redactor)
        self._is_framed = aws_stream.CONTENT_TYPE in content_type.lower()

    def finish(self) -> bytes:
        """Return the answer."""
        body = self._take()
        if not self._redactor.is_on:
            return body
        if self._is_framed:
            frames, rest = aws_stream.with_payloads(body, self._as_lines)
            return frames + self._whole(rest)
        if body.lstrip()[:1] == b"[":
            # Other items of an array have no place in a line.
            return self._whole(with_objects(body, self._as_lines))
        return self._lines(body) if _LINES.match(body) else self._whole(body)

    def _as_lines(self, objects: list[bytes]) -> list[bytes]:
        """Return objects without secrets."""
        # A line break in JSON stands between two tokens.
        lines = [data.translate(_BREAKS) for data in objects]
        cleaned = self._lines(b"".join(line + b"\n" for line in lines)).split(b"\n")[:-1]
        return [
            old if line == new else new
            for old, line, new in zip(objects, lines, cleaned, strict=True)
        ]

    def _lines(self, body: bytes) -> bytes:
        lines = LineRedactor(self._redactor)
        cleaned = lines.add(body) + lines.finish()
        self.n_secrets += lines.n_secrets
        return cleaned

    def _whole(self, body: bytes) -> bytes:
        whole = WholeRedactor(self._redactor)
        whole.add(body)
        cleaned = whole.finish()
        self.n_secrets += whole.n_secrets
        return cleaned
