"""Who&When: failures of several agents, with the step that people hold for the mistake.

Each entry of the history is a step, so that the number of the mistake is that of a step.
"""

from __future__ import annotations

from collections.abc import Iterator

from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, Format
from trajrec.exchange.reading import Place, dicts_of, text_of
from trajrec.exchange.records import ImportedEpisode, Turn, Verdict
from trajrec.types import JsonObject, Value

CASE = frozenset(
    (
        "question",
        "question_ID",
        "history",
        "mistake_agent",
        "mistake_step",
        "mistake_reason",
        "is_correct",
        "is_corrected",
    )
)
_PEOPLE = frozenset(("human", "user"))
_PROGRAMS = frozenset(("Computer_terminal", "ComputerTerminal"))


def _matches(candidate: Candidate) -> bool:
    return {"history", "mistake_agent", "mistake_step"} <= candidate.fields.keys()


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    case = candidate.fields
    place = Place(candidate.path)
    rest = account.take(case, "case", CASE)
    episode = ImportedEpisode(
        position="case",
        task=text_of(case.get("question_ID")),
        goal=case.get("question"),
        # With the solution, which no goal may tell.
        extra=rest,
    )
    for message in dicts_of(place, case.get("history"), "history"):
        account.take(message, "message", frozenset(message))
        episode.items.append(_turn(message))
    n_steps = len(episode.items)
    for name in ("is_correct", "is_corrected"):
        if type(case.get(name)) is bool:
            verdict = Verdict(check_id="correct", verdict=case[name], is_primary=True)
            verdict.evidence = {name: case[name]}
            episode.items.append(verdict)
        elif case.get(name) is not None:
            episode.extra = {**(episode.extra or {}), name: case[name]}
    step = _step_of(case.get("mistake_step"), n_steps)
    names = ("mistake_agent", "mistake_step", "mistake_reason")
    evidence = {name: case[name] for name in names if case.get(name) is not None}
    episode.items.append(
        Verdict(
            check_id="mistake",
            family="process",
            phase="post-hoc",
            status="not_evaluated" if step is None else "ok",
            verdict=None if step is None else False,
            step=step,
            evidence=evidence or None,
        )
    )
    yield episode


def _turn(message: JsonObject) -> Turn:
    """Return the turn of an agent, which stands in `name` or, with a suffix, in `role`."""
    role = message.get("role")
    name = message.get("name")
    agent = name if type(name) is str else role
    base = agent.partition(" (")[0] if type(agent) is str else ""
    is_person = base in _PEOPLE
    value: JsonObject = {**message, "role": "user" if is_person else "assistant"}
    if role != value["role"]:
        value["original_role"] = role
    value.setdefault("content", None)
    value = {key: item for key, item in value.items() if item is not None or key == "content"}
    return Turn(message=value, is_model_call=not is_person and base not in _PROGRAMS)


def _step_of(value: Value, n_steps: int) -> int | None:
    """Return the number of a step, which the data hold as a text."""
    text = value if type(value) is str else str(value) if type(value) is int else ""
    if text.isascii() and text.isdigit() and len(text) < 9 and int(text) < n_steps:
        return int(text)
    return None


FORMAT = Format(name="who-when", title="Who&When", matches=_matches, read=_read)
