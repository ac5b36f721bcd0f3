"""Office: a world with a folder of files and a SQLite database, and five tasks."""

from __future__ import annotations

import contextlib
import copy
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import numpy as np

from trajrec.envs.folder import DELETE_FILE, LIST_FILES, READ_FILE, WRITE_FILE, Call, FolderWorld
from trajrec.envs.office_tasks import TASKS, OfficeState, Row
from trajrec.paths import fixed_path
from trajrec.protocols import Tool
from trajrec.types import JsonObject

PEOPLE = ("Ada", "Ben", "Cleo", "Dov", "Eve", "Finn")
THINGS = ("paper", "train", "lunch", "hosting", "chair", "books")

# A query returns at most so many rows: its result is recorded, and read by a model.
MAX_ROWS = 100

# The recorded state holds this text, so that a change of it would break the replay of old logs.
SCHEMA = (
    "CREATE TABLE expenses "
    "(id INTEGER PRIMARY KEY, person TEXT, thing TEXT, cents INTEGER, paid INTEGER)"
)

TOOLS = (
    LIST_FILES,
    READ_FILE,
    WRITE_FILE,
    Tool.with_args("move_file", "write", "Move a file.", path="string", to="string"),
    DELETE_FILE,
    Tool.with_args(
        "query",
        "read",
        "Rows of a SELECT on the table expenses(id, person, thing, cents, paid).",
        sql="string",
    ),
    Tool.with_args(
        "execute",
        "write",
        "Run an INSERT, UPDATE or DELETE; the number of rows changed.",
        sql="string",
    ),
)


class OfficeError(Exception):
    """The office refuses a call."""


class Watched(TypedDict):
    """The parts of an office that are watched while it is recorded."""

    files: Path
    database: sqlite3.Connection


class Office(FolderWorld):
    """An office's files and expenses: a world with a folder and a database.

    `reset(options={"task": i})` chooses one of the five tasks; without it the seed does.

    Args:
        seed: Seed of a reset that gets none.
        root: The folder to work in. By default a temporary folder, deleted with the object.

    Attributes:
        path: The folder of files, `files` in the root.
        database: A connection to the database.
        before: The state after the last reset.

    >>> world = Office(seed=3)
    >>> goal = world.reset(options={"task": 2})
    >>> _ = [world.call(name, arguments) for name, arguments in world.ground_truth_calls()]
    >>> world.task_solved()
    True
    """

    TOOLS = TOOLS
    NAME = "office"
    Refusal = OfficeError

    def __init__(self, *, seed: int | None = None, root: str | None = None) -> None:
        if root is None:
            root = tempfile.mkdtemp(prefix="trajrec-office-")
            weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)
        folder = fixed_path(root)
        super().__init__(seed, folder / "files")
        # An agent may call tools from a thread of its own; each statement commits at once.
        self.database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        weakref.finalize(self, self.database.close)
        self.before: OfficeState = {"task": 0, "files": {}, "expenses": []}
        self._task = 0

    def reset(self, *, seed: int | None = None, options: JsonObject | None = None) -> str:
        """Make new files and expenses, choose a task, and return its goal.

        Raises:
            ValueError: The options name a task that does not exist.
        """
        rng = np.random.default_rng(self.seed if seed is None else seed)
        # Drawn even if the options choose the task, so that a seed makes the same office for all.
        drawn_task = int(rng.integers(len(TASKS)))
        self._task = int((options or {}).get("task", drawn_task))
        if not 0 <= self._task < len(TASKS):
            raise ValueError(f"options['task'] must be in [0, {len(TASKS)}), got {self._task!r}")
        self._lay_out(_make_files(rng))
        self._lay_out_expenses(_make_expenses(rng))
        self.before = self.get_state()
        return TASKS[self._task].goal

    def watch(self) -> Watched:
        """Return the folder and the database: their contents are recorded and compared."""
        return {"files": self.path, "database": self.database}

    def ground_truth_calls(self) -> list[Call]:
        """Return the calls that solve the current task from its beginning."""
        return TASKS[self._task].calls(self.before)

    def task_solved(self) -> bool:
        """Return whether files and expenses are as the task asks, and nothing else changed."""
        expected = copy.deepcopy(self.before)
        TASKS[self._task].edit(expected)
        state = self.get_state()
        return (state["files"], state["expenses"]) == (expected["files"], expected["expenses"])

    def get_state(self) -> OfficeState:
        """Return the task, the files, the empty folders and the expenses."""
        files = {path: self._read_file(path) for path in self._list_files()}
        expenses = self.rows("SELECT * FROM expenses ORDER BY id")
        state: OfficeState = {"task": self._task, "files": files, "expenses": expenses}
        if folders := self._empty_folders():
            state["folders"] = folders
        return state

    def set_state(self, state: OfficeState) -> None:
        """Restore a state that `get_state` returned.

        `before` stays as it is: for `task_solved`, first reset the office to the same task and
        seed.
        """
        self._task = state["task"]
        self._lay_out(state["files"], state.get("folders", ()))
        self._lay_out_expenses(state["expenses"])

    def rows(self, sql: str) -> list[Row]:
        """Return all rows of a query."""
        return [list(row) for row in self.database.execute(sql).fetchall()]

    def _lay_out_expenses(self, rows: list[Row]) -> None:
        self.database.executescript(f"DROP TABLE IF EXISTS expenses;{SCHEMA}")
        self.database.executemany("INSERT INTO expenses VALUES (?, ?, ?, ?, ?)", rows)

    def _move_file(self, path: str, to: str) -> str:
        source = self._existing(path)
        target = self._inside(to)
        if target.exists():
            raise OfficeError(f"{to} is there already")
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        return f"moved to {to}"

    def _query(self, sql: str) -> list[Row]:
        if not sql.lstrip().lower().startswith("select"):
            raise OfficeError("query takes a SELECT; use execute to change something")
        with _refuse_sql_errors():
            return self.rows(sql)[:MAX_ROWS]

    def _execute(self, sql: str) -> int:
        if sql.lower().split()[:1] not in (["insert"], ["update"], ["delete"]):
            raise OfficeError("execute takes an INSERT, UPDATE or DELETE")
        with _refuse_sql_errors():
            cursor = self.database.execute(sql)
            # Only behind the last row of a RETURNING all rows are counted.
            cursor.fetchall()
            return cursor.rowcount


@contextlib.contextmanager
def _refuse_sql_errors() -> Iterator[None]:
    """Raise an error of SQLite as a refused call."""
    try:
        yield
    except sqlite3.Error as exc:
        raise OfficeError(f"SQL: {exc}") from None


def _make_files(rng: np.random.Generator) -> dict[str, str]:
    """Return the path and the text of each file."""
    files = {}
    for person in PEOPLE[:4]:
        notes = [f"- {THINGS[int(rng.integers(len(THINGS)))]}" for _ in range(4)]
        files[f"notes/{person.lower()}.md"] = "\n".join([f"# {person}", *notes, ""])
    files["config.ini"] = f"[office]\nopen = 9\nclose = {int(rng.integers(16, 20))}\n"
    files["draft.txt"] = "Dear all,\nthe office moves on Monday.\n"
    return files


def _make_expenses(rng: np.random.Generator) -> list[Row]:
    """Return 24 expenses, four a person; every third is paid."""
    return [
        [
            number + 1,
            PEOPLE[number % len(PEOPLE)],
            THINGS[int(rng.integers(len(THINGS)))],
            int(rng.integers(1, 90)) * 100,
            int(number % 3 == 0),
        ]
        for number in range(24)
    ]
