"""The folder of a trial of Harbor: its trajectory in ATIF, and the verdict beside it.

The trajectory may be continued in further files, and name those of other agents. `result.json` has
the rewards, the exception that ended the trial, and its times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from trajrec.errors import ImportFileError
from trajrec.exchange.account import Account
from trajrec.exchange.atif import TrajectoryReader, is_document
from trajrec.exchange.candidates import Candidate, Format
from trajrec.exchange.reading import Place, number_or_none, read_json, texts_by_key
from trajrec.exchange.records import Fault, ImportedEpisode, Verdict
from trajrec.types import JsonObject

RESULT = frozenset(
    (
        "task_name",
        "trial_name",
        "task_checksum",
        "agent_info",
        "verifier_result",
        "exception_info",
        "started_at",
        "finished_at",
    )
)
VERIFIER_RESULT = frozenset(("rewards",))
EXCEPTION = frozenset(("exception_type", "exception_message", "exception_traceback", "occurred_at"))
FIRST = "trajectory.json"

MAX_PARTS = 10_000
"""Parts of a trajectory: files that name each other in a circle would never end."""


def _agent_folder(candidate: Candidate) -> Path | None:
    """Return the folder with the trajectory, None if there is none."""
    if not candidate.is_folder:
        return None
    for folder in (candidate.path / "agent", candidate.path):
        if (folder / FIRST).is_file():
            return folder
    return None


def _matches(candidate: Candidate) -> bool:
    folder = _agent_folder(candidate)
    return folder is not None and is_document(Candidate(folder / FIRST).document)


def _files(candidate: Candidate) -> list[Path]:
    """Return the files that the episode is read from."""
    folder = _agent_folder(candidate)
    assert folder is not None
    files = sorted(folder.glob("trajectory*.json"))
    beside = (candidate.path / name for name in ("result.json", "config.json"))
    return [*files, *(path for path in beside if path.is_file())]


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    folder = _agent_folder(candidate)
    assert folder is not None
    documents: dict[str, JsonObject] = {}
    for path in sorted(folder.glob("trajectory*.json")):
        with account.attempt(path.name):
            value = read_json(path)
            if not is_document(value):
                raise ImportFileError("is no ATIF document", path=path, position=path.name)
            documents[path.name] = value
    main = _parts(FIRST, documents, account)

    def find(reference: JsonObject) -> str | None:
        path = reference.get("trajectory_path")
        name = Path(path).name if isinstance(path, str) else ""
        return name if name in documents and name not in main else None

    reader = TrajectoryReader(account, find)
    for name in main:
        reader.add(documents[name], Place(folder / name))
    episode = reader.finish(FIRST)
    _add_result(candidate, account, episode)
    yield episode

    def read_other(name: str, documents: dict[str, JsonObject]) -> Iterator[ImportedEpisode]:
        of_other = TrajectoryReader(account, lambda reference: None)
        for part in _parts(name, documents, account):
            of_other.add(documents[part], Place(folder / part, part))
        yield of_other.finish(name)

    others = [name for name in documents if name not in main]
    continued = {_next_name(documents[name]) for name in others}
    for name in others:
        if name in continued:
            continue
        for other in account.whole_parts([(name, documents)], read_other):
            other.caller = FIRST
            other.caller_step = reader.callers.get(name, -1)
            yield other


def _next_name(document: JsonObject) -> str | None:
    name = document.get("continued_trajectory_ref")
    return Path(name).name if isinstance(name, str) else None


def _parts(first: str, documents: dict[str, JsonObject], account: Account) -> list[str]:
    """Return the files that a trajectory is continued in, in order."""
    parts = [first]
    while len(parts) < MAX_PARTS:
        name = _next_name(documents[parts[-1]])
        if name is None:
            return parts
        if name not in documents or name in parts:
            account.note(f"the trajectory is continued in {name}, which is not there")
            return parts
        parts.append(name)
    return parts


def _add_result(candidate: Candidate, account: Account, episode: ImportedEpisode) -> None:
    """Add what stands beside the trajectory: the verdict, the ending and the conditions."""
    path = candidate.path / "result.json"
    if not path.is_file():
        account.note("there is no result.json: the rewards and the ending are unknown")
        return
    place = Place(path, path.name)
    # Each of them is damaged or whole by itself.
    result: JsonObject = {}
    with account.attempt(path.name):
        result = place.expect(dict, read_json(path), "the file")
        _add_facts(candidate, place, result, account, episode)
    with account.attempt(path.name):
        _add_rewards(place, result, account, episode)
    if result:
        with account.attempt(path.name):
            _add_exception(place, result, account, episode)


def _add_facts(
    candidate: Candidate,
    place: Place,
    result: JsonObject,
    account: Account,
    episode: ImportedEpisode,
) -> None:
    """Add the task, the times and the conditions of a trial."""
    task = place.optional(str, result.get("task_name"), "task_name", "")
    revision = place.optional(str, result.get("task_checksum"), "task_checksum", "")
    rest = account.take(result, "result.json", RESULT) or {}
    config = texts_by_key(rest.get("config"))
    episode.task = task
    episode.task_revision = revision
    episode.start_ns = account.time(result.get("started_at"))
    episode.end_ns = account.time(result.get("finished_at"))
    trial = result.get("trial_name")
    episode.metadata = {"trial": trial} if isinstance(trial, str) else None
    interface = episode.interface or {}
    if result.get("agent_info") is not None:
        scaffold = interface.get("scaffold", {})
        interface["scaffold"] = {**scaffold, "agent_info": result["agent_info"]}
    if config.get("environment") is not None:
        interface["env"] = config["environment"]
    if config.get("verifier") is not None:
        interface["verifier"] = config["verifier"]
    episode.interface = interface
    _add_config(candidate.path / "config.json", config, rest, account)
    if rest:
        episode.extra = {**texts_by_key(episode.extra), "result.json": rest}


def _add_config(path: Path, config: JsonObject, rest: JsonObject, account: Account) -> None:
    """Keep config.json, unless result.json repeats it."""
    if not path.is_file():
        return
    with contextlib.suppress(ImportFileError):
        value = read_json(path)
        if value == config:
            account.drop("config.json: result.json repeats it")
            return
        account.extra["result.json.config.json"] += 1
        account.found += 1
        rest["config.json"] = value
        return
    account.drop("config.json is no JSON")


def _add_rewards(
    place: Place, result: JsonObject, account: Account, episode: ImportedEpisode
) -> None:
    """Add a check for each reward; the one that is called `reward`, or the only one, is primary."""
    verifier = place.optional(dict, result.get("verifier_result"), "verifier_result", {})
    if not verifier:
        return
    rest = account.take(verifier, "verifier_result", VERIFIER_RESULT)
    rewards = place.optional(dict, verifier.get("rewards"), "rewards", {})
    primary = "reward" if "reward" in rewards else next(iter(rewards), "")
    for name, value in rewards.items():
        score = number_or_none(value)
        # Only 0 and 1 are verdicts; a reward between them is a score.
        verdict = bool(score) if score in (0.0, 1.0) else None
        episode.items.append(
            Verdict(
                check_id=name,
                family="programmatic",
                status="ok" if score is not None else "not_evaluated",
                verdict=verdict,
                score=score,
                evidence=None if score is not None else {"value": value},
                time_ns=episode.end_ns,
                is_primary=name == primary,
                extra=rest,
            )
        )
        account.keep("check")


def _add_exception(
    place: Place, result: JsonObject, account: Account, episode: ImportedEpisode
) -> None:
    """Add the exception that ended a trial, which the trajectory does not hold."""
    info = place.optional(dict, result.get("exception_info"), "exception_info", {})
    if not info:
        episode.ending = "terminated"
        return
    rest = account.take(info, "exception_info", EXCEPTION)
    kind = place.optional(str, info.get("exception_type"), "exception_type", "")
    origin: Literal["agent", "env", "infra", "verifier"] = "infra"
    if kind.startswith("Agent"):
        origin = "agent"
    elif kind.startswith("Verifier"):
        origin = "verifier"
    elif kind.startswith("Environment"):
        origin = "env"
    episode.items.append(
        Fault(
            origin=origin,
            error_type=kind,
            message=place.optional(str, info.get("exception_message"), "exception_message", ""),
            traceback=place.optional(
                str, info.get("exception_traceback"), "exception_traceback", ""
            ),
            time_ns=account.time(info.get("occurred_at")),
            extra=rest,
        )
    )
    episode.stop_reason = kind
    # A limit of time truncates: the agent has not failed by itself.
    episode.ending = "truncated" if "Timeout" in kind else "error"
    if origin != "agent":
        episode.fault = origin


FORMAT = Format(
    name="harbor",
    title="a trial of Harbor",
    matches=_matches,
    read=_read,
    files=_files,
)
