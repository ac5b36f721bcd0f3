"""Tables of conversations: Parquet, JSON or lines of JSON, read by a mapping of their columns."""

from __future__ import annotations

from collections.abc import Iterator

from trajrec.errors import ImportFileError
from trajrec.exchange.account import Account
from trajrec.exchange.atif import tools_of
from trajrec.exchange.candidates import Candidate, Format
from trajrec.exchange.chat_messages import ChatForm, ChatReader
from trajrec.exchange.mappings import Mapping, Variant, shipped_mappings
from trajrec.exchange.reading import Place, dicts_of, number_or_none, parse_json, text_of
from trajrec.exchange.records import ImportedEpisode, Verdict
from trajrec.exchange.tables import columns_of, rows_of
from trajrec.types import JsonObject, Value


def mapping_format(mapping: Mapping) -> Format:
    """Return the format of the tables that a mapping reads, whichever columns they have."""

    def matches(candidate: Candidate) -> bool:
        return set(mapping.requires) <= columns_of(candidate)

    def read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
        return _read_rows(candidate, account, mapping)

    name = f"messages:{mapping.name}"
    return Format(name=name, title=f"the mapping {mapping.name}", matches=matches, read=read)


def _mapping_of(candidate: Candidate) -> Mapping | None:
    columns = columns_of(candidate)
    if not columns:
        return None
    return next((m for m in shipped_mappings() if set(m.requires) <= columns), None)


def _matches(candidate: Candidate) -> bool:
    return _mapping_of(candidate) is not None


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    mapping = _mapping_of(candidate)
    if mapping is None:
        raise ImportFileError(
            "has no columns that a mapping of trajrec reads; give one: --mapping FILE",
            path=candidate.path,
        )
    account.note(f"read by the mapping {mapping.name}")
    yield from _read_rows(candidate, account, mapping)


def _read_rows(
    candidate: Candidate, account: Account, mapping: Mapping
) -> Iterator[ImportedEpisode]:
    def read_row(position: str, row: JsonObject) -> Iterator[ImportedEpisode]:
        rest = account.take(row, "row", mapping.columns)
        for variant in mapping.conversations:
            episode = _episode(row, Place(candidate.path, position), mapping, variant, account)
            episode.position = f"{position} {variant.name}".strip()
            episode.extra = rest
            yield episode

    yield from account.whole_parts(rows_of(candidate, account), read_row)


def _episode(
    row: JsonObject, place: Place, mapping: Mapping, variant: Variant, account: Account
) -> ImportedEpisode:
    tools = _decoded(row.get(mapping.tools), place, mapping.tools)
    form = ChatForm(drops_null_arguments=mapping.drops_null_arguments)
    model = text_of(row.get(mapping.model))
    offered = _without_nulls(tools) if mapping.drops_null_arguments else tools
    reader = ChatReader(form, account, place, model=model, tools=offered)
    for column in variant.messages:
        messages = _decoded(row.get(column), place, column)
        for number, message in enumerate(dicts_of(place, messages, column)):
            inner = place.at(f"{column}[{number}]")
            reader.add(_as_chat(message, mapping), inner)
    items = reader.items
    for number, check in enumerate(mapping.checks):
        items.append(_verdict(check.id, row.get(check.field), check.family, is_primary=number == 0))
    if variant.preferred is not None:
        preferred = Verdict(check_id="preferred", family="rubric", verdict=variant.preferred)
        preferred.is_primary = not mapping.checks
        items.append(preferred)
    run = row.get(mapping.run)
    return ImportedEpisode(
        position="",
        task=text_of(row.get(mapping.task)),
        tools=tools_of(place, offered) if type(offered) is list else None,
        metadata={"run": run} if type(run) in (str, int) else None,
        interface={"base": {"model": model}} if model else None,
        items=items,
        stop_reason=text_of(row.get(mapping.stop_reason)),
    )


def _as_chat(message: JsonObject, mapping: Mapping) -> JsonObject:
    """Return a message with the names of the API of chats."""
    columns = mapping.message
    role = message.get(columns.role)
    known = columns.roles.get(role, role) if type(role) is str else role
    content = next((name for name in columns.content if message.get(name) is not None), None)
    used = {columns.role, content}
    text = None if content is None else message[content]
    value = {"role": known, "content": text}
    for name, field in message.items():
        if name in value and name not in used and field is not None:
            # A field that has one of these names, and that the mapping does not read.
            value[f"original_{name}"] = field
        elif name not in used and name not in value:
            value[name] = field
    if known != role:
        value["original_role"] = role
    return value


def _decoded(value: Value, place: Place, name: str) -> Value:
    """Return a value of a column, which may be JSON text."""
    if type(value) is not str or not name:
        return value
    return parse_json(value, path=place.path, position=f"{place.position} {name}")


def _without_nulls(value: Value) -> Value:
    if type(value) is dict:
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return list(map(_without_nulls, value)) if type(value) is list else value


def _verdict(name: str, value: Value, family: str, *, is_primary: bool) -> Verdict:
    """Return the check of a column: a flag, or a number that is one if it is 0 or 1."""
    score = float(value) if type(value) is bool else number_or_none(value)
    return Verdict(
        check_id=name,
        family=family,
        status="not_evaluated" if value is None else "ok",
        verdict=bool(score) if score in (0.0, 1.0) else None,
        score=score,
        evidence=None if score is not None or value is None else {"value": value},
        is_primary=is_primary,
    )


FORMAT = Format(name="messages", title="a table of messages", matches=_matches, read=_read)
