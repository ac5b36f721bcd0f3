"""Results of verifiers: graphs of messages become conversations, calls, rewards and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from imported import column, imported, lost_leaves, one, write_lines

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.corpus import Corpus
from trajrec.exchange.importing import import_trajectories

pytestmark = pytest.mark.slow

TOOLS = [{"type": "function", "name": "run", "description": "Run it.", "parameters": {}}]


def node(role: str, content: Any, parent: int | None = None, **fields: Any) -> dict[str, Any]:
    """Return a message of the graph; one of a model was sampled."""
    message = {"role": role, "content": content, **fields.pop("message", {})}
    place = {} if parent is None else {"parent": parent}
    return {
        **place,
        "message": message,
        "sampled": role == "assistant",
        "timestamp": 1795907908.5,
        "token_ids": [],
        "mask": [],
        "logprobs": [],
        **fields,
    }


def asks(call_id: str, arguments: str = '{"command": "ls"}') -> dict[str, Any]:
    """Return the fields of a message that calls a tool."""
    call = {"id": call_id, "type": "function", "name": "run", "arguments": arguments}
    return {"tool_calls": [call]}


def result(call_id: str) -> dict[str, Any]:
    return {"tool_call_id": call_id, "name": "run"}


def call(number: int | None, **fields: Any) -> dict[str, Any]:
    """Return a model call that gave a node."""
    place = {} if number is None else {"node": number}
    time = {"start": 1795907908.0, "end": 1795907909.5}
    return {**place, "model": "m", "sampling": {"temperature": 0.5}, "time": time, **fields}


def trace(nodes: list[Any], calls: list[Any], **fields: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "id": "t1",
        "verifiers": {"version": "0.4.0"},
        "task": {"type": "T", "data": {"idx": 3, "prompt": "Go.", "answer": "42"}, "key": "k3"},
        "agent": {"name": "agent", "config": {"model": "m", "harness": {"id": "bash"}}},
        "tools": TOOLS,
        "nodes": nodes,
        "calls": calls,
        "rewards": {"right": {"score": 0.5, "weight": 2.0}},
        "metrics": {"n_words": 7.0},
        "is_completed": True,
        "ok": True,
        "is_timeout": False,
        "stop_condition": "agent_completed",
        "errors": [],
        "timing": {"start": 1795907900.0, "agent": {"start": 1795907901.0, "end": 1795907910.0}},
        **fields,
    }


def talk() -> dict[str, Any]:
    """Return a trace with a call of a tool."""
    nodes = [
        node("system", "Be kind.", tools=TOOLS),
        node("user", "Go.", 0),
        node("assistant", "I run it.", 1, message=asks("c1"), token_ids=[5, 6], logprobs=[-0.25]),
        node("tool", "a.txt", 2, message=result("c1")),
        node("assistant", "Done.", 3),
    ]
    usage = {"prompt_tokens": 10, "cached_input_tokens": 30, "completion_tokens": 4}
    return trace(nodes, [call(2, finish_reason="tool_calls", usage=usage), call(4)])


def episode(*traces: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "id": "e1",
        "env": {"id": "words"},
        "task": {"type": "T", "data": {"idx": 3}, "key": "k3"},
        "group": {"id": "g1"},
        "run": {"type": "eval", "id": "r1"},
        "ok": True,
        "is_timeout": False,
        "errors": [],
        "traces": list(traces),
        **fields,
    }


def read(tmp_path: Path, *lines: dict[str, Any]) -> Corpus:
    """Return the corpus of a file, of which nothing is lost."""
    path = write_lines(tmp_path / "traces.jsonl", list(lines))
    corpus = imported(path, tmp_path / "runs", redact=False)
    assert lost_leaves(list(lines), tmp_path / "runs", words={"function"}) == {}
    return corpus


def told(corpus: Corpus) -> list[list[tuple[str, str]]]:
    return [[(m["role"], m["content"]) for m in talk.messages] for talk in corpus.messages()]


def test_a_trace_is_an_episode_with_its_calls(tmp_path: Path) -> None:
    with read(tmp_path, episode(talk())) as corpus:
        assert told(corpus) == [
            [
                ("system", "Be kind."),
                ("user", "Go."),
                ("assistant", "I run it."),
                ("tool", "a.txt"),
                ("assistant", "Done."),
            ]
        ]
        query = "SELECT task, n_steps, ending, metadata->>'$.group' FROM episodes"
        assert corpus.sql(query).fetchall() == [("words/3", 2, "terminated", "g1")]
        query = "SELECT tool, arguments->>'$.command', result->>'$', outcome FROM attempts"
        assert corpus.sql(query).fetchall() == [("run", "ls", "a.txt", "unknown")]
        query = "SELECT finish_reason, latency_ms FROM model_calls WHERE number = 0"
        assert corpus.sql(query).fetchall() == [("tool_calls", 1500.0)]


def test_cached_tokens_count_as_tokens_of_the_request(tmp_path: Path) -> None:
    with read(tmp_path, episode(talk())) as corpus:
        query = "SELECT input_tokens, cached_tokens, output_tokens FROM model_calls"
        assert corpus.sql(query).fetchall()[0] == (40, 30, 4)


def test_rewards_are_scores_and_no_verdicts(tmp_path: Path) -> None:
    rewards = {"right": {"score": 1.0, "weight": 1.0}, "short": None}
    with read(tmp_path, episode({**talk(), "rewards": rewards})) as corpus:
        query = "SELECT check_id, status, score, verdict, is_primary FROM checks ORDER BY 1"
        assert corpus.sql(query).fetchall() == [
            ("metric n_words", "ok", 7.0, None, False),
            ("right", "ok", 1.0, None, True),
            ("short", "not_evaluated", None, None, False),
        ]
        assert column(corpus, "SELECT outcome FROM episodes") == [None]


def test_a_shortened_conversation_has_several_ends(tmp_path: Path) -> None:
    nodes = [
        node("user", "Go."),
        node("assistant", "One.", 0),
        node("user", "More?", 1),
        node("assistant", "Two.", 2),
        node("user", "In short: one, two. Go on."),
        node("assistant", "Three.", 4),
    ]
    with read(tmp_path, episode(trace(nodes, [call(1), call(3), call(5)]))) as corpus:
        assert [[content for _, content in talk] for talk in told(corpus)] == [
            ["Go.", "One.", "More?", "Two."],
            ["In short: one, two. Go on.", "Three."],
        ]
        assert column(corpus, "SELECT n_messages FROM model_calls ORDER BY number") == [1, 3, 1]


def test_each_agent_of_an_episode_has_its_own_task(tmp_path: Path) -> None:
    judge = {**talk(), "agent": {"name": "judge", "config": {"model": "j"}}, "id": "t2"}
    with read(tmp_path, episode(talk(), judge)) as corpus:
        query = "SELECT task, source->>'$.position' FROM episodes ORDER BY 1"
        assert corpus.sql(query).fetchall() == [
            ("words/3/agent", "line 1 traces[0]"),
            ("words/3/judge", "line 1 traces[1]"),
        ]


def test_a_trace_may_stand_alone_in_its_line(tmp_path: Path) -> None:
    with read(tmp_path, talk(), talk()) as corpus:
        assert column(corpus, "SELECT task FROM episodes") == ["3", "3"]


def test_equal_ids_of_calls_have_the_results_of_their_own(tmp_path: Path) -> None:
    nodes = [node("user", "Go.")]
    for number in range(3):
        last = len(nodes) - 1
        nodes.append(node("assistant", f"say {number}", last, message=asks("c")))
        nodes.append(node("tool", f"result {number}", last + 1, message=result("c")))
    # The last result was in no request.
    with read(tmp_path, episode(trace(nodes, [call(1), call(3), call(5)]))) as corpus:
        query = "SELECT result->>'$' FROM attempts ORDER BY step"
        assert column(corpus, query) == ["result 0", "result 1", "result 2"]


def test_an_answer_that_was_said_twice_is_two_model_calls(tmp_path: Path) -> None:
    nodes = [
        node("user", "Go."),
        node("assistant", "Run.", 0, message=asks("c1")),
        node("tool", "ok", 1, message=result("c1")),
    ]
    with read(tmp_path, episode(trace(nodes, [call(1), call(1)]))) as corpus:
        assert one(corpus, "SELECT count(*) FROM model_calls") == 2
        assert one(corpus, "SELECT count(*) FROM attempts") == 1


def test_a_call_that_failed_has_no_answer(tmp_path: Path) -> None:
    error = {"type": "ProviderError", "message": "overloaded", "status_code": 529}
    nodes = [node("user", "Go."), node("assistant", "Done.", 0)]
    with read(tmp_path, episode(trace(nodes, [call(None, error=error), call(1)]))) as corpus:
        query = "SELECT outcome, error_type, message FROM model_calls ORDER BY number"
        assert corpus.sql(query).fetchall() == [
            ("error", "ProviderError", "overloaded"),
            ("ok", None, None),
        ]


@pytest.mark.parametrize(
    ("fields", "ending", "fault"),
    [
        ({"ok": True, "errors": ["SandboxError"]}, "terminated", ""),
        ({"ok": False, "errors": ["HarnessError"]}, "error", ""),
        ({"ok": False, "errors": ["ProviderError"]}, "error", "infra"),
        ({"ok": False, "errors": ["TaskError"]}, "error", "env"),
        ({"ok": False, "errors": ["TaskError"], "scored": True}, "error", "verifier"),
        ({"ok": False, "is_timeout": True, "stop_condition": "agent_timeout"}, "truncated", ""),
        ({"ok": True, "stop_condition": "max_turns"}, "truncated", ""),
        ({"ok": False, "is_completed": False}, "unknown", ""),
    ],
)
def test_the_ending_and_the_fault_come_from_the_errors(
    fields: dict[str, Any], ending: str, fault: str, tmp_path: Path
) -> None:
    errors = [{"type": kind, "message": f"it was {kind}"} for kind in fields.pop("errors", ())]
    timing = {"scoring": {"start": 1795907911.0}} if fields.pop("scored", False) else {}
    with read(
        tmp_path, episode({**talk(), **fields, "errors": errors, "timing": timing})
    ) as corpus:
        query = "SELECT ending, coalesce(fault, '') FROM episodes"
        assert corpus.sql(query).fetchall() == [(ending, fault)]
        assert one(corpus, "SELECT count(*) FROM failures") == len(errors)


def test_an_episode_without_a_trace_keeps_its_error(tmp_path: Path) -> None:
    error = {"type": "EnvError", "message": "run() failed", "traceback": "line 1"}
    with read(tmp_path, episode(ok=False, errors=[error])) as corpus:
        query = "SELECT task, n_steps, ending, fault FROM episodes"
        assert corpus.sql(query).fetchall() == [("words/3", 0, "error", "env")]


def test_tokens_and_log_probabilities_are_values_of_the_step(tmp_path: Path) -> None:
    with read(tmp_path, episode(talk())) as corpus:
        (found,) = corpus.episodes()
        values = found.step_values[0]
    assert {"token_ids": [5, 6], "logprobs": [-0.25]}.items() <= values.items()


@pytest.mark.parametrize("parent", [1, 7, -1, "0", 0.0, True])
def test_a_parent_that_is_no_earlier_message_is_refused(parent: Any, tmp_path: Path) -> None:
    nodes = [node("user", "Go."), node("assistant", "Done.", parent)]
    broken = trace(nodes, [call(1)])
    path = write_lines(tmp_path / "a.jsonl", [episode(talk()), episode(broken)])
    report = import_trajectories(path, tmp_path / "runs")
    (reason,) = report.files[0].account.dropped
    assert "nodes[1] must have an earlier parent" in reason
    assert len(report.episodes) == 1


def test_the_command_tells_the_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_lines(tmp_path / "traces.jsonl", [episode(talk())])
    assert main(["import", str(path), "-o", str(tmp_path / "runs")]) == 0
    assert "verifiers" in capsys.readouterr().out


def test_results_that_are_imported_again_count_once(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "traces.jsonl", [episode(talk())])
    for _ in range(2):
        import_trajectories(path, tmp_path / "runs")
    with trajrec.open(tmp_path / "runs") as corpus:
        assert one(corpus, "SELECT count(*) FROM episodes") == 1
