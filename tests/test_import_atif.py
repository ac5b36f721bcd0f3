"""ATIF and Harbor's trials: the traps of real files, each as a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from imported import (
    DATA,
    column,
    counted,
    imported,
    needs_data,
    one,
    write_json,
)
from test_imports import trajectory

from trajrec.exchange.importing import import_trajectories

# The unmarked tier has test_import_counts.py, which reads a file of each format.
pytestmark = pytest.mark.slow


@needs_data
@pytest.mark.parametrize("name", ["hello-world__ok", "hello-world__timeout", "hello-world__cont"])
def test_a_trial_of_harbor_has_its_verdict_and_ending(name: str, tmp_path: Path) -> None:
    counts = counted("harbor-trial")[name]
    with imported(DATA / "harbor-trial" / name, tmp_path) as corpus:
        assert one(corpus, "SELECT count(*) FROM episodes") == counts["episodes"]
        rewards = dict(corpus.sql("SELECT check_id, score FROM checks").fetchall())
        assert rewards == (counts["rewards"] or {})
        assert column(corpus, "SELECT error_type FROM failures") == (
            [counts["exception"]] if counts["exception"] else []
        )
        # Fresh steps are the turns of the agent, and the messages of users and the system.
        n_turns = one(corpus, "SELECT n_steps FROM episodes")
        (episode,) = corpus.episodes()
        others = [said for said in episode.messages if said.role in ("user", "system")]
        assert n_turns + len(others) >= counts["steps_fresh"]
        outcome, ending = one(corpus, "SELECT outcome, ending FROM episodes")
        assert outcome == {1.0: "success", 0.0: "failure", None: None}[rewards.get("reward")]
        assert ending == ("truncated" if counts["exception"] else "terminated")


@needs_data
def test_parts_of_a_trajectory_become_one_episode(tmp_path: Path) -> None:
    with imported(DATA / "harbor-trial" / "hello-world__cont", tmp_path) as corpus:
        assert one(corpus, "SELECT n_steps FROM episodes") == 7
        # The last part counts all before it: 0.0298 is the whole, and no sum.
        cost = one(corpus, "SELECT reported->'$.total_cost_usd' FROM episodes")
        assert float(cost) == pytest.approx(0.029805)
        summary = "SELECT caller_id, caller_step, n_steps FROM all_episodes WHERE kind = 'nested'"
        main = one(corpus, "SELECT episode_id FROM episodes")
        assert one(corpus, summary) == (main, 2, 1)


def test_a_copied_step_becomes_a_message_and_no_step(tmp_path: Path) -> None:
    document = trajectory(3)
    document["steps"][1]["is_copied_context"] = True
    with imported(write_json(tmp_path / "t.json", document), tmp_path / "out") as corpus:
        assert one(corpus, "SELECT n_steps FROM episodes") == 2
        assert one(corpus, "SELECT count(*) FROM attempts") == 2
        said = column(corpus, "SELECT text FROM messages WHERE role = 'assistant' ORDER BY number")
        assert said == ["step 0", "step 1", "step 2"]


def test_results_without_ids_are_paired_only_if_the_counts_match(tmp_path: Path) -> None:
    document = trajectory(2)
    call = document["steps"][2]["tool_calls"][0]
    for step in document["steps"][1:]:
        del step["observation"]["results"][0]["source_call_id"]
    document["steps"][2]["tool_calls"].append({**call, "tool_call_id": "c9"})
    with imported(write_json(tmp_path / "t.json", document), tmp_path / "out") as corpus:
        assert column(corpus, "SELECT result::VARCHAR FROM attempts ORDER BY step, call") == [
            '"4"',
            None,
            None,
        ]
        (note,) = json.loads(one(corpus, "SELECT report->'$.notes' FROM imports"))
        assert "name no call" in note
        tools = column(corpus, "SELECT text FROM messages WHERE role = 'tool'")
        assert tools == ["4", "4"]


def test_a_call_without_a_result_has_an_unknown_outcome(tmp_path: Path) -> None:
    document = trajectory(1)
    del document["steps"][1]["observation"]
    with imported(write_json(tmp_path / "t.json", document), tmp_path / "out") as corpus:
        assert one(corpus, "SELECT outcome, result FROM attempts") == ("unknown", None)
        assert one(corpus, "SELECT count(*) FROM failures") == 0


def test_ids_of_calls_that_repeat_in_a_step_keep_their_order(tmp_path: Path) -> None:
    document = trajectory(1)
    step = document["steps"][1]
    step["tool_calls"].append(step["tool_calls"][0])
    results = step["observation"]["results"]
    results.append({**results[0], "content": "5"})
    with imported(write_json(tmp_path / "t.json", document), tmp_path / "out") as corpus:
        assert column(corpus, "SELECT result->>'$' FROM attempts ORDER BY call") == ["4", "5"]


def test_a_step_without_a_model_has_no_model_call(tmp_path: Path) -> None:
    document = trajectory(2)
    document["steps"][1]["llm_call_count"] = 0
    with imported(write_json(tmp_path / "t.json", document), tmp_path / "out") as corpus:
        assert one(corpus, "SELECT n_steps FROM episodes") == 2
        assert column(corpus, "SELECT step FROM model_calls") == [1]
        assert column(corpus, "SELECT step FROM steps ORDER BY step") == [0, 1]


def test_metrics_of_a_step_count_its_tokens_and_cost(tmp_path: Path) -> None:
    document = trajectory(1)
    document["steps"][1]["metrics"] = {
        "prompt_tokens": 100,
        "completion_tokens": 7,
        "cached_tokens": 60,
        "cost_usd": 0.25,
        "logprobs": [-0.5],
    }
    with imported(write_json(tmp_path / "t.json", document), tmp_path / "out") as corpus:
        columns = "input_tokens, output_tokens, cached_tokens, cost, model, is_reconstructed"
        row = one(corpus, f"SELECT {columns} FROM model_calls")
        assert row == (100, 7, 60, 0.25, "m", True)
        extra = one(corpus, "SELECT extra->'$.metrics.logprobs' FROM model_calls")
        assert json.loads(extra) == [-0.5]


def test_embedded_agents_are_episodes_inside_of_the_caller(tmp_path: Path) -> None:
    inner = {**trajectory(1), "trajectory_id": "inner"}
    document = trajectory(2, subagent_trajectories=[inner])
    result = document["steps"][2]["observation"]["results"][0]
    result["subagent_trajectory_ref"] = [{"trajectory_id": "inner"}]
    with imported(write_json(tmp_path / "t.json", document), tmp_path / "out") as corpus:
        caller = one(corpus, "SELECT episode_id FROM episodes")
        nested = "SELECT caller_id, caller_step FROM all_episodes WHERE kind = 'nested'"
        assert one(corpus, nested) == (caller, 1)


def test_a_timeout_truncates_and_blames_nobody(tmp_path: Path) -> None:
    write_json(tmp_path / "trial" / "agent" / "trajectory.json", trajectory())
    write_json(
        tmp_path / "trial" / "result.json",
        {
            "trial_name": "t",
            "verifier_result": {"rewards": {"reward": 0.0, "style": 0.5}},
            "exception_info": {"exception_type": "AgentTimeoutError", "exception_message": "slow"},
        },
    )
    with imported(tmp_path / "trial", tmp_path / "out") as corpus:
        row = one(corpus, "SELECT ending, outcome, fault, stop_reason FROM episodes")
        assert row == ("truncated", "failure", None, "AgentTimeoutError")
        checks = "SELECT check_id, verdict, score, is_primary FROM checks ORDER BY check_id"
        assert corpus.sql(checks).fetchall() == [
            ("reward", False, 0.0, True),
            ("style", None, 0.5, False),
        ]


def test_parts_that_name_each_other_end(tmp_path: Path) -> None:
    folder = tmp_path / "trial" / "agent"
    write_json(folder / "trajectory.json", trajectory(continued_trajectory_ref="trajectory.b.json"))
    write_json(folder / "trajectory.b.json", trajectory(continued_trajectory_ref="trajectory.json"))
    report = import_trajectories(tmp_path / "trial", tmp_path / "out")
    assert "which is not there" in " ".join(report.files[0].account.notes)
    assert report.files[0].n_steps == 4
