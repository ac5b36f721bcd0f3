"""The parts of the deep tier: `.ci/deep` lists them with their tests.

This module imports nothing but the standard library, so that `.ci/deep` can list the parts without an environment.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PARTS = {
    "log": "values of any kind, damaged and cut logs, two readers, rewriting",
    "kills": "processes killed at random moments, exceptions at every instruction",
    "hostile": "logs with changed records, frames, footers and journals",
    "index": "processes that ask for minutes while others record",
    "replay": "a hundred episodes of each environment, an episode of a million steps, every named cause",
    "credit": "estimators against problems with known answers, coverage of their intervals",
    "whatif": "coverage of the intervals of what-if experiments, and controls that must fail",
    "attribution": "coverage of intervals over tasks, analyses of a million episodes",
    "agents": "the tasks of agentdojo, the SDKs of models",
    "frameworks": "agents of every client and framework that pip can install: the extra `frameworks`",
    "trainers": "training loops of Stable-Baselines3, CleanRL's kind, TorchRL and RLlib",
    "imports": "files of other tools with random changes",
    "environments": "every environment recorded, restored, forked and probed",
    "pages": "axe-core on every page of the viewer: it needs Chromium, and npm to install axe-core",
    "newest": "the unmarked tests with the newest, the pre-release and the oldest dependencies",
}
"""The parts, each with its contents. `.ci/deep` itself knows how to run `newest`."""

MARKING = {"deep", "examples", "third_slow", "mostly_deep", "spread", "suite"}
"""The functions of tests/tiers.py that put a test into the part that they are given first."""


def parts_of(node: ast.AST) -> Iterator[str]:
    """Yield the parts that the calls in a decorator name."""
    for call in ast.walk(node):
        match call:
            case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=part), *_]):
                if name in MARKING:
                    yield part


def list_by_part(folder: Path) -> dict[str, list[str]]:
    """Return the names of the tests of each part, in the order of the files."""
    tests = defaultdict(list)
    for path in sorted(folder.glob("test_*.py")):
        body = ast.parse(path.read_text()).body
        of_module = {part for node in body if is_marks(node) for part in parts_of(node)}
        for node in body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                own = {part for line in node.decorator_list for part in parts_of(line)}
                for part in sorted(own | of_module):
                    tests[part].append(f"{path.name}::{node.name}")
    return tests


def is_marks(node: ast.stmt) -> bool:
    """Return whether a statement marks all tests of its module: `pytestmark = ...`."""
    match node:
        case ast.Assign(targets=[ast.Name(id="pytestmark")]):
            return True
    return False


def main(names: list[str]) -> None:
    """Print each part, its contents and its tests; or the names of the parts that are asked for."""
    if unknown := set(names) - {*PARTS, "all"}:
        raise SystemExit(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if names:
        print(*(PARTS if "all" in names else names))
        return
    tests = list_by_part(Path(__file__).parent)
    for part, contents in PARTS.items():
        print(f"{part}: {contents}")
        for test in tests[part]:
            print(f"    {test}")


if __name__ == "__main__":
    main(sys.argv[1:])
