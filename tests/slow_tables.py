"""The rows that SQL must give for a folder of logs, computed slowly and without trajrec.

It reads each log with tests/slow_reader.py, and follows the rules of docs/explanation/durability.md for files of one log.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from slow_footer import to_number
from slow_reader import contents
from slow_values import DamageError

Row = tuple[Any, ...]
Tables = dict[str, list[Row]]

QUERIES = {
    "logs": "SELECT log, log_id, seal, is_sealed, generation FROM logs",
    "all_episodes": "SELECT log, episode_id, kind, n_steps, ending, seed, error_types, tools_called FROM all_episodes",
    "steps": "SELECT episode_id, step, reward FROM steps",
    "failures": "SELECT episode_id, step, phase, error_type FROM failures",
    "checks": "SELECT episode_id, check_id, phase, verdict FROM checks",
    "attempts": "SELECT episode_id, step, call, attempt, tool, outcome FROM attempts",
    "model_calls": "SELECT episode_id, number, outcome FROM model_calls",
    "side_effects": "SELECT episode_id, number, name FROM side_effects",
    "state_changes": "SELECT episode_id, step, call, attempt, count(*) FROM state_changes WHERE call IS NOT NULL GROUP BY ALL",
}
"""Table -> the query whose rows `tables` gives."""


class SlowFile(NamedTuple):
    """A file that can be read."""

    log: str
    log_id: str
    content: dict[str, Any]
    has_journal: bool

    @property
    def state(self) -> tuple[str, bytes | str]:
        """The log and its contents: equal for files with the same."""
        return self.log_id, self.content["seal"] if self.content["is_sealed"] else self.log

    @property
    def n_items(self) -> int:
        """The number of its events, steps and resets."""
        episodes = self.content["episodes"]
        n_rows = sum(len(episode["steps"]) + bool(episode["reset"]) for episode in episodes)
        return len(self.content["events"]) + n_rows

    @property
    def rank(self) -> tuple[Any, ...]:
        """The order of a file among those of one log."""
        content = self.content
        return (
            bool(content["damage"]),
            content["is_sealed"] or not self.has_journal,
            -self.n_items,
            not content["is_sealed"],
            -content["generation"],
            -content["size"],
        )


def files_of(folder: Path) -> list[SlowFile]:
    files = []
    for path in sorted(folder.rglob("*.trj")):
        try:
            content = contents(path)
        except DamageError:
            continue
        journal = path.with_name(path.name + ".journal")
        log = path.relative_to(folder).as_posix()
        files.append(SlowFile(log, content["header"]["log_id"], content, journal.exists()))
    return files


def tables(folder: Path, originals: set[str], running: set[str]) -> Tables:
    """Return the rows of each table, sorted.

    Args:
        folder: The corpus.
        originals: The files that the index names as originals: of several with the same contents, any may be.
        running: The logs that are being written.
    """
    files = files_of(folder)
    rows: Tables = {name: [] for name in QUERIES}
    groups: dict[str, list[SlowFile]] = defaultdict(list)
    for file in files:
        groups[file.log_id].append(file)
        content = file.content
        seal = content["seal"].hex() if content["is_sealed"] else None
        facts = (file.log, file.log_id, seal, content["is_sealed"], content["generation"])
        rows["logs"].append(facts)
    for group in groups.values():
        best = min(group, key=lambda file: (file.rank, file.log))
        same = [file for file in group if file.state == best.state]
        (original,) = [file for file in same if file.log in originals]
        for file in group:
            is_copy = file is not original
            rows["all_episodes"] += episode_rows(file, is_copy=is_copy, running=running)
        add_contents(original, rows)
    return {name: sort(of_table) for name, of_table in rows.items()}


def sort(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=repr)


def add_contents(file: SlowFile, rows: Tables) -> None:
    is_agents = not file.content["header"]["env"]["class_name"]
    names = {episode["episode"]: episode["id"] for episode in file.content["episodes"]}
    decisions = set()
    numbers: dict[tuple[str, str], Iterator[int]] = {}
    open_calls: dict[Row, Row] = {}
    open_models: dict[Row, Row] = {}
    model_steps: dict[Row, int] = {}
    n_changes: dict[Row, int] = defaultdict(int)
    for _, event in file.content["events"]:
        number = event["episode"]
        tag = event["tag"]
        if tag == "post_hoc_check":
            rows["checks"].append(
                (event["target"], event["check_id"], "post-hoc", event["verdict"])
            )
        if number < 0:
            continue
        name = names[number]
        match tag:
            case "failure":
                rows["failures"].append((name, event["step"], event["phase"], event["error_type"]))
            case "check":
                verdict = event["verdict"]
                rows["checks"].append((name, event["check_id"], event["phase"], verdict))
            case "call":
                key = (name, event["step"], event["call"], event["attempt"])
                open_calls[key] = (*key, event["tool"], "open")
            case "result":
                key = (name, event["step"], event["call"], event["attempt"])
                open_calls[key] = (*open_calls[key][:5], event["outcome"])
                if event["outcome"] != "ok":
                    rows["failures"].append((name, event["step"], "call", event["error_type"]))
            case "model":
                open_models[name, event["number"]] = (name, event["number"], "open")
                model_steps[name, event["number"]] = event["step"]
            case "answer":
                open_models[name, event["number"]] = (name, event["number"], event["outcome"])
                if event["outcome"] != "ok":
                    step = model_steps[name, event["number"]]
                    rows["failures"].append((name, step, "model", event["error_type"]))
            case "side_effect":
                count = numbers.setdefault((name, tag), iter(range(10**9)))
                rows["side_effects"].append((name, next(count), event["name"]))
            case "state":
                if event["step"] >= 0 and event["data"]:
                    key = (name, event["step"], event["call"], event["attempt"])
                    n_changes[key] += len(event["data"])
        if tag in ("call", "model"):
            decisions.add((name, event["step"], None))
    rows["state_changes"] += [(*key, n) for key, n in n_changes.items()]
    rows["attempts"] += open_calls.values()
    rows["model_calls"] += open_models.values()
    rows["steps"] += decisions
    if not is_agents:
        for episode in file.content["episodes"]:
            for step in episode["steps"]:
                rows["steps"].append((episode["id"], step["step"], to_float(step["reward"])))


def episode_rows(file: SlowFile, *, is_copy: bool, running: set[str]) -> list[Row]:
    """Return the rows of `all_episodes` for a file."""
    content = file.content
    is_agents = not content["header"]["env"]["class_name"]
    events = [event for _, event in content["events"]]
    starts = {event["episode"]: event for event in events if event["tag"] == "start"}
    ends = {event["episode"]: event for event in events if event["tag"] == "end"}
    rows = []
    for episode in content["episodes"]:
        number = episode["episode"]
        own = [event for event in events if event["episode"] == number]
        end = ends.get(number)
        ending = "running" if file.log in running else "interrupted"
        if end is not None:
            ending = end["ending"]
            n_steps = end["n_steps"]
        elif is_agents:
            n_steps = max([e["step"] + 1 for e in own if e["tag"] in ("call", "model")], default=0)
        else:
            numbers = [step["step"] for step in episode["steps"]]
            numbers += [e["step"] for e in own if e["tag"] == "failure" and e["phase"] == "step"]
            n_steps = max(numbers, default=-1) + 1
        is_nested = any(e["tag"] == "task" and e.get("caller_id") for e in own)
        kind = "copy" if is_copy else "nested" if is_nested else "rollout"
        seed = starts[number]["seed"] if number in starts else None
        facts = (file.log, episode["id"], kind, n_steps, ending, seed)
        rows.append((*facts, names(error_types(own)), names(tools(own))))
    return rows


def error_types(events: list[dict[str, Any]]) -> set[str]:
    """Return the classes of exceptions in the failures of an episode."""
    failed = [e for e in events if e["tag"] in ("result", "answer") and e["outcome"] != "ok"]
    failed += [event for event in events if event["tag"] == "failure"]
    return {event["error_type"] for event in failed}


def tools(events: list[dict[str, Any]]) -> set[str]:
    """Return the tools that an episode called."""
    return {event["tool"] for event in events if event["tag"] == "call"}


def names(found: set[str]) -> str | None:
    """Return names as SQL has them."""
    return json.dumps(sorted(found), separators=(",", ":")) if found else None


def to_float(value: Any) -> float | None:
    """Return a number as SQL has it."""
    number = to_number(value)
    return None if number is None or number != number else number
