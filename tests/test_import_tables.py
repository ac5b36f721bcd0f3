"""tau-bench, tau2 and tables of messages: the traps of real files, each as a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
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

import trajrec
from trajrec.errors import ImportFileError
from trajrec.exchange.importing import import_trajectories
from trajrec.exchange.mappings import shipped_mappings

# The unmarked tier has test_import_counts.py, which reads a file of each format.
pytestmark = pytest.mark.slow


def chat(*messages: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in messages]


def call(call_id: str, name: str = "add", **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": call_id, "type": "function", "function": function}


@needs_data
def test_a_trial_is_a_repetition_of_its_task(tmp_path: Path) -> None:
    with imported(DATA / "tau-bench" / "gpt-4o-airline.slice.json", tmp_path) as corpus:
        trials = column(corpus, "SELECT metadata->>'$.trial' FROM episodes WHERE task = '13'")
        assert sorted(trials) == ["0", "2"]


@needs_data
def test_the_actions_of_a_solution_are_in_no_goal_or_message(tmp_path: Path) -> None:
    with imported(DATA / "tau-bench" / "gpt-4o-airline.slice.json", tmp_path) as corpus:
        for episode in corpus.episodes():
            goal = episode.value(episode.task_start.goal_data)
            assert "HAT136" not in str(goal)
        assert one(corpus, "SELECT count(*) FROM episodes WHERE extra LIKE '%actions%'") == 6


@needs_data
def test_a_constant_greeting_is_no_model_call(tmp_path: Path) -> None:
    with imported(DATA / "tau2" / "gen" / "mock_scripted.json", tmp_path) as corpus:
        steps = "SELECT min(step) FROM model_calls GROUP BY episode_id"
        assert column(corpus, steps) == [1, 1, 1]
        first = "SELECT count(*) FROM messages WHERE text = 'Hi! How can I help you today?'"
        assert one(corpus, first) == 3


@needs_data
def test_a_reward_without_a_judged_part_says_so(tmp_path: Path) -> None:
    with imported(DATA / "tau2" / "gen" / "mock_scripted.json", tmp_path) as corpus:
        rows = corpus.sql(
            "SELECT check_id, status, score FROM checks JOIN episodes USING (episode_id) "
            "WHERE stop_reason = 'too_many_errors' ORDER BY is_primary DESC"
        ).fetchall()
        assert rows[0] == ("reward", "ok", 0.0)
        assert {status for _, status, _ in rows[1:]} <= {"not_evaluated"}
        # A part may be met though another one fails.
        met = "SELECT count(*) FROM checks WHERE check_id = 'env_assertion 0' AND verdict"
        assert one(corpus, met) == 2


@pytest.mark.parametrize(
    ("name", "odd"), [("seed", 0.625), ("seed", 1 << 64), ("trial", [0.625]), ("id", 0.625)]
)
def test_conditions_of_another_type_are_kept(name: str, odd: Any, tmp_path: Path) -> None:
    simulation = {"id": "s", "task_id": "1", "messages": chat(("assistant", "Hi.")), name: odd}
    results = {"info": {}, "tasks": [], "simulations": [simulation]}
    path = write_json(tmp_path / "t.json", results)
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT count(*) FROM episodes") == 1
    assert not lost_leaves(simulation, tmp_path / "out")


def test_tasks_that_no_episode_holds_are_counted(tmp_path: Path) -> None:
    tasks = [{"id": name} for name in ("1", "1", "2")]
    write_json(tmp_path / "run" / "results.json", {"info": {}, "tasks": tasks})
    simulation = {"id": "s", "task_id": "1", "messages": chat(("assistant", "Hi."))}
    write_json(tmp_path / "run" / "simulations" / "s.json", simulation)
    with imported(tmp_path / "run", tmp_path / "out") as corpus:
        dropped = json.loads(one(corpus, "SELECT report->'$.dropped_reasons' FROM imports"))
    assert dropped == {"a task whose id another one has": 1, "a task without a simulation": 1}


def test_an_episode_of_tau_bench_that_raised_has_a_failure(tmp_path: Path) -> None:
    info = {"error": "the server is away", "traceback": "Traceback"}
    path = write_json(
        tmp_path / "t.json", [{"task_id": 1, "reward": 0.0, "info": info, "traj": [], "trial": 0}]
    )
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT ending FROM episodes") == "error"
        row = one(corpus, "SELECT origin, message FROM failures")
        assert row == ("scaffold", "the server is away")


def test_a_trial_of_another_type_is_kept(tmp_path: Path) -> None:
    episode = {"task_id": "1", "reward": 1.0, "traj": chat(("assistant", "Hi.")), "trial": 0.625}
    path = write_json(tmp_path / "t.json", [episode])
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT count(*) FROM episodes") == 1
    assert not lost_leaves(episode, tmp_path / "out")


@needs_data
def test_results_without_ids_are_paired_by_order_and_requestor(tmp_path: Path) -> None:
    with imported(DATA / "tau2" / "alpha-model.jsonl", tmp_path) as corpus:
        rows = corpus.sql(
            "SELECT tool, actor, result->>'$' FROM attempts JOIN episodes USING (episode_id) "
            "WHERE task LIKE 'telecom/%' ORDER BY attempts.step, call"
        ).fetchall()
    assert rows[1:] == [
        ("get_usage", "agent", "usage-result"),
        ("get_bill", "agent", "bill-result"),
        ("check_status", "user", "status-result"),
        ("toggle_mode", "user", "toggle-result"),
    ]


@needs_data
def test_an_index_without_its_simulations_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ImportFileError, match="import the folder that has `simulations`"):
        import_trajectories(DATA / "tau2" / "voice_results_index.json", tmp_path)


@needs_data
def test_the_folder_of_a_run_of_tau2_is_read_as_one(tmp_path: Path) -> None:
    whole = json.loads((DATA / "tau2" / "gen" / "mock_scripted.json").read_text())
    simulations = whole.pop("simulations")
    write_json(tmp_path / "run" / "results.json", whole)
    for number, simulation in enumerate(simulations):
        write_json(tmp_path / "run" / "simulations" / f"{number}.json", simulation)
    with imported(tmp_path / "run", tmp_path / "out") as corpus:
        assert one(corpus, "SELECT count(*) FROM episodes") == 3
        assert one(corpus, "SELECT count(*) FROM imports") == 1


@needs_data
def test_null_arguments_that_a_table_adds_are_left_out(tmp_path: Path) -> None:
    with imported(DATA / "hf-messages" / "trl_messages.parquet", tmp_path) as corpus:
        arguments = column(corpus, "SELECT DISTINCT arguments::VARCHAR FROM attempts")
        assert {text.replace(" ", "") for text in arguments} == {'{"x":1,"y":2}', '{"z":"3"}'}


def test_null_arguments_stay_if_the_mapping_does_not_say_so(tmp_path: Path) -> None:
    messages = [*chat(("user", "Go.")), {"role": "assistant", "tool_calls": [call("c", x=None)]}]
    path = write_lines(tmp_path / "t.jsonl", [{"talk": messages}])
    mapping = tmp_path / "m.toml"
    mapping.write_text('name = "mine"\nrequires = ["talk"]\nmessages = ["talk"]\n')
    with imported(path, tmp_path / "out", mapping=mapping) as corpus:
        assert json.loads(one(corpus, "SELECT arguments FROM attempts")) == {"x": None}
        assert one(corpus, "SELECT format FROM imports") == "messages:mine"


def test_a_mapping_names_roles_texts_and_verdicts(tmp_path: Path) -> None:
    row = {
        "talk": [{"who": "human", "said": "Hi."}, {"who": "gpt", "said": "Hello."}],
        "won": 1,
        "name": "t1",
        "seen": "yesterday",
    }
    path = write_lines(tmp_path / "t.jsonl", [row])
    mapping = tmp_path / "m.toml"
    mapping.write_text(
        """
name = "mine"
requires = ["talk"]
messages = ["talk"]
task = "name"
[message]
role = "who"
content = ["said"]
roles = { human = "user", gpt = "assistant" }
[[checks]]
id = "won"
field = "won"
"""
    )
    with imported(path, tmp_path / "out", mapping=mapping) as corpus:
        assert one(corpus, "SELECT task, n_steps, outcome FROM episodes") == ("t1", 1, "success")
        assert json.loads(one(corpus, "SELECT extra FROM episodes")) == {"seen": "yesterday"}
        said = corpus.sql("SELECT role, text FROM messages ORDER BY number").fetchall()
        assert said == [("user", "Hi."), ("assistant", "Hello.")]


def test_fields_named_as_those_of_chats_do_not_hide_the_mapped(tmp_path: Path) -> None:
    said = {"who": "user", "role": "admin", "text": "Hi.", "content": "Other."}
    told = {"who": "assistant", "role": None, "text": "Hello.", "content": None}
    path = write_lines(tmp_path / "t.jsonl", [{"talk": [said, told]}])
    mapping = tmp_path / "m.toml"
    mapping.write_text(
        'name = "mine"\nrequires = ["talk"]\nmessages = ["talk"]\n'
        '[message]\nrole = "who"\ncontent = ["text", "content"]\n'
    )
    with imported(path, tmp_path / "out", mapping=mapping) as corpus:
        rows = corpus.sql("SELECT role, text FROM messages ORDER BY number").fetchall()
        assert rows == [("user", "Hi."), ("assistant", "Hello.")]
    assert not lost_leaves([said, told], tmp_path / "out")


def test_a_null_beside_the_id_of_a_call_does_not_hide_it(tmp_path: Path) -> None:
    calls = [call("c1"), call("c2")]
    result = {"role": "tool", "tool_call_id": None, "id": "c2", "content": "two"}
    messages = [*chat(("user", "Go.")), {"role": "assistant", "tool_calls": calls}, result]
    path = write_lines(tmp_path / "t.jsonl", [{"messages": messages}])
    with imported(path, tmp_path / "out") as corpus:
        rows = corpus.sql("SELECT call_id, result FROM attempts ORDER BY call_id").fetchall()
        assert rows == [("c1", None), ("c2", '"two"')]


def test_a_mapping_with_a_wrong_name_is_refused(tmp_path: Path) -> None:
    mapping = tmp_path / "m.toml"
    mapping.write_text('name = "m"\nrequires = []\nmesages = ["x"]\n')
    with pytest.raises(ImportFileError, match="unknown field `mesages`"):
        import_trajectories(tmp_path, tmp_path / "out", mapping=mapping)


def test_every_shipped_mapping_names_its_conversation() -> None:
    names = {mapping.name for mapping in shipped_mappings()}
    assert {"trl", "swe-smith", "nebius", "agentgym", "swe-gym", "swe-rebench"} <= names
    for mapping in shipped_mappings():
        assert all(variant.messages for variant in mapping.conversations)
        assert set(mapping.requires) <= mapping.columns | {"run_id", "traj_id", "trajectory_id"}


@needs_data
def test_a_preference_is_two_episodes_with_a_verdict_each(tmp_path: Path) -> None:
    with imported(DATA / "hf-messages" / "trl_preference.jsonl", tmp_path) as corpus:
        positions = "SELECT source->>'$.position', outcome FROM episodes ORDER BY 1"
        assert corpus.sql(positions).fetchall() == [
            ("line 1 chosen", "success"),
            ("line 1 rejected", "failure"),
        ]


@needs_data
def test_rows_of_prompts_are_no_trajectories(tmp_path: Path) -> None:
    with pytest.raises(ImportFileError, match="holds prompts and no trajectories"):
        import_trajectories(DATA / "hf-messages" / "verl_prompts.parquet", tmp_path)


def test_messages_come_out_as_they_went_in(tmp_path: Path) -> None:
    messages = [
        *chat(("system", "Be exact."), ("user", "1+2?")),
        {"role": "assistant", "content": "", "tool_calls": [call("c1", x=1), call("c2", x=2)]},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        *chat(("assistant", "3"), ("user", "Thanks.")),
    ]
    path = write_lines(tmp_path / "t.jsonl", [{"messages": messages}])
    with imported(path, tmp_path / "out") as corpus:
        (episode,) = corpus.episodes()
        assert [said.value for said in episode.messages] == messages
        results = corpus.sql("SELECT call_id, result->>'$' FROM attempts ORDER BY call").fetchall()
        assert results == [("c1", "one"), ("c2", "two")]


def test_a_large_table_is_read_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with duckdb.connect() as con:
        con.execute(
            "COPY (SELECT [{role: 'user', content: 'a' || i}, {role: 'assistant', content: 'b'}] "
            f"AS messages, 't' || i AS task_id FROM range(300) r(i)) TO '{path}' (FORMAT parquet)"
        )
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT count(*), count(DISTINCT task) FROM episodes") == (300, 300)


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with duckdb.connect() as con:
        con.execute(f"COPY (SELECT [{{role: 'user'}}] AS messages) TO '{path}' (FORMAT parquet)")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ImportFileError):
        import_trajectories(path, tmp_path / "out")
    assert trajrec is not None


@pytest.mark.slow
def test_a_table_whose_names_are_no_text_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    duckdb.sql(f"COPY (SELECT 'x' AS messages, 1 AS other) TO '{file}'")
    data = file.read_bytes()
    assert data.count(b"messages") > 1
    file.write_bytes(data.replace(b"messages", b"\xff\xfessages"))
    with pytest.raises(ImportFileError):
        import_trajectories(file, tmp_path / "out")


def test_tasks_of_published_lines_are_told_by_their_ids(tmp_path: Path) -> None:
    def line(meta: Any) -> dict[str, Any]:
        said = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
        return {
            "model_path": "m",
            "task_name": "airline",
            "messages": said,
            "eval_result": {"score": 1.0},
            "meta": meta,
        }

    metas = [
        {"id": "airline_7", "task_id": "7", "finish_reason": "max_steps", "agent_cost": 0.5},
        {"id": "8", "finish_reason": "infrastructure_error"},
        None,
    ]
    path = write_lines(tmp_path / "m.jsonl", list(map(line, metas)))
    with imported(path, tmp_path / "out") as corpus:
        columns = "task, ending, stop_reason, fault, reported::VARCHAR"
        assert corpus.sql(f"SELECT {columns} FROM episodes ORDER BY number").fetchall() == [
            ("airline/7", "truncated", "max_steps", None, '{"agent_cost":0.5}'),
            ("airline/8", "error", "infrastructure_error", "infra", None),
            (None, "unknown", None, None, None),
        ]
        assert (
            one(corpus, "SELECT extra->>'$.task_name' FROM episodes WHERE task IS NULL")
            == "airline"
        )


def test_tasks_of_two_domains_of_tau2_are_two_tasks(tmp_path: Path) -> None:
    simulation = {"id": "s", "task_id": "1", "messages": chat(("assistant", "Hi."))}
    for domain in ("airline", "retail"):
        info = {"environment_info": {"domain_name": domain}}
        results = {"info": info, "tasks": [{"id": "1"}], "simulations": [simulation]}
        write_json(tmp_path / "in" / f"{domain}.json", results)
    with imported(tmp_path / "in", tmp_path / "out") as corpus:
        tasks = column(corpus, "SELECT task FROM episodes ORDER BY task")
        assert tasks == ["airline/1", "retail/1"]


@pytest.mark.parametrize("own", [{"id": "c1", "requestor": "assistant"}, {}])
def test_a_result_names_its_call_in_messages(tmp_path: Path, own: dict[str, Any]) -> None:
    call = {"id": "c1", "name": "look", "arguments": {"x": 1}, "requestor": "assistant"}
    said = [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "I look.", "tool_calls": [call]},
        {"role": "tool", "content": "4", **own},
        {"role": "assistant", "content": "It is 4.", "usage": {"prompt_tokens": 1}},
    ]
    simulation = {"id": "s", "task_id": "1", "messages": said}
    results = {"info": {}, "tasks": [{"id": "1"}], "simulations": [simulation]}
    with imported(write_json(tmp_path / "r.json", results), tmp_path / "out") as corpus:
        (talk,) = corpus.messages()
        (result,) = (message for message in talk.messages if message["role"] == "tool")
        assert (result["tool_call_id"], result["name"]) == ("c1", "look")
        query = "SELECT call_ids->>'$[0]' FROM messages WHERE role = 'tool'"
        assert one(corpus, query) == "c1"
