"""Fields of ATIF's records: those that an importer kept, and facts that the format has no place for."""

from __future__ import annotations

from collections.abc import Sequence

from trajrec.corpus.call_contents import plain
from trajrec.exchange.chat import json_text
from trajrec.types import JsonObject, Value

_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")

OURS = "trajrec"
"""The name under `extra` of a record that has the facts without a place."""


def restore(record: JsonObject, left: JsonObject, names: Sequence[str], ours: JsonObject) -> None:
    """Put back the fields that an importer kept.

    Args:
        record: The record.
        left: The fields.
        names: The fields that the format knows, and that go into the record.
        ours: Takes the others.
    """
    for name, value in left.items():
        holder = record if name in names else ours
        holder[name] = value


def add_ours(record: JsonObject, ours: JsonObject) -> None:
    """Put facts without a place under `extra.trajrec` of a record.

    >>> record = {"extra": {"a": 1}}
    >>> add_ours(record, {"outcome": "error"})
    >>> record
    {'extra': {'a': 1, 'trajrec': {'outcome': 'error'}}}
    """
    if not ours:
        return
    extra = record.get("extra")
    kept = dict(extra) if type(extra) is dict else {}
    if extra is not None and type(extra) is not dict:
        ours = {**ours, "extra": extra}
    if OURS in kept:
        # Of an earlier export, which was imported.
        ours = {**ours, "earlier": kept[OURS]}
    record["extra"] = {**kept, OURS: ours}


def content_of_value(value: Value, ours: JsonObject) -> Value:
    """Return a result as the format takes it: a text or parts of content; another value as JSON.

    Args:
        value: The result.
        ours: Notes that the text is JSON.

    >>> content_of_value({"n": 1}, {})
    '{"n":1}'
    """
    if isinstance(value, str):
        return value
    value = plain(value)
    if type(value) is list and value and all(map(_is_part, value)):
        return value
    ours["is_json"] = True
    return json_text(value)


def _is_part(value: Value) -> bool:
    """Return whether a value is a part of content as the format defines it."""
    if type(value) is not dict or type(value.get("type")) is not str:
        return False
    if value.keys() == {"type", "text"}:
        return value["type"] == "text" and type(value["text"]) is str
    source = value.get("source")
    if value.keys() != {"type", "source"} or type(source) is not dict:
        return False
    is_place = type(source.get("path")) is str and source.keys() == {"media_type", "path"}
    return value["type"] == "image" and is_place and source["media_type"] in _IMAGES
