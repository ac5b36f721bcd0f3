"""Runs of AgentDojo: a task, an injection perhaps, and two verdicts.

`security` means with an injection that the attack won, and without one nothing. After an error of
the infrastructure both verdicts are set though nothing was judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, Format
from trajrec.exchange.chat_messages import ChatForm, ChatReader
from trajrec.exchange.reading import Place, dicts_of
from trajrec.exchange.records import Fault, ImportedEpisode, Verdict
from trajrec.types import JsonObject, Value

RUN = frozenset(
    (
        "suite_name",
        "pipeline_name",
        "user_task_id",
        "injection_task_id",
        "messages",
        "error",
        "benchmark_version",
        "agentdojo_package_version",
        "utility",
        "security",
    )
)


def _error(message: JsonObject) -> str | None:
    error = message.get("error")
    return error if type(error) is str else None


FORM = ChatForm(find_error=_error, silent="ok")


def _matches(candidate: Candidate) -> bool:
    return {"suite_name", "user_task_id", "messages"} <= candidate.fields.keys()


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    run = candidate.fields
    place = Place(candidate.path)
    rest = account.take(run, "run", RUN)
    suite = place.expect(str, run.get("suite_name"), "suite_name")
    task = place.expect(str, run.get("user_task_id"), "user_task_id")
    reader = ChatReader(FORM, account, place)
    goal: Value = None
    for number, message in enumerate(dicts_of(place, run.get("messages"), "messages")):
        value = {**message, "content": _content(message.get("content"))}
        if goal is None and message.get("role") == "user":
            goal = value["content"]
        reader.add(value, place.at(f"messages[{number}]"))
    injection = run.get("injection_task_id")
    names = ("benchmark_version", "agentdojo_package_version")
    episode = ImportedEpisode(
        position="run",
        version=str(run.get("agentdojo_package_version") or ""),
        task="/".join(str(part) for part in (suite, task, injection) if part is not None),
        goal=goal,
        metadata={"group": f"{suite}/{task}", "family": suite},
        interface={
            "scaffold": {"pipeline": run.get("pipeline_name")},
            "eval_protocol": {name: run.get(name) for name in names},
        },
        items=reader.items,
        ending="terminated",
        extra=rest,
    )
    _add_checks(run, episode, is_attacked=injection is not None)
    yield episode


def _add_checks(run: JsonObject, episode: ImportedEpisode, *, is_attacked: bool) -> None:
    error = run.get("error")
    utility = run.get("utility")
    security = run.get("security")
    values = {"utility": utility, "security": security}
    if error is not None:
        episode.items.append(Fault(origin="infra", message=str(error)))
        episode.ending = "error"
        episode.fault = "infra"
    is_judged = error is None and type(utility) is bool
    status: Literal["ok", "error", "not_evaluated"] = "ok" if is_judged else "not_evaluated"
    if error is not None:
        status = "error"
    episode.items.append(
        Verdict(
            check_id="utility",
            family="programmatic",
            status=status,
            verdict=utility if is_judged else None,
            evidence=values,
            is_primary=True,
        )
    )
    is_tested = is_attacked and error is None and type(security) is bool
    episode.items.append(
        Verdict(
            check_id="injection-resisted",
            family="programmatic",
            status="ok" if is_tested else "not_evaluated",
            verdict=not security if is_tested else None,
            evidence=values,
        )
    )


def _content(content: Value) -> Value:
    """Return the blocks of a message as content of the API of chats."""
    if type(content) is not list or not all(type(block) is dict for block in content):
        return content
    blocks: list[JsonObject] = content
    is_text = len(blocks) == 1 and blocks[0].keys() == {"type", "content"}
    if is_text and blocks[0]["type"] == "text":
        return blocks[0]["content"]
    return [
        {**block, "text": block["content"]} if "content" in block and "text" not in block else block
        for block in blocks
    ]


FORMAT = Format(name="agentdojo", title="a run of AgentDojo", matches=_matches, read=_read)
