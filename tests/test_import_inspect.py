"""Logs of Inspect: the traps of real files, each as a test."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from imported import (
    DATA,
    column,
    imported,
    lost_leaves,
    needs_data,
    one,
    sources_of,
    texts_of_logs,
    write_json,
)
from tiers import third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.errors import ImportFileError
from trajrec.exchange.importing import import_trajectories
from trajrec.view.panes import check_view

# The unmarked tier has test_import_counts.py, which reads a file of each format.
pytestmark = pytest.mark.slow


def model_event(text: str, *, calls: Any = (), span: str = "", **fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "id": f"id {text}"}
    if calls:
        message["tool_calls"] = list(calls)
    return {
        "event": "model",
        "model": "m",
        "input": [],
        "span_id": span,
        "timestamp": "2026-01-01T00:00:00+00:00",
        "completed": "2026-01-01T00:00:01+00:00",
        "output": {"model": "m", "choices": [{"message": message, "stop_reason": "stop"}]},
        **fields,
    }


def tool_event(call_id: str, function: str = "add", **fields: Any) -> dict[str, Any]:
    return {
        "event": "tool",
        "id": call_id,
        "function": function,
        "arguments": {"x": 1},
        "timestamp": "2026-01-01T00:00:01+00:00",
        "completed": "2026-01-01T00:00:02+00:00",
        "result": "2",
        **fields,
    }


def log(*samples: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "version": 2,
        "status": "success",
        "eval": {"task": "t", "model": "m", "run_id": "r"},
        "plan": {},
        "samples": list(samples),
        **fields,
    }


def sample(*events: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": "a", "epoch": 1, "input": "Go.", "messages": [], "events": list(events), **fields}


@needs_data
def test_members_packed_with_zstd_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(DATA / "inspect" / "gen_ugly.eval") as file:
        assert {info.compress_type for info in file.infolist()} == {93}
    with imported(DATA / "inspect" / "gen_ugly.eval", tmp_path) as corpus:
        assert one(corpus, "SELECT count(*) FROM episodes") == 3


@needs_data
def test_messages_are_resolved_from_the_pool_of_the_sample(tmp_path: Path) -> None:
    with imported(DATA / "inspect" / "gen_ugly.eval", tmp_path) as corpus:
        calls = "SELECT n_messages FROM model_calls WHERE kind = 'rollout' ORDER BY n_messages"
        assert max(column(corpus, calls)) == 12
        episode = next(iter(corpus.episodes("task = 'ugly/a'")))
        assert [said.role for said in episode.messages][:3] == ["user", "assistant", "tool"]
        assert episode.messages[0].text == "1+2?"


@needs_data
def test_an_attachment_stands_in_its_place(tmp_path: Path) -> None:
    with imported(DATA / "inspect" / "gen_ugly.eval", tmp_path) as corpus:
        result = column(corpus, "SELECT result::VARCHAR FROM attempts WHERE tool = 'picture'")[0]
        assert "data:image/png;base64" in result
        assert "attachment://" not in result


def test_repeated_ids_of_calls_stay_calls_of_their_own(tmp_path: Path) -> None:
    events = [model_event("a"), tool_event("c1"), model_event("b"), tool_event("c1", result="3")]
    path = write_json(tmp_path / "log.json", log(sample(*events)))
    with imported(path, tmp_path / "out") as corpus:
        calls = corpus.sql("SELECT step, call_id, result->>'$' FROM attempts ORDER BY step")
        assert calls.fetchall() == [(0, "c1", "2"), (1, "c1", "3")]


def test_an_agent_that_is_a_tool_is_told_by_its_span(tmp_path: Path) -> None:
    events = [
        {"event": "span_begin", "id": "s1", "span_id": "s1", "type": "solver"},
        model_event("plan", span="s1"),
        {"event": "span_begin", "id": "s2", "span_id": "s2", "parent_id": "s1", "type": "agent"},
        tool_event("c1", "helper", span_id="s1", agent_span_id="s2"),
        model_event("help", span="s2"),
        tool_event("c2", span_id="s2"),
        model_event("done", span="s1"),
    ]
    path = write_json(tmp_path / "log.json", log(sample(*events)))
    with imported(path, tmp_path / "out") as corpus:
        main = one(corpus, "SELECT episode_id FROM episodes")
        nested = "SELECT caller_id, caller_step, n_steps FROM all_episodes WHERE kind = 'nested'"
        assert one(corpus, nested) == (main, 0, 1)
        assert one(corpus, "SELECT n_steps FROM episodes") == 2
        tools = dict(corpus.sql("SELECT tool, kind FROM attempts").fetchall())
        assert tools == {"helper": "rollout", "add": "nested"}


@needs_data
def test_errors_that_stand_in_messages_alone_are_counted(tmp_path: Path) -> None:
    with imported(DATA / "inspect" / "log_tool_call_error.json", tmp_path) as corpus:
        failed = corpus.sql("SELECT failure_kind, count(*) FROM failures GROUP BY 1").fetchall()
        assert sum(n for _, n in failed) == 11
        assert {kind for kind, _ in failed} == {"invalid", "timeout", "error"}


@needs_data
def test_earlier_tries_of_a_sample_are_failures_and_no_episodes(tmp_path: Path) -> None:
    with imported(DATA / "inspect" / "gen_ugly.eval", tmp_path) as corpus:
        episode = "SELECT episode_id FROM episodes WHERE task = 'ugly/b'"
        messages = column(corpus, f"SELECT message FROM failures WHERE episode_id IN ({episode})")
        assert messages == ["RuntimeError('sandbox died')"] * 2
        assert (
            one(corpus, f"SELECT ending FROM episodes WHERE episode_id IN ({episode})") == "error"
        )


def test_no_scores_are_no_zero(tmp_path: Path) -> None:
    path = write_json(tmp_path / "log.json", log(sample(model_event("a"), scores={})))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT count(*) FROM checks") == 0
        assert one(corpus, "SELECT outcome FROM episodes") is None


def test_an_unscored_sample_has_no_score(tmp_path: Path) -> None:
    scores = {"graded": {"value": float("nan"), "explanation": "the judge gave no grade"}}
    path = write_json(tmp_path / "log.json", log(sample(model_event("a"), scores=scores)))
    with imported(path, tmp_path / "out") as corpus:
        row = one(corpus, "SELECT status, verdict, score FROM checks")
        assert row == ("not_evaluated", None, None)


def test_letters_are_verdicts_and_numbers_are_scores(tmp_path: Path) -> None:
    values = {"c": "C", "i": "I", "p": "P", "n": "N", "number": 0.25, "flag": True, "text": "maybe"}
    scores = {name: {"value": value} for name, value in values.items()}
    path = write_json(tmp_path / "log.json", log(sample(model_event("a"), scores=scores)))
    with imported(path, tmp_path / "out") as corpus:
        rows = corpus.sql("SELECT check_id, verdict, score FROM checks").fetchall()
    assert {name: (verdict, score) for name, verdict, score in rows} == {
        "c": (True, 1.0),
        "i": (False, 0.0),
        "p": (None, 0.5),
        "n": (False, 0.0),
        "number": (None, 0.25),
        "flag": (True, 1.0),
        "text": (None, None),
    }


def test_a_check_without_a_version_is_shown_without_one(tmp_path: Path, capsys: Any) -> None:
    scores = {"match": {"value": "C"}}
    path = write_json(tmp_path / "log.json", log(sample(model_event("a"), scores=scores)))
    with imported(path, tmp_path / "out") as corpus:
        (episode,) = corpus.episodes()
    assert main(["show", str(tmp_path / "out"), episode.id]) == 0
    assert "check match: passed, score 1" in capsys.readouterr().out
    with trajrec.open(tmp_path / "out") as corpus:
        (episode,) = corpus.episodes()
        assert check_view(episode, episode.checks[0]).title == "check match"


def test_ids_of_samples_may_be_numbers_and_epochs_are_trials(tmp_path: Path) -> None:
    samples = [sample(model_event("a"), id=7, epoch=epoch) for epoch in (1, 2)]
    path = write_json(tmp_path / "log.json", log(*samples))
    with imported(path, tmp_path / "out") as corpus:
        assert column(corpus, "SELECT task FROM episodes") == ["t/7", "t/7"]
        trials = column(corpus, "SELECT metadata->>'$.trial' FROM episodes ORDER BY 1")
        assert trials == ["1", "2"]


def test_a_limit_truncates_and_an_error_fails(tmp_path: Path) -> None:
    limit = {"type": "message", "limit": 5, "reason": "limit reached"}
    samples = [
        sample(model_event("a"), limit=limit),
        sample(model_event("a"), id="b", error={"message": "KeyError('x')", "traceback": "..."}),
    ]
    path = write_json(tmp_path / "log.json", log(*samples))
    with imported(path, tmp_path / "out") as corpus:
        rows = corpus.sql("SELECT ending, stop_reason FROM episodes ORDER BY task").fetchall()
        assert rows == [("truncated", "limit: message"), ("error", None)]
        assert one(corpus, "SELECT error_type, phase FROM failures") == ("KeyError", "loop")


def test_changes_of_the_store_are_reported_and_prove_nothing(tmp_path: Path) -> None:
    store = {"event": "store", "changes": [{"op": "add", "path": "/n", "value": 3}]}
    path = write_json(tmp_path / "log.json", log(sample(model_event("a"), tool_event("c"), store)))
    with imported(path, tmp_path / "out") as corpus:
        row = one(corpus, "SELECT origin, part, after::VARCHAR FROM state_changes")
        assert row[:2] == ("reported", "store")
        assert json.loads(row[2]) == store["changes"]
        assert one(corpus, "SELECT state_digest FROM attempts") is None
        (episode,) = corpus.episodes()
        assert episode.transcript.initial_state == {}


def test_times_and_latency_come_from_the_events(tmp_path: Path) -> None:
    path = write_json(tmp_path / "log.json", log(sample(model_event("a"), tool_event("c1"))))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT latency_ms FROM attempts") == 1000
        assert one(corpus, "SELECT latency_ms, finish_reason FROM model_calls") == (1000, "stop")


def write_eval(path: Path, members: dict[str, Any]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, value in members.items():
            file.writestr(name, json.dumps(value))
    return path


def test_a_crashed_run_is_read_by_its_journal(tmp_path: Path) -> None:
    header = {key: value for key, value in log().items() if key != "samples"}
    members = {
        "_journal/start.json": header,
        "samples/a_epoch_1.json": sample(model_event("a")),
    }
    path = write_eval(tmp_path / "log.eval", members)
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT n_steps FROM episodes") == 1
        assert "the run did not end" in one(corpus, "SELECT report->>'$.notes[0]' FROM imports")


def test_a_damaged_sample_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    header = {key: value for key, value in log().items() if key != "samples"}
    members = {
        "header.json": header,
        "samples/a_epoch_1.json": sample(model_event("aaaa")),
        "samples/b_epoch_1.json": sample(model_event("bbbb"), id="b"),
    }
    path = write_eval(tmp_path / "log.eval", members)
    with zipfile.ZipFile(path) as file:
        offset = file.getinfo("samples/a_epoch_1.json").header_offset + 80
    data = bytearray(path.read_bytes())
    data[offset] ^= 255
    path.write_bytes(data)
    report = import_trajectories(path, tmp_path / "out")
    (reason,) = report.files[0].account.dropped
    assert reason.startswith("samples/a_epoch_1.json: is damaged")
    with trajrec.open(tmp_path / "out") as corpus:
        assert one(corpus, "SELECT task FROM episodes") == "t/b"


def test_ranges_outside_of_the_pool_are_refused(tmp_path: Path) -> None:
    event = model_event("a", input_refs=[[0, 9]])
    path = write_json(tmp_path / "log.json", log(sample(event)))
    with pytest.raises(ImportFileError, match=r"input_refs names messages \[0, 9\] of 0"):
        import_trajectories(path, tmp_path / "out")


def test_a_score_on_the_way_counts_own_turns_alone(tmp_path: Path) -> None:
    events = [
        {"event": "span_begin", "id": "s1", "span_id": "s1", "type": "solver"},
        model_event("plan", span="s1"),
        {"event": "span_begin", "id": "s2", "span_id": "s2", "parent_id": "s1", "type": "agent"},
        tool_event("c1", "helper", span_id="s1", agent_span_id="s2"),
        model_event("help", span="s2"),
        model_event("more", span="s2"),
        {"event": "score", "score": {"value": 0.5}, "intermediate": True, "span_id": "s1"},
        model_event("done", span="s1"),
    ]
    path = write_json(tmp_path / "log.json", log(sample(*events)))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT step FROM checks WHERE phase = 'step'") == 1


USER = {"role": "user", "content": "mark pooled"}
FAULT = {"message": "KeyError('x')", "traceback": "..."}
NESTED_CALL = {"id": "c", "function": "f", "arguments": {}}
ODD_SAMPLES: tuple[dict[str, Any], ...] = (
    sample(model_event("a"), limit={"type": "mark limit", "limit": 777}, error=FAULT),
    sample(model_event("a", calls=[{**NESTED_CALL, "type": "mark type"}])),
    sample(model_event("a", calls=[{**NESTED_CALL, "id": 777}])),
    sample(tool_event("c", error={"type": "timeout", "message": "m", "more": "mark more"})),
    sample(tool_event("c", error={"type": "unknown", "message": "m"}, result=777)),
    sample(model_event("a"), events_data={"messages": [USER]}),
    sample(events_data={"messages": [USER], "call_pool": ["mark call"]}),
    sample(model_event("a"), events_data={"messages": "mark no list"}),
    sample(model_event("a"), events_data={"messages": [], "odd": "mark odd"}),
    sample(model_event("a"), events_data={"messages": [{}]}, message_pool=[USER]),
    sample(model_event("a"), message_pool=[USER]),
    sample(model_event("a"), transcript={"events": [{"event": "info", "data": "mark info"}]}),
    sample(model_event("a"), transcript={"odd": "mark odd"}),
    sample(model_event("mark said", pending=True)),
    sample(tool_event("c", pending=True, completed=None, result="mark result")),
    sample(tool_event("c", agent_span_id=["mark span"])),
    sample(model_event("a"), {"event": "score", "score": {"value": 1}, "intermediate": "mark"}),
    sample(tool_event("c", pending=True, error={"type": "unknown", "message": "mark error"})),
)
"""Samples with values that have no place, or stand beside those that take theirs."""


@third_slow("imports")
@pytest.mark.parametrize("odd", ODD_SAMPLES)
def test_odd_parts_of_a_sample_are_kept(odd: dict[str, Any], tmp_path: Path) -> None:
    path = write_json(tmp_path / "log.json", log(odd))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT count(*) FROM all_episodes") == 1
    lost = lost_leaves(sources_of(path), tmp_path / "out")
    assert [text for text in lost if text.startswith(("mark", "777"))] == []


def test_an_error_after_a_limit_is_the_ending(tmp_path: Path) -> None:
    odd = sample(model_event("a"), limit={"type": "token", "limit": 5}, error=FAULT)
    path = write_json(tmp_path / "log.json", log(odd))
    with imported(path, tmp_path / "out") as corpus:
        row = one(corpus, "SELECT ending, stop_reason FROM episodes")
        assert row == ("error", "limit: token")


def test_a_call_that_has_not_ended_is_open(tmp_path: Path) -> None:
    event = tool_event("c", pending=True, completed=None, result="")
    path = write_json(tmp_path / "log.json", log(sample(event)))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT outcome FROM attempts") == "open"


def test_a_text_before_a_bracket_is_no_class_of_an_error(tmp_path: Path) -> None:
    error = {"message": "Error code: 400 (bad request)", "traceback": "..."}
    path = write_json(tmp_path / "log.json", log(sample(model_event("a"), error=error)))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT error_type FROM failures") == ""


def test_secrets_beside_a_change_or_in_an_error_type_are_redacted(tmp_path: Path) -> None:
    key = f"sk-ant-api03-{'a1B2' * 23}_AA"
    store = {"event": "store", "changes": [], "metadata": {"api_key": key}}
    failed = tool_event("c", error={"type": f"bad key {key}", "message": "m"}, result="")
    path = write_json(tmp_path / "log.json", log(sample(model_event("a"), store, failed)))
    import_trajectories(path, tmp_path / "out", redact=True).raise_if_failed()
    assert key not in texts_of_logs(tmp_path / "out")[0]


def judge(text: str, **fields: Any) -> dict[str, Any]:
    return model_event(text, model="judge", **fields)


SPANS_OF_SCORERS = [
    {"event": "span_begin", "id": "s1", "span_id": "s1", "type": "solvers"},
    model_event("It is 4.", span="s1"),
    {"event": "span_begin", "id": "s2", "span_id": "s2", "type": "scorers"},
    {"event": "span_begin", "id": "s3", "span_id": "s3", "parent_id": "s2", "type": "scorer"},
    judge("GRADE: C", span="s3"),
    tool_event("c1", "bash", span_id="s3"),
    judge("GRADE: I", span="s3"),
    {"event": "span_end", "id": "s3", "span_id": "s3"},
]

STEPS_OF_SCORERS = [
    {"event": "step", "action": "begin", "type": "solver", "name": "generate"},
    model_event("It is 4."),
    {"event": "step", "action": "end", "type": "solver", "name": "generate"},
    {"event": "step", "action": "begin", "type": "scorer", "name": "model_graded_fact"},
    judge("GRADE: C"),
    tool_event("c1", "bash"),
    judge("GRADE: I"),
    {"event": "step", "action": "end", "type": "scorer", "name": "model_graded_fact"},
]


@pytest.mark.parametrize("events", [SPANS_OF_SCORERS, STEPS_OF_SCORERS])
def test_calls_of_a_judge_are_none_of_the_agent(
    tmp_path: Path, events: list[dict[str, Any]]
) -> None:
    path = write_json(tmp_path / "log.json", log(sample(*events)))
    with imported(path, tmp_path / "out") as corpus:
        main = one(corpus, "SELECT episode_id FROM episodes")
        assert one(corpus, "SELECT n_steps FROM episodes") == 1
        nested = "SELECT caller_id, caller_step, n_steps FROM all_episodes WHERE kind = 'nested'"
        assert one(corpus, nested) == (main, 0, 2)
        models = corpus.sql("SELECT answer->>'$.choices[0].message.content', kind FROM model_calls")
        assert dict(models.fetchall()) == {
            "It is 4.": "rollout",
            "GRADE: C": "nested",
            "GRADE: I": "nested",
        }
        assert one(corpus, "SELECT kind FROM attempts") == "nested"
        (talk,) = corpus.messages()
        assert [message["content"] for message in talk.messages] == ["It is 4."]


def test_ids_of_messages_make_no_other_goal(tmp_path: Path) -> None:
    goals = []
    for name in ("x", "y"):
        said = {"id": name, "role": "user", "content": [{"type": "text", "text": "Which?"}]}
        path = write_json(tmp_path / f"{name}.json", log(sample(model_event("a"), input=[said])))
        with imported(path, tmp_path / f"out-{name}") as corpus:
            goals.append(one(corpus, "SELECT goal_digest FROM episodes"))
            assert not lost_leaves(json.loads(path.read_text()), tmp_path / f"out-{name}")
    assert goals[0] == goals[1]


def test_a_model_call_that_failed_has_said_nothing(tmp_path: Path) -> None:
    failed = model_event("", error="ConnectionError('down')")
    path = write_json(tmp_path / "log.json", log(sample(model_event("a"), failed)))
    with imported(path, tmp_path / "out") as corpus:
        calls = corpus.sql("SELECT outcome, answer IS NULL FROM model_calls ORDER BY number")
        assert calls.fetchall() == [("ok", False), ("error", True)]
        assert column(corpus, "SELECT text FROM messages WHERE origin = 'answer'") == ["a"]


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("ConnectionError('upstream down')", "infra"),
        ("APITimeoutError('Request timed out.')", "infra"),
        ('APIStatusError("Error code: 529 - overloaded")', "infra"),
        ("BadRequestError('Error code: 400 - the prompt is too long')", None),
        ("KeyError('x')", None),
    ],
)
def test_an_error_of_a_service_is_the_fault_of_infra(
    tmp_path: Path, message: str, fault: str | None
) -> None:
    error = {"message": message, "traceback": "..."}
    path = write_json(tmp_path / "log.json", log(sample(model_event("a"), error=error)))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT ending, fault FROM episodes") == ("error", fault)
        assert one(corpus, "SELECT origin FROM failures") == (fault or "scaffold")


@pytest.mark.parametrize("is_of_scorer", [True, False])
def test_a_scorer_that_raised_has_the_fault(tmp_path: Path, is_of_scorer: bool) -> None:
    scoring = {"event": "span_begin", "id": "s", "span_id": "s", "type": "scorers"}
    failed = {"event": "error", "error": {"message": "ValueError('x')"}}
    # By the option score_on_error, a sample that failed is scored too.
    last = [scoring, failed] if is_of_scorer else [failed, scoring]
    error = {"message": "ValueError('x')", "traceback": "..."}
    path = write_json(tmp_path / "log.json", log(sample(model_event("a"), *last, error=error)))
    with imported(path, tmp_path / "out") as corpus:
        fault = one(corpus, "SELECT fault FROM episodes")
        origin = one(corpus, "SELECT origin FROM failures")
    assert (fault, origin) == (("verifier", "verifier") if is_of_scorer else (None, "scaffold"))


def test_a_result_that_a_provider_got_otherwise_is_said_once(tmp_path: Path) -> None:
    call = {"id": "c1", "function": "photo", "arguments": {}}
    image = {"type": "image", "image": "data:image/png;base64,AAAA"}
    told = {"role": "tool", "tool_call_id": "c1", "id": "r1", "content": "Image below."}
    shown = {"role": "user", "id": "r2", "content": [image]}
    result = {"role": "tool", "tool_call_id": "c1", "id": "r3", "content": [image]}
    events = [
        model_event("a", calls=[call]),
        tool_event("c1", "photo", result=[image]),
        model_event("b", input=[told, shown]),
    ]
    whole = sample(*events, messages=[result])
    path = write_json(tmp_path / "log.json", log(whole))
    with imported(path, tmp_path / "out") as corpus:
        roles = column(corpus, "SELECT role FROM messages ORDER BY number")
        assert roles == ["assistant", "tool", "user", "assistant"]
        assert not lost_leaves(whole, tmp_path / "out")


def test_limits_of_a_log_are_its_budget(tmp_path: Path) -> None:
    config = {"epochs": 2, "message_limit": 14, "token_limit": None, "fail_on_error": True}
    evaluated = {**log()["eval"], "config": config}
    path = write_json(tmp_path / "log.json", log(sample(model_event("a")), eval=evaluated))
    with imported(path, tmp_path / "out") as corpus:
        fields = "interface->'budget', interface->'eval_protocol'"
        budget, protocol = one(corpus, f"SELECT {fields} FROM episodes")
    assert json.loads(budget) == {"message_limit": 14}
    assert json.loads(protocol) == {"epochs": 2, "fail_on_error": True}
