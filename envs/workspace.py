"""Workspace: a world with a small Python project, a fault in it, and tests that show the fault."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import NotRequired, TypedDict

from trajrec.envs.folder import DELETE_FILE, LIST_FILES, READ_FILE, WRITE_FILE, Call, FolderWorld
from trajrec.envs.workspace_tasks import TASKS
from trajrec.paths import fixed_path
from trajrec.protocols import Tool, Verdict
from trajrec.types import JsonObject

# The tests take less than a second. An agent's endless loop must not stop the whole run.
TEST_SECONDS = 30
# An agent's program can print without end; only the end of its output is a result.
MAX_TEXT = 20_000

TOOLS = (
    LIST_FILES,
    READ_FILE,
    Tool.with_args(
        "search", "read", "Lines that contain a text, as path:line: text.", text="string"
    ),
    WRITE_FILE,
    Tool.with_args(
        "replace",
        "write",
        "Replace a text that is in a file exactly once.",
        path="string",
        old="string",
        new="string",
    ),
    DELETE_FILE,
    Tool.with_args("run_tests", "read", "Run the project's tests; their output and exit status."),
)


class WorkspaceError(Exception):
    """The workspace refuses a call."""


class WorkspaceState(TypedDict):
    """The whole state of a workspace.

    Attributes:
        task: Index of the task in `TASKS`.
        files: Path of each file -> its text, or its bytes if they are no UTF-8.
        folders: Paths of the empty folders; left out if there are none, as in older recordings.
    """

    task: int
    files: dict[str, str | bytes]
    folders: NotRequired[list[str]]


class SuiteResult(TypedDict):
    """The result of running a project's tests: an exit status, or None after a timeout."""

    exit_status: int | None
    output: str


class Workspace(FolderWorld):
    """A folder with a Python module that has a fault, and tests that show the fault.

    A task is solved when the tests of the task pass. The original tests decide: an agent that
    changes them does not solve the task. They run in one process with the agent's module, so a module
    that is written to forge the output of `unittest` passes them.

    `reset(options={"task": i})` chooses one of the ten tasks of `trajrec.envs.workspace_tasks`;
    without it the seed does.

    Args:
        seed: Seed of a reset that gets none.
        root: The folder to work in. By default a temporary folder, deleted with the object.

    Attributes:
        path: The folder.

    >>> world = Workspace(seed=3)
    >>> print(world.reset(options={"task": 0}))
    The tests of `median.py` fail. Find the fault and mend it.
    >>> _ = [world.call(name, arguments) for name, arguments in world.ground_truth_calls()]
    >>> world.task_solved()
    True
    """

    TOOLS = TOOLS
    NAME = "workspace"
    Refusal = WorkspaceError

    def __init__(self, *, seed: int | None = None, root: str | None = None) -> None:
        if root is None:
            root = tempfile.mkdtemp(prefix="trajrec-workspace-")
            weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)
        folder = fixed_path(root)
        super().__init__(seed, folder)
        self._task = 0

    def reset(self, *, seed: int | None = None, options: JsonObject | None = None) -> str:
        """Make the project of a task, and return the goal.

        Raises:
            ValueError: The options name a task that does not exist.
        """
        seed = self.seed if seed is None else seed
        self._task = int((options or {}).get("task", (seed or 0) % len(TASKS)))
        if not 0 <= self._task < len(TASKS):
            raise ValueError(f"options['task'] must be in [0, {len(TASKS)}), got {self._task!r}")
        task = TASKS[self._task]
        files = {
            f"{task.name}.py": task.broken,
            f"test_{task.name}.py": task.tests,
            "README.md": f"# {task.name}\n",
        }
        self._lay_out(files)
        return f"The tests of `{task.name}.py` fail. Find the fault and mend it."

    def watch(self) -> Path:
        """Return the folder: its files are recorded and compared."""
        return self.path

    def ground_truth_calls(self) -> list[Call]:
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
        """Return whether the original tests of the task pass."""
        return bool(grade(self).passed)

    def get_state(self) -> WorkspaceState:
        """Return the task, the files and the empty folders."""
        files = {path: _text_of(self._existing(path)) for path in self._list_files()}
        state: WorkspaceState = {"task": self._task, "files": files}
        if folders := self._empty_folders():
            state["folders"] = folders
        return state

    def set_state(self, state: WorkspaceState) -> None:
        """Restore a state that `get_state` returned."""
        self._task = state["task"]
        self._lay_out(state["files"], state.get("folders", ()))

    def _search(self, text: str) -> list[str]:
        return [
            f"{path}:{number}: {line.strip()}"
            for path in self._list_files()
            for number, line in enumerate(self._read_file(path).splitlines(), 1)
            if text in line
        ]

    def _replace(self, path: str, old: str, new: str) -> str:
        text = self._read_file(path)
        if text.count(old) != 1:
            raise WorkspaceError(
                f"the text is {text.count(old)} times in {path}: it must be there once"
            )
        return self._write_file(path, text.replace(old, new))

    def _run_tests(self) -> SuiteResult:
        return run_tests(self.path)


def _text_of(file: Path) -> str | bytes:
    """Return a file's text; its bytes if they are no text, as a program may write them."""
    data = file.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def run_tests(folder: Path, pattern: str = "test_*.py") -> SuiteResult:
    """Run the unittest modules of a folder in a process of its own.

    The process gets no variable of this one's environment except the path of programs.

    Args:
        folder: The folder.
        pattern: The names of the modules.

    Returns:
        The exit status and the output. Seconds and the folder's path are removed from the output,
        because they differ from run to run and a replay compares it.
    """
    # -P keeps the folder out of the path until discovery adds it: a file unittest.py of an agent
    # must not replace the runner. -B writes no __pycache__, which would be a change of the state.
    command = [sys.executable, "-B", "-P", "-m", "unittest", "discover", "-p", pattern]
    environment = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    # Without a fixed seed of hashes, the order of a printed set would differ from run to run.
    environment["PYTHONHASHSEED"] = "0"
    try:
        completed = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            # A program may print any bytes.
            errors="backslashreplace",
            timeout=TEST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"exit_status": None, "output": f"the tests took more than {TEST_SECONDS} s"}
    # The resolved path first: it can contain the other one, as /private/tmp contains /tmp.
    output = completed.stdout.replace(str(folder.resolve()), ".").replace(str(folder), ".")
    lines = [
        line.partition(" in ")[0] if line.startswith("Ran ") else line
        for line in output.splitlines()
    ]
    return {"exit_status": completed.returncode, "output": "\n".join(lines)[-MAX_TEXT:]}


def grade(world: Workspace) -> Verdict:
    """Return the verdict of the task's original tests on a copy of the present project."""
    task = TASKS[world._task]
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        # An agent's program may leave links that lead nowhere.
        shutil.copytree(world.path, project, ignore_dangling_symlinks=True)
        module = f"test_{task.name}.py"
        if (project / module).is_dir():
            # The agent deleted the tests, and made a folder of that name.
            shutil.rmtree(project / module)
        (project / module).write_text(task.tests, "utf-8")
        # This module alone: an agent may have added tests of its own.
        result = run_tests(project, module)
    # A module that ends the process with status 0 runs no test, so the output must count them.
    has_run = f"Ran {len(task.cases)} tests" in result["output"]
    return Verdict(has_run and result["exit_status"] == 0, evidence=result)
