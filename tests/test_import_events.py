"""SWE-agent, mini-swe-agent, OpenHands, AgentDojo, Who&When: the traps of real files as tests."""

from __future__ import annotations

import json
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
    write_json,
    write_lines,
)

# The unmarked tier has test_import_counts.py, which reads a file of each format.
pytestmark = pytest.mark.slow


@needs_data
def test_demonstrations_of_swe_agent_are_messages_and_no_steps(tmp_path: Path) -> None:
    with imported(DATA / "swe-agent" / "pydicom__pydicom-1458.traj", tmp_path) as corpus:
        assert one(corpus, "SELECT n_steps FROM episodes") == 12
        assert one(corpus, "SELECT count(*) FROM messages WHERE role = 'assistant'") == 12
        assert one(corpus, "SELECT count(*) FROM messages WHERE text LIKE '%demonstration%'") == 1


@needs_data
def test_a_history_without_calls_gives_commands(tmp_path: Path) -> None:
    with imported(DATA / "swe-agent" / "ctf_katy.traj", tmp_path) as corpus:
        tools = corpus.sql("SELECT tool, count(*) FROM attempts GROUP BY 1").fetchall()
        assert tools == [("bash", 18)]
        # The end was reached, and nobody says whether the task was solved.
        row = one(corpus, "SELECT stop_reason, claimed_done, outcome FROM episodes")
        assert row == ("submitted", True, None)


@needs_data
def test_zeros_of_a_demonstration_are_unknown_costs(tmp_path: Path) -> None:
    with imported(DATA / "swe-agent" / "ctf_katy.traj", tmp_path) as corpus:
        assert one(corpus, "SELECT reported FROM episodes") is None


@needs_data
def test_calls_of_swe_agent_have_their_own_names_and_arguments(tmp_path: Path) -> None:
    with imported(DATA / "swe-agent" / "marshmallow_function_calling.traj", tmp_path) as corpus:
        row = one(corpus, "SELECT tool, arguments->>'$.filename' FROM attempts WHERE step = 0")
        assert row == ("create", "reproduce.py")
        # The observation is the tool's; the prompt behind it stands in the message alone.
        result = one(corpus, "SELECT result->>'$' FROM attempts WHERE step = 0")
        assert "bash-$" not in result
        assert one(corpus, "SELECT count(*) FROM messages WHERE text LIKE '%bash-$%'") > 0


def test_a_history_alone_is_a_trajectory_too(tmp_path: Path) -> None:
    history = [
        {"role": "system", "content": "Be exact."},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [{"id": "c", "function": {"name": "ls", "arguments": '{"path": "."}'}}],
        },
        {"role": "tool", "content": "a.py", "tool_call_ids": ["c"]},
    ]
    path = write_json(tmp_path / "t.traj", {"history": history})
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT tool, result->>'$' FROM attempts") == ("ls", "a.py")


def test_a_return_code_in_the_text_decides_on_a_command(tmp_path: Path) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Go."}]
    for code in (0, 2):
        messages.append({"role": "assistant", "content": "I run.\n```bash\nls\n```"})
        text = f"<returncode>{code}</returncode>\n<output>x</output>"
        messages.append({"role": "user", "content": text})
    document = {
        "trajectory_format": "mini-swe-agent-1.1",
        "messages": messages,
        "info": {"exit_status": "Submitted", "model_stats": {"instance_cost": 0.25}},
    }
    path = write_json(tmp_path / "t.traj.json", document)
    with imported(path, tmp_path / "out") as corpus:
        assert column(corpus, "SELECT outcome FROM attempts ORDER BY step") == ["ok", "error"]
        row = one(
            corpus, "SELECT claimed_done, (reported->'$.instance_cost')::DOUBLE FROM episodes"
        )
        assert row == (True, 0.25)


@needs_data
def test_actions_of_the_environment_are_no_steps(tmp_path: Path) -> None:
    with imported(DATA / "openhands" / "basic_gui_mode.json", tmp_path) as corpus:
        assert one(corpus, "SELECT n_steps FROM episodes") == 5
        tools = column(corpus, "SELECT DISTINCT tool FROM attempts ORDER BY 1")
        assert tools == ["execute_bash", "str_replace_editor"]


@needs_data
def test_a_command_that_still_runs_has_not_failed(tmp_path: Path) -> None:
    with imported(DATA / "openhands" / "basic_gui_mode.json", tmp_path) as corpus:
        code = "(extra->'$.result.extras.metadata.exit_code')::INTEGER = -1"
        assert one(corpus, f"SELECT outcome FROM attempts WHERE {code}") == "unknown"
        assert one(corpus, "SELECT count(*) FROM failures") == 0


@needs_data
def test_edits_are_reported_changes_of_files(tmp_path: Path) -> None:
    with imported(DATA / "openhands" / "basic_gui_mode.json", tmp_path) as corpus:
        changes = corpus.sql("SELECT origin, part, after FROM state_changes").fetchall()
        assert [row[:2] for row in changes] == [("reported", "files")] * 2
        assert "new_content" in json.loads(changes[0][2])


def test_parallel_calls_of_one_answer_are_one_step(tmp_path: Path) -> None:
    asked = [
        {"id": name, "function": {"name": "run", "arguments": json.dumps({"command": name})}}
        for name in ("a", "b")
    ]
    message = {"role": "assistant", "content": "Both.", "tool_calls": asked}
    response = {"id": "r1", "model": "m", "choices": [{"message": message}]}
    events: list[dict[str, Any]] = []
    for number, name in enumerate(("a", "b")):
        metadata = {"function_name": "run", "tool_call_id": name, "model_response": response}
        events.append(
            {
                "id": number,
                "source": "agent",
                "action": "run",
                "args": {"command": name},
                "tool_call_metadata": metadata,
            }
        )
    # The observations come in another order, behind both actions.
    for number, name in ((1, "b"), (0, "a")):
        observation = {"observation": "run", "content": name, "cause": number}
        events.append({"id": 5 + number, "source": "agent", **observation, "success": True})
    path = write_json(tmp_path / "t.json", events)
    with imported(path, tmp_path / "out") as corpus:
        rows = corpus.sql("SELECT step, call_id, result->>'$' FROM attempts ORDER BY call")
        assert rows.fetchall() == [(0, "a", "a"), (0, "b", "b")]
        assert one(corpus, "SELECT count(*) FROM model_calls") == 1


def test_the_report_of_a_benchmark_is_the_verdict(tmp_path: Path) -> None:
    event = {"id": 0, "source": "agent", "action": "finish", "args": {"thought": "Done."}}
    line = {
        "instance_id": "repo-1",
        "metadata": {},
        "history": [event],
        "test_result": {"report": {"resolved": True}},
    }
    path = write_lines(tmp_path / "output.jsonl", [line, {**line, "test_result": {}}])
    with imported(path, tmp_path / "out") as corpus:
        rows = corpus.sql("SELECT task, outcome FROM episodes ORDER BY outcome").fetchall()
        assert rows == [("repo-1", "success"), ("repo-1", None)]


@needs_data
def test_a_result_whose_action_was_cut_off_stays_a_message(tmp_path: Path) -> None:
    with imported(DATA / "openhands-sdk" / "goal_events.jsonl", tmp_path) as corpus:
        assert one(corpus, "SELECT count(*) FROM attempts WHERE result IS NOT NULL") == 2
        assert one(corpus, "SELECT count(*) FROM messages WHERE role = 'tool'") == 3
        assert "stay messages" in one(corpus, "SELECT report->>'$.notes[0]' FROM imports")


def test_a_folder_of_the_sdk_is_read_as_one(tmp_path: Path) -> None:
    folder = tmp_path / "talk"
    write_json(folder / "base_state.json", {"id": "x", "agent": {"llm": {"model": "m"}}})
    event = {
        "id": "e",
        "kind": "ActionEvent",
        "timestamp": "2026-01-01T00:00:00",
        "source": "agent",
        "thought": [],
        "tool_name": "terminal",
        "tool_call_id": "c",
        "tool_call": {"id": "c", "arguments": "{}"},
        "llm_response_id": "r",
    }
    write_json(folder / "events" / "event-00000-e.json", event)
    error = {"id": "f", "kind": "AgentErrorEvent", "timestamp": "2026-01-01T00:00:01"}
    error |= {"source": "agent", "tool_call_id": "c", "tool_name": "terminal", "error": "no tool"}
    write_json(folder / "events" / "event-00001-f.json", error)
    with imported(folder, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT outcome, message FROM attempts") == ("error", "no tool")
        assert one(corpus, "SELECT origin FROM failures") == "agent"
        assert one(corpus, "SELECT interface->>'$.base.model' FROM episodes") == "m"


def sdk_action(number: int, call_id: str | None, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"e{number}",
        "kind": "ActionEvent",
        "timestamp": f"2026-01-01T00:00:0{number}",
        "source": "agent",
        "action": {"command": "ls"},
        "tool_name": "terminal",
        "tool_call_id": call_id,
        "tool_call": {"id": call_id, "arguments": "{}"},
        "llm_response_id": "r",
        **fields,
    }


def sdk_result(number: int, call_id: str | None, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"e{number}",
        "kind": "ObservationEvent",
        "timestamp": f"2026-01-01T00:00:0{number}",
        "source": "environment",
        "tool_name": "terminal",
        "tool_call_id": call_id,
        **fields,
    }


def test_events_of_the_sdk_are_told_by_their_first(tmp_path: Path) -> None:
    first = sdk_action(1, "c1", thought=[{"type": "text", "text": "First."}])
    second = sdk_action(2, "c2", thought=[{"type": "text", "text": "Second."}])
    path = write_lines(tmp_path / "t.jsonl", [first, second, sdk_result(3, "c1", observation="a")])
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT format FROM imports") == "openhands-sdk"
        rows = corpus.sql("SELECT call_id, result FROM attempts ORDER BY call").fetchall()
        assert rows == [("c1", '"a"'), ("c2", None)]
    assert lost_leaves([first["thought"], second["thought"]], tmp_path / "out") == {}


def test_results_without_an_id_belong_to_no_call(tmp_path: Path) -> None:
    events = [sdk_action(1, None), sdk_action(2, None), sdk_result(3, None, observation="a")]
    path = write_lines(tmp_path / "t.jsonl", events)
    with imported(path, tmp_path / "out") as corpus:
        assert column(corpus, "SELECT result FROM attempts") == [None, None]
        assert one(corpus, "SELECT count(*) FROM messages WHERE role = 'tool'") == 1


def test_a_call_that_the_user_refused_has_failed(tmp_path: Path) -> None:
    refused = sdk_result(2, "c", kind="UserRejectObservation", rejection_reason="Too risky.")
    write_lines(tmp_path / "sdk.jsonl", [sdk_action(1, "c", thought=[]), refused])
    action = {"id": 1, "source": "agent", "action": "run", "args": {"command": "ls"}}
    observation = {"observation": "user_rejected", "content": "Too risky.", "cause": 1}
    write_json(tmp_path / "v0.json", [action, {"id": 2, "source": "user", **observation}])
    with imported(tmp_path, tmp_path / "out") as corpus:
        rows = corpus.sql("SELECT outcome, error_type, message FROM attempts").fetchall()
        assert rows == [("error", "rejected", "Too risky.")] * 2
        assert column(corpus, "SELECT origin FROM failures") == ["user", "user"]


def test_an_observation_of_another_answer_keeps_it(tmp_path: Path) -> None:
    metadata = {"function_name": "run", "tool_call_id": "c", "model_response": {"id": "r1"}}
    action = {
        "id": 1,
        "source": "agent",
        "action": "run",
        "args": {},
        "tool_call_metadata": metadata,
    }
    other = {**metadata, "model_response": {"id": "another answer"}}
    observation = {"observation": "run", "content": "a", "cause": 1, "tool_call_metadata": other}
    path = write_json(tmp_path / "t.json", [action, {"id": 2, "source": "agent", **observation}])
    with imported(path, tmp_path / "out"):
        pass
    assert lost_leaves(other, tmp_path / "out") == {}


def test_an_action_of_the_same_answer_keeps_what_differs(tmp_path: Path) -> None:
    actions = []
    for number, tier in ((1, "first tier"), (2, "second tier")):
        response = {"id": "r1", "service_tier": tier}
        metadata = {"function_name": "run", "tool_call_id": "c", "model_response": response}
        action = {"id": number, "source": "agent", "action": "run", "args": {}}
        actions.append({**action, "tool_call_metadata": metadata})
    path = write_json(tmp_path / "t.json", actions)
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT count(*) FROM model_calls") == 1
    assert lost_leaves(actions, tmp_path / "out") == {}


def dojo_run(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": [{"type": "text", "content": "Pay."}]}]
    return {
        "suite_name": "banking",
        "pipeline_name": "p",
        "user_task_id": "user_task_0",
        "injection_task_id": "injection_task_0",
        "messages": messages,
        "error": None,
        "utility": True,
        "security": False,
        **fields,
    }


def test_an_attack_that_won_was_not_resisted(tmp_path: Path) -> None:
    path = write_json(tmp_path / "r.json", dojo_run(security=True))
    with imported(path, tmp_path / "out") as corpus:
        rows = corpus.sql("SELECT check_id, status, verdict FROM checks ORDER BY check_id")
        assert rows.fetchall() == [("injection-resisted", "ok", False), ("utility", "ok", True)]


def test_without_an_injection_nothing_was_resisted(tmp_path: Path) -> None:
    path = write_json(tmp_path / "r.json", dojo_run(injection_task_id=None, security=True))
    with imported(path, tmp_path / "out") as corpus:
        resisted = "SELECT status, verdict FROM checks WHERE check_id = 'injection-resisted'"
        assert one(corpus, resisted) == ("not_evaluated", None)


def test_verdicts_after_an_error_of_the_infrastructure_are_none(tmp_path: Path) -> None:
    run = dojo_run(error="context too long", utility=False, security=True)
    with imported(write_json(tmp_path / "r.json", run), tmp_path / "out") as corpus:
        rows = corpus.sql("SELECT status, verdict FROM checks ORDER BY check_id").fetchall()
        assert rows == [("not_evaluated", None), ("error", None)]
        assert one(corpus, "SELECT outcome, fault, ending FROM episodes") == (
            None,
            "infra",
            "error",
        )


@needs_data
def test_the_step_of_a_mistake_is_a_text_that_names_a_step(tmp_path: Path) -> None:
    with imported(DATA / "who-when" / "Algorithm-Generated_120.json", tmp_path) as corpus:
        row = one(
            corpus, "SELECT step, verdict, family, phase FROM checks WHERE check_id = 'mistake'"
        )
        assert row == (8, False, "process", "post-hoc")
        # The label is no verdict on the episode: that one stands beside it.
        assert one(corpus, "SELECT outcome FROM episodes") == "failure"


@pytest.mark.parametrize(("step", "status"), [("1", "ok"), ("2", "not_evaluated")])
def test_the_step_of_a_mistake_is_one_of_the_history(
    step: str, status: str, tmp_path: Path
) -> None:
    history = [{"role": "a", "content": "x"}, {"role": "b", "content": "y"}]
    case = {"question": "q", "history": history, "mistake_agent": "b", "mistake_step": step}
    path = write_json(tmp_path / "c.json", {**case, "is_correct": False})
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT status FROM checks WHERE check_id = 'mistake'") == status


@needs_data
def test_the_truth_of_a_case_is_in_no_goal(tmp_path: Path) -> None:
    with imported(DATA / "who-when" / "Hand-Crafted_24.json", tmp_path) as corpus:
        (episode,) = corpus.episodes()
        assert episode.task_start is not None
        assert "Maktay mato apple" not in str(episode.value(episode.task_start.goal_data))
        assert one(corpus, "SELECT extra->>'$.ground_truth' FROM episodes") == "Maktay mato apple"


@needs_data
def test_agents_in_roles_with_suffixes_are_assistants(tmp_path: Path) -> None:
    with imported(DATA / "who-when" / "Hand-Crafted_24.json", tmp_path) as corpus:
        assert one(corpus, "SELECT n_steps FROM episodes") == 5
        assert one(corpus, "SELECT count(*) FROM model_calls") == 4
