"""Imports in general: each file once, whole or not at all, with an account of what it held."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from imported import DATA, check_account, column, imported, needs_data, one, write_json, write_lines
from tiers import third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.errors import ImportFileError
from trajrec.exchange.importing import import_trajectories


def trajectory(n_steps: int = 2, **fields: Any) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"step_id": 1, "source": "user", "message": "Go."}]
    for number in range(n_steps):
        steps.append(
            {
                "step_id": number + 2,
                "source": "agent",
                "message": f"step {number}",
                "tool_calls": [
                    {
                        "tool_call_id": f"c{number}",
                        "function_name": "add",
                        "arguments": {"x": number},
                    }
                ],
                "observation": {"results": [{"source_call_id": f"c{number}", "content": "4"}]},
            }
        )
    return {
        "schema_version": "ATIF-v1.6",
        "session_id": "s",
        "agent": {"name": "a", "version": "1", "model_name": "m"},
        "steps": steps,
        **fields,
    }


@pytest.mark.slow
def test_importing_a_file_again_adds_nothing(tmp_path: Path) -> None:
    path = write_json(tmp_path / "in" / "t.json", trajectory())
    first = import_trajectories(path, tmp_path / "out")
    again = import_trajectories(path, tmp_path / "out")
    assert [file.status for file in first.files] == ["imported"]
    assert [file.status for file in again.files] == ["known"]
    with trajrec.open(tmp_path / "out") as corpus:
        assert one(corpus, "SELECT count(*) FROM all_episodes") == 1
        assert one(corpus, "SELECT count(*) FROM imports") == 1


def test_a_copy_of_an_imported_file_adds_nothing(tmp_path: Path) -> None:
    write_json(tmp_path / "in" / "a.json", trajectory())
    write_json(tmp_path / "in" / "b.json", trajectory())
    report = import_trajectories(tmp_path / "in", tmp_path / "out")
    assert [file.status for file in report.files] == ["imported", "known"]


@pytest.mark.slow
def test_an_import_stays_known_after_its_log_was_moved(tmp_path: Path) -> None:
    path = write_json(tmp_path / "in" / "t.json", trajectory())
    report = import_trajectories(path, tmp_path / "out")
    log = report.files[0].log
    assert log is not None
    (tmp_path / "out" / "old").mkdir()
    log.rename(tmp_path / "out" / "old" / "mine.trj")
    assert import_trajectories(path, tmp_path / "out").files[0].status == "known"


def test_the_same_file_has_the_same_episode_ids_anywhere(tmp_path: Path) -> None:
    path = write_json(tmp_path / "in" / "t.json", trajectory())
    ids = [import_trajectories(path, tmp_path / name).episodes for name in ("a", "b")]
    assert ids[0] == ids[1]


@pytest.mark.slow
def test_a_file_that_has_grown_replaces_its_earlier_import(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", [trajectory(1)])
    import_trajectories(path, tmp_path / "out")
    write_lines(path, [trajectory(1), trajectory(2)])
    report = import_trajectories(path, tmp_path / "out")
    assert report.files[0].status == "imported"
    assert "has grown" in report.files[0].account.notes[0]
    with trajrec.open(tmp_path / "out") as corpus:
        assert column(corpus, "SELECT n_steps FROM episodes ORDER BY 1") == [1, 2]
        assert one(corpus, "SELECT count(*) FROM imports") == 1


@pytest.mark.slow
def test_a_file_with_other_contents_keeps_the_earlier_import(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", [trajectory(1)])
    import_trajectories(path, tmp_path / "out")
    write_lines(path, [trajectory(3)])
    report = import_trajectories(path, tmp_path / "out")
    assert report.files[0].account.notes == [
        "the file has changed since an earlier import, whose episodes stay and are counted too"
    ]
    with trajrec.open(tmp_path / "out") as corpus:
        assert column(corpus, "SELECT n_steps FROM episodes ORDER BY 1") == [1, 3]


def test_a_damaged_file_leaves_no_log_behind(tmp_path: Path) -> None:
    text = json.dumps(trajectory())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cut.json").write_text(text[:-40])
    broken = trajectory()
    broken["steps"][2]["tool_calls"][0]["function_name"] = 7
    write_json(tmp_path / "in" / "broken.json", broken)
    write_json(tmp_path / "in" / "good.json", trajectory())
    report = import_trajectories(tmp_path / "in", tmp_path / "out")
    assert [file.status for file in report.files] == ["failed", "failed", "imported"]
    assert report.files[1].reason.startswith("is no JSON")
    assert "steps[2].tool_calls[0]: function_name must be a text, got 7" in report.files[0].reason
    assert len(list((tmp_path / "out").rglob("*.trj"))) == 1
    with pytest.raises(ImportFileError, match="function_name must be a text"):
        report.raise_if_failed()


def test_a_single_damaged_file_raises_its_place(tmp_path: Path) -> None:
    broken = trajectory(steps="none")
    path = write_json(tmp_path / "in" / "t.json", broken)
    with pytest.raises(ImportFileError, match=r"t\.json.*steps must be a list, got 'none'"):
        import_trajectories(path, tmp_path / "out")


def test_a_cut_last_line_is_dropped_with_a_reason(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", [trajectory(1), trajectory(2)])
    path.write_text(path.read_text() + json.dumps(trajectory())[:50])
    report = import_trajectories(path, tmp_path / "out")
    check_account(report)
    (file,) = report.files
    assert len(file.episodes) == 2
    (reason,) = file.account.dropped
    assert reason.startswith("line 3 is no JSON")


@pytest.mark.slow
def test_a_long_first_line_does_not_hide_the_format(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", [trajectory(600), trajectory(2)])
    assert path.stat().st_size > 1 << 16
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT sum(n_steps) FROM episodes") == 602


@pytest.mark.slow
def test_unknown_times_are_null_and_no_import_times(tmp_path: Path) -> None:
    path = write_json(tmp_path / "in" / "t.json", trajectory())
    with imported(path, tmp_path / "out") as corpus:
        times = "SELECT started_at, ended_at FROM episodes"
        assert one(corpus, times) == (None, None)
        assert column(corpus, "SELECT started_at FROM attempts") == [None, None]
        assert column(corpus, "SELECT latency_ms FROM attempts") == [None, None]
        assert column(corpus, "SELECT started_at FROM model_calls") == [None, None]


@pytest.mark.slow
def test_a_time_that_is_none_is_dropped_with_a_reason(tmp_path: Path) -> None:
    document = trajectory()
    document["steps"][1]["timestamp"] = "yesterday"
    path = write_json(tmp_path / "in" / "t.json", document)
    with imported(path, tmp_path / "out") as corpus:
        reasons = json.loads(one(corpus, "SELECT report->'$.dropped_reasons' FROM imports"))
        assert reasons == {"a time that is none: 'yesterday'": 1}


@pytest.mark.slow
def test_fields_without_a_place_are_kept_as_extra(tmp_path: Path) -> None:
    document = trajectory(color="blue")
    document["steps"][1]["mood"] = {"level": 3}
    document["steps"][1]["tool_calls"][0]["cost"] = 7
    document["steps"][1]["observation"]["results"][0]["size"] = 9
    path = write_json(tmp_path / "in" / "t.json", document)
    with imported(path, tmp_path / "out") as corpus:
        extra = json.loads(one(corpus, "SELECT extra FROM episodes"))
        assert extra == {"session_id": "s", "color": "blue"}
        assert column(corpus, "SELECT extra->>'$.mood.level' FROM model_calls ORDER BY 1") == [
            "3",
            None,
        ]
        call = json.loads(column(corpus, "SELECT extra FROM attempts ORDER BY step")[0])
        assert call == {"cost": 7, "result": {"size": 9}}
        report = json.loads(one(corpus, "SELECT report FROM imports"))
        assert report["extra_fields"]["step.mood"] == 1


@pytest.mark.slow
def test_an_imported_episode_is_graded_observed_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_json(tmp_path / "in" / "t.json", trajectory())
    import_trajectories(path, tmp_path / "out")
    with trajrec.open(tmp_path / "out") as corpus:
        (episode,) = corpus.episodes()
        assert episode.source is not None
        assert episode.source["format"] == "atif"
        report = trajrec.replay.replay_episode(episode)
    assert report.grade == "observed-only"
    assert "neither the world nor its state" in report.notes[0]
    assert main(["replay", str(tmp_path / "out")]) == 0
    assert "1 observed-only" in capsys.readouterr().out


@pytest.mark.slow
def test_the_messages_of_an_import_are_told_once(tmp_path: Path) -> None:
    path = write_json(tmp_path / "in" / "t.json", trajectory(2))
    with imported(path, tmp_path / "out") as corpus:
        (episode,) = corpus.episodes()
        said = [(message.role, message.text) for message in episode.messages]
    # The last result is behind the last model call.
    assert said == [
        ("user", "Go."),
        ("assistant", "step 0"),
        ("tool", "4"),
        ("assistant", "step 1"),
        ("tool", "4"),
    ]


@pytest.mark.slow
def test_secrets_are_removed_if_asked_for(tmp_path: Path) -> None:
    document = trajectory()
    key = "sk-ant-api03-" + "Ab1" * 30 + "AA"
    document["steps"][1]["observation"]["results"][0]["content"] = f"key={key}"
    path = write_json(tmp_path / "in" / "t.json", document)
    report = import_trajectories(path, tmp_path / "out", redact=True)
    assert report.files[0].n_redacted >= 1
    with trajrec.open(tmp_path / "out") as corpus:
        (episode,) = corpus.episodes()
        assert key not in str(episode.messages)
        assert (
            one(corpus, f"SELECT count(*) FROM attempts WHERE result::VARCHAR LIKE '%{key}%'") == 0
        )
        assert one(corpus, "SELECT n_redacted > 0 FROM imports")


def test_secrets_are_removed_from_names_and_ids(tmp_path: Path) -> None:
    document = trajectory(1)
    key = "sk-ant-api03-" + "Ab1" * 30 + "AA"
    step = document["steps"][1]
    step["tool_calls"][0] |= {"tool_call_id": f"c {key}", "function_name": f"add {key}"}
    step["observation"]["results"][0]["source_call_id"] = f"c {key}"
    path = write_json(tmp_path / "in" / "t.json", document)
    import_trajectories(path, tmp_path / "out", redact=True).raise_if_failed()
    with trajrec.open(tmp_path / "out") as corpus:
        (episode,) = corpus.episodes()
        (attempt,) = episode.transcript.attempts
        told = [message.call_ids for message in episode.messages if message.role != "user"]
        assert key not in str(episode.agent_events)
    assert attempt.tool.startswith("add [redacted ")
    assert attempt.result == "4"
    assert attempt.start.is_redacted
    # Its messages have the same id.
    assert told == [[attempt.start.call_id], [attempt.start.call_id]]


def test_a_value_that_nests_too_deeply_is_refused(tmp_path: Path) -> None:
    document = trajectory()
    deep: Any = 1
    for _ in range(150):
        deep = [deep]
    document["steps"][1]["tool_calls"][0]["arguments"] = {"x": deep}
    path = write_json(tmp_path / "in" / "t.json", document)
    with pytest.raises(ImportFileError, match="nested deeper"):
        import_trajectories(path, tmp_path / "out")


@pytest.mark.slow
def test_python_numbers_that_are_no_json_are_read(tmp_path: Path) -> None:
    document = trajectory(score=float("nan"), text="\ud800")
    path = write_json(tmp_path / "in" / "t.json", document)
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT count(*) FROM episodes") == 1


def test_a_file_of_no_format_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("hello")
    (tmp_path / "in" / "t.cast").write_text('{"version": 2}\n')
    report = import_trajectories(tmp_path / "in", tmp_path / "out")
    assert [file.status for file in report.files] == ["skipped", "skipped"]
    assert "is a recording of a terminal" in report.files[1].reason
    assert main(["import", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert "skipped 1 file: notes.txt is of no format" in printed.out
    assert "in: nothing to import" in printed.err
    (tmp_path / "in" / "more.txt").write_text("hello")
    assert main(["import", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 1
    assert "skipped 2 files (more.txt, notes.txt): each is of no" in capsys.readouterr().out
    with pytest.raises(ImportFileError, match="of no format"):
        import_trajectories(tmp_path / "in" / "notes.txt", tmp_path / "out")
    with pytest.raises(ImportFileError, match="does not exist"):
        import_trajectories(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(ValueError, match="format must be one of"):
        import_trajectories(tmp_path / "in", tmp_path / "out", format="excel")


@pytest.mark.slow
def test_an_import_of_known_files_alone_has_done_its_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    command = ["import", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert main(command) == 1
    assert "in: nothing to import" in capsys.readouterr().err
    write_json(tmp_path / "in" / "t.json", trajectory())
    assert main(command) == 0
    (tmp_path / "in" / "notes.txt").write_text("hello")
    assert main(command) == 0
    assert "1 file had been imported before" in capsys.readouterr().out


@needs_data
@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("adp", "is of ADP's own form"),
        ("langfuse", "is an export of Langfuse"),
        ("mlflow", "is a trace of MLflow"),
        ("trail", "is a table of TRAIL"),
        ("asciinema", "is a recording of a terminal"),
    ],
)
def test_files_that_are_not_imported_say_what_they_are(
    folder: str, reason: str, tmp_path: Path
) -> None:
    report = import_trajectories(DATA / folder, tmp_path)
    assert report.files
    assert all(file.reason.startswith(reason) for file in report.files)


@pytest.mark.slow
def test_the_command_prints_what_became_of_the_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "in" / "t.json", trajectory())
    assert main(["import", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == [
        "format",
        "files",
        "episodes",
        "steps",
        "calls",
        "found",
        "kept",
        "unknown",
        "extra",
        "dropped",
    ]
    assert out.splitlines()[1].split()[:5] == ["atif", "1", "1", "2", "2"]
    (tmp_path / "in" / "cut.json").write_text('{"schema_version": "ATIF-v1.6", "steps": 3}')
    assert main(["import", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["status"] for line in lines] == ["failed", "known"]


@pytest.mark.slow
@third_slow("kills")
def test_a_killed_import_can_be_run_again(tmp_path: Path) -> None:
    lines = [trajectory(60) for _ in range(300)]
    path = write_lines(tmp_path / "t.jsonl", lines)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "trajrec", "import", str(path), "-o", str(out)]
    start = time.monotonic()
    subprocess.run([*command[:-1], str(tmp_path / "whole")], check=True, stdout=subprocess.DEVNULL)
    whole_s = time.monotonic() - start
    n_killed = 0
    for part in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(part * whole_s)
        process.kill()
        n_killed += process.wait() == -signal.SIGKILL
        if list(out.glob("*.trj")):
            with trajrec.open(out) as corpus:
                n_episodes = one(corpus, "SELECT count(*) FROM episodes")
                assert one(corpus, "SELECT count(*) FROM attempts") == n_episodes * 60
    assert n_killed
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert list((out / ".trajrec" / "import").iterdir()) == []
    with trajrec.open(out) as corpus:
        assert one(corpus, "SELECT count(*) FROM episodes") == 300
        assert one(corpus, "SELECT count(*) FROM attempts") == 300 * 60


def test_a_single_files_error_is_printed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.json"
    path.write_text('{"resourceSpans": []}')
    assert main(["import", str(path), "-o", str(tmp_path / "out")]) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds no trajectory" in line
