"""Changes of states that are plain numbers: stored as numbers, and shown as rows when asked for.

Such states change in most of their numbers at each step, and a row with a path and two JSON texts
for each of them costs ten times as much as all else of a step. So the index stores one row for a
step, and the view `state_changes` makes the others of it.
"""

from __future__ import annotations

import msgspec

from trajrec.corpus.index.table import EPISODE_ID, KIND, Table
from trajrec.types import Value
from trajrec.values.json import to_keys, to_pointer

MAX_NUMBERS = 64
"""The most numbers of such a state: the bits of a UBIGINT."""

NUMERIC_CHANGES = Table(
    "numeric_changes",
    "the numbers of a state before and after a step that changed some of them",
    ("episode_id", "step"),
    (
        EPISODE_ID,
        KIND,
        ("step", "INTEGER", "step that changed them"),
        ("form", "VARCHAR", "path, typed keys and type of each number: see `Number`"),
        ("changed", "UBIGINT", "the bit 1 << k is set if number k changed"),
        ("before", "DOUBLE[]", "the numbers before the step"),
        ("after", "DOUBLE[]", "the numbers after it"),
    ),
)


class Number(msgspec.Struct):
    """A number of a state.

    Attributes:
        path: Its path as a JSON Pointer.
        keys: The same as a JSON array of typed keys.
        type: "float", "int" or "bool".
    """

    path: str
    keys: str
    type: str


def number(path: tuple[Value, ...], type_name: str) -> Number:
    """Return a number by the path of its keys."""
    return Number(to_pointer(path), to_keys(path), type_name)


def form_of(numbers: list[Number]) -> str:
    """Return numbers as the column `form` has them."""
    return msgspec.json.encode(numbers).decode()


_FORM = '[{"path":"VARCHAR","keys":"VARCHAR","type":"VARCHAR"}]'


def _text(value: str) -> str:
    """Return SQL of a number's JSON as `trajrec.values.json.to_json` writes it.

    DuckDB's own JSON has exponents for other floats than msgspec's.
    """
    return (
        "CASE element.type "
        f"WHEN 'int' THEN {value}::BIGINT::VARCHAR "
        f"WHEN 'bool' THEN ({value} = 1)::VARCHAR "
        f"ELSE CASE WHEN abs({value}) >= 1e16 AND abs({value}) < 1e21 "
        f"THEN replace({value}::VARCHAR, 'e+', 'e') "
        f"WHEN abs({value}) >= 1e-6 AND abs({value}) < 1e-5 "
        f"THEN replace({value}::VARCHAR, 'e-0', 'e-') "
        f"ELSE to_json({value})::VARCHAR END END::JSON"
    )


def changes_query(source: str) -> str:
    """Return a query of the rows of `state_changes` that a table of numbers stands for."""
    return (
        "SELECT episode_id, kind, step, NULL::INTEGER AS call, NULL::INTEGER AS attempt, "
        "'agent' AS actor, '' AS part, element.path AS path, element.keys::JSON AS keys, "
        f"{_text('a')} AS before, {_text('b')} AS after, "
        "'observed' AS origin "
        "FROM (SELECT episode_id, kind, step, changed, unnest(before) AS a, unnest(after) AS b, "
        f"unnest(from_json(form, '{_FORM}')) AS element, unnest(range(len(after))) AS k "
        f"FROM {source}) WHERE (changed >> k) & 1 = 1"
    )
