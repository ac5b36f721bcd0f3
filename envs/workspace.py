"""Workspace: a small Python project with a fault, tools to read, search, write and test it, and its tests as the check."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

from trajrec.envs.workspace_tasks import TASKS
from trajrec.protocols import Tool, Verdict

TEST_SECONDS = 30
MAX_TEXT = 20_000

TOOLS = (
    Tool.with_args("list_files", "read", "Paths of all files."),
    Tool.with_args("read_file", "read", "The text of a file.", path="string"),
    Tool.with_args(
        "search", "read", "Lines that contain a text, as path:line: text.", text="string"
    ),
    Tool.with_args(
        "write_file", "write", "Write a file, making its folders.", path="string", text="string"
    ),
    Tool.with_args(
        "replace",
        "write",
        "Replace a text that is in a file exactly once.",
        path="string",
        old="string",
        new="string",
    ),
    Tool.with_args("delete_file", "write", "Delete a file.", path="string"),
    Tool.with_args("run_tests", "read", "Run the project's tests; their output and exit status."),
)
_BY_NAME = {tool.name: tool for tool in TOOLS}


class WorkspaceError(Exception):
    """A call that the workspace refuses."""


class Workspace:
    """A folder with a Python module that has a fault, and tests that show it. A task is solved when the tests of the task pass,
    as they were given: changing them does not help.

    `reset(options={"task": i})` chooses one of the 10 tasks of `trajrec.envs.workspace_tasks`; otherwise the seed does.

    Args:
        seed: Of a reset without one.
        root: The folder; by default a temporary one, deleted with the object.

    Attributes:
        path: The folder.

    >>> world = Workspace(seed=3)
    >>> print(world.reset(options={"task": 0}))
    The tests of `median.py` fail. Find the fault and mend it.
    >>> _ = [world.call(name, arguments) for name, arguments in world.ground_truth_calls()]
    >>> world.task_solved()
    True
    """

    def __init__(self, *, seed: int | None = None, root: str | None = None) -> None:
        self.seed = seed
        self.path = Path(tempfile.mkdtemp(prefix="trajrec-workspace-") if root is None else root)
        if root is None:
            weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        self._task = 0

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments that make another one like this, in a folder of its own."""
        return {"seed": self.seed}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> str:
        """Lay out the project of a task; return what it asks."""
        seed = self.seed if seed is None else seed
        self._task = int((options or {}).get("task", (seed or 0) % len(TASKS)))
        if not 0 <= self._task < len(TASKS):
            raise ValueError(f"options['task'] must be in [0, {len(TASKS)}), got {self._task!r}")
        task = TASKS[self._task]
        self._lay_out(
            {
                f"{task.name}.py": task.broken,
                f"test_{task.name}.py": task.tests,
                "README.md": f"# {task.name}\n",
            }
        )
        return f"The tests of `{task.name}.py` fail. Find the fault and mend it."

    def tools(self) -> tuple[Tool, ...]:
        """Return the tools."""
        return TOOLS

    def watch(self) -> Path:
        """Return what to watch: the folder."""
        return self.path

    def call(self, name: str, arguments: dict[str, Any], /) -> Any:
        """Execute a tool.

        Raises:
            WorkspaceError: The call does not fit, or cannot be done.
        """
        tool = _BY_NAME.get(name)
        if tool is None or tool.schema is None:
            raise WorkspaceError(f"no tool {name!r}; there are {', '.join(_BY_NAME)}")
        properties = tool.schema["properties"]
        if arguments.keys() != properties.keys() or not all(
            isinstance(value, str) for value in arguments.values()
        ):
            raise WorkspaceError(f"{name} takes exactly the texts {list(properties)}")
        return getattr(self, f"_{name}")(**arguments)

    def ground_truth_calls(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the calls that solve the current task from its beginning."""
        task = TASKS[self._task]
        return [
            ("list_files", {}),
            ("run_tests", {}),
            ("read_file", {"path": f"{task.name}.py"}),
            ("replace", {"path": f"{task.name}.py", "old": task.wrong, "new": task.right}),
            ("run_tests", {}),
        ]

    def task_solved(self) -> bool:
        """Say whether the task's own tests pass."""
        return bool(grade(self).passed)

    def get_state(self) -> dict[str, Any]:
        """Return the files as plain data."""
        return {
            "task": self._task,
            "files": {path: (self.path / path).read_text() for path in self._list_files()},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Put the files into a state that `get_state` returned."""
        self._task = state["task"]
        self._lay_out(state["files"])

    def _lay_out(self, files: dict[str, str]) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        for name, text in files.items():
            self._write_file(name, text)

    def _list_files(self) -> list[str]:
        return [
            path.relative_to(self.path).as_posix()
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
        ]

    def _read_file(self, path: str) -> str:
        return self._existing(path).read_text()

    def _search(self, text: str) -> list[str]:
        return [
            f"{path}:{number}: {line.strip()}"
            for path in self._list_files()
            for number, line in enumerate(self._read_file(path).splitlines(), 1)
            if text in line
        ]

    def _write_file(self, path: str, text: str) -> str:
        place = self._inside(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return f"wrote {len(text)} characters"

    def _replace(self, path: str, old: str, new: str) -> str:
        text = self._read_file(path)
        if text.count(old) != 1:
            raise WorkspaceError(
                f"the text is {text.count(old)} times in {path}: it must be there once"
            )
        return self._write_file(path, text.replace(old, new))

    def _delete_file(self, path: str) -> str:
        self._existing(path).unlink()
        return f"deleted {path}"

    def _run_tests(self) -> dict[str, Any]:
        return run_tests(self.path)

    def _inside(self, path: str) -> Path:
        place = (self.path / path).resolve()
        if not place.is_relative_to(self.path.resolve()) or place == self.path.resolve():
            raise WorkspaceError(f"{path!r} is outside of the workspace")
        return place

    def _existing(self, path: str) -> Path:
        place = self._inside(path)
        if not place.is_file():
            raise WorkspaceError(f"no file {path}")
        return place


def run_tests(folder: Path) -> dict[str, Any]:
    """Run the unittest modules of a folder in a process of their own, with nothing of this one's environment but the path.

    Returns:
        exit_status (None where it took too long) and output, without what differs from run to run: seconds and the folder.
    """
    command = [sys.executable, "-B", "-P", "-m", "unittest", "discover", "-p", "test_*.py"]
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**kept, "PYTHONHASHSEED": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TEST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"exit_status": None, "output": f"the tests took more than {TEST_SECONDS} s"}
    lines = done.stdout.replace(str(folder.resolve()), ".").replace(str(folder), ".").splitlines()
    kept_lines = [line.partition(" in ")[0] if line.startswith("Ran ") else line for line in lines]
    return {"exit_status": done.returncode, "output": "\n".join(kept_lines)[-MAX_TEXT:]}


def grade(world: Workspace) -> Verdict:
    """Say whether the tests of the task, as they were given, pass on the project as it is."""
    task = TASKS[world._task]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        shutil.copytree(world.path, copy)
        (copy / f"test_{task.name}.py").write_text(task.tests)
        found = run_tests(copy)
    # A module that ends the process is not one that passes: the output must say that all tests ran.
    ran = f"Ran {len(task.cases)} tests" in found["output"]
    return Verdict(ran and found["exit_status"] == 0, evidence=found)
