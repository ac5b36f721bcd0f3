"""Results of tau2: simulations of an agent and a user that calls tools, too; and published lines.

The results may lie in one file, or in `results.json` with a folder `simulations` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, Format, records_of
from trajrec.exchange.chat_messages import ChatForm, ChatReader
from trajrec.exchange.reading import (
    Place,
    dicts_of,
    number_or_none,
    object_parts,
    read_json,
    text_of,
    texts_by_key,
)
from trajrec.exchange.records import Ending, ImportedEpisode, Verdict
from trajrec.exchange.tau2_checks import verdicts_of
from trajrec.types import JsonObject
from trajrec.wire.json_bodies import first_of

RESULTS = frozenset(("info", "tasks", "simulations"))
SIMULATION = frozenset(
    (
        "id",
        "task_id",
        "start_time",
        "end_time",
        "termination_reason",
        "agent_cost",
        "user_cost",
        "reward_info",
        "trial",
        "seed",
        "messages",
    )
)
LINE = frozenset(("model_path", "task_name", "messages", "eval_result", "sampling_params"))

_COSTS = ("agent_cost", "user_cost")

_ENDINGS: dict[str, Ending] = {
    "user_stop": "terminated",
    "agent_stop": "terminated",
    "max_steps": "truncated",
    "timeout": "truncated",
    "context_window_exceeded": "truncated",
    "too_many_errors": "truncated",
    "infrastructure_error": "error",
    "agent_error": "error",
    "user_error": "error",
}


def _error(message: JsonObject) -> str | None:
    """Return the text of an error: a message says whether it is one."""
    if message.get("error") is not True:
        return None
    content = message.get("content")
    return content if type(content) is str else ""


def _is_model_call(message: JsonObject) -> bool:
    """Return whether a model gave a message: the greeting is a constant without usage."""
    return message.get("usage") is not None or bool(message.get("tool_calls"))


FORM = ChatForm(find_error=_error, silent="ok", is_model_call=_is_model_call)
# Published lines have neither usage nor errors.
LINE_FORM = ChatForm()


def _is_line(record: JsonObject) -> bool:
    return {"messages", "eval_result", "task_name"} <= record.keys()


def _matches(candidate: Candidate) -> bool:
    if candidate.is_folder:
        index = candidate.path / "results.json"
        is_whole = index.is_file() and (candidate.path / "simulations").is_dir()
        return is_whole and {"info", "tasks"} <= Candidate(index).fields.keys()
    fields = candidate.fields
    if {"info", "tasks"} <= fields.keys():
        return "simulations" in fields or "simulation_index" in fields
    return _is_line(candidate.first_record)


def _files(candidate: Candidate) -> list[Path]:
    if not candidate.is_folder:
        return [candidate.path]
    folder = candidate.path / "simulations"
    return [candidate.path / "results.json", *sorted(folder.glob("*.json"))]


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    if candidate.is_folder:
        index, *others = _files(candidate)
        results = Place(index).expect(dict, read_json(index), "the file")
        run = _Run(results, Place(index), account)

        def read_file(name: str, path: Path) -> Iterator[ImportedEpisode]:
            place = Place(path, name)
            yield run.episode(place.expect(dict, read_json(path), "the file"), place, name)

        yield from account.whole_parts([(path.name, path) for path in others], read_file)
        run.count_unused()
    elif _is_line(candidate.first_record) and not candidate.fields.get("simulations"):

        def read_line(position: str, record: JsonObject) -> Iterator[ImportedEpisode]:
            yield _published(record, Place(candidate.path, position), position, account)

        yield from account.whole_parts(records_of(candidate, account, "a record"), read_line)
    else:
        place = Place(candidate.path)
        if candidate.fields.get("simulations") is None:
            raise place.error("is an index: import the folder with `simulations` beside it")
        run = _Run(candidate.fields, place, account)

        def read(position: str, record: JsonObject) -> Iterator[ImportedEpisode]:
            yield run.episode(record, place.at(position), position)

        simulations = candidate.fields.get("simulations")
        parts = object_parts(place, simulations, "simulations", account)
        yield from account.whole_parts(parts, read)


class _Run:
    """The conditions that all simulations of a run share."""

    def __init__(self, results: JsonObject, place: Place, account: Account) -> None:
        self._account = account
        rest = account.take(results, "results", RESULTS)
        info = place.optional(dict, results.get("info"), "info", {})
        account.take(info, "info", frozenset(info))
        tasks = dicts_of(place, results.get("tasks"), "tasks")
        self._tasks = {text_of(task.get("id")): task for task in tasks}
        self._used: set[str] = set()
        if len(tasks) > len(self._tasks):
            account.drop("a task whose id another one has", len(tasks) - len(self._tasks))
        agent = texts_by_key(info.get("agent_info"))
        self._model = str(agent.get("llm") or "")
        domain = texts_by_key(info.get("environment_info")).get("domain_name")
        # Each domain numbers its tasks from 0.
        self._domain = f"{domain}/" if domain and type(domain) is str else ""
        self._interface: JsonObject = {
            "scaffold": {"agent": agent.get("implementation"), "commit": info.get("git_commit")},
            "base": {"model": agent.get("llm"), "args": agent.get("llm_args")},
            "env": {"env": info.get("environment_info"), "user": info.get("user_info")},
            "budget": {name: info.get(name) for name in ("max_steps", "max_errors")},
            "eval_protocol": {name: info.get(name) for name in ("num_trials", "seed")},
        }
        self._extra: JsonObject = {"info": info}
        if rest is not None:
            self._extra["results"] = rest
        unused = set(self._tasks) - {
            text_of(texts_by_key(s).get("task_id")) for s in results.get("simulations") or ()
        }
        if unused and results.get("simulations"):
            self._extra["tasks without a simulation"] = [self._tasks[name] for name in unused]

    def count_unused(self) -> None:
        """Count as dropped the tasks of which no simulation was read."""
        n_unused = len(self._tasks.keys() - self._used)
        if n_unused:
            self._account.drop("a task without a simulation", n_unused)

    def episode(self, record: JsonObject, place: Place, position: str) -> ImportedEpisode:
        """Return the episode of a simulation."""
        account = self._account
        rest = account.take(record, "simulation", SIMULATION)
        task_id = text_of(record.get("task_id"))
        task = self._tasks.get(task_id, {})
        self._used.add(task_id)
        extra = dict(self._extra)
        if rest is not None:
            extra["simulation"] = rest
        if task:
            # Its criteria hold the solution, which no goal may tell.
            extra["task"] = task
        reader = ChatReader(FORM, account, place, model=self._model)
        items = reader.read(record.get("messages"))
        reason = place.optional(str, record.get("termination_reason"), "termination_reason", "")
        ending = _ENDINGS.get(reason, "unknown")
        fault: Literal["", "infra"] = "infra" if reason == "infrastructure_error" else ""
        seed = record.get("seed")
        is_seed = type(seed) is int and abs(seed) < 1 << 63
        metadata = {"group": task_id or None, "trial": record.get("trial"), "run": record.get("id")}
        odd = {name: v for name, v in metadata.items() if type(v) not in (str, int, type(None))}
        if seed is not None and not is_seed:
            odd["seed"] = seed
        if odd:
            extra["metadata"] = odd
        episode = ImportedEpisode(
            position=position,
            task=f"{self._domain}{task_id}" if task_id else "",
            goal=task.get("user_scenario"),
            metadata={key: value for key, value in metadata.items() if type(value) in (str, int)},
            seed=seed if is_seed else None,
            start_ns=account.time(record.get("start_time")),
            end_ns=account.time(record.get("end_time")),
            interface=self._interface,
            items=items,
            ending=ending,
            stop_reason=reason,
            fault=fault,
            reported={name: record[name] for name in _COSTS if record.get(name) is not None}
            or None,
            extra=extra,
        )
        reward_info = place.optional(dict, record.get("reward_info"), "reward_info", {})
        criteria = texts_by_key(task.get("evaluation_criteria"))
        episode.items += verdicts_of(
            reward_info, place.at("reward_info"), account, criteria.get("reward_basis")
        )
        return episode


def _published(
    record: JsonObject, place: Place, position: str, account: Account
) -> ImportedEpisode:
    """Return the episode of a line as leaderboards publish them."""
    rest = account.take(record, "line", LINE)
    model = place.optional(str, record.get("model_path"), "model_path", "")
    items = ChatReader(LINE_FORM, account, place, model=model).read(record.get("messages"))
    result = place.optional(dict, record.get("eval_result"), "eval_result", {})
    score = number_or_none(result.get("score"))
    account.take(result, "eval_result", frozenset(result))
    items.append(
        Verdict(
            check_id="reward",
            family="programmatic",
            status="not_evaluated" if score is None else "ok",
            verdict=bool(score) if score in (0.0, 1.0) else None,
            score=score,
            evidence=result,
            is_primary=True,
        )
    )
    # The name is that of the domain: its tasks are told apart by their ids alone.
    domain = place.optional(str, record.get("task_name"), "task_name", "")
    meta = texts_by_key(record.get("meta"))
    task_id = first_of(meta, "task_id", "id")
    is_known = type(task_id) in (str, int)
    if domain and not is_known:
        rest = {**(rest or {}), "task_name": domain}
    reason = meta.get("finish_reason")
    reason = reason if type(reason) is str else ""
    return ImportedEpisode(
        position=position,
        task=f"{domain}/{task_id}" if is_known else "",
        ending=_ENDINGS.get(reason, "unknown"),
        stop_reason=reason,
        fault="infra" if reason == "infrastructure_error" else "",
        reported={name: meta[name] for name in _COSTS if meta.get(name) is not None} or None,
        interface={"base": {"model": model}, "sampling": record.get("sampling_params")},
        items=items,
        extra=rest,
    )


FORMAT = Format(name="tau2", title="tau2-bench", matches=_matches, read=_read, files=_files)
