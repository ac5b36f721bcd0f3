"""Traces in OTLP/JSON: the traps of real files, each as a test."""

from __future__ import annotations

import json
import re
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
    write_json,
    write_lines,
)
from tiers import third_slow

from trajrec.errors import ImportFileError
from trajrec.exchange.importing import import_trajectories
from trajrec.exchange.otlp_spans import attributes_of
from trajrec.exchange.reading import Place

# The unmarked tier has test_import_counts.py, which reads a file of each format.
pytestmark = pytest.mark.slow

OTLP = DATA / "otlp"

AGENT = {"gen_ai__operation__name": "invoke_agent"}


def value(item: Any) -> dict[str, Any]:
    if isinstance(item, bool):
        return {"boolValue": item}
    return {"intValue": str(item)} if isinstance(item, int) else {"stringValue": item}


def span(span_id: str, parent: str = "", **attributes: Any) -> dict[str, Any]:
    fields = {
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "spanId": span_id,
        "name": span_id,
        "startTimeUnixNano": attributes.pop("start", "1795641547000000000"),
        "endTimeUnixNano": "1795641548000000000",
        "status": attributes.pop("status", {}),
        "attributes": [
            {"key": key.replace("__", "."), "value": value(item)}
            for key, item in attributes.items()
        ],
    }
    return fields | ({"parentSpanId": parent} if parent else {})


def export(*spans: dict[str, Any]) -> dict[str, Any]:
    scope = {"scope": {"name": "test"}, "spans": list(spans)}
    return {"resourceSpans": [{"resource": {"attributes": []}, "scopeSpans": [scope]}]}


def test_ids_are_kept_in_hex_as_they_stand(tmp_path: Path) -> None:
    path = write_json(tmp_path / "t.json", export(span("00f067aa0ba902b7", **AGENT)))
    with imported(path, tmp_path / "out") as corpus:
        position = one(corpus, "SELECT source->>'$.position' FROM episodes")
        assert position == "trace 0af7651916cd43dd8448eb211c80319c span 00f067aa0ba902b7"


@needs_data
def test_children_come_first_and_over_several_exports(tmp_path: Path) -> None:
    with imported(OTLP / "openai_agents_0.24.0_oi_2.5.3.jsonl", tmp_path) as corpus:
        assert one(corpus, "SELECT n_steps, ending FROM episodes") == (3, "terminated")


@needs_data
def test_a_file_may_hold_several_traces(tmp_path: Path) -> None:
    with imported(OTLP / "pydantic_ai_2.58.0.json", tmp_path) as corpus:
        assert column(corpus, "SELECT n_steps FROM episodes ORDER BY 1") == [1, 2]
        assert one(corpus, "SELECT count(DISTINCT metadata->>'$.run') FROM episodes") == 2


@needs_data
def test_messages_that_each_request_repeats_are_told_once(tmp_path: Path) -> None:
    with imported(OTLP / "pydantic_ai_2.58.0.json", tmp_path) as corpus:
        texts = column(corpus, "SELECT text FROM messages WHERE role = 'user' ORDER BY text")
        assert texts == ["Thanks.", "What is the weather in Paris and what time is it?"]


@needs_data
def test_flattened_messages_of_openinference_are_put_together(tmp_path: Path) -> None:
    with imported(OTLP / "openai_agents_0.24.0_oi_2.5.3.jsonl", tmp_path) as corpus:
        said = corpus.sql("SELECT role, text, call_ids::VARCHAR FROM messages ORDER BY number")
        rows = said.fetchall()
    assert ("assistant", "Checking.", '["call_lookup_1"]') in rows
    assert ("tool", "order A1: shipped", '["call_lookup_1"]') in rows


def test_times_and_integers_are_texts_of_digits(tmp_path: Path) -> None:
    chat = span(
        "b1",
        gen_ai__operation__name="chat",
        gen_ai__request__model="m",
        gen_ai__usage__input_tokens=120,
    )
    path = write_json(tmp_path / "t.json", export(chat))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT input_tokens, latency_ms FROM model_calls") == (120, 1000)


@needs_data
def test_ids_of_calls_that_repeat_stay_calls_of_their_own(tmp_path: Path) -> None:
    with imported(OTLP / "gen_errors.json", tmp_path) as corpus:
        rows = corpus.sql(
            "SELECT step, call_id, outcome, retry_by FROM attempts WHERE tool = 'refund' "
            "ORDER BY step"
        ).fetchall()
        assert rows == [(1, "b", "error", None), (2, "b", "ok", "agent")]


@needs_data
def test_totals_of_an_agent_are_not_added_to_its_calls(tmp_path: Path) -> None:
    with imported(OTLP / "pydantic_ai_2.58.0.json", tmp_path) as corpus:
        assert one(corpus, "SELECT sum(input_tokens) FROM model_calls") == 61 + 71 + 52


@needs_data
def test_a_retried_request_is_a_call_of_its_own_since_nothing_says_so(tmp_path: Path) -> None:
    with imported(OTLP / "gen_errors.json", tmp_path) as corpus:
        rows = corpus.sql(
            "SELECT step, attempt, outcome, error_type FROM model_calls WHERE kind = 'rollout' "
            "ORDER BY number LIMIT 2"
        ).fetchall()
        assert rows == [(0, 0, "error", "RateLimitError"), (1, 0, "ok", None)]


@needs_data
def test_an_evaluation_is_the_primary_check(tmp_path: Path) -> None:
    with imported(OTLP / "gen_errors.json", tmp_path) as corpus:
        row = one(corpus, "SELECT check_id, verdict, score, is_primary FROM checks")
        assert row == ("refund-booked", True, 1.0, True)


def test_content_that_was_not_recorded_is_unknown(tmp_path: Path) -> None:
    root = span("a0", gen_ai__operation__name="invoke_agent")
    tool = span("b1", "a0", gen_ai__operation__name="execute_tool", gen_ai__tool__name="f")
    path = write_json(tmp_path / "t.json", export(root, tool))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT tool, result, outcome FROM attempts") == ("f", None, "ok")


def test_a_trace_without_its_root_is_named_as_not_whole(tmp_path: Path) -> None:
    chat = span("b1", "missing", gen_ai__operation__name="chat")
    path = write_lines(tmp_path / "t.jsonl", [export(chat)])
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT ending FROM episodes") == "unknown"
        (note,) = json.loads(one(corpus, "SELECT report->'$.notes' FROM imports"))
        assert "lacks its root" in note


def test_spans_that_name_each_other_as_parents_end(tmp_path: Path) -> None:
    path = write_json(tmp_path / "t.json", export(span("a", "b", **AGENT), span("b", "a")))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT count(*) FROM episodes") >= 1


def test_a_span_that_is_exported_twice_counts_once(tmp_path: Path) -> None:
    root = span("a1", gen_ai__operation__name="invoke_agent")
    tool = span("b1", "a1", gen_ai__operation__name="execute_tool", gen_ai__tool__name="f")
    other = {**tool, "name": "other"}
    path = write_lines(tmp_path / "t.jsonl", [export(tool), export(root, tool), export(other)])
    with imported(path, tmp_path / "out") as corpus:
        assert column(corpus, "SELECT tool FROM attempts") == ["f"]
        assert one(corpus, "SELECT dropped FROM imports") == 2


def test_an_attribute_that_is_there_twice_is_kept() -> None:
    pairs = [{"key": "note", "value": value(text)} for text in ("first", "second")]
    attributes = attributes_of(pairs, Place(Path("t.json")))
    assert attributes == {"note": "second", "note (before)": "first"}


def test_every_repetition_of_an_attribute_is_kept() -> None:
    pairs = [{"key": "note", "value": value(text)} for text in ("first", "second", "third")]
    attributes = attributes_of(pairs, Place(Path("t.json")))
    assert sorted(attributes.values()) == ["first", "second", "third"]
    assert attributes["note"] == "third"


@pytest.mark.parametrize("bare", [0, False, "", 7])
def test_a_bare_value_of_an_attribute_is_kept(bare: Any) -> None:
    assert attributes_of([{"key": "note", "value": bare}], Place(Path("t.json"))) == {"note": bare}


GEN_AI_MODEL = {"gen_ai.operation.name": "chat"}
GEN_AI_TOOL = {"gen_ai.operation.name": "execute_tool"}
OPEN_MODEL = {"openinference.span.kind": "LLM"}
OPEN_TOOL = {"openinference.span.kind": "TOOL"}
CALL = "llm.output_messages.0.message.tool_calls.0.tool_call"
ATTRIBUTES = (
    (GEN_AI_MODEL, "gen_ai.request.model"),
    (GEN_AI_MODEL, "gen_ai.input.messages"),
    (GEN_AI_MODEL, "gen_ai.output.messages"),
    (GEN_AI_MODEL, "gen_ai.system_instructions"),
    (GEN_AI_MODEL, "gen_ai.response.finish_reasons"),
    (GEN_AI_MODEL, "error.type"),
    (GEN_AI_MODEL, "trajrec.attempt"),
    (GEN_AI_TOOL, "gen_ai.tool.name"),
    (GEN_AI_TOOL, "gen_ai.tool.call.id"),
    (GEN_AI_TOOL, "gen_ai.tool.call.arguments"),
    (GEN_AI_TOOL, "trajrec.outcome"),
    (OPEN_MODEL, "llm.model_name"),
    (OPEN_MODEL, "llm.invocation_parameters"),
    (OPEN_MODEL, "llm.token_count.prompt"),
    (OPEN_MODEL, f"{CALL}.id"),
    (OPEN_MODEL, f"{CALL}.function.name"),
    (OPEN_TOOL, "tool.name"),
    (OPEN_TOOL, "tool_call.id"),
    (OPEN_TOOL, "input.value"),
)
"""Kinds of spans, and attributes that have a place in them."""


def odd_values(mark: str) -> list[dict[str, Any]]:
    """Return attribute values that no convention has in these places, each with a mark."""
    text = {"stringValue": mark}
    pair = {"key": "k", "value": text}
    return [
        {"stringValue": "known", "odd": mark},
        {"arrayValue": {"values": [text]}},
        {"arrayValue": {"values": [{"stringValue": "a"}], "odd": mark}},
        {"kvlistValue": {"values": [pair]}},
        {"kvlistValue": {"values": [{"key": "k", "value": {"intValue": "1"}, "odd": mark}]}},
        {"kvlistValue": {"values": [pair, {"key": "k", "value": {"intValue": "1"}}]}},
    ]


def lost_marks(path: Path, folder: Path) -> list[str]:
    """Return the texts with a mark that a file holds, and the logs made of it do not."""
    return [text for text in lost_leaves(sources_of(path), folder) if text.startswith("mark")]


def test_an_attribute_of_another_form_is_kept(tmp_path: Path) -> None:
    spans = []
    for number, (kind, name) in enumerate(ATTRIBUTES):
        for case in range(6):
            odd = odd_values(f"mark{number}x{case}x")[case]
            made = span(f"{number:08x}{case:08x}", **kind)
            made["attributes"].append({"key": name, "value": odd})
            spans.append(made)
    path = write_json(tmp_path / "t.json", export(*spans))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT count(*) FROM attempts") > 0
    assert lost_marks(path, tmp_path / "out") == []


def test_parts_of_messages_of_another_form_are_kept(tmp_path: Path) -> None:
    messages = [
        "mark bare",
        {"role": "user", "parts": "mark no list"},
        {"role": "user", "parts": ["mark no part"]},
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": ["mark id"], "result": "mark result"}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "odd": "mark odd"}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "name": ["mark name"]}]},
    ]
    made = span("00f067aa0ba902b7", **GEN_AI_MODEL)
    text = {"stringValue": json.dumps(messages)}
    made["attributes"].append({"key": "gen_ai.input.messages", "value": text})
    path = write_json(tmp_path / "t.json", export(made))
    with imported(path, tmp_path / "out"):
        pass
    assert lost_marks(path, tmp_path / "out") == []


MESSAGE = "llm.input_messages.0.message"
ANSWER = "llm.output_messages.0.message"
ODD_LISTS: tuple[dict[str, str], ...] = (
    {"llm.tools.0.tool.name": "mark name", "llm.tools.0.tool.description": "mark description"},
    {"llm.tools.0.name": "mark name"},
    {"llm.tools.0": "mark tool"},
    {"llm.tools.0.tool.json_schema": "{}", "llm.tools.0.tool.odd": "mark odd"},
    {ANSWER: "mark message"},
    {"llm.input_messages.0.role": "mark role", f"{MESSAGE}.role": "user"},
    {"llm.input_messages.0.content": "mark content", f"{MESSAGE}.content": "mark inner"},
    {f"{ANSWER}.tool_calls": "mark no list"},
    {f"{ANSWER}.tool_calls.0": "mark no call"},
    {f"{ANSWER}.tool_calls.0.function.name": "mark name"},
    {f"{CALL}.function": "mark no function"},
    {f"{CALL}.id": "known", f"{ANSWER}.tool_calls.0.odd": "mark beside the call"},
    {f"{MESSAGE}.contents": "mark no list"},
    {f"{MESSAGE}.contents.0": "mark no block"},
    {
        f"{MESSAGE}.contents.0.message_content.text": "mark text",
        f"{MESSAGE}.contents.0.odd": "mark beside the block",
    },
    {f"{MESSAGE}.content.deep": "mark deep", f"{MESSAGE}.content": "mark flat"},
    {f"{MESSAGE}.content": "mark flat", f"{MESSAGE}.content.deep": "mark deep"},
    {
        "llm.input_messages.200000.message.content": "mark far",
        "llm.input_messages.300000.message.content": "mark farther",
    },
    {f"{MESSAGE}.content": "mark one", "llm.input_messages.00.message.content": "mark two"},
    {"llm.invocation_parameters": '{"tools": ["mark a"]}', "llm.tools.0.tool.json_schema": "{}"},
    {"llm.invocation_parameters": '{"messages": [{"role": "user", "content": "mark said"}]}'},
)
"""Attributes of OpenInference that have no place in its lists of messages and tools."""


@third_slow("imports")
@pytest.mark.parametrize("attributes", ODD_LISTS)
def test_odd_items_of_openinferences_lists_are_kept(
    attributes: dict[str, str], tmp_path: Path
) -> None:
    path = write_json(tmp_path / "t.json", export(span("b1", **OPEN_MODEL, **attributes)))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT count(*) FROM model_calls") == 1
    assert lost_marks(path, tmp_path / "out") == []


def test_a_model_beside_that_of_the_parameters_is_kept(tmp_path: Path) -> None:
    attributes = {
        "llm.model_name": "mark answered",
        "llm.invocation_parameters": '{"model": "mark asked"}',
    }
    path = write_json(tmp_path / "t.json", export(span("b1", **OPEN_MODEL, **attributes)))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT model FROM model_calls") == "mark asked"
    assert lost_marks(path, tmp_path / "out") == []


def test_blocks_of_several_answers_stay_blocks(tmp_path: Path) -> None:
    outputs = "llm.output_messages"
    block = "message.contents.0.message_content"
    attributes = {
        f"{outputs}.0.{block}.type": "text",
        f"{outputs}.0.{block}.text": "One.",
        f"{outputs}.1.message.content": "Two.",
    }
    path = write_json(tmp_path / "t.json", export(span("b1", **OPEN_MODEL, **attributes)))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT role, text FROM messages") == ("assistant", "One.Two.")


@pytest.mark.parametrize("kind", [GEN_AI_MODEL, OPEN_MODEL])
def test_a_request_whose_content_was_not_recorded_is_unknown(
    kind: dict[str, str], tmp_path: Path
) -> None:
    path = write_json(tmp_path / "t.json", export(span("b1", **kind)))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT is_reconstructed FROM model_calls") is True


def test_an_empty_request_that_a_span_states_is_known(tmp_path: Path) -> None:
    made = span("b1", **GEN_AI_MODEL, **{"gen_ai.input.messages": "[]"})
    path = write_json(tmp_path / "t.json", export(made))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT is_reconstructed FROM model_calls") is False


def test_an_evaluation_has_the_time_of_its_event(tmp_path: Path) -> None:
    made = span("a1", gen_ai__operation__name="invoke_agent")
    made["events"] = [
        {
            "name": "gen_ai.evaluation.result",
            "timeUnixNano": "1795641547500000000",
            "attributes": [{"key": "gen_ai.evaluation.name", "value": value("polite")}],
        }
    ]
    path = write_json(tmp_path / "t.json", export(made))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT epoch_ns(checked_at) FROM checks") == 1795641547500000000


def test_logs_and_metrics_beside_spans_are_counted(tmp_path: Path) -> None:
    chat = export(span("b1", gen_ai__operation__name="chat"))
    lines = [chat, {"resourceLogs": []}, {"resourceMetrics": []}]
    path = write_lines(tmp_path / "t.jsonl", lines)
    with imported(path, tmp_path / "out") as corpus:
        dropped = json.loads(one(corpus, "SELECT report->'$.dropped_reasons' FROM imports"))
    assert dropped == {
        "resourceLogs of an export: spans alone are read": 1,
        "resourceMetrics of an export: spans alone are read": 1,
    }


def test_a_parent_of_zeros_is_none(tmp_path: Path) -> None:
    made = span("a1", "0" * 16, gen_ai__operation__name="invoke_agent")
    path = write_json(tmp_path / "t.json", export(made))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT ending FROM episodes") == "terminated"


def test_a_number_as_the_arguments_of_a_call_stays_a_number(tmp_path: Path) -> None:
    made = span("00f067aa0ba902b7", **OPEN_MODEL)
    value = {"doubleValue": 0.625}
    made["attributes"].append({"key": f"{CALL}.function.arguments", "value": value})
    path = write_json(tmp_path / "t.json", export(made))
    with imported(path, tmp_path / "out"):
        pass
    assert "0.625" not in lost_leaves(sources_of(path), tmp_path / "out")


def test_a_caller_of_the_same_time_is_still_before(tmp_path: Path) -> None:
    chat = {"gen_ai__operation__name": "chat"}
    agent = {"gen_ai__operation__name": "invoke_agent"}
    spans = [
        span("inner chat", "inner", **chat),
        span("inner", "outer", **agent),
        span("outer chat", "outer", **chat),
        span("outer", **agent),
    ]
    path = write_json(tmp_path / "t.json", export(*spans))
    with imported(path, tmp_path / "out") as corpus:
        main = one(corpus, "SELECT episode_id FROM episodes")
        nested = "SELECT caller_id, caller_step FROM all_episodes WHERE kind = 'nested'"
        assert one(corpus, nested) == (main, 0)


WORDS = {
    "OpenLLMetry": {"traceloop__span__kind": "tool"},
    "Vercel's AI SDK": {"ai__operationId": "ai.toolCall"},
    "MLflow": {"mlflow__spanType": '"TOOL"'},
    "gen_ai without gen_ai.operation.name": {"gen_ai__request__model": "m"},
}


@pytest.mark.parametrize("words", WORDS)
def test_a_trace_in_words_that_are_not_read_is_refused(words: str, tmp_path: Path) -> None:
    path = write_json(tmp_path / "t.json", export(span("a1"), span("b1", "a1", **WORDS[words])))
    with pytest.raises(ImportFileError, match=f"attributes of {re.escape(words)} are not read"):
        import_trajectories(path, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.trj"))


def test_a_trace_of_no_agent_is_no_episode(tmp_path: Path) -> None:
    request = {**span("c1"), "traceId": "1" * 32}
    chat = span("a1", gen_ai__operation__name="chat")
    path = write_json(tmp_path / "t.json", export(request, chat))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT count(*) FROM episodes") == 1
        assert one(corpus, "SELECT dropped FROM imports") == 1
        assert "a span of a trace without a model call" in one(corpus, "SELECT report FROM imports")


def test_spans_in_other_words_beside_an_agents_are_named(tmp_path: Path) -> None:
    chat = span("a1", gen_ai__operation__name="chat")
    tool = span("b1", "a1", traceloop__span__kind="tool")
    path = write_json(tmp_path / "t.json", export(chat, tool))
    with imported(path, tmp_path / "out") as corpus:
        assert one(corpus, "SELECT n_steps FROM episodes") == 1
        (note,) = json.loads(one(corpus, "SELECT report->'$.notes' FROM imports"))
        assert (
            note == "spans with attributes of OpenLLMetry are kept as notes, and not read as calls"
        )
