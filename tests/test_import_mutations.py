"""Files of other tools with random changes: a clear error or a whole import, never a silent loss."""

from __future__ import annotations

import copy
import functools
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from imported import (
    DATA,
    FOLDERS,
    check_account,
    lost_leaves,
    needs_data,
    sources_of,
    texts_of_logs,
    write_lines,
)
from test_import_verifiers import episode as verifiers_episode
from test_import_verifiers import talk
from tiers import Share, mostly_deep, suite

import trajrec
from trajrec.errors import ImportFileError
from trajrec.exchange.import_reports import FileReport, ImportReport
from trajrec.exchange.importing import import_trajectories

MAX_BYTES = 140_000

STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    0.5,
    "",
    "x",
    "\ud800",
    [],
    [1],
    [None],
    {},
    {"a": 1},
    [[]],
    float("nan"),
)


def whole_files() -> list[Path]:
    """Return the files and folders that are trajectories."""
    paths = []
    for folder in FOLDERS:
        for path in sorted((DATA / folder).iterdir()):
            if path.is_dir() or path.stat().st_size < MAX_BYTES:
                paths.append(path)
    return paths


def spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container in a value with each of its keys."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from spots(value[key])


def change_json(document: Any, rng: random.Random) -> Any:
    """Return a document with a few changes."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        places = list(spots(document))
        if not places:
            return document
        container, key = rng.choice(places)
        kind = rng.randrange(5)
        if kind == 0:
            del container[key]
        elif kind == 1:
            container[key] = copy.deepcopy(rng.choice(STRANGE))
        elif kind == 2:
            other, name = rng.choice(places)
            if isinstance(other, dict) and name in other:
                container[key] = copy.deepcopy(other[name])
        elif kind == 3 and isinstance(container, list):
            container.insert(rng.randrange(len(container) + 1), copy.deepcopy(container[key]))
        elif isinstance(container, dict):
            # A copy: later changes would change the list of strange values, too.
            name = rng.choice(("new", "id", "content", "role", "steps"))
            container[name] = copy.deepcopy(rng.choice(STRANGE))
    return document


def change_file(path: Path, rng: random.Random) -> None:
    """Change a file: its values if it is JSON, else its bytes."""
    data = path.read_bytes()
    if rng.random() < 0.25 or path.suffix not in (".json", ".jsonl", ".traj"):
        kind = rng.randrange(3)
        position = rng.randrange(len(data) + 1)
        if kind == 0:
            data = data[:position]
        elif kind == 1:
            data = data[:position] + bytes([rng.randrange(256)]) + data[position + 1 :]
        else:
            data = data[:position] + data[position + rng.randrange(40) :]
        path.write_bytes(data)
        return
    try:
        path.write_text(json.dumps(change_json(json.loads(data), rng)))
    except ValueError:
        lines = [json.loads(line) for line in data.splitlines() if line.strip()]
        lines = change_json(lines, rng)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


PART_TYPES = frozenset({"tool_call", "tool_call_response"})
"""Types of the parts of messages in OpenTelemetry's words: a call or a result stands for each.

An unchanged file may have them a second time, in a text that is kept whole.
"""


@functools.cache
def words_of(source: Path) -> frozenset[str]:
    """Return the texts of an unchanged file that stand for something else in a log.

    These are words of its format, such as the types of its records and the names of attributes.
    A short one may stand in a log by chance, as a part of another text.
    """
    if source.is_dir():
        return frozenset()
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty"
        every = lost_leaves(sources_of(source), empty)
        import_trajectories(source, folder, redact=False)
        lost = lost_leaves(sources_of(source), Path(folder))
        whole_texts = set(texts_of_logs(Path(folder))[0].splitlines())
    short = {text for text in every if len(text) < 40 and text not in whole_texts}
    return frozenset(lost) | short | PART_TYPES


def is_resolved(text: str, path: Path, stored: str) -> bool:
    """Return whether a text is the name of an attachment whose content is among the stored texts."""
    name = text.removeprefix("attachment://")
    contents = (
        holder[key]
        for document in sources_of(path)
        for holder, key in spots(document)
        if name != text and key == name
    )
    return any(type(content) is str and content in stored for content in contents)


def check_import(path: Path, folder: Path, source: Path) -> None:
    """Import a file that was made of another, and check that nothing of it is lost in silence."""
    files: list[FileReport] = []
    output = folder / "out"
    reason = ""
    report = ImportReport()
    try:
        report = import_trajectories(path, output, redact=False, report=files.append)
    except ImportFileError as exc:
        reason = str(exc)
    if reason:
        assert reason.startswith(str(path))
        return
    check_account(report)
    assert all(file.reason for file in files if file.status in ("failed", "skipped"))
    if not report.episodes:
        return
    with trajrec.open(output) as corpus:
        bad = "SELECT log FROM logs WHERE problem IS NOT NULL OR damage::VARCHAR <> '[]'"
        assert corpus.sql(bad).fetchall() == []
        n_episodes = len(report.episodes)
        counted = corpus.sql("SELECT count(*) FROM all_episodes").fetchall()
        assert counted == [(n_episodes,)]
        for episode in corpus.episodes(kind="all"):
            episode.messages  # noqa: B018
    if path.is_file() and not report.files[0].account.n_dropped:
        lost = set(lost_leaves(sources_of(path), output)) - words_of(source)
        # Numbers of steps and of stored messages are made anew. Names of attributes in the words of
        # OpenTelemetry and OpenInference stand in a schema too, which may be what was changed.
        lost_texts = [
            text
            for text in lost
            if not text.lstrip("-").isdigit() and not text.startswith(("gen_ai.", "llm."))
        ]
        stored = texts_of_logs(output)[0] if lost_texts else ""
        lost_texts = [text for text in lost_texts if not is_resolved(text, path, stored)]
        # A lone surrogate, which no UTF-8 has, is stored as its escape.
        escapes = (text.encode("ascii", "backslashreplace").decode() for text in lost_texts)
        # An id that is a number, such as that of a task, is stored as its text.
        whole_texts = set(stored.splitlines())
        lost_texts = [
            text
            for text, escape in zip(lost_texts, escapes, strict=True)
            if text not in whole_texts and (text == escape or escape not in stored)
        ]
        assert lost_texts == [], lost_texts


@needs_data
@suite("imports", fixed=4, drawn=50, whole=10_000)
def test_a_changed_file_gives_an_error_or_a_whole_import(share: Share, tmp_path: Path) -> None:
    paths = whole_files()
    for number in range(share.size or 0):
        rng = random.Random(f"{share.seed} {number}")
        source = rng.choice(paths)
        folder = tmp_path / str(number)
        folder.mkdir()
        target = folder / source.name
        if source.is_dir():
            shutil.copytree(source, target)
            files = [file for file in target.rglob("*.*") if file.is_file()]
        else:
            shutil.copyfile(source, target)
            files = [target]
        for file in files:
            file.chmod(0o644)
        for inner in target.rglob("*") if target.is_dir() else ():
            inner.chmod(0o755 if inner.is_dir() else 0o644)
        change_file(rng.choice(files), rng)
        try:
            check_import(target, folder, source)
        except Exception as exc:
            raise AssertionError(f"{source} changed by seed {share.seed} {number}") from exc
        shutil.rmtree(folder)


@suite("imports", fixed=2, drawn=20, whole=1500)
def test_a_changed_result_of_verifiers_loses_nothing(share: Share, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "source.jsonl", [verifiers_episode(talk())])
    for number in range(share.size or 0):
        folder = tmp_path / str(number)
        folder.mkdir()
        changed = change_json([verifiers_episode(talk())], random.Random(f"{share.seed} {number}"))
        try:
            check_import(write_lines(folder / "source.jsonl", changed), folder, source)
        except Exception as exc:
            raise AssertionError(f"changed by seed {share.seed} {number}") from exc
        shutil.rmtree(folder)


ODD_FIELDS: tuple[tuple[str, tuple[str | int, ...]], ...] = (
    ("claude-code/edit_branch.jsonl", (2, "message", "type")),
    ("claude-code/edit_branch.jsonl", (2, "message", "role")),
    ("openhands-sdk/goal_events.jsonl", (4, "source")),
    ("gemini-cli/gemini_golden.json", ("messages", 1, "type")),
    ("inspect/log_formats.json", ("samples", 0, "transcript", "events", 9, "score")),
    ("agentdojo/ap_banking_user_task_0_injection_task_0.json", ("messages", 0, "content", 0)),
    (
        "agentdojo/ap_banking_user_task_0_injection_task_0.json",
        ("messages", 1, "content", 0, "type"),
    ),
    ("claude-code/api_error.jsonl", (2, "error", "type")),
    ("claude-code/api_error.jsonl", (2, "error", "message")),
    ("gemini-cli/gemini_golden.json", ("messages", 1, "toolCalls", 0, "status")),
    ("atif/atif_multiagent.json", ("steps", 2, "observation", "results", 0, "source_call_id")),
    ("inspect/log_formats.json", ("samples", 0, "scores", "match")),
    ("inspect/log_tool_call_error.json", ("eval", "run_id")),
    ("inspect/log_tool_call_error.json", ("eval", "task_version")),
    ("inspect/log_tool_call_error.json", ("version",)),
    ("inspect/log_formats.json", ("samples", 0, "messages", 2, "source")),
    ("inspect/log_formats.json", ("samples", 0, "transcript", "events", 5, "config")),
    ("inspect/log_formats.json", ("samples", 0, "transcript", "content")),
    ("openhands-sdk/goal_events.jsonl", (3, "tool_call")),
    ("who-when/Algorithm-Generated_47.json", ("is_correct",)),
    ("openhands/basic_interactions.json", (0, "args")),
    ("openhands/basic_interactions.json", (1, "timeout")),
    ("openhands/basic_interactions.json", (5, "tool_call_metadata", "model_response")),
    ("swe-agent/humanevalfix-python-0.traj", ("info", "model_stats")),
    ("tau-bench/model-gem.jsonl", (0, "messages", 2, "tool_calls", 0, "type")),
    ("tau2/alpha-model.jsonl", (1, "messages", 3, "tool_calls", 0, "id")),
)
"""Files, and fields that always have the same value in their format, or the same type."""


@mostly_deep("imports", drawn=8)
@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "path"), ODD_FIELDS)
def test_an_odd_value_of_a_constant_field_is_kept(
    name: str, path: tuple[str | int, ...], tmp_path: Path
) -> None:
    text = (DATA / name).read_text()
    is_lines = name.endswith(".jsonl")
    document = [json.loads(line) for line in text.splitlines()] if is_lines else json.loads(text)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    assert holder[path[-1]] != 0.5
    holder[path[-1]] = 0.5
    lines = map(json.dumps, document if is_lines else [document])
    file = tmp_path / Path(name).name
    file.write_text("\n".join(lines) + "\n")
    check_import(file, tmp_path, DATA / name)
    assert list((tmp_path / "out").glob("*.trj"))


@needs_data
@pytest.mark.slow
def test_an_attachment_that_nothing_refers_to_is_kept(tmp_path: Path) -> None:
    log = json.loads((DATA / "inspect" / "log_images_tc.json").read_text())
    log["samples"][0]["transcript"]["content"]["0" * 32] = "said nowhere else"
    file = tmp_path / "log.json"
    file.write_text(json.dumps(log))
    import_trajectories(file, tmp_path / "out")
    assert "said nowhere else" not in lost_leaves(sources_of(file), tmp_path / "out")


@needs_data
@pytest.mark.slow
def test_an_odd_source_of_an_observation_is_kept(tmp_path: Path) -> None:
    events = json.loads((DATA / "openhands" / "basic.json").read_text())
    assert events[2]["observation"] == "edit"
    events[2]["source"] = "said nowhere else"
    file = tmp_path / "basic.json"
    file.write_text(json.dumps(events))
    import_trajectories(file, tmp_path / "out")
    assert "said nowhere else" not in lost_leaves(sources_of(file), tmp_path / "out")


def test_an_attachment_counts_only_with_its_content(tmp_path: Path) -> None:
    file = tmp_path / "log.json"
    file.write_text(json.dumps({"attachments": {"h": "a picture"}, "image": "attachment://h"}))
    assert is_resolved("attachment://h", file, "text\na picture")
    assert not is_resolved("attachment://h", file, "text")
    assert not is_resolved("attachment://g", file, "text\na picture")
    assert not is_resolved("h", file, "text\na picture")
