"""The search for secrets in a text."""

from __future__ import annotations

import functools
import json
import re
import urllib.parse
from collections.abc import Iterable
from typing import TypeAlias

from trajrec.redaction.assignments import (
    NAME_REST,
    StrengthOf,
    find_assigned,
    find_option,
    name_at,
)
from trajrec.redaction.digests import mark_spans
from trajrec.redaction.escapes import ESCAPE, has_escape
from trajrec.redaction.findings import NOTHING, Findings, Span
from trajrec.redaction.names import LAST_PART, PARTS, strength_of
from trajrec.redaction.percent import decoded_parts
from trajrec.redaction.plausibility import is_aws_secret
from trajrec.redaction.rules import Rule, Shape, TokenSearch, trie
from trajrec.redaction.shapes import LONG_SHAPES, TEXT_SHAPES
from trajrec.redaction.tables import find_in_column, find_inserted
from trajrec.redaction.tokens import TOKENS

RUN_BYTES = 16
"""No secret that its form gives away has fewer characters without a space."""

LONG_RUN_BYTES = 4096
"""Of a longer run without a space (an image in Base64) only the first bytes are searched: a secret
in its middle cannot be told from the rest."""

MAX_DECODED = 2
"""How often a text is percent-decoded: a URL in a parameter of a URL is encoded twice."""

_CONTEXT_BYTES = 160
"""Bytes before a secret access key of AWS that may have the access key or the name."""

_SHAPE_BYTES = 32
"""No secret of `LONG_SHAPES` is shorter."""

_AWS_SECRET_BYTES = 40

_RUN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.+/=~%:|$"
_CLASSES = bytes(0x78 if byte in _RUN else 0x20 for byte in range(256))
_LONG = b"x" * RUN_BYTES
_FORTY = re.compile(rb"(?<![A-Za-z0-9+/=_.~%-])[A-Za-z0-9+/]{40}(?![A-Za-z0-9+/=_~%-])")


_NEAR_BYTES = 400
"""Bytes behind the sign of a shape in which the secret begins."""

_OPTION = b"--"
"""The sign of a command line's option."""

_KEY_TYPE = b"kty"
"""The sign of a key as a JSON document, whose private parts have short names (RFC 7517)."""

_INSERTED = b"values"
"""The sign of the rows of an INSERT statement."""

_SHORT_OPTION = b"-"
"""The sign of an option of one letter. The letter is not part of the sign: "-p" may begin the name
of another option."""

_PASSWORD_SIGNS = (b"pass", b"pwd", b"kennwort")
"""Signs of the name of a password, also without the form of a name: "#password" or "Your password"
may describe the field of a form."""

_OPTION_SIGN = re.compile(r"-[a-z] ?\Z")

_CompiledShape: TypeAlias = tuple[Shape, re.Pattern[bytes]]


class Scanner:
    """Finds secrets in texts.

    Args:
        rules: Rules beside those of trajrec. A `Rule` is for secrets of at least 16 characters.
        secrets: Texts that are secrets wherever they occur.
        names: Names that name secrets, beside those of trajrec, in lower case.
        strength_of: Returns how surely a name names a secret.
    """

    def __init__(
        self,
        *,
        rules: Iterable[Rule | Shape] = (),
        secrets: Iterable[str] = (),
        names: Iterable[str] = (),
        strength_of: StrengthOf = strength_of,
    ) -> None:
        own = list(rules)
        own_rules = [rule for rule in own if isinstance(rule, Rule)]
        own_shapes = [rule for rule in own if isinstance(rule, Shape)]
        self._tokens = TokenSearch([*TOKENS, *own_rules]) if own_rules else _TOKENS
        shapes = [*TEXT_SHAPES, *(shape for shape in own_shapes if shape.sign)]
        self._options = [shape for shape in shapes if _OPTION_SIGN.match(shape.sign)]
        self._shapes = [shape for shape in shapes if shape not in self._options]
        self._unsigned = _compiled(shape for shape in own_shapes if not shape.sign)
        self._parts = list({*PARTS, *(part for name in names for part in _parts_of(name))})
        self._strength_of = strength_of
        # The longest first, so that a secret within another one does not split it.
        variants = {variant for secret in secrets for variant in _variants(secret)}
        self._secrets = sorted(variants, key=len, reverse=True)

    @property
    def has_patterns(self) -> bool:
        """Whether there are rules of the user's own, which may look at the ends of a text."""
        return bool(self._unsigned)

    @functools.cached_property
    def key_chars(self) -> int:
        """Characters of the shortest text that may be a secret without words beside it."""
        own = [len(secret.decode("utf-8", "surrogatepass")) for secret in self._secrets]
        return min([0] if self._unsigned else [RUN_BYTES, *own])

    @functools.cached_property
    def _shapes_by_sign(self) -> dict[bytes, list[_CompiledShape]]:
        return _by_sign(self._shapes) | {_SHORT_OPTION: _compiled(self._options)}

    @functools.cached_property
    def _signs(self) -> re.Pattern[bytes]:
        parts = [
            trie([part for part in self._parts if part[0] == first]) + NAME_REST
            for first in sorted({part[0] for part in self._parts})
        ]
        letters = b"".join(sorted({shape.sign[1].encode() for shape in self._options}))
        option = rb"-(?<=\s-)(?=[" + letters + b"])"
        signs = trie(_by_sign(self._shapes))
        last_part = LAST_PART + rb"(?![a-z])" + NAME_REST
        return re.compile(
            b"|".join(
                [
                    *parts,
                    last_part,
                    rb"--(?=[a-z])",
                    option,
                    rb"values(?=\s*\()",
                    signs,
                    *_PASSWORD_SIGNS,
                ]
            )
        )

    def search(self, data: bytes, *, n_decoded: int = 0) -> Findings:
        """Search a text, given as UTF-8.

        Args:
            data: The text.
            n_decoded: How often it was percent-decoded.
        """
        hits = list(self._signs.finditer(data.lower()))
        classes = data.translate(_CLASSES)
        start = classes.find(_LONG)
        # Nearly all texts end here.
        if not hits and start < 0 and b"%" not in data and not self._has_own(data):
            return NOTHING
        spans: list[Span] = []
        has_name = self._look_at(data, hits, spans)
        has_password = any(hit[0].startswith(_PASSWORD_SIGNS) for hit in hits)
        if start >= 0:
            self._find_tokens(data, classes, start, spans)
            if has_escape(data):
                self._find_escaped(data, classes, spans)
        if self._has_own(data):
            self._find_own(data, spans)
        if b"%" in data and n_decoded < MAX_DECODED:
            self._find_encoded(data, spans, n_decoded + 1)
        return Findings(_merged(data, spans) if spans else spans, has_name, has_password)

    def _has_own(self, data: bytes) -> bool:
        """Return whether there may be a secret of the user's own."""
        if self._unsigned:
            return True
        # No generator: to make one costs more than the search for a few secrets.
        for secret in self._secrets:  # noqa: SIM110
            if secret in data:
                return True
        return False

    def _find_own(self, data: bytes, spans: list[Span]) -> None:
        """Add secret variables, and the secrets of the user's own rules."""
        for secret in self._secrets:
            if secret in data:
                spans += [
                    Span(*match.span(), "environment")
                    for match in re.finditer(re.escape(secret), data)
                ]
        for shape, pattern in self._unsigned:
            group = _group(pattern)
            for match in pattern.finditer(data):
                # A branch of the pattern may have no group: the secret is all of it then.
                start, end = match.span(0 if match[group] is None else group)
                if start < end:
                    spans.append(Span(*_whole_characters(data, start, end), shape.kind))

    def _find_encoded(self, data: bytes, spans: list[Span], n_decoded: int) -> None:
        """Add the secrets in percent-encoded parts."""
        for part, positions in decoded_parts(data):
            for start, end, kind in self.search(part, n_decoded=n_decoded).spans:
                spans.append(Span(positions[start], positions[end], kind))

    def may_begin_secret(self, word: bytes) -> bool:
        """Return whether a word, of which the end is missing, may be the start of a secret."""
        return self._tokens.may_begin(word)

    def _look_at(self, data: bytes, hits: list[re.Match[bytes]], spans: list[Span]) -> bool:
        """Add the secrets at signs of shapes and beside names; return whether there is a name."""
        has_name = False
        for hit in hits:
            start, end = hit.span()
            if hit.lastindex:
                name = name_at(data, start, end, self._strength_of)
                if name is None:
                    continue
                has_name = True
                secret = find_assigned(data, name)
                if secret is None:
                    spans += [Span(*found) for found in find_in_column(data, name)]
            elif hit[0] == _INSERTED:
                spans += [Span(*found) for found in find_inserted(data, start, self._strength_of)]
                continue
            elif hit[0] == _OPTION:
                secret = find_option(data, start, self._strength_of)
            elif hit[0] in _PASSWORD_SIGNS:
                continue
            else:
                _match_shapes(data, start, self._shapes_by_sign[hit[0]], spans)
                has_name = has_name or hit[0] == _KEY_TYPE
                continue
            if secret is not None:
                spans.append(Span(*secret))
        return has_name

    def _find_tokens(self, data: bytes, classes: bytes, start: int, spans: list[Span]) -> None:
        """Add the secrets in runs without a space."""
        while start >= 0:
            stop = classes.find(b" ", start + RUN_BYTES)
            if stop < 0:
                stop = len(data)
            self._find_in_run(data, start, stop, spans)
            start = classes.find(_LONG, stop)

    def _find_escaped(self, data: bytes, classes: bytes, spans: list[Span]) -> None:
        """Add the secrets in runs that begin behind an escape."""
        for escape in ESCAPE.finditer(data):
            start = escape.end()
            limit = start + 2 * LONG_RUN_BYTES
            end = classes.find(b" ", start + RUN_BYTES, limit)
            # Behind the next escape there is another run.
            escape_end = data.find(b"%", start + RUN_BYTES, limit if end < 0 else end)
            stop = next((stop for stop in (escape_end, end) if stop >= 0), limit)
            before = data[max(0, start - _CONTEXT_BYTES) : start]
            secrets: list[Span] = []
            # By itself: the patterns do not see the letter of the escape then.
            run = data[start:limit]
            self._find_in_run(run, 0, min(stop - start, len(run)), secrets, before)
            spans += [
                Span(start + secret.start, start + secret.end, secret.kind) for secret in secrets
            ]

    def _find_in_run(
        self, data: bytes, start: int, stop: int, spans: list[Span], before: bytes = b""
    ) -> None:
        """Add the secrets in a run without a space; `before` comes before the data."""
        near = min(stop, start + LONG_RUN_BYTES)
        spans += [Span(*secret) for secret in self._tokens.find(data, start, near)]
        if stop - start >= _SHAPE_BYTES:
            for sign in {hit[0] for hit in _LONG_SIGNS.finditer(data, start, near)}:
                for shape, pattern in _LONG_SHAPES[sign]:
                    for match in pattern.finditer(data, start, near):
                        spans.append(Span(*match.span(), shape.kind))
        if stop - start >= _AWS_SECRET_BYTES:
            for match in _FORTY.finditer(data, start, near):
                context = before + data[max(0, match.start() - _CONTEXT_BYTES) : match.start()]
                if _is_aws_secret(match[0], context[-_CONTEXT_BYTES:]):
                    spans.append(Span(*match.span(), "aws secret key"))


def _whole_characters(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Return a span with all bytes of its first and last character: a `.` matches one of them."""
    while start > 0 and data[start] & 0xC0 == 0x80:
        start -= 1
    while end < len(data) and data[end] & 0xC0 == 0x80:
        end += 1
    return start, end


def _is_aws_secret(value: bytes, before: bytes) -> bool:
    """Return whether 40 characters of Base64 are a secret access key of AWS.

    Other programs have random identifiers of 40 letters and digits, too.
    """
    before = before.lower()
    has_sign = b"+" in value or b"/" in value
    is_near_name = b"aws" in before or b"akia" in before or b"asia" in before or b"cret" in before
    return (has_sign or is_near_name) and is_aws_secret(value.decode("ascii"))


def _match_shapes(
    data: bytes, position: int, shapes: list[_CompiledShape], spans: list[Span]
) -> None:
    """Add the secrets of shapes whose sign is at a position."""
    for shape, pattern in shapes:
        if shape.before:
            sign = data[position : position + len(shape.sign)]
            if sign.lower() != shape.sign.encode():
                continue
            start = max(0, position - shape.before)
            # All of them: the first one may be of an earlier sign.
            matches = list(pattern.finditer(data, start, position + _NEAR_BYTES))
        else:
            match = pattern.match(data, position)
            matches = [] if match is None else [match]
        group = _group(pattern)
        check = shape.check
        spans += [
            Span(*match.span(group), shape.kind)
            for match in matches
            if check is None or check(match[group].decode("utf-8", "replace"))
        ]


def _group(pattern: re.Pattern[bytes]) -> str | int:
    """Return the group of a pattern that is the secret."""
    return "secret" if "secret" in pattern.groupindex else 0


def _compiled(shapes: Iterable[Shape]) -> list[_CompiledShape]:
    return [(shape, re.compile(shape.pattern.encode())) for shape in shapes]


def _by_sign(shapes: Iterable[Shape]) -> dict[bytes, list[_CompiledShape]]:
    """Return shapes by the shortest sign that begins theirs, as `trie` finds it."""
    compiled = _compiled(shapes)
    return {
        sign: [pair for pair in compiled if pair[0].sign.encode().startswith(sign)]
        for sign in {shape.sign.encode() for shape, _ in compiled}
    }


def _merged(data: bytes, spans: list[Span]) -> list[Span]:
    """Return spans in order, overlapping ones as one, and without those that touch a mark."""
    marks = mark_spans(data)
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: (span[0], -span[1])):
        start, end, kind = span
        if any(start < mark_end and mark_start < end for mark_start, mark_end in marks):
            continue
        if merged and start < merged[-1].end:
            last = merged[-1]
            merged[-1] = Span(last.start, max(last.end, end), last.kind)
        else:
            merged.append(Span(start, end, kind))
    return merged


def _parts_of(name: str) -> set[bytes]:
    """Return the parts that are looked for in texts without capitals, which are those of ASCII."""
    # The last word too: door_code is also written door-code and doorCode.
    parts = {name, re.split(r"[-_ ]+", name.strip("-_ "))[-1]}
    spellings = {word for part in parts for word in (part, part.upper(), part.capitalize())}
    return {word.encode().lower() for word in spellings}


def _variants(secret: str) -> set[bytes]:
    """Return a secret as texts have it: as it is, inside of JSON, and inside of a URL."""
    secret = secret.strip() or secret  # A file ends with a line's end.
    plain = secret.encode("utf-8", "surrogatepass")
    escaped = [json.dumps(secret, ensure_ascii=is_ascii)[1:-1] for is_ascii in (False, True)]
    quoted = [urllib.parse.quote(plain, safe="/"), urllib.parse.quote(plain, safe="")]
    form = urllib.parse.quote_plus(plain)
    # The bytes of a stream, which are searched as characters.
    characters = plain.decode("latin-1")
    texts = (*escaped, *quoted, form, characters)
    return {plain, *(text.encode("utf-8", "surrogatepass") for text in texts)}


_TOKENS = TokenSearch(TOKENS)
_LONG_SHAPES = _by_sign(LONG_SHAPES)
_LONG_SIGNS = re.compile(trie(_LONG_SHAPES))
