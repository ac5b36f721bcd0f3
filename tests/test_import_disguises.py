"""Real files under other names and in other encodings: imported as they are, or refused by name."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from imported import DATA, check_account, needs_data, write_json
from tiers import third_slow

import trajrec
from trajrec.errors import ImportFileError
from trajrec.exchange.importing import import_trajectories

pytestmark = [needs_data, pytest.mark.slow]

Counts = tuple[int, int, int]


def counts(path: Path, output: Path) -> Counts:
    report = import_trajectories(path, output, redact=False)
    check_account(report)
    assert all(not reason.startswith("line") for f in report.files for reason in f.account.dropped)
    files = report.files
    return len(report.episodes), sum(f.n_steps for f in files), sum(f.n_calls for f in files)


def values_of(data: bytes) -> list[Any]:
    """Return the items of a list, the values on lines, or the only value."""
    try:
        value = json.loads(data)
    except ValueError:
        return [json.loads(line) for line in data.splitlines() if line.strip()]
    return value if isinstance(value, list) else [value]


DISGUISES: dict[str, Callable[[bytes], bytes]] = {
    "x": lambda data: data,
    "x.txt": lambda data: data,
    "x.json": lambda data: data,
    "x.jsonl": lambda data: data,
    "bom.jsonl": lambda data: b"\xef\xbb\xbf" + data,
    "crlf.json": lambda data: data.replace(b"\n", b"\r\n"),
    "indented.jsonl": lambda data: json.dumps(json.loads(data), indent=1).encode(),
}
OF_MANY: dict[str, Callable[[bytes], bytes]] = {
    "list.json": lambda data: json.dumps(values_of(data)).encode(),
    "list.jsonl": lambda data: json.dumps(values_of(data), indent=1).encode(),
    "lines.json": lambda data: "\n".join(map(json.dumps, values_of(data))).encode(),
}
DOCUMENTS = (
    "agentdojo/ap_banking_user_task_0_injection_task_0.json",
    "atif/atif_multiagent.json",
    "claude-code/sample_session.json",
    "gemini-cli/gemini_golden.json",
    "inspect/log_formats.json",
    "openhands/basic.json",
    "otlp/gen_errors.json",
    "swe-agent/humanevalfix-python-0.traj",
    "tau-bench/gpt-4o-airline.slice.json",
    "tau2/gen/mock_scripted.json",
    "who-when/Algorithm-Generated_47.json",
)
RECORDS = (
    "atif/atif_two.jsonl",
    "claude-code/compaction.jsonl",
    "codex/codex_golden.jsonl",
    "gemini-cli/gemini_with_tool_error.jsonl",
    "hf-messages/trl_messages.jsonl",
    "openhands-sdk/goal_events.jsonl",
    "openhands/basic.json",
    "otlp/openai_agents_0.24.0_oi_2.5.3.jsonl",
    "tau-bench/gpt-4o-airline.slice.json",
    "tau2/alpha-model.jsonl",
)


def check_disguise(name: str, disguise: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / disguise
    path.write_bytes(data)
    assert counts(path, tmp_path / "out") == counts(DATA / name, tmp_path / "plain")


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("disguise", DISGUISES)
def test_the_name_of_a_document_does_not_matter(name: str, disguise: str, tmp_path: Path) -> None:
    if name.startswith("swe-agent") and not disguise.endswith("l"):
        # Of old ones, the suffix alone tells the format.
        disguise = f"{disguise}.traj"
    data = DISGUISES[disguise.removesuffix(".traj")]((DATA / name).read_bytes())
    if name.startswith("swe-agent"):
        disguise = disguise.removesuffix(".jsonl") + ("" if disguise.endswith("traj") else ".traj")
    check_disguise(name, disguise, data, tmp_path)


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("disguise", OF_MANY)
def test_records_may_stand_in_a_list_or_on_lines(name: str, disguise: str, tmp_path: Path) -> None:
    check_disguise(name, disguise, OF_MANY[disguise]((DATA / name).read_bytes()), tmp_path)


@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_first_record_does_not_hide_the_format(name: str, tmp_path: Path) -> None:
    values = values_of((DATA / name).read_bytes())
    (tmp_path / "x.jsonl").write_text("\n".join(["{bad", *map(json.dumps, values)]))
    write_json(tmp_path / "x.json", [7, *values])
    expected = import_trajectories(DATA / name, tmp_path / "plain", redact=False)
    for path, place in ((tmp_path / "x.jsonl", "line 1 "), (tmp_path / "x.json", "item 0: ")):
        report = import_trajectories(path, tmp_path / path.suffix[1:], redact=False)
        check_account(report)
        assert [f.n_calls for f in report.files] == [f.n_calls for f in expected.files]
        assert any(reason.startswith(place) for reason in report.files[0].account.dropped)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", RECORDS)
def test_text_in_another_encoding_is_refused(name: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes((DATA / name).read_text().encode(encoding))
    with pytest.raises(ImportFileError, match="UTF-16 or UTF-32: convert it to UTF-8"):
        import_trajectories(path, tmp_path / "out")


@third_slow("imports")
@pytest.mark.parametrize("name", ["traces.pb", "traces", "traces.json", "traces.bin"])
def test_traces_in_protobuf_equal_those_in_json(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes((DATA / "otlp" / "gen_errors.pb").read_bytes())
    tables = {}
    for source in (path, DATA / "otlp" / "gen_errors.json"):
        output = tmp_path / f"out-{source.name}"
        report = import_trajectories(source, output)
        check_account(report)
        assert report.files[0].format == "otlp"
        with trajrec.open(output) as corpus:
            tables[source] = [
                corpus.sql(query).fetchall()
                for query in (
                    "SELECT step, tool, arguments::VARCHAR, result::VARCHAR, outcome, message, "
                    "started_at, extra::VARCHAR FROM attempts ORDER BY ALL",
                    "SELECT step, model, input_tokens, output_tokens, latency_ms FROM model_calls "
                    "ORDER BY ALL",
                    "SELECT role, text FROM messages ORDER BY ALL",
                    "SELECT n_steps, ending, extra::VARCHAR FROM all_episodes ORDER BY ALL",
                )
            ]
    first, second = tables.values()
    assert first == second


def test_every_cut_of_traces_in_protobuf_is_refused(tmp_path: Path) -> None:
    data = (DATA / "otlp" / "gen_errors.pb").read_bytes()
    for n in range(1, len(data), 97):
        path = tmp_path / "t.pb"
        path.write_bytes(data[:n])
        with pytest.raises(ImportFileError, match="no whole export of traces"):
            import_trajectories(path, tmp_path / "out")


def test_a_renamed_log_of_inspect_is_told_by_its_members(tmp_path: Path) -> None:
    source = DATA / "inspect" / "log_formats.eval"
    check_disguise("inspect/log_formats.eval", "x.zip", source.read_bytes(), tmp_path)


def test_a_compressed_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress((DATA / "atif" / "atif_two.jsonl").read_bytes()))
    with pytest.raises(ImportFileError, match="compressed with gzip: unpack it first"):
        import_trajectories(path, tmp_path / "out")


def test_values_one_after_the_other_say_what_to_do(tmp_path: Path) -> None:
    values = values_of((DATA / "atif" / "atif_two.jsonl").read_bytes())
    path = tmp_path / "x.json"
    for joined in (
        "\n".join(json.dumps(v, indent=1) for v in values),
        "".join(map(json.dumps, values)),
    ):
        path.write_text(joined)
        with pytest.raises(ImportFileError, match=r"several JSON values .*: write one a line"):
            import_trajectories(path, tmp_path / "out")


def test_the_events_of_a_store_are_no_conversations_alone(tmp_path: Path) -> None:
    lines = (DATA / "openhands-sdk" / "goal_events.jsonl").read_text().splitlines()
    path = tmp_path / "event-0.json"
    path.write_text(lines[0])
    with pytest.raises(ImportFileError, match="of no format"):
        import_trajectories(path, tmp_path / "out")
