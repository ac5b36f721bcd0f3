"""Sessions of Claude Code, Codex and Gemini CLI: the traps of real files, each as a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from imported import DATA, column, imported, needs_data, one, texts_of_logs, write_lines

import trajrec
from trajrec.exchange.importing import import_trajectories

# The unmarked tier has test_import_counts.py, which reads a file of each format.
pytestmark = pytest.mark.slow

CLAUDE = DATA / "claude-code"
CODEX = DATA / "codex"


def line(number: int, kind: str, content: Any, **fields: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": kind, "content": content}
    if kind == "assistant":
        usage = {"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 3}
        message |= {"id": fields.pop("message_id", f"m{number}"), "model": "c-1", "usage": usage}
    return {
        "type": kind,
        "uuid": f"u{number}",
        "parentUuid": f"u{number - 1}" if number else None,
        "sessionId": "s",
        "timestamp": f"2026-01-01T00:00:{number:02}Z",
        "message": message,
        **fields,
    }


def use(call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "Bash", "input": arguments}


def result(call_id: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **fields}


def test_one_message_in_several_lines_counts_its_usage_once(tmp_path: Path) -> None:
    lines = [
        line(0, "user", "Go."),
        line(1, "assistant", [{"type": "text", "text": "I will."}], message_id="m"),
        line(2, "assistant", [use("c1", x=1)], message_id="m"),
        line(3, "user", [result("c1", "one")]),
        line(4, "assistant", [use("c2", x=2)], message_id="m"),
        line(5, "user", [result("c2", "two")]),
    ]
    with imported(write_lines(tmp_path / "s.jsonl", lines), tmp_path / "out") as corpus:
        row = one(corpus, "SELECT input_tokens, cached_tokens, output_tokens FROM model_calls")
        assert row == (100, 90, 3)
        calls = corpus.sql("SELECT step, call, result->>'$', outcome FROM attempts ORDER BY call")
        assert calls.fetchall() == [(0, 0, "one", "ok"), (0, 1, "two", "ok")]


@needs_data
def test_records_that_a_resumed_session_repeats_are_dropped(tmp_path: Path) -> None:
    with imported(CLAUDE / "duplicates.jsonl", tmp_path) as corpus:
        report = json.loads(one(corpus, "SELECT report FROM imports"))
        assert report["dropped_reasons"] == {"a record repeats an earlier one": 12}
        users = column(corpus, "SELECT text FROM messages WHERE role = 'user'")
        assert users == ["Test duplicate handling"]
        # One that differs is kept beside the conversation.
        extra = column(corpus, "SELECT extra FROM steps WHERE extra IS NOT NULL")
        assert "Conflicting duplicate content" in str(extra)


@needs_data
def test_a_result_before_its_call_is_joined_to_it(tmp_path: Path) -> None:
    with imported(CLAUDE / "early_result.jsonl", tmp_path) as corpus:
        outcome, text = one(corpus, "SELECT outcome, result::VARCHAR FROM attempts")
        assert outcome == "ok"
        assert text


@needs_data
def test_a_call_without_a_result_is_open_and_no_error(tmp_path: Path) -> None:
    with imported(CLAUDE / "unpaired.jsonl", tmp_path) as corpus:
        assert one(corpus, "SELECT outcome, result FROM attempts") == ("open", None)
        assert one(corpus, "SELECT count(*) FROM failures") == 0
        said = column(corpus, "SELECT text FROM messages WHERE role = 'tool'")
        assert said == ["result before agent", "result for non-existent call"]


@needs_data
def test_an_edited_prompt_leaves_a_fork_and_the_last_leaf_counts(tmp_path: Path) -> None:
    with imported(CLAUDE / "claude_forked_session.jsonl", tmp_path) as corpus:
        assert one(corpus, "SELECT n_steps FROM episodes") == 5
        fork = "SELECT fork_step, n_steps, end_step FROM forks"
        assert one(corpus, fork) == (1, 2, 3)
        (main,) = corpus.episodes()
        assert "MergeSort" in str([said.text for said in main.messages])
        assert "Let's go with QuickSort" not in str([said.text for said in main.messages])


@needs_data
def test_unknown_kinds_of_records_are_kept_and_named(tmp_path: Path) -> None:
    with imported(CLAUDE / "unknown.jsonl", tmp_path) as corpus:
        assert "future-widget-event" in one(corpus, "SELECT report->>'$.notes[0]' FROM imports")


@needs_data
def test_a_refused_call_is_the_users_and_no_fault_of_the_tool(tmp_path: Path) -> None:
    with imported(CLAUDE / "claude_with_rejection.jsonl", tmp_path) as corpus:
        rows = corpus.sql("SELECT origin, error_type FROM failures").fetchall()
        assert rows == [("user", "rejected")] * 2


@needs_data
def test_a_failed_request_of_the_client_is_a_failure_of_infrastructure(tmp_path: Path) -> None:
    with imported(CLAUDE / "api_error.jsonl", tmp_path) as corpus:
        row = one(corpus, "SELECT origin, error_type, message FROM failures")
        assert row == ("infra", "overloaded_error", "Server overloaded")


@needs_data
def test_a_compaction_begins_the_context_anew_in_one_episode(tmp_path: Path) -> None:
    with imported(CLAUDE / "ah_compaction.jsonl", tmp_path) as corpus:
        assert one(corpus, "SELECT n_steps FROM episodes") == 6
        counts = column(corpus, "SELECT n_messages FROM model_calls ORDER BY number")
        # The fifth request has a summary and the messages behind it alone.
        assert counts[4] < counts[3]


@needs_data
def test_agents_of_a_session_are_episodes_inside_of_it(tmp_path: Path) -> None:
    report = import_trajectories(CLAUDE, tmp_path)
    names = [file.path.name for file in report.files if file.path.name.startswith("agent-afx")]
    assert names == []
    with trajrec.open(tmp_path) as corpus:
        nested = "SELECT caller_step, count(*) FROM all_episodes WHERE kind = 'nested' GROUP BY 1"
        # Two of them are named by the calls that ran them.
        assert dict(corpus.sql(nested).fetchall()) == {0: 2, -1: 4}


def test_a_session_that_goes_on_is_imported_once(tmp_path: Path) -> None:
    lines = [line(0, "user", "Go."), line(1, "assistant", [use("c1", x=1)])]
    path = write_lines(tmp_path / "s.jsonl", lines)
    agents = tmp_path / "s" / "subagents"
    agents.mkdir(parents=True)
    write_lines(agents / "agent-a.jsonl", [line(0, "user", "Help.", isSidechain=True)])
    import_trajectories(path, tmp_path / "out")
    write_lines(path, [*lines, line(2, "user", [result("c1", "one")])])
    write_lines(agents / "agent-b.jsonl", [line(0, "user", "Help too.", isSidechain=True)])
    import_trajectories(path, tmp_path / "out")
    with trajrec.open(tmp_path / "out") as corpus:
        assert one(corpus, "SELECT outcome FROM attempts") == "ok"
        kinds = dict(corpus.sql("SELECT kind, count(*) FROM all_episodes GROUP BY 1").fetchall())
        assert kinds == {"rollout": 1, "nested": 2}


@needs_data
def test_images_of_a_session_are_kept_as_they_are(tmp_path: Path) -> None:
    with imported(CLAUDE / "images.jsonl", tmp_path) as corpus:
        (episode,) = corpus.episodes()
        assert "image" in json.dumps([said.value for said in episode.messages])


@pytest.mark.parametrize("call_id", [None, -1, [], {"a": 1}])
def test_a_result_whose_call_has_no_name_is_kept_whole(tmp_path: Path, call_id: Any) -> None:
    lines = [
        line(0, "user", "Go."),
        line(1, "assistant", [use("c1", x=1)]),
        line(2, "user", [result(call_id, "one")], toolUseResult={"stdout": "only here"}),
    ]
    import_trajectories(write_lines(tmp_path / "s.jsonl", lines), tmp_path / "out", redact=False)
    assert "only here" in texts_of_logs(tmp_path / "out")[0]


def test_secrets_of_a_session_are_removed_by_default(tmp_path: Path) -> None:
    key = "sk-ant-api03-" + "Ab1" * 30 + "AA"
    lines = [
        line(0, "user", f"Use {key}."),
        line(1, "assistant", [use("c1", command=f"curl -H 'x-api-key: {key}'")]),
        line(2, "user", [result("c1", f"ok {key}")], toolUseResult={"stdout": key}),
    ]
    path = write_lines(tmp_path / "s.jsonl", lines)
    report = import_trajectories(path, tmp_path / "out")
    assert report.files[0].n_redacted >= 4
    with trajrec.open(tmp_path / "out") as corpus:
        (episode,) = corpus.episodes()
        text = str([said.value for said in episode.messages]) + str(episode.transcript.attempts)
        assert key not in text + str(corpus.sql("SELECT extra FROM attempts").fetchall())
        assert one(corpus, "SELECT is_redacted FROM attempts")


@needs_data
def test_the_tokens_of_codex_are_those_of_the_last_turn(tmp_path: Path) -> None:
    with imported(CODEX / "codex_golden.jsonl", tmp_path) as corpus:
        tokens = "SELECT input_tokens, cached_tokens, reasoning_tokens FROM model_calls"
        assert corpus.sql(f"{tokens} ORDER BY number").fetchall()[-1] == (150, 60, 8)
        total = "SELECT (reported->'$.total_token_usage.input_tokens')::BIGINT FROM episodes"
        assert one(corpus, total) == 300


@needs_data
def test_a_turn_that_the_user_breaks_off_has_its_reason(tmp_path: Path) -> None:
    with imported(CODEX / "codex_with_escalation.jsonl", tmp_path) as corpus:
        assert one(corpus, "SELECT stop_reason FROM episodes") == "user_cancelled"
        outcomes = column(corpus, "SELECT outcome FROM attempts ORDER BY step")
        assert outcomes == ["unknown", "open", "unknown", "open"]


def test_an_exit_code_decides_on_the_outcome_of_a_shell(tmp_path: Path) -> None:
    def item(**payload: Any) -> dict[str, Any]:
        return {"timestamp": "2026-01-01T00:00:00Z", "type": "response_item", "payload": payload}

    lines: list[dict[str, Any]] = [
        {"timestamp": "2026-01-01T00:00:00Z", "type": "session_meta", "payload": {"id": "s"}}
    ]
    for number, code in enumerate((0, 3)):
        output = json.dumps({"output": "x", "metadata": {"exit_code": code}})
        call_id = f"c{number}"
        call = {"type": "function_call", "name": "shell", "arguments": "{}", "call_id": call_id}
        lines.append(item(**call))
        lines.append(item(type="function_call_output", call_id=call_id, output=output))
    with imported(write_lines(tmp_path / "s.jsonl", lines), tmp_path / "out") as corpus:
        assert column(corpus, "SELECT outcome FROM attempts ORDER BY step") == ["ok", "error"]
        assert one(corpus, "SELECT message FROM failures") == "exit code 3"


@needs_data
def test_gemini_says_which_calls_failed(tmp_path: Path) -> None:
    path = DATA / "gemini-cli" / "gemini_with_tool_error.jsonl"
    with imported(path, tmp_path) as corpus:
        outcomes = column(corpus, "SELECT outcome FROM attempts ORDER BY step")
        assert outcomes == ["ok", "error", "ok", "ok"]


def test_codex_says_of_searches_and_results_whether_they_failed(tmp_path: Path) -> None:
    def item(kind: str, **fields: Any) -> dict[str, Any]:
        return {"type": "response_item", "payload": {"type": kind, **fields}}

    path = write_lines(
        tmp_path / "s.jsonl",
        [
            {"type": "session_meta", "payload": {"id": "s"}},
            item("function_call", name="shell", arguments="{}", call_id="c1"),
            item("function_call_output", call_id="c1", output={"content": "x", "success": False}),
            item("web_search_call", status="completed", action={"type": "search", "query": "q"}),
            item("web_search_call", status="failed", action={"type": "search", "query": "q"}),
            item("web_search_call", status="in_progress", action={"type": "search", "query": "q"}),
        ],
    )
    with imported(path, tmp_path / "out") as corpus:
        outcomes = column(corpus, "SELECT outcome FROM attempts ORDER BY step, call")
    assert outcomes == ["error", "ok", "error", "open"]
