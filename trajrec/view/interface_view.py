"""The pages of interfaces: what a run was given, part by part, and what of it is unknown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from trajrec.analysis.interface_difference import UNKNOWN_REASONS, Factor, compare_interfaces
from trajrec.corpus.corpus import Corpus
from trajrec.errors import CorpusError
from trajrec.run_interface import FIELDS
from trajrec.statistics.intervals import Interval
from trajrec.task_options import IS_OF_AGENT
from trajrec.types import JsonObject, Value
from trajrec.view.compare_view import PARTS
from trajrec.view.corpus_query import NULL
from trajrec.view.corpus_view import share
from trajrec.view.text import Shown, shown, shown_text

MAX_INTERFACES = 200
"""Interfaces that a page lists; the rest is counted."""

MAX_VALUES = 200
"""Values of one part that a page lists; the rest is counted."""

NONE = "none"
"""Stands in an address for episodes without an interface: none was given to their recorder."""

_ALL = f"""
SELECT interface_id, count(*), count(*) FILTER (outcome = 'success'),
    count(*) FILTER (outcome = 'failure'), count(DISTINCT task)
FROM episodes WHERE {IS_OF_AGENT} GROUP BY 1 ORDER BY count(*) DESC, interface_id NULLS LAST
"""

_VALUES = f"""
SELECT interface_id, [{", ".join(FIELDS)}]::VARCHAR[], [{", ".join(f"{f}_state" for f in FIELDS)}]
FROM interfaces
"""

_TASKS = f"""
SELECT count(*), count(*) FILTER (won = n), count(*) FILTER (won = 0) FROM (
    SELECT count(*) FILTER (outcome = 'success') AS won, count(*) FILTER (outcome IN
        ('success', 'failure')) AS n
    FROM episodes WHERE {IS_OF_AGENT} AND task IS NOT NULL AND interface_id IS NOT DISTINCT FROM ?
    GROUP BY task
) WHERE n > 0
"""

_REASONS = {
    "unknown": "unknown: nobody gave it",
    "not_captured": "unknown: it was not captured",
    "redacted": "unknown: it was redacted",
    "not_applicable": "not applicable",
}


@dataclass(frozen=True, kw_only=True)
class InterfaceRow:
    """An interface that episodes ran under.

    Attributes:
        id: Its digest, or "none" for episodes without one.
        unknown: The parts that are unknown, or of which a part is.
        success: Share of the judged episodes that succeeded; None if none was judged.
    """

    id: str
    n: int
    n_won: int
    n_failed: int
    n_tasks: int
    unknown: Sequence[str]
    success: Interval | None

    @property
    def address(self) -> str:
        """The page of it."""
        return f"/i/{quote(self.id, safe='')}"

    @property
    def episodes(self) -> str:
        """The table of its episodes."""
        name, value = (NULL, "interface_id") if self.id == NONE else ("interface_id", self.id)
        return "/?" + urlencode({name: value})


@dataclass(frozen=True, kw_only=True)
class PartValue:
    """A value inside of a part.

    Attributes:
        path: Its place in the part, with dots; "" if it is the whole part.
        is_unknown: Whether it is marked as missing.
    """

    path: str
    text: Shown
    is_unknown: bool


@dataclass(frozen=True, kw_only=True)
class PartView:
    """One of the nine parts of an interface.

    Attributes:
        state: "known", "partial", "unknown" or "not applicable".
        n_more: Values that are not listed.
    """

    name: str
    meaning: str
    state: str
    values: Sequence[PartValue]
    n_more: int


@dataclass(frozen=True, kw_only=True)
class InterfaceView:
    """The page of an interface.

    Attributes:
        row: The interface.
        others: All others, to compare it with.
        tasks: Tasks with a verdict; those that always, and those that never succeeded.
    """

    row: InterfaceRow
    parts: Sequence[PartView]
    others: Sequence[InterfaceRow]
    tasks: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class InterfacePair:
    """The page of two interfaces: the parts that differ first."""

    a: InterfaceRow
    b: InterfaceRow
    factors: Sequence[tuple[str, str, Factor]]


def read_interfaces(corpus: Corpus) -> list[InterfaceRow]:
    """Return the interfaces that episodes ran under, the most frequent first."""
    states = {row[0]: row[2] for row in corpus.sql(_VALUES).fetchall()}
    return [
        InterfaceRow(
            id=NONE if digest is None else digest,
            n=n,
            n_won=n_won,
            n_failed=n_failed,
            n_tasks=n_tasks,
            unknown=[
                name
                for name, state in zip(
                    FIELDS, states.get(digest, ["unknown"] * len(FIELDS)), strict=True
                )
                if state in ("unknown", "partial")
            ],
            success=share(n_won, n_won + n_failed),
        )
        for digest, n, n_won, n_failed, n_tasks in corpus.sql(_ALL).fetchall()
    ]


def read_interface(corpus: Corpus, given: str) -> InterfaceView:
    """Return the page of an interface.

    Raises:
        CorpusError: No episode, or no single interface, has a digest that begins so.
    """
    rows = read_interfaces(corpus)
    row = _find(rows, given)
    digest = None if row.id == NONE else row.id
    fields = _fields(corpus, row)
    (tasks,) = corpus.sql(_TASKS, params=[digest]).fetchall()
    return InterfaceView(
        row=row,
        parts=[_part(name, fields.get(name)) for name in FIELDS],
        others=[other for other in rows if other is not row],
        tasks=tasks,
    )


def read_pair(corpus: Corpus, a: str, b: str) -> InterfacePair:
    """Return the page of two interfaces.

    Raises:
        CorpusError: No episode, or no single interface, has a digest that begins so.
    """
    rows = read_interfaces(corpus)
    first = _find(rows, a)
    second = _find(rows, b)
    pair = ([_fields(corpus, first)], [_fields(corpus, second)])
    order = ("differs", "mixed", "unknown", "same", "not_applicable")
    factors = sorted(
        compare_interfaces([pair]).items(), key=lambda item: order.index(item[1].status)
    )
    return InterfacePair(
        a=first, b=second, factors=[(name, PARTS[name], factor) for name, factor in factors]
    )


def _find(rows: Sequence[InterfaceRow], given: str) -> InterfaceRow:
    found = [row for row in rows if row.id == given] or [
        row for row in rows if given and row.id.startswith(given)
    ]
    if len(found) != 1:
        count = "no interface has" if not found else f"{len(found)} interfaces have"
        raise CorpusError(f"{count} a digest that begins with {given!r}; /interfaces lists all")
    return found[0]


def _fields(corpus: Corpus, row: InterfaceRow) -> JsonObject:
    """Return the parts of an interface that were given."""
    query = f"SELECT * FROM ({_VALUES}) WHERE interface_id = ?"
    for _, texts, _ in corpus.sql(query, params=[row.id]).fetchall():
        pairs = zip(FIELDS, texts, strict=True)
        return {name: json.loads(text) for name, text in pairs if text is not None}
    return {}


def _part(name: str, value: Value) -> PartView:
    values = list(_leaves({"missing": "unknown"} if value is None else value, ()))
    n_unknown = sum(item.is_unknown for item in values)
    state = "known" if not n_unknown else "unknown" if n_unknown == len(values) else "partial"
    if [item.text.text for item in values] == [_REASONS["not_applicable"]]:
        state = "not applicable"
    return PartView(
        name=name,
        meaning=PARTS[name],
        state=state,
        values=values[:MAX_VALUES],
        n_more=max(0, len(values) - MAX_VALUES),
    )


def _leaves(value: Value, path: tuple[str, ...]) -> Iterator[PartValue]:
    """Yield the values inside of a part, each with its place."""
    place = ".".join(path)
    if isinstance(value, Mapping) and value:
        reason = value.get("missing") if len(value) == 1 else None
        if isinstance(reason, str) and reason in _REASONS:
            is_unknown = reason in UNKNOWN_REASONS
            yield PartValue(path=place, text=shown_text(_REASONS[reason]), is_unknown=is_unknown)
            return
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    elif isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(item, (*path, str(number)))
    else:
        text = shown_text(value) if isinstance(value, str) else shown(value)
        yield PartValue(path=place, text=text, is_unknown=False)
