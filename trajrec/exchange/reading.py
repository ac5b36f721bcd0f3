"""Reads the files of other tools: JSON, lines of JSON, times, and values of a type.

A file is data: nothing in it is executed, and a part that is not of the expected type is an error
with its place.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from trajrec.errors import ImportFileError
from trajrec.exchange.account import Account
from trajrec.types import JsonObject, Value

T = TypeVar("T")

MAX_DEPTH = 90
"""The deepest nesting of a value that a log stores whole, with room for the records around it."""

SEVERAL = "holds several JSON values one after the other"

MAX_DOCUMENT_BYTES = 1 << 31
"""The largest file that is read whole."""

MAX_LINE_BYTES = 1 << 28
"""The longest line of a file of lines."""

_LARGE_BYTES = 1 << 26
_MAX_VALUES = 30_000_000
"""Values of a large text, each of which takes up to a hundred bytes of memory."""

_MAX_SKIPPED = 8
"""Times of the longest line that are skipped in search of its end."""

_BLOCK_BYTES = 1 << 20
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        ImportFileError: It cannot be read, or is too large to be read whole.
    """
    try:
        size = path.stat().st_size
        if size > MAX_DOCUMENT_BYTES:
            what = f"is a document of {size:,} bytes, which is read whole: at most "
            raise ImportFileError(f"{what}{MAX_DOCUMENT_BYTES:,} bytes", path=path)
        return path.read_bytes()
    except OSError as exc:
        raise ImportFileError(f"cannot be read: {exc.strerror or exc}", path=path) from exc


def sha256_of(path: Path, n_bytes: int | None = None) -> tuple[int, str]:
    """Return the number of bytes of a file, and their SHA-256 in hex.

    Args:
        path: The file.
        n_bytes: How many of its first bytes to take; by default all.

    Raises:
        ImportFileError: It cannot be read.
    """
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file:
            while block := file.read(_block_size(n_bytes, size)):
                digest.update(block)
                size += len(block)
    except OSError as exc:
        raise ImportFileError(f"cannot be read: {exc.strerror or exc}", path=path) from exc
    return size, digest.hexdigest()


def _block_size(n_bytes: int | None, n_read: int) -> int:
    return _BLOCK_BYTES if n_bytes is None else min(_BLOCK_BYTES, n_bytes - n_read)


def parse_json(data: bytes | str, *, path: Path, position: str = "") -> Value:
    """Return the value of a JSON text.

    Raises:
        ImportFileError: It is no JSON, nests too deeply, or holds too many values.
    """
    if len(data) > _LARGE_BYTES and _most_values(data) > _MAX_VALUES:
        what = f"holds more than {_MAX_VALUES // 10**6} million values, which no memory should hold"
        raise ImportFileError(what, path=path, position=position)
    try:
        value = _decode(data)
        if not may_repeat_keys(data, value):
            return value
    except (ValueError, RecursionError):
        pass
    # Python writes NaN and lone surrogates, which are no JSON, and which msgspec refuses.
    try:
        return json.loads(data, object_pairs_hook=_object_of)
    except RepeatedKeyError as exc:
        raise ImportFileError(str(exc), path=path, position=position) from exc
    except (ValueError, RecursionError) as exc:
        is_several = isinstance(exc, json.JSONDecodeError) and exc.msg == "Extra data"
        what = f"{SEVERAL}: write one a line" if is_several else f"is no JSON: {exc}"
        raise ImportFileError(what, path=path, position=position) from exc


def _most_values(data: bytes | str) -> int:
    """Return a number that the values of a JSON text do not exceed: those in texts count, too."""
    text = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return sum(map(text.count, (b",", b"[", b"{")))


class RepeatedKeyError(ValueError):
    """An object of a JSON text has a key twice, and a value would be lost."""


def may_repeat_keys(data: bytes | str, value: Value) -> bool:
    """Return whether an object of a JSON text may have a key twice, which decoders do not tell.

    Each key has a colon, and the colons in texts stand in the value as well, unless one is escaped.
    """
    text = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if text.count(b":") != _encode(value).count(b":"):
        return True
    # Some writers escape other signs of these numbers, such as <. One byte is found fast.
    return b"\\" in text and b"\\u003" in text and b"\\u003a" in text.lower()


def _object_of(pairs: list[tuple[str, Value]]) -> JsonObject:
    value = dict(pairs)
    if len(value) != len(pairs):
        key = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise RepeatedKeyError(
            f"has the key {key!r} twice in an object, of which one would be lost"
        )
    return value


def read_json(path: Path) -> Value:
    """Return the value of a JSON file.

    Raises:
        ImportFileError: It cannot be read, or is no JSON.
    """
    return parse_json(read_bytes(path), path=path)


def json_lines(path: Path, account: Account) -> Iterator[tuple[int, Value]]:
    """Yield the number of each line of a file, from 1, and its value; empty lines are left out.

    A line that is no JSON, as the last one of a writer that was killed, is dropped with a reason.

    Raises:
        ImportFileError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number in itertools.count(1):
                line = file.readline(MAX_LINE_BYTES)
                if not line:
                    break
                if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                    account.drop_part(f"line {number}: has more than {MAX_LINE_BYTES:,} bytes")
                    if not _skip_line(file):
                        break
                    continue
                text = line.strip()
                if not text:
                    continue
                try:
                    value = parse_json(text, path=path, position=f"line {number}")
                except ImportFileError as exc:
                    account.drop_part(f"line {number} {exc.what}")
                    continue
                yield number, value
    except OSError as exc:
        raise ImportFileError(f"cannot be read: {exc.strerror or exc}", path=path) from exc


def _skip_line(file: BinaryIO) -> bool:
    """Read on behind the end of a line that is too long; return whether it soon has one."""
    for _ in range(_MAX_SKIPPED):
        block = file.readline(MAX_LINE_BYTES)
        if block.endswith(b"\n"):
            return True
        if not block:
            break
    return False


def object_lines(path: Path, account: Account, name: str) -> Iterator[tuple[int, JsonObject]]:
    """Yield the number of each line of a file, and its object.

    A line that is no object is dropped with a reason.

    Args:
        path: The file.
        account: Counts the lines that are dropped.
        name: The noun for a line, e.g. "a record".

    Raises:
        ImportFileError: The file cannot be read.
    """
    for number, value in json_lines(path, account):
        if type(value) is dict:
            yield number, value
        else:
            account.drop_part(f"line {number}: {name} must be an object, got {shown(value)}")


class Place(msgspec.Struct, frozen=True):
    """A place in a file, for errors.

    Attributes:
        path: The file.
        position: The place in it, e.g. "steps[3]".
    """

    path: Path
    position: str = ""

    def at(self, position: str) -> Place:
        """Return a place below this one."""
        return Place(self.path, f"{self.position}.{position}" if self.position else position)

    def error(self, what: str) -> ImportFileError:
        """Return the error that something is wrong here."""
        return ImportFileError(what, path=self.path, position=self.position)

    def expect(self, kind: type[T], value: Value, name: str) -> T:
        """Return a value that has to be of a type.

        Raises:
            ImportFileError: It is of another type.
        """
        if isinstance(value, kind) and not (kind is int and type(value) is bool):
            return value
        raise self.error(f"{name} must be {_WORDS[kind]}, got {shown(value)}")

    def optional(self, kind: type[T], value: Value, name: str, default: T) -> T:
        """Return a value of a type, or the default for null.

        Raises:
            ImportFileError: It is of another type.
        """
        if value is None:
            return default
        # Nearly always: without another call.
        return value if type(value) is kind else self.expect(kind, value, name)


_DICTS = frozenset((dict,))

_WORDS = {str: "a text", dict: "an object", list: "a list", int: "a whole number", bool: "a flag"}


def shown(value: Value) -> str:
    """Return a value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def texts_by_key(value: Value) -> JsonObject:
    """Return an object as it is, {} for anything else."""
    return value if type(value) is dict else {}


def dicts_of(place: Place, value: Value, name: str) -> list[JsonObject]:
    """Return a list of objects; [] for null.

    Raises:
        ImportFileError: It is no list of objects.
    """
    items = place.optional(list, value, name, [])
    if _DICTS.issuperset(map(type, items)):
        return items
    for number, item in enumerate(items):
        if type(item) is not dict:
            raise place.error(f"{name}[{number}] must be an object, got {shown(item)}")
    return items


def object_parts(
    place: Place, value: Value, name: str, account: Account
) -> Iterator[tuple[str, JsonObject]]:
    """Yield the position of each item of a list, and its object; null is an empty list.

    An item that is no object is dropped with a reason.

    Raises:
        ImportFileError: It is no list.
    """
    for number, item in enumerate(place.optional(list, value, name, [])):
        position = f"{name}[{number}]"
        if type(item) is dict:
            yield position, item
        else:
            where = place.at(position).position
            account.drop_part(f"{where}: must be an object, got {shown(item)}")


def text_of(value: Value) -> str:
    """Return a value as a text, "" for null: unknown ids are not all one id of the name None.

    >>> text_of("refund-1"), text_of(0), text_of(None)
    ('refund-1', '0', '')
    """
    return "" if value is None else str(value)


def number_or_none(value: Value) -> float | None:
    """Return a number as a float, None for anything else: NaN, too, says that there is none.

    >>> number_or_none(3), number_or_none(True), number_or_none("3"), number_or_none(math.nan)
    (3.0, None, None, None)
    """
    if type(value) not in (int, float) or (type(value) is float and math.isnan(value)):
        return None
    return float(value)


def parse_arguments(value: Value) -> tuple[JsonObject, str]:
    """Return the arguments of a call, which many sources hold as JSON text, and why they misfit.

    >>> parse_arguments('{"x": 1}'), parse_arguments("{x")[1]
    (({'x': 1}, ''), 'malformed arguments')
    """
    if type(value) is dict:
        return value, ""
    if value is None or value == "":
        return {}, ""
    if type(value) is str:
        try:
            parsed = _decode(value)
            if may_repeat_keys(value, parsed):
                parsed = json.loads(value, object_pairs_hook=_object_of)
        except (ValueError, RecursionError):
            return {"": value}, "malformed arguments"
        if type(parsed) is dict:
            return parsed, ""
        return {"": parsed}, "malformed arguments"
    return {"": value}, "malformed arguments"
