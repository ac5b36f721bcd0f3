"""Tokens of imported model calls: all of the input, and all of the output, in each tool's words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from imported import imported, one, write_json, write_lines

import trajrec
from trajrec.corpus.call_contents import usage_of
from trajrec.exchange.exporting import export_atif, export_otlp
from trajrec.exchange.importing import import_trajectories
from trajrec.wire.contents import Usage

COUNTS = "input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens"


def test_gemini_cli_counts_reasoning_and_results_of_tools(tmp_path: Path) -> None:
    tokens = {"input": 100, "output": 50, "cached": 4, "thoughts": 15, "tool": 20, "total": 185}
    messages = [
        {"id": "1", "type": "user", "content": "Hi."},
        {"id": "2", "type": "gemini", "content": "Hello.", "model": "g", "tokens": tokens},
    ]
    path = write_json(tmp_path / "s.json", {"projectHash": "x", "messages": messages})
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, f"SELECT {COUNTS} FROM model_calls") == (120, 65, 4, None, 15)


def test_counts_that_codex_repeats_belong_to_no_other_turn(tmp_path: Path) -> None:
    def item(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        return {"timestamp": "2026-01-01T00:00:00Z", "type": kind, "payload": payload}

    def said(role: str) -> dict[str, Any]:
        return item("response_item", {"type": "message", "role": role, "content": "Hi."})

    usage = {"input_tokens": 9, "output_tokens": 3}
    info = {"total_token_usage": usage, "last_token_usage": usage}
    count = item("event_msg", {"type": "token_count", "info": info})
    lines = [
        item("session_meta", {"id": "s"}),
        said("user"),
        said("assistant"),
        count,
        said("user"),
        # Broken off: the count that follows is that of the answer before.
        said("assistant"),
        count,
    ]
    with imported(write_lines(tmp_path / "s.jsonl", lines), tmp_path / "out") as corpus:
        query = "SELECT input_tokens FROM model_calls ORDER BY number"
        assert corpus.sql(query).fetchall() == [(9,), (None,)]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # OpenAI's without a cache, Anthropic's with one, Google's with reasoning.
        ((60, 2, 62, None, None, 1), Usage(60, 2, reasoning=1)),
        ((60, 2, 62, 0, None, None), Usage(60, 2, 0)),
        ((3, 20, 123, 90, 10, None), Usage(103, 20, 90, 10)),
        ((7, 2, 39, None, None, 30), Usage(7, 32, reasoning=30)),
        # The sum has no cache, which is larger than the input, so it stands beside it.
        ((95, 37, 132, 560, None, None), Usage(655, 37, 560)),
        # All of the input or that beside the cache: nothing tells.
        ((95, 37, 132, 56, None, None), Usage(None, 37, 56)),
    ],
)
def test_tokens_of_inspect_are_told_by_their_sum(counts: tuple[Any, ...], expected: Usage) -> None:
    names = (
        "input_tokens",
        "output_tokens",
        "total_tokens",
        "input_tokens_cache_read",
        "input_tokens_cache_write",
        "reasoning_tokens",
    )
    assert usage_of(dict(zip(names, counts, strict=True))) == expected


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("operation", "names"),
    [
        (
            "gen_ai.operation.name",
            (
                "gen_ai.usage.input_tokens",
                "gen_ai.usage.output_tokens",
                "gen_ai.usage.cache_read.input_tokens",
                "gen_ai.usage.cache_creation.input_tokens",
                "gen_ai.usage.reasoning.output_tokens",
            ),
        ),
        (
            "openinference.span.kind",
            (
                "llm.token_count.prompt",
                "llm.token_count.completion",
                "llm.token_count.prompt_details.cache_read",
                "llm.token_count.prompt_details.cache_write",
                "llm.token_count.completion_details.reasoning",
            ),
        ),
    ],
)
def test_traces_count_writes_to_caches_and_reasoning(
    tmp_path: Path, operation: str, names: tuple[str, ...]
) -> None:
    kind = "chat" if operation.startswith("gen_ai") else "LLM"
    attributes = [{"key": operation, "value": {"stringValue": kind}}]
    for number, name in enumerate(names, 10):
        attributes.append({"key": name, "value": {"intValue": str(number)}})
    span = {
        "traceId": "1" * 32,
        "spanId": "2" * 16,
        "name": "ask",
        "startTimeUnixNano": "1",
        "endTimeUnixNano": "2",
        "attributes": attributes,
    }
    export = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    with imported(write_json(tmp_path / "t.json", export), tmp_path / "out") as corpus:
        assert one(corpus, f"SELECT {COUNTS} FROM model_calls") == (10, 11, 12, 13, 14)


@pytest.mark.parametrize(
    ("status", "claims"), [("submitted", True), ("submitted (exit_cost)", False)]
)
def test_swe_agents_own_submission_is_no_claim(tmp_path: Path, status: str, claims: bool) -> None:
    step = {"action": "ls", "observation": "a", "response": "Look.", "thought": ""}
    run = {
        "trajectory": [step],
        "history": [{"role": "assistant", "content": "Look."}],
        "info": {"exit_status": status},
    }
    path = tmp_path / "t.traj"
    path.write_text(json.dumps(run))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT claimed_done FROM episodes") is claims


def test_tokens_and_price_of_inspect_reach_every_reader(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": "Done."}
    usage = {
        "input_tokens": 3,
        "output_tokens": 20,
        "total_tokens": 123,
        "input_tokens_cache_read": 100,
        "total_cost": 0.25,
    }
    output = {"model": "m", "choices": [{"message": message}], "usage": usage}
    event = {"event": "model", "model": "m", "input": [], "output": output}
    sample = {"id": "a", "epoch": 1, "input": "Go.", "messages": [], "events": [event]}
    log = {"version": 2, "status": "success", "eval": {"task": "t"}, "samples": [sample]}
    expected = (103, 20, 100, None, None)
    atif = tmp_path / "a.jsonl"
    traces = tmp_path / "t.jsonl"
    with imported(write_json(tmp_path / "log.json", log), tmp_path / "out") as corpus:
        assert one(corpus, f"SELECT {COUNTS}, cost FROM model_calls") == (*expected, 0.25)
        export_atif(corpus, atif)
        export_otlp(corpus, traces)
    steps = json.loads(atif.read_text())["steps"]
    assert [step["metrics"] for step in steps if "metrics" in step] == [
        {"prompt_tokens": 103, "completion_tokens": 20, "cached_tokens": 100, "cost_usd": 0.25}
    ]
    import_trajectories(traces, tmp_path / "back").raise_if_failed()
    with trajrec.open(tmp_path / "back") as corpus:
        assert one(corpus, f"SELECT {COUNTS}, cost FROM model_calls") == (*expected, 0.25)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ("gen_ai.operation.name", "operation.cost"),
        ("gen_ai.operation.name", "gen_ai.usage.cost"),
        ("openinference.span.kind", "llm.cost.total"),
    ],
)
def test_the_price_of_a_span_is_the_cost_of_its_call(
    tmp_path: Path, operation: str, name: str
) -> None:
    kind = "chat" if operation.startswith("gen_ai") else "LLM"
    span = {
        "traceId": "1" * 32,
        "spanId": "2" * 16,
        "name": "ask",
        "startTimeUnixNano": "1",
        "endTimeUnixNano": "2",
        "attributes": [
            {"key": operation, "value": {"stringValue": kind}},
            {"key": name, "value": {"doubleValue": 0.5}},
        ],
    }
    export = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    with imported(write_json(tmp_path / "t.json", export), tmp_path / "out") as corpus:
        assert one(corpus, "SELECT cost FROM model_calls") == 0.5
