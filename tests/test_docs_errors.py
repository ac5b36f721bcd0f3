"""docs/reference/errors.md says of every error when it is raised, what it carries, and what to do."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import textwrap
from pathlib import Path

import pytest

from trajrec import errors

pytestmark = pytest.mark.sources

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "reference" / "errors.md").read_text()
TREE = re.search(r"```\n(TrajrecError\n.*?)```", TEXT, re.DOTALL)
SECTIONS = dict(re.findall(r"\n##+ `(\w+)`\n(.*?)(?=\n##|\Z)", TEXT, re.DOTALL))
CLASSES = {
    name: cls
    for name, cls in vars(errors).items()
    if isinstance(cls, type)
    and issubclass(cls, errors.TrajrecError)
    and cls.__module__ == errors.__name__
}


def drawn_parents(tree: str) -> dict[str, str]:
    """Return the parent of each class of a tree that is drawn with four columns a level."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in tree.splitlines():
        name = re.sub(r"^[│├└─ ]*", "", line)
        depth = (len(line) - len(name)) // 4
        del path[depth:]
        parents[name] = path[-1] if path else ""
        path.append(name)
    return parents


def own_attributes(cls: type) -> set[str]:
    """Return the attributes that a class sets itself."""
    init = cls.__dict__.get("__init__")
    if init is None:
        return set()
    nodes = ast.walk(ast.parse(textwrap.dedent(inspect.getsource(init))))
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def test_the_error_page_draws_the_tree_of_the_code() -> None:
    assert TREE is not None
    real = {name: cls.__bases__[0].__name__ for name, cls in CLASSES.items()}
    assert drawn_parents(TREE[1]) == {**real, "TrajrecError": ""}


def test_the_error_page_has_a_section_for_every_error_and_no_other() -> None:
    assert list(SECTIONS) == list(CLASSES)


def test_the_error_page_names_no_error_outside_the_tree() -> None:
    named = set(re.findall(r"\b[A-Z]\w*Error\b", TEXT))
    assert {name for name in named if not hasattr(builtins, name)} == set(CLASSES)


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "TrajrecError"])
def test_each_error_section_says_when_what_and_what_to_do(name: str) -> None:
    assert re.findall(r"\n- \*\*(.*?)\*\*", SECTIONS[name]) == ["Raised when", "Carries", "Do"]


@pytest.mark.parametrize("name", CLASSES)
def test_each_error_section_names_the_attributes_it_carries(name: str) -> None:
    carried = set().union(
        *(own_attributes(cls) for cls in CLASSES[name].__mro__ if cls.__name__ in CLASSES)
    )
    missing = [attribute for attribute in sorted(carried) if f"`{attribute}`" not in SECTIONS[name]]
    assert missing == []
