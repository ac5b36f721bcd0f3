"""Secrets beside their names in a text: `password=...`, `"token": "..."`, `--api-key ...`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from trajrec.redaction.names import Strength, kind_of
from trajrec.redaction.plausibility import (
    MAX_SECRET_BYTES,
    is_bearer_token,
    is_placeholder,
    is_secret_value,
    looks_random,
)

MAX_NAME_BYTES = 64
MIN_COOKIE_BYTES = 8
MIN_SETTING_CHARS = 6

_LAST_WORDS = ("key", "token")
"""Words that name a secret only with the word before them, as in "API key"."""

_NAME_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-."

# A quote, at any depth of JSON within JSON, or as URLs and HTML write it.
_QUOTE = rb"""(?:\\{0,15}["'`]|&quot;|&#34;|%22|%27)"""

_SIGN = re.compile(
    rb"(?P<close>" + _QUOTE + rb"?)\]?\*{0,2}(?P<gap>[ \t]*)"
    rb"(?P<sign>:=|=>|===?|[=:]|%3[AaDd])"
    # The type in a declaration: `password: str | None = "..."`.
    rb"(?:(?<=:)[ \t]*[A-Za-z][\w.\[\]]{0,40}(?: \| \w+)?[ \t]*=[ \t]*(?=[bru]?[\"']))?"
    # The scheme in a header: `Authorization: Bearer ...`.
    rb"[ \t]*(?P<scheme>[\"']?(?:[Bb]asic|[Bb]earer|[Tt]oken|[Bb]ot|[Aa]pi[Kk]ey|SSWS)[ ]+(?=[^\s\"']))?"
)
_QUOTED = re.compile(
    rb"[bBrRuU]?(?P<quote>"
    + _QUOTE
    + rb")(?P<value>[^\r\n]{1,%d}?)(?<!\\)(?P=quote)" % MAX_SECRET_BYTES
)
# Up to the escape that ends a colour of a terminal, too.
_BARE = re.compile(rb"""[^\s\x1b"'`<>,;&|\\(){}\[\]]+""")
_LINE = re.compile(rb"""[^\s\x1b"'`<>\\]+""")
_LINE_START = re.compile(rb"(?:^|[\n\r;])[ \t]*(?:export |set |ENV |ARG |\$env:|-e )?[ \t]*\Z")
_FLAG = re.compile(rb"(?<![A-Za-z0-9])--([\w.-]+)[ \t]+(?=[^\s|<>&-])")
_TAG_GAP = re.compile(rb"(?:\s[^<>]{0,80})?>\s*")
_TAG_VALUE = re.compile(rb"[^<>\s]+(?=\s*</)")
_ATTRIBUTE_GAP = re.compile(
    rb"\\{0,15}[\"'][ \t]+(?:[\w-]+=[\"'][^\"']*[\"'][ \t]+){0,3}[vV]alue=(?=\\{0,15}[\"'])"
)
_PAIR_GAP = re.compile(rb"\\{0,15}[\"'],[ \t]*(?=[bru]?\\{0,15}[\"'])")
_PAIR_START = re.compile(rb"[(\[][ \t]*[bru]?\\{0,15}[\"']\Z")
_PAIR_END = re.compile(rb"[ \t]*,?[ \t]*[)\]]")
# A value of ODBC: `PWD={...};`.
_BRACED = re.compile(rb"\{([^{}\s]{4,128})\};")
_CELL_GAP = re.compile(rb"[`*\"']{0,3}[ \t]*\|[ \t]*")
_BLOCK = re.compile(rb"[|>][-+]?[ \t]*\r?\n[ \t]+")
_NAME_LINE = re.compile(rb"\b(?:name|key)[\"']?[ \t]*[:=][ \t]*[\"']?\Z")
_VALUE_LINE = re.compile(rb"[\"']?,?[ \t]*\r?\n[ \t]*[\"']?value[\"']?[ \t]*[:=][ \t]*")
_WORD_BEFORE = re.compile(rb"(?<![\w.-])([A-Za-z]{2,20}) \Z")
_ESCAPED = re.compile(rb"\\[nrtfvb]\Z")
_TYPE_PATH = re.compile(rb"(?<![\w:])(?:[A-Za-z0-9]+::)+\Z")
# The name of a resource, `arn:aws:secretsmanager:eu-west-1:123456789012:secret:NAME`, is none of its
# secrets.
_ARN = re.compile(rb"\barn:[\w-]+:[\w-]*:[\w-]*:\d*:\Z")
_SAID_GAP = re.compile(rb"[ \t]+(?:is|was)[ \t]*:?[ \t]+|[ \t]+(?=[\"'`])")


NAME_REST = (
    rb"[\w.\-]*+()(?=" + _QUOTE + rb"?\]?\*{0,2}[ \t]*(?:[=:]|%3[ad])"
    rb"|\\{0,15}[\"'][ \t,]|>|[ \t]+(?:[\"'`]|is\b|was\b)"
    # The end of a cell or of a line.
    rb"|[\"'`*]{0,3},?[ \t]*(?:[,|\t]|\r?\n))"
)
"""The rest of a name, if a value may come behind it: most names are words of a sentence or of a
program. It has an empty group, so that a match tells which branch of a pattern it was."""


_COOKIES = re.compile(
    rb"\\{0,15}[\"']?(?P<all>[\w.\-$%]+=(?P<first>[^\s\"'<>\\;,]+)"
    rb"(?:; ?[\w.\-$%]+=[^\s\"'<>\\;]*)*)"
)

# `Authorization: Scheme abc` or `Authorization: Scheme a=b, c=d`
_CREDENTIALS = re.compile(
    rb"\\{0,15}[\"']?(?P<scheme>[A-Za-z][\w.\-]{1,40} +)?"
    rb"(?P<value>[^\s\"'<>\\,;]{8,4096}(?:, *[\w\-]+=[^\s\"'<>\\,;]+)*)"
)


class Name(NamedTuple):
    """The name of a secret in a text.

    Attributes:
        start: Its first byte.
        end: The byte after its last one.
        text: The name.
        strength: How surely it names a secret.
    """

    start: int
    end: int
    text: str
    strength: Strength


class Assigned(NamedTuple):
    """A secret beside its name.

    Attributes:
        start: Its first byte.
        end: The byte after its last one.
        name: The name.
    """

    start: int
    end: int
    name: str


StrengthOf: TypeAlias = Callable[[str], Strength]


def name_at(data: bytes, position: int, end: int, strength_of: StrengthOf) -> Name | None:
    """Return the name of a secret that stands in a text.

    Args:
        data: The text as UTF-8.
        position: A byte in the name.
        end: The end of the name.
        strength_of: Returns how surely a name names a secret.
    """
    before = data[max(0, position - MAX_NAME_BYTES) : position]
    start = position - len(before) + len(before.rstrip(_NAME_BYTES))
    if _ESCAPED.search(data, max(0, start - 1), min(start + 1, end - 1)):
        # JSON and reprs write a line that begins with DB_PASSWORD as `\nDB_PASSWORD`.
        start += 1
    # A name of the user's own may have any letters.
    name = data[start:end].decode("utf-8", "replace")
    strength = strength_of(name)
    if strength and _ARN.search(data, max(0, start - MAX_NAME_BYTES), start):
        return None
    path = _TYPE_PATH.search(data, max(0, start - MAX_NAME_BYTES), start)
    if path is not None and not strength_of(path[0].decode("ascii") + name):
        return None
    if strength in ("", "weak") and name.lower() in _LAST_WORDS:
        # "API key" in a sentence.
        word = _WORD_BEFORE.search(data, max(0, start - MAX_NAME_BYTES), start)
        joined = "" if word is None else f"{word[1].decode('ascii')}_{name}"
        if word is not None and strength_of(joined) == "key":
            return Name(word.start(1), end, joined, "key")
    return Name(start, end, name, strength) if strength else None


def find_assigned(data: bytes, name: Name) -> Assigned | None:
    """Return the secret that stands beside a name in a text."""
    start, end, text, strength = name
    lowered = text.lower()
    if lowered.endswith("authorization"):
        span = _find_authorization(data, end)
    elif lowered.endswith("cookie"):
        span = _find_cookie(data, end, "first" if "set" in lowered else "all")
    else:
        span = _find_value(data, start, end, strength)
    return None if span is None else Assigned(*span, kind_of(text))


def find_option(data: bytes, position: int, strength_of: StrengthOf) -> Assigned | None:
    """Return the secret behind an option of a command line, as in `--password hunter2`."""
    option = _FLAG.match(data, position)
    if option is None:
        return None
    name = option[1].decode("ascii")
    strength = strength_of(name)
    end = option.end()
    span = strength and (_quoted(data, end, strength) or _bare(data, end, _BARE, strength))
    return Assigned(*span, kind_of(name)) if span else None


def _find_value(data: bytes, start: int, end: int, strength: Strength) -> tuple[int, int] | None:
    """Return start and end of the secret beside a name."""
    sign = _SIGN.match(data, end)
    if sign is not None:
        return _after_sign(data, start, sign, strength)
    before = data[max(0, start - 24) : start]
    if before.endswith(b"<"):
        gap = _TAG_GAP.match(data, end)
        value = None if gap is None else _TAG_VALUE.match(data, gap.end())
        return None if value is None else _checked(data, *value.span(), strength, is_quoted=True)
    gap = _ATTRIBUTE_GAP.match(data, end)
    if gap is not None:
        return _quoted(data, gap.end(), strength)
    gap = _PAIR_GAP.match(data, end)
    if gap is not None:
        span = _quoted(data, gap.end(), strength)
        is_pair = span is not None and _PAIR_START.search(before) is not None
        return span if is_pair and _PAIR_END.match(data, _after_quote(data, gap.end())) else None
    gap = _VALUE_LINE.match(data, end)
    if gap is not None and _NAME_LINE.search(before):
        return _quoted(data, gap.end(), strength) or _bare(data, gap.end(), _LINE, strength)
    gap = _CELL_GAP.match(data, end)
    if gap is not None and before.rstrip(b" \t`*\"'").endswith(b"|"):
        return _quoted(data, gap.end(), strength) or _bare(data, gap.end(), _BARE, strength)
    gap = _SAID_GAP.match(data, end)
    # "Pass" is a verb, too.
    if gap is not None and data[start:end].lower().rpartition(b"--")[2] != b"pass":
        return _quoted(data, gap.end(), strength) or _bare(data, gap.end(), _BARE, strength)
    return None


def _find_authorization(data: bytes, end: int) -> tuple[int, int] | None:
    """Return start and end of the credentials in a header, without their scheme."""
    sign = _SIGN.match(data, end)
    if sign is None or sign["sign"].startswith(b"=="):
        return None
    match = _CREDENTIALS.match(data, sign.end())
    if match is None:
        return None
    value = match["value"].decode("utf-8", "replace")
    has_scheme = match["scheme"] is not None or sign["scheme"] is not None
    is_secret = is_bearer_token(value) if has_scheme else looks_random(value)
    return match.span("value") if is_secret else None


def _find_cookie(data: bytes, end: int, group: str) -> tuple[int, int] | None:
    """Return start and end of the cookies in a header."""
    sign = _SIGN.match(data, end)
    match = None if sign is None else _COOKIES.match(data, sign.end())
    if match is None or is_placeholder(match["first"].decode("utf-8", "replace")):
        return None
    return match.span(group) if len(match[group]) >= MIN_COOKIE_BYTES else None


def _after_sign(
    data: bytes, start: int, sign: re.Match[bytes], strength: Strength
) -> tuple[int, int] | None:
    """Return the secret behind a sign such as "=" or ":"."""
    position = sign.end()
    block = _BLOCK.match(data, position)
    if block is not None and sign["sign"] == b":":
        line = _LINE.match(data, block.end())
        return None if line is None else _checked(data, *line.span(), strength, is_quoted=True)
    is_start = _is_line_start(data, start)
    if strength == "password" and sign["sign"] == b"=" and not sign["gap"] and is_start:
        span = _setting(data, start, sign)
        if span is not None:
            return span
    if strength == "password":
        braced = _BRACED.match(data, position)
        if braced is not None:
            return _checked(data, *braced.span(1), strength, is_quoted=False)
    if sign["scheme"] is None:
        span = _quoted(data, position, strength)
        if span is not None or _QUOTED.match(data, position) is not None:
            return span
    if sign["sign"].startswith(b"=="):
        # A comparison; the other side is mostly another variable.
        return None
    if is_start and sign["sign"] in (b"=", b":"):
        line = _LINE.match(data, position)
        # A line of a program ends in a sign of its own, that of a file of settings in the value.
        if line is not None and not line[0].endswith((b",", b")", b"]", b"}", b";", b"(", b"{")):
            return _bare(data, position, _LINE, strength)
    return _bare(data, position, _BARE, strength)


def _setting(data: bytes, start: int, sign: re.Match[bytes]) -> tuple[int, int] | None:
    """Return the value in a line of a file of settings: PASSWORD=any-word.

    Programs have spaces around the sign, or small letters.
    """
    if not data[start : sign.start()].isupper():
        return None
    quoted = _QUOTED.match(data, sign.end())
    value = quoted or _LINE.match(data, sign.end())
    if value is None or data[value.end() : value.end() + 1] not in (b"", b"\n", b"\r"):
        return None
    span = value.span("value" if quoted else 0)
    text = data[slice(*span)].decode("utf-8", "replace")
    is_secret = len(text) >= MIN_SETTING_CHARS and not is_placeholder(text)
    return span if is_secret and not text.startswith("$") else None


def _is_line_start(data: bytes, start: int) -> bool:
    return _LINE_START.search(data, max(0, start - 40), start) is not None or start == 0


def _quoted(data: bytes, position: int, strength: Strength) -> tuple[int, int] | None:
    match = _QUOTED.match(data, position)
    if match is None:
        return None
    return _checked(data, *match.span("value"), strength, is_quoted=True)


def _after_quote(data: bytes, position: int) -> int:
    match = _QUOTED.match(data, position)
    return position if match is None else match.end()


def _bare(
    data: bytes, position: int, pattern: re.Pattern[bytes], strength: Strength
) -> tuple[int, int] | None:
    match = pattern.match(data, position)
    if match is None:
        return None
    # The full stop of a sentence, not of the secret.
    value = match.group().rstrip(b".:!?")
    end = position + len(value)
    is_call = data[end : end + 1] in (b"(", b"[", b"{")
    return None if is_call else _checked(data, position, end, strength, is_quoted=False)


def _checked(
    data: bytes, start: int, end: int, strength: Strength, *, is_quoted: bool
) -> tuple[int, int] | None:
    value = data[start:end].decode("utf-8", "replace")
    return (start, end) if is_secret_value(value, strength, is_quoted=is_quoted) else None
