"""A state as a tree of a bounded number of nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from trajrec.types import Value
from trajrec.view.text import json_text

MAX_DEPTH = 5
MAX_NODES = 1_500
MAX_CHILDREN = 500
_TEXT = 300

Call: TypeAlias = tuple[int, str]
"""The step of a call, and its tool."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A place of a state.

    Attributes:
        key: Its key or index.
        text: Its value, or the kind and number of its children.
        children: Its children, at most 500 of them.
        n_more: Children that are left out.
        changed: The last call that changed it or a part of it: its step and tool; None if none did.
    """

    key: str
    text: str
    children: Sequence[Node] = ()
    n_more: int = 0
    changed: Call | None = None


def make_tree(state: Value, changes: Mapping[str, Call] | None = None) -> Node:
    """Return JSON values as a tree; what is beyond its bounds is counted.

    Args:
        state: The values.
        changes: JSON Pointer, behind the name of its part -> the last call that changed the place.

    >>> tree = make_tree({"stock": {"lamp": 54}})
    >>> tree.children[0].key, tree.children[0].children[0].text
    ('stock', '54')
    """
    if isinstance(state, dict) and list(state) == [""]:
        # A world of one part, which has no name.
        state = state[""]
    return _Builder(changes or {}).node("state", state, 0)


class _Builder:
    def __init__(self, changes: Mapping[str, Call]) -> None:
        self._n_left = MAX_NODES
        self._changes = changes
        # A change of a place is one of all places around it.
        self._inside: dict[str, Call] = {}
        for pointer, call in changes.items():
            parts = pointer.split("/")
            for length in range(1, len(parts) + 1):
                around = "/".join(parts[:length])
                self._inside[around] = max(call, self._inside.get(around, call))

    def node(
        self, key: str, value: Value, depth: int, place: str = "", outer: Call | None = None
    ) -> Node:
        self._n_left -= 1
        whole = _later(outer, self._changes.get(place))
        changed = _later(whole, self._inside.get(place))
        if not isinstance(value, (dict, list)) or not value:
            return Node(key=key, text=_short(value), changed=changed)
        kind = "object" if isinstance(value, dict) else "list"
        text = f"{kind} of {len(value)}"
        if depth >= MAX_DEPTH:
            return Node(key=key, text=_short(value), changed=changed)
        children: list[Node] = []
        for name, item in _items(value):
            if len(children) >= MAX_CHILDREN or self._n_left <= 0:
                break
            inner = f"{place}/{name.replace('~', '~0').replace('/', '~1')}"
            children.append(self.node(name, item, depth + 1, inner, whole))
        return Node(
            key=key,
            text=text,
            children=children,
            n_more=len(value) - len(children),
            changed=changed,
        )


def _later(a: Call | None, b: Call | None) -> Call | None:
    return max(a, b) if a is not None and b is not None else a or b


def _items(value: Value) -> Iterable[tuple[str, Value]]:
    if isinstance(value, dict):
        return ((str(key), item) for key, item in value.items())
    return ((str(index), item) for index, item in enumerate(value))


def _short(value: Value) -> str:
    text = json_text(value)
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}… ({len(text) - _TEXT} more characters)"
