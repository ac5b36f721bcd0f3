"""Imports of other tools' files in tests: real files, counts of the corpus, and what was lost."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

import trajrec
from trajrec.corpus.corpus import Corpus
from trajrec.exchange.import_reports import ImportReport
from trajrec.exchange.importing import import_trajectories
from trajrec.exchange.otlp_protobuf import read_protobuf
from trajrec.exchange.times import time_of
from trajrec.exchange.zip_members import ZipMembers
from trajrec.log.events import Blob
from trajrec.log.frames import CHUNK
from trajrec.log.reader import LogReader
from trajrec.values import codec

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
"""Real files of other tools, which lie beside the repository and are no part of it."""

FOLDERS = (
    "agentdojo",
    "atif",
    "claude-code",
    "codex",
    "gemini-cli",
    "harbor-trial",
    "hf-messages",
    "inspect",
    "mini-swe-agent",
    "openhands",
    "openhands-sdk",
    "otlp",
    "swe-agent",
    "tau-bench",
    "tau2",
    "who-when",
)
"""The folders of those files: one for each format."""

needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"the real files of other tools are not at {DATA}"
)


def counted(folder: str) -> dict[str, Any]:
    """Return the counts of a folder of real files, which were made without trajrec."""
    counts: dict[str, Any] = json.loads((DATA / "COUNTS.json").read_text())[folder]
    return counts


def imported(path: Path, output: Path, **options: Any) -> Corpus:
    """Return the corpus of some files, all of which are imported without loss."""
    report = import_trajectories(path, output, **options)
    report.raise_if_failed()
    check_account(report)
    return trajrec.open(output)


def check_account(report: ImportReport) -> None:
    """Check that the fields of each file are accounted for, and none dropped without a reason."""
    for file in report.of_status("imported"):
        account = file.account
        kept = account.placed + account.unknown + account.n_extra
        assert account.found == kept + account.n_dropped, file.path
        assert all(account.dropped), file.path


def write_json(path: Path, value: Any) -> Path:
    """Write a value as a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_lines(path: Path, values: list[Any]) -> Path:
    """Write values as lines of JSON."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def one(corpus: Corpus, query: str) -> Any:
    """Return the only row of a query, or its only value."""
    rows = corpus.sql(query).fetchall()
    assert len(rows) == 1, rows
    return rows[0][0] if len(rows[0]) == 1 else rows[0]


def column(corpus: Corpus, query: str) -> list[Any]:
    """Return the first column of a query."""
    return [row[0] for row in corpus.sql(query).fetchall()]


def texts_of_logs(folder: Path) -> tuple[str, set[Any]]:
    """Return all texts in the logs of a folder, one after the other, and all numbers."""
    texts: list[str] = []
    numbers: set[Any] = set()
    for path in sorted(folder.glob("*.trj")):
        with LogReader(path) as reader:
            for index, frame in enumerate(reader.frames):
                if frame.kind != CHUNK:
                    continue
                for event in reader.chunk(index).record.events:
                    _add_leaves(event, texts, numbers)
    return "\n".join(texts), numbers


def _add_leaves(value: Any, texts: list[str], numbers: set[Any]) -> None:
    if isinstance(value, msgspec.Struct):
        if isinstance(value, Blob):
            value = codec.decode(value.data)
        else:
            value = [getattr(value, name) for name in value.__struct_fields__]
    if isinstance(value, bytes):
        try:
            value = codec.decode(value)
        except ValueError:
            return
    if isinstance(value, str):
        texts.append(value)
        # Arguments and results may be JSON texts.
        if value[:1] in ("{", "["):
            try:
                inner = json.loads(value)
            except ValueError:
                return
            _add_leaves(inner, texts, numbers)
    elif isinstance(value, dict):
        for key, item in value.items():
            texts.append(str(key))
            _add_leaves(item, texts, numbers)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _add_leaves(item, texts, numbers)
    elif isinstance(value, (int, float)):
        numbers.add(value)


def lost_leaves(source: Any, folder: Path, *, words: set[str] = frozenset()) -> Counter[str]:  # type: ignore[assignment]
    """Return the texts and numbers of a source that are nowhere in the logs made of it.

    Args:
        source: The decoded source.
        folder: The corpus.
        words: Words of the format that have another form in a log, e.g. names of roles.
    """
    haystack, numbers = texts_of_logs(folder)
    lost: Counter[str] = Counter()

    def look(value: Any) -> None:
        if isinstance(value, dict):
            for item in value.values():
                look(item)
        elif isinstance(value, list):
            for item in value:
                look(item)
        elif isinstance(value, str) and _document(value) is not None:
            look(_document(value))
        elif isinstance(value, str):
            # 0 stands for no time.
            is_time = (time_of(value) or None) in numbers
            is_known = value in haystack or value in words or is_time
            if value and not is_known and value.removeprefix("ATIF-v") not in haystack:
                lost[value] += 1
        elif type(value) in (int, float) and value == value:
            is_time = (time_of(value) or None) in numbers
            lost[repr(value)] += value not in numbers and not is_time

    look(source)
    return +lost


def _document(text: str) -> Any:
    """Return the value of a JSON text, None if a text is none."""
    if text[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def sources_of(path: Path) -> list[Any]:
    """Return the decoded JSON documents of a file, or of a folder that is one trajectory."""
    if path.is_dir():
        files = [*path.glob("agent/trajectory*.json"), path / "result.json"]
        return [json.loads(file.read_text()) for file in files if file.is_file()]
    if path.suffix == ".eval":
        with ZipMembers(path) as members:
            names = [n for n in members.names if n == "header.json" or n.startswith("samples/")]
            return [json.loads(members.read(name)) for name in names]
    if path.suffix == ".parquet":
        with duckdb.connect() as con:
            rows = con.execute("SELECT * FROM read_parquet(?)", [str(path)])
            return [list(map(list, rows.fetchall()))]
    if path.suffix == ".pb":
        return [read_protobuf(path)]
    text = path.read_text()
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
