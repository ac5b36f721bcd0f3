"""Files with a damaged row, line or sample: the others are imported, and the damaged one is named."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import pytest
from imported import DATA, check_account, column, needs_data, one, write_json, write_lines

import trajrec
from trajrec.cli import main as cli
from trajrec.errors import ImportFileError, MissingPackageError
from trajrec.exchange.account import MAX_NAMED
from trajrec.exchange.import_reports import FileReport
from trajrec.exchange.importing import import_trajectories

TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "Go."},
    {"role": "assistant", "content": "Gone."},
]
BAD_ROWS: dict[str, Any] = {
    "a role that is a number": {"messages": [{"role": 7, "content": "x"}]},
    "messages that are a number": {"messages": 7},
    "a message that is a text": {"messages": ["Go."]},
    "a row that is a list": [1],
}


def deep(n: int) -> Any:
    value: Any = 1
    for _ in range(n):
        value = [value]
    return value


def import_whole(path: Path, output: Path) -> FileReport:
    """Return the report of a file of which something was imported, and nothing lost in silence."""
    report = import_trajectories(path, output)
    check_account(report)
    (file,) = report.files
    assert file.status == "imported"
    with trajrec.open(output) as corpus:
        assert corpus.problems() == []
        assert one(corpus, "SELECT count(*) FROM all_episodes") == len(file.episodes)
    return file


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_line_costs_itself_alone(name: str, tmp_path: Path) -> None:
    rows = [{"messages": TALK}, BAD_ROWS[name], {"messages": TALK}]
    file = import_whole(write_lines(tmp_path / "t.jsonl", rows), tmp_path / "out")
    assert len(file.episodes) == 2
    (reason,) = file.account.dropped
    assert reason.startswith("line 2")
    with trajrec.open(tmp_path / "out") as corpus:
        assert one(corpus, "SELECT dropped FROM imports") == 1
        assert reason in one(corpus, "SELECT report::VARCHAR FROM imports")


@pytest.mark.slow
def test_a_bad_item_of_a_list_costs_itself_alone(tmp_path: Path) -> None:
    rows = [{"messages": TALK}, *BAD_ROWS.values(), {"messages": TALK}]
    file = import_whole(write_json(tmp_path / "t.json", rows), tmp_path / "out")
    assert len(file.episodes) == 2
    places = [reason.partition(":")[0].partition(".")[0] for reason in file.account.dropped]
    assert places == ["item 1", "item 2", "item 3", "item 4"]


@pytest.mark.slow
def test_a_bad_row_of_parquet_costs_itself_alone(tmp_path: Path) -> None:
    texts = [json.dumps(TALK), "no JSON", json.dumps(TALK)]
    path = tmp_path / "t.parquet"
    with duckdb.connect() as con:
        con.execute("CREATE TABLE t AS SELECT unnest(?::VARCHAR[]) AS messages", [texts])
        con.execute(f"COPY t TO '{path}'")
    file = import_whole(path, tmp_path / "out")
    assert len(file.episodes) == 2
    assert list(file.account.dropped) == [
        "row 1 messages: is no JSON: Expecting value: line 1 column 1 (char 0)"
    ]


@pytest.mark.slow
def test_rows_before_a_damaged_part_of_parquet_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with duckdb.connect() as con:
        con.execute("CREATE TABLE t AS SELECT ? AS messages, range AS i FROM range(8192)", ["[]"])
        con.execute("UPDATE t SET messages = ?", [json.dumps(TALK)])
        con.execute(f"COPY t TO '{path}' (ROW_GROUP_SIZE 2048)")
        offset = con.execute(
            "SELECT min(dictionary_page_offset), min(data_page_offset) FROM parquet_metadata(?) "
            "WHERE row_group_id = 2 AND path_in_schema = 'messages'",
            [str(path)],
        ).fetchone()
    assert offset is not None
    data = bytearray(path.read_bytes())
    start = min(value for value in offset if value)
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    file = import_whole(path, tmp_path / "out")
    assert 2048 <= len(file.episodes) <= 4096
    (reason,) = (text for text in file.account.dropped if "damaged" in text)
    assert reason.startswith(f"row {len(file.episodes)} and all behind it")
    assert file.account.dropped[reason] == 8192 - len(file.episodes)


@pytest.mark.slow
def test_a_row_that_no_log_can_store_costs_itself_alone(tmp_path: Path) -> None:
    rows = [{"messages": TALK}, {"messages": TALK, "x": deep(150)}, {"messages": TALK}]
    file = import_whole(write_lines(tmp_path / "t.jsonl", rows), tmp_path / "out")
    assert len(file.episodes) == 2
    (reason,) = file.account.dropped
    assert reason.startswith("line 2: holds a value that a log cannot store")


def test_a_file_of_bad_rows_alone_is_refused_briefly(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", [{"messages": 7}] * 200)
    with pytest.raises(
        ImportFileError, match=r"holds no trajectory .*line 1.*and 197 more"
    ) as info:
        import_trajectories(path, tmp_path / "out")
    assert len(str(info.value)) < 600
    assert not list((tmp_path / "out").rglob("*.trj"))


@pytest.mark.slow
def test_thousands_of_bad_rows_are_counted_and_some_named(tmp_path: Path) -> None:
    rows = [{"messages": TALK}, *[{"messages": 7}] * (MAX_NAMED + 500)]
    file = import_whole(write_lines(tmp_path / "t.jsonl", rows), tmp_path / "out")
    assert len(file.account.dropped) == MAX_NAMED + 1
    assert file.account.n_dropped == MAX_NAMED + 500


def test_the_command_names_the_bad_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_lines(tmp_path / "t.jsonl", [{"messages": TALK}, {"messages": 7}])
    assert cli.main(["import", str(path), "-o", str(tmp_path / "out")]) == 0
    assert "dropped 1: line 2: messages must be a list, got 7" in capsys.readouterr().out


def broken_file(name: str, folder: Path) -> Path:
    """Write a file of which one part is broken."""
    folder.mkdir(exist_ok=True)
    atif = json.loads((DATA / "atif" / "atif_multiagent.json").read_text())
    match name:
        case "atif lines":
            bad = {**atif, "steps": "none"}
            return write_lines(folder / "t.jsonl", [atif, bad, atif])
        case "atif list":
            return write_json(folder / "t.json", [atif, {**atif, "steps": [7]}, atif])
        case "tau-bench":
            rows = json.loads((DATA / "tau-bench" / "gpt-4o-airline.slice.json").read_text())
            rows[1]["traj"] = 7
            return write_json(folder / "t.json", rows)
        case "tau2":
            whole = json.loads((DATA / "tau2" / "gen" / "mock_scripted.json").read_text())
            whole["simulations"][1]["messages"] = [7]
            return write_json(folder / "t.json", whole)
        case "tau2 lines":
            lines = (DATA / "tau2" / "alpha-model.jsonl").read_text().splitlines()
            rows = list(map(json.loads, lines))
            bad = {**rows[0], "messages": [{"role": 7}]}
            return write_lines(folder / "t.jsonl", [*rows, bad])
        case "inspect json":
            log = json.loads((DATA / "inspect" / "gen_ugly.json").read_text())
            log["samples"][1]["events"] = 7
            return write_json(folder / "t.json", log)
        case "openhands lines":
            events = json.loads((DATA / "openhands" / "basic.json").read_text())
            row = {"instance_id": "a", "history": events, "metadata": {}, "test_result": None}
            return write_lines(folder / "t.jsonl", [row, {**row, "history": [7]}, row])
    raise ValueError(name)


ROWS = ("atif lines", "atif list", "tau-bench", "tau2", "tau2 lines", "inspect json")


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", [*ROWS, "openhands lines"])
def test_a_broken_trajectory_costs_itself_alone(name: str, tmp_path: Path) -> None:
    file = import_whole(broken_file(name, tmp_path / "in"), tmp_path / "out")
    named = [reason for reason in file.account.dropped if " must be " in reason]
    assert len(named) == 1
    assert file.episodes


@needs_data
@pytest.mark.slow
def test_a_broken_sample_of_a_zip_costs_itself_alone(tmp_path: Path) -> None:
    header = json.loads((DATA / "inspect" / "gen_ugly.json").read_text())
    samples = header.pop("samples")
    samples[1]["events"] = 7
    path = tmp_path / "t.eval"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", json.dumps(header))
        for number, sample in enumerate(samples):
            archive.writestr(f"samples/{number}.json", json.dumps(sample))
        archive.writestr("samples/9.json", "[]")
    file = import_whole(path, tmp_path / "out")
    named = [reason for reason in file.account.dropped if " must be " in reason]
    assert [reason.partition(":")[0] for reason in named] == ["samples/1.json", "samples/9.json"]


SESSIONS = (
    "claude-code/claude_with_rejection.jsonl",
    "codex/codex_golden.jsonl",
    "gemini-cli/gemini_with_tool_error.jsonl",
    "openhands-sdk/goal_events.jsonl",
)


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", SESSIONS)
def test_a_broken_record_of_a_session_costs_itself_alone(name: str, tmp_path: Path) -> None:
    lines = (DATA / name).read_text().splitlines()
    lines.insert(len(lines) - 1, "[7]")
    lines.insert(len(lines) - 1, '"text"')
    path = tmp_path / Path(name).name
    path.write_text("\n".join(lines))
    file = import_whole(path, tmp_path / "out")
    named = [reason for reason in file.account.dropped if " must be an object" in reason]
    number = len(lines) - 2
    assert [reason.partition(":")[0] for reason in named] == [
        f"line {number}",
        f"line {number + 1}",
    ]


@needs_data
@pytest.mark.slow
def test_a_broken_span_costs_itself_alone(tmp_path: Path) -> None:
    document = json.loads((DATA / "otlp" / "gen_errors.json").read_text())
    spans = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
    n = len(spans)
    spans.append({"spanId": 7, "name": "broken"})
    spans.append("broken")
    file = import_whole(write_json(tmp_path / "t.json", document), tmp_path / "out")
    named = [reason for reason in file.account.dropped if " must be " in reason]
    assert [reason.partition(":")[0] for reason in named] == [
        f"resourceSpans[0].scopeSpans[0].spans[{n}]",
        f"resourceSpans[0].scopeSpans[0].spans[{n + 1}]",
    ]


@needs_data
@pytest.mark.slow
def test_a_broken_call_of_a_session_costs_its_record(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (DATA / SESSIONS[0]).read_text().splitlines()]
    calls = [row for row in rows if "tool_use" in json.dumps(row) and row["type"] == "assistant"]
    for block in calls[0]["message"]["content"]:
        block["name"] = 7
    path = write_lines(tmp_path / "t.jsonl", rows)
    file = import_whole(path, tmp_path / "out")
    assert any("the name of a tool must be a text, got 7" in text for text in file.account.dropped)
    with trajrec.open(tmp_path / "out") as corpus:
        assert len(column(corpus, "SELECT tool FROM attempts")) == len(calls) - 1


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["trajectory.side.json", "result.json", "config.json"])
def test_a_broken_file_beside_a_trajectory_costs_itself_alone(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    document = (DATA / "atif" / "atif_multiagent.json").read_text()
    (folder / "agent").mkdir(parents=True)
    (folder / "agent" / "trajectory.json").write_text(document)
    place = folder / "agent" if name.startswith("trajectory") else folder
    (place / name).write_text("{")
    if name == "config.json":
        write_json(folder / "result.json", {"trial_name": "t"})
    file = import_whole(folder, tmp_path / "out")
    assert any(name in reason for reason in file.account.dropped)


@needs_data
def test_a_missing_package_stops_no_import_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(DATA / "minari" / "cartpole", tmp_path / "in" / "a")
    write_json(tmp_path / "in" / "b" / "t.json", {"messages": TALK})
    monkeypatch.setitem(sys.modules, "h5py", None)
    report = import_trajectories(tmp_path / "in", tmp_path / "out")
    assert len(report.episodes) == 1
    (failed,) = report.of_status("failed")
    assert failed.reason == "this needs h5py, which is not installed: pip install 'trajrec[minari]'"
    with pytest.raises(MissingPackageError):
        import_trajectories(failed.path, tmp_path / "out")
