"""Office: a folder of files and a SQLite database, tools for both, tasks, and checks of what is there in the end."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trajrec.protocols import Tool

PEOPLE = ("Ada", "Ben", "Cleo", "Dov", "Eve", "Finn")
THINGS = ("paper", "train", "lunch", "hosting", "chair", "books")
MAX_ROWS = 100


class OfficeError(Exception):
    """A call that the office refuses."""


TOOLS = (
    Tool.with_args("list_files", "read", "Paths of all files."),
    Tool.with_args("read_file", "read", "The text of a file.", path="string"),
    Tool.with_args(
        "write_file", "write", "Write a file, making its folders.", path="string", text="string"
    ),
    Tool.with_args("move_file", "write", "Move a file.", path="string", to="string"),
    Tool.with_args("delete_file", "write", "Delete a file.", path="string"),
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


class Task(NamedTuple):
    """A task: what is asked, the calls that do it, and a check."""

    goal: Callable[[Office], str]
    calls: Callable[[Office], list[tuple[str, dict[str, Any]]]]
    check: Callable[[Office], bool]


class Office:
    """An office's files and its expenses: a world with a folder and a database.

    Args:
        seed: Of a reset without one.
        root: Where it lies; by default a temporary folder, deleted with the object.

    Attributes:
        path: The folder of files.
        database: A connection to the database.

    >>> world = Office(seed=3)
    >>> goal = world.reset(options={"task": 2})
    >>> _ = [world.call(name, arguments) for name, arguments in world.ground_truth_calls()]
    >>> world.task_solved()
    True
    """

    def __init__(self, *, seed: int | None = None, root: str | None = None) -> None:
        self.seed = seed
        self._root = Path(tempfile.mkdtemp(prefix="trajrec-office-") if root is None else root)
        if root is None:
            weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)
        self.path = self._root / "files"
        self.database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        weakref.finalize(self, self.database.close)
        self._task = 0
        self.before: dict[str, Any] = {}

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments that make another one like this, in a folder of its own."""
        return {"seed": self.seed}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> str:
        """Lay out files and expenses, choose a task, return what it asks."""
        draw = np.random.default_rng(self.seed if seed is None else seed)
        shutil.rmtree(self.path, ignore_errors=True)
        (self.path / "notes").mkdir(parents=True)
        drawn = int(draw.integers(len(TASKS)))
        self._task = int((options or {}).get("task", drawn))
        if not 0 <= self._task < len(TASKS):
            raise ValueError(f"options['task'] must be in [0, {len(TASKS)}), got {self._task!r}")
        for person in PEOPLE[:4]:
            lines = [f"- {THINGS[int(draw.integers(len(THINGS)))]}" for _ in range(4)]
            (self.path / "notes" / f"{person.lower()}.md").write_text(
                "\n".join([f"# {person}", *lines, ""])
            )
        (self.path / "config.ini").write_text(
            f"[office]\nopen = 9\nclose = {int(draw.integers(16, 20))}\n"
        )
        (self.path / "draft.txt").write_text("Dear all,\nthe office moves on Monday.\n")
        self.database.executescript(
            "DROP TABLE IF EXISTS expenses;"
            "CREATE TABLE expenses (id INTEGER PRIMARY KEY, person TEXT, thing TEXT, cents INTEGER, paid INTEGER)"
        )
        rows = [
            (
                i + 1,
                PEOPLE[i % len(PEOPLE)],
                THINGS[int(draw.integers(len(THINGS)))],
                int(draw.integers(1, 90)) * 100,
                i % 3 == 0,
            )
            for i in range(24)
        ]
        self.database.executemany("INSERT INTO expenses VALUES (?, ?, ?, ?, ?)", rows)
        self.before = self.get_state()
        return TASKS[self._task].goal(self)

    def tools(self) -> tuple[Tool, ...]:
        """Return the tools."""
        return TOOLS

    def watch(self) -> dict[str, Any]:
        """Return what to watch: the folder and the database."""
        return {"files": self.path, "database": self.database}

    def call(self, name: str, arguments: dict[str, Any], /) -> Any:
        """Execute a tool.

        Raises:
            OfficeError: The call does not fit, or cannot be done.
        """
        tool = next((tool for tool in TOOLS if tool.name == name), None)
        if tool is None or tool.schema is None:
            raise OfficeError(
                f"no tool {name!r}; there are {', '.join(tool.name for tool in TOOLS)}"
            )
        properties = tool.schema["properties"]
        if arguments.keys() != properties.keys() or not all(
            isinstance(value, str) for value in arguments.values()
        ):
            raise OfficeError(f"{name} takes exactly the texts {list(properties)}")
        return getattr(self, f"_{name}")(**arguments)

    def ground_truth_calls(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the calls that solve the current task from its beginning."""
        return TASKS[self._task].calls(self)

    def task_solved(self) -> bool:
        """Say whether files and expenses are as the task asks, and nothing else changed."""
        return TASKS[self._task].check(self)

    def get_state(self) -> dict[str, Any]:
        """Return files and expenses as plain data."""
        files = {
            path.relative_to(self.path).as_posix(): path.read_text()
            for path in sorted(self.path.rglob("*.*"))
        }
        return {
            "task": self._task,
            "files": files,
            "expenses": self.rows("SELECT * FROM expenses ORDER BY id"),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Put files and expenses into a state that `get_state` returned."""
        self._task = state["task"]
        shutil.rmtree(self.path, ignore_errors=True)
        (self.path / "notes").mkdir(parents=True)
        for name, text in state["files"].items():
            self._write_file(name, text)
        self.database.execute("DELETE FROM expenses")
        self.database.executemany("INSERT INTO expenses VALUES (?, ?, ?, ?, ?)", state["expenses"])

    def rows(self, sql: str) -> list[list[Any]]:
        """Return rows of a query."""
        return [list(row) for row in self.database.execute(sql).fetchall()]

    def _list_files(self) -> list[str]:
        return [
            path.relative_to(self.path).as_posix()
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
        ]

    def _read_file(self, path: str) -> str:
        return self._existing(path).read_text()

    def _write_file(self, path: str, text: str) -> str:
        place = self._inside(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return f"wrote {len(text)} characters"

    def _move_file(self, path: str, to: str) -> str:
        place, target = self._existing(path), self._inside(to)
        if target.exists():
            raise OfficeError(f"{to} is there already")
        target.parent.mkdir(parents=True, exist_ok=True)
        place.rename(target)
        return f"moved to {to}"

    def _delete_file(self, path: str) -> str:
        self._existing(path).unlink()
        return f"deleted {path}"

    def _query(self, sql: str) -> list[list[Any]]:
        if not sql.lstrip().lower().startswith("select"):
            raise OfficeError("query takes a SELECT; use execute to change something")
        return self._sql(lambda: self.rows(sql))[:MAX_ROWS]  # type: ignore[no-any-return]

    def _execute(self, sql: str) -> int:
        if sql.lstrip().lower().split(" ")[0] not in ("insert", "update", "delete"):
            raise OfficeError("execute takes an INSERT, UPDATE or DELETE")
        return int(self._sql(lambda: self.database.execute(sql).rowcount))

    def _sql(self, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except sqlite3.Error as exc:
            raise OfficeError(f"SQL: {exc}") from None

    def _inside(self, path: str) -> Path:
        place = (self.path / path).resolve()
        if not place.is_relative_to(self.path.resolve()) or place == self.path.resolve():
            raise OfficeError(f"{path!r} is outside of the office")
        return place

    def _existing(self, path: str) -> Path:
        place = self._inside(path)
        if not place.is_file():
            raise OfficeError(f"no file {path}")
        return place


def _only(
    world: Office,
    files: Callable[[dict[str, str]], Any],
    expenses: Callable[[list[list[Any]]], Any],
) -> bool:
    """Say whether the office is exactly the one before, changed so."""
    before, now = world.before, world.get_state()
    wanted_files = dict(before["files"])
    wanted_rows = [list(row) for row in before["expenses"]]
    files(wanted_files)
    expenses(wanted_rows)
    return bool(now["files"] == wanted_files and now["expenses"] == wanted_rows)


def _keep(_: Any) -> None:
    """Change nothing."""


def _unpaid(world: Office, person: str) -> int:
    return sum(row[3] for row in world.before["expenses"] if row[1] == person and not row[4])


def _pay(rows: list[list[Any]], person: str) -> None:
    for row in rows:
        if row[1] == person:
            row[4] = 1


def _drop(rows: list[list[Any]], person: str) -> None:
    rows[:] = [row for row in rows if row[1] != person]


TASKS = (
    Task(
        lambda w: "Move draft.txt to archive/draft.txt, unchanged.",
        lambda w: [("move_file", {"path": "draft.txt", "to": "archive/draft.txt"})],
        lambda w: _only(w, lambda f: f.update({"archive/draft.txt": f.pop("draft.txt")}), _keep),
    ),
    Task(
        lambda w: "The office now opens at 8: change config.ini, and nothing else in it.",
        lambda w: [
            ("read_file", {"path": "config.ini"}),
            (
                "write_file",
                {
                    "path": "config.ini",
                    "text": w.before["files"]["config.ini"].replace("open = 9", "open = 8"),
                },
            ),
        ],
        lambda w: _only(
            w,
            lambda f: f.update({"config.ini": f["config.ini"].replace("open = 9", "open = 8")}),
            _keep,
        ),
    ),
    Task(
        lambda w: "Mark all expenses of Ben as paid.",
        lambda w: [("execute", {"sql": "UPDATE expenses SET paid = 1 WHERE person = 'Ben'"})],
        lambda w: _only(w, _keep, lambda rows: _pay(rows, "Ben")),
    ),
    Task(
        lambda w: (
            "Write into owed.txt how many cents Cleo's unpaid expenses are in all, the number alone."
        ),
        lambda w: [
            (
                "query",
                {"sql": "SELECT sum(cents) FROM expenses WHERE person = 'Cleo' AND NOT paid"},
            ),
            ("write_file", {"path": "owed.txt", "text": str(_unpaid(w, "Cleo"))}),
        ],
        lambda w: _only(w, lambda f: f.update({"owed.txt": str(_unpaid(w, "Cleo"))}), _keep),
    ),
    Task(
        lambda w: "Dov has left: delete notes/dov.md and all expenses of Dov.",
        lambda w: [
            ("delete_file", {"path": "notes/dov.md"}),
            ("execute", {"sql": "DELETE FROM expenses WHERE person = 'Dov'"}),
        ],
        lambda w: _only(w, lambda f: f.pop("notes/dov.md"), lambda rows: _drop(rows, "Dov")),
    ),
)
