"""The tasks of Office: the goal, calls that reach it, and the change that these calls make."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, NotRequired, TypeAlias, TypedDict

from trajrec.envs.folder import Call
from trajrec.types import Value

# Columns of the table of expenses: id, person, thing, cents, paid (0 or 1).
Row: TypeAlias = list[Value]
PERSON = 1
CENTS = 3
PAID = 4


class OfficeState(TypedDict):
    """The state of an office. The first state, which tasks compare it with, is no part of it.

    Attributes:
        task: Index of the task in `TASKS`.
        files: Path of each file -> its text.
        folders: Paths of the empty folders; left out if there are none, as in older recordings.
        expenses: The rows of the table, by id.
    """

    task: int
    files: dict[str, str]
    folders: NotRequired[list[str]]
    expenses: list[Row]


class Task(NamedTuple):
    """A task, solved if the office is its first state after `edit`, and nothing else changed.

    Attributes:
        goal: The text that the agent gets.
        calls: Returns the calls that solve the task from the first state.
        edit: Makes the change that the task asks for, in a copy of the first state.
    """

    goal: str
    calls: Callable[[OfficeState], list[Call]]
    edit: Callable[[OfficeState], None]


def _move_draft_calls(_: OfficeState) -> list[Call]:
    return [("move_file", {"path": "draft.txt", "to": "archive/draft.txt"})]


def _move_draft(office: OfficeState) -> None:
    office["files"]["archive/draft.txt"] = office["files"].pop("draft.txt")


def _open_earlier_calls(office: OfficeState) -> list[Call]:
    return [
        ("read_file", {"path": "config.ini"}),
        ("write_file", {"path": "config.ini", "text": _config_with_new_hour(office)}),
    ]


def _open_earlier(office: OfficeState) -> None:
    office["files"]["config.ini"] = _config_with_new_hour(office)


def _config_with_new_hour(office: OfficeState) -> str:
    return office["files"]["config.ini"].replace("open = 9", "open = 8")


def _pay_ben_calls(_: OfficeState) -> list[Call]:
    return [("execute", {"sql": "UPDATE expenses SET paid = 1 WHERE person = 'Ben'"})]


def _pay_ben(office: OfficeState) -> None:
    for row in office["expenses"]:
        if row[PERSON] == "Ben":
            row[PAID] = 1


def _sum_owed_calls(office: OfficeState) -> list[Call]:
    query = "SELECT sum(cents) FROM expenses WHERE person = 'Cleo' AND NOT paid"
    return [
        ("query", {"sql": query}),
        ("write_file", {"path": "owed.txt", "text": str(_owed_to_cleo(office))}),
    ]


def _sum_owed(office: OfficeState) -> None:
    office["files"]["owed.txt"] = str(_owed_to_cleo(office))


def _owed_to_cleo(office: OfficeState) -> int:
    rows = office["expenses"]
    return sum(row[CENTS] for row in rows if row[PERSON] == "Cleo" and not row[PAID])


def _delete_dov_calls(_: OfficeState) -> list[Call]:
    return [
        ("delete_file", {"path": "notes/dov.md"}),
        ("execute", {"sql": "DELETE FROM expenses WHERE person = 'Dov'"}),
    ]


def _delete_dov(office: OfficeState) -> None:
    del office["files"]["notes/dov.md"]
    office["expenses"] = [row for row in office["expenses"] if row[PERSON] != "Dov"]


# The order is part of recorded episodes: `options={"task": 2}` must stay the same task.
TASKS = (
    Task(
        goal="Move draft.txt to archive/draft.txt, unchanged.",
        calls=_move_draft_calls,
        edit=_move_draft,
    ),
    Task(
        goal="The office now opens at 8: change config.ini, and nothing else in it.",
        calls=_open_earlier_calls,
        edit=_open_earlier,
    ),
    Task(
        goal="Mark all expenses of Ben as paid.",
        calls=_pay_ben_calls,
        edit=_pay_ben,
    ),
    Task(
        goal=(
            "Write into owed.txt how many cents Cleo's unpaid expenses are in all, "
            "the number alone."
        ),
        calls=_sum_owed_calls,
        edit=_sum_owed,
    ),
    Task(
        goal="Dov has left: delete notes/dov.md and all expenses of Dov.",
        calls=_delete_dov_calls,
        edit=_delete_dov,
    ),
)
