"""Spans of OTLP/JSON: their attributes as plain values, and the trees that they form.

OTLP writes ids in hex, and times and integers as texts.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from trajrec.exchange.account import Account
from trajrec.exchange.reading import Place, dicts_of, object_parts, texts_by_key
from trajrec.types import JsonObject, Value

SPAN = frozenset(
    (
        "traceId",
        "spanId",
        "parentSpanId",
        "name",
        "kind",
        "startTimeUnixNano",
        "endTimeUnixNano",
        "status",
        "attributes",
        "events",
    )
)
MAX_DEPTH = 20
ERROR_CODES = (2, "STATUS_CODE_ERROR")


class Span(msgspec.Struct, kw_only=True):
    """A span.

    Attributes:
        attributes: By name.
        rest: Fields of the span that have no place of their own.
        events: Name, time and attributes of each event.
        where: The resource and the scope.
        error: Its error, None if it has none.
        taken: The names of the attributes that have got a place of their own.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start_ns: int
    end_ns: int
    attributes: JsonObject
    rest: JsonObject
    events: list[JsonObject]
    where: JsonObject
    error: str | None
    taken: set[str] = msgspec.field(default_factory=set)

    def text(self, name: str) -> str:
        """Return an attribute that is a text, "" if it is none."""
        value = self.attributes.get(name)
        return value if type(value) is str else ""

    def take(self, name: str, *kinds: type) -> Value:
        """Return an attribute for a place of its own, None if there is none.

        One that is of none of the kinds, if any are named, does not fit there: it is a leftover.
        """
        value = self.attributes.get(name)
        if kinds and type(value) not in kinds:
            return None
        self.taken.add(name)
        return value

    def take_text(self, name: str) -> str:
        """Return a text for a place of its own, "" if there is none."""
        text: str = self.take(name, str) or ""
        return text

    def leftovers(self) -> JsonObject:
        """Return what has no place of its own: attributes that were not taken, ids, events."""
        attributes = {name: v for name, v in self.attributes.items() if name not in self.taken}
        facts: JsonObject = {"span": self.span_id, "name": self.name, **self.rest}
        if self.parent_id:
            facts["parent"] = self.parent_id
        if attributes:
            facts["attributes"] = attributes
        if self.events:
            facts["events"] = self.events
        return facts


def spans_of(document: JsonObject, place: Place, account: Account) -> Iterator[Span]:
    """Yield the spans of one export.

    Raises:
        ImportFileError: It is not of the form of OTLP/JSON.
    """
    resources = object_parts(place, document.get("resourceSpans"), "resourceSpans", account)
    account.keep("export")
    for name in document.keys() - {"resourceSpans"}:
        # Such as the logs and metrics of a collector, which writes them into the same file.
        account.drop(f"{name} of an export: spans alone are read")
    for name, resource in resources:
        inner = place.at(name)
        about = {key: value for key, value in resource.items() if key != "scopeSpans"}
        scopes: list[tuple[str, JsonObject]] = []
        with account.attempt(inner.position):
            scopes = list(object_parts(inner, resource.get("scopeSpans"), "scopeSpans", account))
        for scope_name, scope in scopes:
            at_scope = inner.at(scope_name)
            where = {**about, "scope": {k: v for k, v in scope.items() if k != "spans"}}
            with account.attempt(at_scope.position):
                yield from _spans_of_scope(scope, at_scope, where, account)


def _spans_of_scope(
    scope: JsonObject, place: Place, where: JsonObject, account: Account
) -> Iterator[Span]:
    for position, record in object_parts(place, scope.get("spans"), "spans", account):
        at = place.at(position)
        span: Span | None = None
        with account.attempt(at.position):
            span = _span(record, at, where, account)
        if span is not None:
            yield span


def _span(record: JsonObject, place: Place, where: JsonObject, account: Account) -> Span:
    rest = account.take(record, "span", SPAN) or {}
    if record.get("kind") is not None:
        rest["kind"] = record["kind"]
    status = place.optional(dict, record.get("status"), "status", {})
    error = None
    if status.get("code") in ERROR_CODES:
        message = status.get("message")
        error = message if type(message) is str else ""
    if status and (error is None or status.keys() - {"code", "message"} or error != message):
        rest["status"] = status
    # Some writers give a root the id of zeros, which no span has.
    parent_id = place.optional(str, record.get("parentSpanId"), "parentSpanId", "")
    events = []
    for event in dicts_of(place, record.get("events"), "events"):
        facts = {key: value for key, value in event.items() if key != "attributes"}
        facts["attributes"] = attributes_of(event.get("attributes"), place)
        events.append(facts)
    return Span(
        trace_id=place.optional(str, record.get("traceId"), "traceId", ""),
        span_id=place.expect(str, record.get("spanId"), "spanId"),
        parent_id=parent_id if parent_id.strip("0") else "",
        name=place.optional(str, record.get("name"), "name", ""),
        start_ns=nanoseconds(record.get("startTimeUnixNano"), account),
        end_ns=nanoseconds(record.get("endTimeUnixNano"), account),
        attributes=attributes_of(record.get("attributes"), place),
        rest=rest,
        events=events,
        where=where,
        error=error,
    )


def nanoseconds(value: Value, account: Account) -> int:
    """Return a time, which OTLP writes as a text of digits; 0 if it is unknown."""
    time_ns = time_or_none(value)
    if time_ns is None and value is not None:
        account.drop(f"a time that is none: {value!r:.40}")
    return time_ns or 0


def time_or_none(value: Value) -> int | None:
    """Return a time of OTLP, None if it is none."""
    text = value if type(value) is str else str(value) if type(value) is int else ""
    is_time = text.isascii() and text.isdigit() and len(text) < 20 and int(text) < 1 << 63
    return int(text) if is_time else None


def attributes_of(value: Value, place: Place) -> JsonObject:
    """Return attributes by name."""
    attributes: JsonObject = {}
    for item in dicts_of(place, value, "attributes"):
        name = place.expect(str, item.get("key"), "the key of an attribute")
        before = name
        while before in attributes:
            before = f"{before} (before)"
        if before != name:
            attributes[before] = attributes[name]
        attributes[name] = plain_value(item.get("value"), place, 0)
        if item.keys() - {"key", "value"}:
            attributes[f"{name} (as it stands)"] = item
    return attributes


def plain_value(value: Value, place: Place, depth: int) -> Value:
    """Return a value of OTLP as a plain one."""
    fields = texts_by_key(value)
    if depth > MAX_DEPTH:
        raise place.error("an attribute is nested too deeply")
    if len(fields) != 1:
        return None if value == {} else value
    if "intValue" in fields:
        number = fields["intValue"]
        is_text = type(number) is str and number.removeprefix("-").isdecimal() and len(number) < 21
        return int(number) if is_text else number
    for name in ("stringValue", "doubleValue", "boolValue", "bytesValue"):
        if name in fields:
            return fields[name]
    inner = next(iter(fields.values()))
    if type(inner) is dict and not inner.keys() - {"values"}:
        items = inner.get("values") or []
        if "arrayValue" in fields and type(items) is list:
            return [plain_value(item, place, depth + 1) for item in items]
        if "kvlistValue" in fields and _are_pairs(items):
            return {pair["key"]: plain_value(pair.get("value"), place, depth + 1) for pair in items}
    # Of another form: as it stands.
    return value


def _are_pairs(items: Value) -> bool:
    """Return whether each item is a key, which no other has, and its value."""
    if type(items) is not list or not all(type(item) is dict for item in items):
        return False
    keys = [item.get("key") for item in items]
    return (
        all(type(key) is str for key in keys)
        and len(set(keys)) == len(keys)
        and not any(item.keys() - {"key", "value"} for item in items)
    )
