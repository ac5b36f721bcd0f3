"""Shortcuts of imports make the same bytes and texts as the ways that they shorten."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from tiers import examples

import trajrec
from trajrec.errors import ImportFileError
from trajrec.exchange.chat import json_text
from trajrec.exchange.inspect_messages import key_of
from trajrec.exchange.reading import parse_arguments, parse_json
from trajrec.exchange.values import MAX_DEPTH, ValueEncoder, is_json_like
from trajrec.exchange.zip_members import ZipMembers
from trajrec.log.events import Blob
from trajrec.recording import provenance
from trajrec.redaction.redactor import Redactor
from trajrec.values import codec

TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=8)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
)


@examples("imports", VALUES | st.dictionaries(TEXTS, LEAVES), fixed=30, drawn=300, whole=20_000)
def test_arguments_are_the_text_that_json_writes(value: Any) -> None:
    assert json_text(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@examples("imports", VALUES, fixed=30, drawn=300, whole=20_000)
def test_direct_encoding_is_that_of_the_codec(value: Any) -> None:
    events: list[Any] = []
    values = ValueEncoder(events.append, None)
    data = values.data(0, value)
    if events:
        assert [event.data for event in events] == [codec.encode(value)]
    else:
        assert data == codec.encode(value)
    inner = values.inner(0, value)
    assert codec.encode(inner) == data


@pytest.mark.parametrize(
    "value", [(1,), [{"x": b""}], {1: 2}, [[{"x": [(1,)]}]], {"a": {"b": {2}}}], ids=repr
)
def test_values_that_are_no_json_are_told(value: Any) -> None:
    assert not is_json_like(value)


def test_deep_values_are_left_to_the_codec() -> None:
    value: Any = 0
    for _ in range(MAX_DEPTH):
        value = [value]
    assert is_json_like(value)
    assert not is_json_like([[value]])


@pytest.mark.parametrize("n_chars", [1, 62, 63, 64, 255, 256, 257, 300])
@pytest.mark.parametrize("char", ["a", "\U0001f600"])
def test_a_large_text_is_a_reference_inside_of_others(n_chars: int, char: str) -> None:
    for redactor in (None, Redactor()):
        events: list[Any] = []
        values = ValueEncoder(events.append, redactor)
        text = char * n_chars
        inner = values.inner(0, text)
        shown = values.shared(0, text)
        if len(codec.encode(text)) <= 256:
            assert inner == shown == text
            assert events == []
        else:
            assert inner == codec.Ref(events[0].digest)
            (blob,) = events
            assert isinstance(blob, Blob)
            if n_chars > 256:
                assert bytes(shown.data) == blob.digest


def test_messages_have_one_key_if_they_are_equal() -> None:
    messages: list[Any] = [
        {"role": "user", "content": "a"},
        {"content": "a", "role": "user"},
        {"role": "user", "content": "\ud800"},
        {"role": "user", "content": 2**80},
        {"role": "user", "content": 1},
        {"role": "user", "content": 1.0},
        {"role": "user", "content": True},
    ]
    keys = list(map(key_of, messages))
    assert keys[0] == keys[1]
    assert len(set(keys)) == len(messages) - 1


def test_installed_versions_are_those_of_the_metadata() -> None:
    expected: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = (distribution.name or "").replace("_", "-").lower()
        expected.setdefault(name, distribution.version)
    found = {name: known.version for name, known in provenance._installed().items()}
    assert found == expected


def test_a_package_counts_under_the_names_of_its_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, modules in (("pillow-x", "PIL_x"), ("one", "shared"), ("two", "shared")):
        folder = tmp_path / f"{name}-1.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: 1.5\n")
        (folder / "top_level.txt").write_text(f"{modules}\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("PIL_x", "shared"):
        monkeypatch.setitem(sys.modules, module, sys)
    provenance._installed.cache_clear()
    packages = provenance.describe_runtime()["packages"]
    provenance._installed.cache_clear()
    assert packages["pillow-x"] == "1.5"
    assert not {"one", "two"} & set(packages)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("place", ["checksum", "size"])
def test_a_member_that_contradicts_its_directory_is_damaged(
    tmp_path: Path, compression: int, place: str
) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("m", b"hello " * 1000)
    data = bytearray(path.read_bytes())
    entry = data.rfind(b"PK\x01\x02")
    if place == "checksum":
        data[entry + 16] ^= 1
    else:
        data[entry + 24 : entry + 28] = (50).to_bytes(4, "little")
    path.write_bytes(data)
    with ZipMembers(path) as members, pytest.raises(ImportFileError, match="is damaged"):
        members.read("m")


@pytest.mark.slow
def test_a_turn_without_leftovers_has_no_extra(tmp_path: Path) -> None:
    steps = [
        {"step_id": 1, "source": "user", "message": "Go."},
        {"step_id": 2, "source": "agent", "message": "Done."},
    ]
    agent = {"name": "a", "version": "1", "model_name": "m"}
    document = {"schema_version": "ATIF-v1.6", "session_id": "s", "agent": agent, "steps": steps}
    (tmp_path / "t.json").write_text(json.dumps(document))
    trajrec.import_trajectories(tmp_path / "t.json", tmp_path / "out")
    with trajrec.open(tmp_path / "out") as corpus:
        assert corpus.sql("SELECT extra FROM model_calls").fetchall() == [(None,)]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "b": {"c": [{"d": 1, "d": 2}]}}',
        '{"a" : 1, "a" : 1}',
        '{"a": "\\u003a", "a": "\\u003A"}',
        '{"\\u0061": 1, "a": 2}',
        '{"x\\\\": 1, "x\\\\": 2}',
        '{"a": "\\ud800", "b": 1, "b": NaN}',
    ],
)
def test_a_key_that_is_there_twice_is_refused(text: str) -> None:
    for data in (text, text.encode()):
        with pytest.raises(ImportFileError, match="twice in an object"):
            parse_json(data, path=Path("x.json"))
    assert parse_arguments(text) == ({"": text}, "malformed arguments")


@pytest.mark.parametrize(
    "value",
    [{'":': '":x": "', "a\\": {"b\\\\": '\\":'}}, [{"a": 1}, {"a": 1}], {"": "", " ": {"": 1}}],
)
def test_colons_and_quotation_marks_in_texts_are_no_keys(value: Any) -> None:
    for indent in (None, 2):
        text = json.dumps(value, indent=indent)
        assert parse_json(text.encode(), path=Path("x.json")) == value


def test_members_of_one_name_are_counted_as_dropped(tmp_path: Path) -> None:
    header = {"version": 2, "status": "success", "eval": {"task": "t", "model": "m"}, "plan": {}}
    sample = {"id": 1, "epoch": 1, "messages": [{"role": "user", "content": "hi"}], "events": []}
    path = tmp_path / "x.eval"
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("header.json", json.dumps(header))
        for _ in range(2):
            archive.writestr("samples/1_epoch_1.json", json.dumps(sample))
    account = trajrec.import_trajectories(path, tmp_path / "runs").files[0].account
    assert account.dropped == {"a later member of the same name hides it": 1}


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("x.json.gz", gzip.compress(b"{}", mtime=0), "compressed with gzip"),
        ("x.json", '{"a": 1}'.encode("utf-16"), "UTF-16"),
        ("x.zip", b"PK\x03\x04rest", "a zip file"),
    ],
)
def test_packed_files_are_refused_by_what_they_are(
    name: str, data: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImportFileError, match=reason):
        trajrec.import_trajectories(tmp_path / name, tmp_path / "runs")


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("content", "task"),
    [
        ([{"task_id": None, "reward": 1.0, "traj": [{"role": "user", "content": "a"}]}], None),
        ([{"task_id": 0, "reward": 1.0, "traj": [{"role": "user", "content": "a"}]}], "0"),
        (
            {
                "info": {},
                "tasks": [],
                "simulations": [{"task_id": None, "messages": [{"role": "user", "content": "a"}]}],
            },
            None,
        ),
        (
            {
                "question_ID": 0,
                "history": [{"role": "a", "content": "b"}],
                "mistake_agent": "a",
                "mistake_step": "0",
            },
            "0",
        ),
        (
            {
                "version": 2,
                "status": "success",
                "eval": {"task": "sums", "model": "m"},
                "samples": [{"input": "1+1", "epoch": 1, "messages": []}],
            },
            None,
        ),
    ],
    ids=["tau-bench", "tau-bench 0", "tau2", "who-when 0", "inspect"],
)
def test_unknown_task_of_an_import_is_none(tmp_path: Path, content: Any, task: str | None) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(content))
    trajrec.import_trajectories(file, tmp_path / "runs")
    with trajrec.open(tmp_path / "runs") as corpus:
        assert corpus.sql("SELECT task FROM episodes").fetchall() == [(task,)]
