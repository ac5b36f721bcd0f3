"""A state as a tree of a bounded number of nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trajrec.types import Value
from trajrec.view.text import json_text

MAX_DEPTH = 5
MAX_NODES = 1_500
MAX_CHILDREN = 500
_TEXT = 300


@dataclass(frozen=True, kw_only=True)
class Node:
    """A place of a state.

    Attributes:
        key: Its key or index.
        text: Its value, or the kind and number of its children.
        children: Its children, at most 500 of them.
        n_more: Children that are left out.
    """

    key: str
    text: str
    children: Sequence[Node] = ()
    n_more: int = 0


def make_tree(state: Value) -> Node:
    """Return JSON values as a tree; what is beyond its bounds is counted.

    >>> tree = make_tree({"stock": {"lamp": 54}})
    >>> tree.children[0].key, tree.children[0].children[0].text
    ('stock', '54')
    """
    if isinstance(state, dict) and list(state) == [""]:
        # A world of one part, which has no name.
        state = state[""]
    return _Builder().node("state", state, 0)


class _Builder:
    def __init__(self) -> None:
        self._n_left = MAX_NODES

    def node(self, key: str, value: Value, depth: int) -> Node:
        self._n_left -= 1
        if not isinstance(value, (dict, list)) or not value:
            return Node(key=key, text=_short(value))
        kind = "object" if isinstance(value, dict) else "list"
        text = f"{kind} of {len(value)}"
        if depth >= MAX_DEPTH:
            return Node(key=key, text=_short(value), n_more=0)
        children: list[Node] = []
        for name, item in _items(value):
            if len(children) >= MAX_CHILDREN or self._n_left <= 0:
                break
            children.append(self.node(name, item, depth + 1))
        return Node(key=key, text=text, children=children, n_more=len(value) - len(children))


def _items(value: Value) -> Iterable[tuple[str, Value]]:
    if isinstance(value, dict):
        return ((str(key), item) for key, item in value.items())
    return ((str(index), item) for index, item in enumerate(value))


def _short(value: Value) -> str:
    text = json_text(value)
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}… ({len(text) - _TEXT} more characters)"
