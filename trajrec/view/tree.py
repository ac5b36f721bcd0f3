"""A state as a tree of a bounded number of nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trajrec.types import Value
from trajrec.view.text import json_text

MAX_DEPTH = 5
MAX_NODES = 1_500
MAX_CHILDREN = 500
_TEXT = 300


class Changer(NamedTuple):
    """Who changed a place of the state. Of two of them the later one is the greater.

    Attributes:
        number: The number of the change in the episode.
        step: Its step; -1 before the first.
        who: The tool that was called, or the agent's own program.
    """

    number: int
    step: int
    who: str


@dataclass(frozen=True, kw_only=True)
class Node:
    """A place of a state.

    Attributes:
        key: Its key or index.
        text: Its value, or the kind and number of its children.
        children: Its children, at most 500 of them.
        n_more: Children that are left out.
        changed: Who changed it or a part of it last; None if nobody did.
        pointer: The place, as an address has it.
    """

    key: str
    text: str
    children: Sequence[Node] = ()
    n_more: int = 0
    changed: Changer | None = None
    pointer: str = ""


def make_tree(state: Value, changes: Mapping[str, Changer] | None = None) -> Node:
    """Return JSON values as a tree; what is beyond its bounds is counted.

    Args:
        state: The values.
        changes: JSON Pointer, behind the name of its part -> who changed the place last.

    >>> tree = make_tree({"stock": {"lamp": 54}})
    >>> tree.children[0].key, tree.children[0].children[0].text
    ('stock', '54')
    """
    if isinstance(state, dict) and list(state) == [""]:
        # A world of one part, which has no name.
        state = state[""]
    return _Builder(changes or {}).node("state", state, 0)


class _Builder:
    def __init__(self, changes: Mapping[str, Changer]) -> None:
        self._n_left = MAX_NODES
        self._changes = changes
        # A change of a place is one of all places around it.
        self._inside: dict[str, Changer] = {}
        for pointer, changer in changes.items():
            parts = pointer.split("/")
            for length in range(1, len(parts) + 1):
                around = "/".join(parts[:length])
                self._inside[around] = max(changer, self._inside.get(around, changer))

    def node(
        self, key: str, value: Value, depth: int, place: str = "", outer: Changer | None = None
    ) -> Node:
        self._n_left -= 1
        whole = _later(outer, self._changes.get(place))
        changed = _later(whole, self._inside.get(place))
        if not isinstance(value, (dict, list)) or not value:
            return Node(key=key, text=_short(value), changed=changed, pointer=place)
        kind = "object" if isinstance(value, dict) else "list"
        text = f"{kind} of {len(value)}"
        if depth >= MAX_DEPTH:
            return Node(key=key, text=_short(value), changed=changed, pointer=place)
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
            pointer=place,
        )


def _later(a: Changer | None, b: Changer | None) -> Changer | None:
    return max(a, b) if a is not None and b is not None else a or b


def _items(value: Value) -> Iterable[tuple[str, Value]]:
    if isinstance(value, dict):
        return ((str(key), item) for key, item in value.items())
    return ((str(index), item) for index, item in enumerate(value))


def _short(value: Value) -> str:
    text = json_text(value)
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}… ({len(text) - _TEXT} more characters)"
