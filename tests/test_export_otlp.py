"""Agents' episodes as traces in OTLP/JSON: the importer reads the same conversations back."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from imported import DATA, FOLDERS, column, imported, needs_data, one, write_json
from test_imports import trajectory
from test_messages import assistant, chat, send, user
from tiers import mostly_deep

import trajrec
from trajrec.agents import outcomes
from trajrec.cli.main import main
from trajrec.corpus.call_contents import content_of, plain
from trajrec.corpus.corpus import Corpus
from trajrec.corpus.episode import Episode
from trajrec.exchange.exporting import export_atif, export_otlp
from trajrec.exchange.importing import import_trajectories
from trajrec.log.schema import EpisodeEnd
from trajrec.replay import credit


def requests(episode: Episode) -> list[Any]:
    """Return each model call: times, outcome, all messages of the request, the answer, tokens."""
    told = []
    for call in episode.transcript.model_calls:
        content = content_of(call)
        read = [content.message(v)[0] for v in content.messages if isinstance(v, (str, dict))]
        messages = [
            (
                message.role,
                message.text,
                [(asked.call_id, asked.name, plain(asked.arguments)) for asked in message.calls],
                [(result.call_id or "", result.text) for result in message.results],
            )
            for message in read
        ]
        if content.system is not None:
            messages.insert(0, ("system", content.system, [], []))
        answer = content.answer
        said: Any = None
        if answer is not None:
            asked_for = [(c.call_id, c.name, plain(c.arguments)) for c in answer.calls]
            tokens = (answer.usage.input, answer.usage.output, answer.usage.cached)
            said = (answer.text or "", asked_for, answer.model, answer.finish_reason, tokens)
        times = (call.start.time_ns, call.end.time_ns if call.end else 0)
        told.append((times, call.outcome, messages, said))
    return told


def conversations(corpus: Corpus) -> list[str]:
    """Return all that is told of each episode, as texts in a fixed order.

    A step without a model call has no span, so that a call counts the model calls before it.
    """
    texts = []
    for kind in ("rollout", "nested"):
        for episode in corpus.episodes(kind=kind):  # type: ignore[arg-type]
            calls = [
                (
                    attempt.tool,
                    attempt.start.call_id,
                    plain(attempt.arguments),
                    plain(attempt.result),
                    attempt.outcome,
                    attempt.start.time_ns,
                    sum(
                        call.start.step <= attempt.start.step and not call.start.attempt
                        for call in episode.transcript.model_calls
                    ),
                    (attempt.end.time_ns, attempt.end.message) if attempt.end else None,
                )
                for attempt in episode.transcript.attempts
            ]
            checks = sorted(
                (check.check_id, check.verdict, check.score, check.is_primary, check.status)
                for check in episode.checks
            )
            task = episode.task_start.task if episode.task_start else ""
            facts = (kind, requests(episode), calls, checks, episode.ending, task)
            texts.append(repr(facts))
    return sorted(texts)


def comes_back(folder: Path) -> None:
    """Check that the episodes of a corpus are the same after an export and an import."""
    file = folder.with_suffix(".jsonl")
    with trajrec.open(folder) as corpus:
        export_otlp(corpus, file)
        before = conversations(corpus)
    assert before
    again = folder.with_name(f"{folder.name}-again")
    with imported(file, again) as corpus:
        assert conversations(corpus) == before


@mostly_deep("imports", drawn=6)
@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_traces_of_each_format_come_back_equal(name: str, tmp_path: Path) -> None:
    import_trajectories(DATA / name, tmp_path / "runs")
    comes_back(tmp_path / "runs")


def is_done(parts: Any) -> bool:
    return True


def record(folder: Path) -> None:
    """Record an agent with model calls, tools that fail, another agent and a check."""

    def add(x: int) -> dict[str, Any]:
        return {"sum": x + 1, "parts": [x, None, 0.5, True]}

    def fail() -> None:
        raise ValueError("no")

    with trajrec.episode(folder, task="t") as ep:
        send(ep, {"messages": [user("1")], "temperature": 0.5}, chat("one"))
        send(ep, {"messages": [user("1"), assistant("one"), user("2")]}, chat("two"))
        ep.tool(add)(x=1)
        with pytest.raises(ValueError, match="no"):
            ep.tool(fail)()
        with trajrec.episode(folder, task="inner") as inner:
            inner.tool(add)(x=5)
    trajrec.close_logs()


@pytest.mark.slow
def test_the_trace_of_a_recorded_agent_comes_back_equal(tmp_path: Path) -> None:
    record(tmp_path / "runs")
    comes_back(tmp_path / "runs")


def test_spans_are_of_the_conventions_and_of_otlp(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "runs")
    file = tmp_path / "traces.jsonl"
    assert main(["export", str(tmp_path / "runs"), "otlp", "-o", str(file)]) == 0
    assert "dropped 2: the bytes of HTTP exchanges stay in the log" in capsys.readouterr().out
    (line,) = file.read_text().splitlines()
    spans = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    names = [span["name"] for span in spans]
    assert names[0] == "invoke_agent"
    assert names[3:5] == ["execute_tool add", "execute_tool fail"]
    assert all(len(bytes.fromhex(span["traceId"])) == 16 for span in spans)
    assert len({bytes.fromhex(span["spanId"]) for span in spans}) == len(spans)
    ids = {span["spanId"] for span in spans}
    assert [span for span in spans if span.get("parentSpanId") not in ids] == spans[:1]
    assert spans[4]["status"] == {"code": 2, "message": "no"}
    lineage = json.loads((tmp_path / "traces.jsonl.lineage.json").read_text())
    assert (lineage["n_episodes"], lineage["where"]) == (1, "true")
    assert lineage["report"]["records"]["span"] == len(spans)


@pytest.mark.slow
def test_protobuf_takes_every_exported_trace(tmp_path: Path) -> None:
    service = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
        reason="opentelemetry-proto is not installed",
    )
    from google.protobuf import json_format

    record(tmp_path / "runs")
    with trajrec.open(tmp_path / "runs") as corpus:
        export_otlp(corpus, tmp_path / "traces.jsonl")
    document = json.loads((tmp_path / "traces.jsonl").read_text())
    spans = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
    for span in spans:
        # The parser of protobuf reads ids as base64, and OTLP/JSON writes them in hex.
        for name in {"traceId", "spanId", "parentSpanId"} & span.keys():
            span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    parsed = json_format.ParseDict(document, service.ExportTraceServiceRequest())
    read = parsed.resource_spans[0].scope_spans[0].spans
    assert [span.name for span in read] == [span["name"] for span in spans]


@pytest.mark.slow
def test_unknown_times_and_outcomes_stay_unknown(tmp_path: Path) -> None:
    import_trajectories(write_json(tmp_path / "t.json", trajectory(2)), tmp_path / "runs")
    with trajrec.open(tmp_path / "runs") as corpus:
        export_otlp(corpus, tmp_path / "traces.jsonl")
    with imported(tmp_path / "traces.jsonl", tmp_path / "again") as corpus:
        assert column(corpus, "SELECT outcome FROM attempts") == ["unknown", "unknown"]
        assert column(corpus, "SELECT latency_ms FROM model_calls") == [None, None]
        assert one(corpus, "SELECT started_at, ending FROM episodes") == (None, "unknown")


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), "half: \ud800"])
def test_values_that_json_lacks_make_no_call_malformed(value: Any, tmp_path: Path) -> None:
    with trajrec.episode(tmp_path / "runs", task="t") as ep:
        ep.tool(lambda x: 1, name="echo")(x=value)
    trajrec.close_logs()
    with trajrec.open(tmp_path / "runs") as corpus:
        export_otlp(corpus, tmp_path / "traces.jsonl")
    with imported(tmp_path / "traces.jsonl", tmp_path / "again") as corpus:
        (attempt,) = next(corpus.episodes()).transcript.attempts
        assert attempt.start.invalid == ""
        assert attempt.arguments == {"x": str(value).replace("\ud800", "\\ud800")}


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("n_steps", [1, 2**31 - 1])
def test_a_wrong_end_keeps_no_call_from_exports(
    n_steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong_end(**fields: Any) -> EpisodeEnd:
        return EpisodeEnd(**{**fields, "n_steps": n_steps})

    monkeypatch.setattr(outcomes, "EpisodeEnd", wrong_end)
    with trajrec.episode(tmp_path / "runs", task="t", watch={"part": {}}, checks=[is_done]) as ep:
        send(ep, {"messages": [user("1")]}, chat("one"))
        ep.tool(lambda x: x, name="echo")(x=1)
        send(ep, {"messages": [user("1"), assistant("one"), user("2")]}, chat("two"))
        ep.tool(lambda x: x, name="echo")(x=2)
    trajrec.close_logs()
    with trajrec.open(tmp_path / "runs") as corpus:
        export_otlp(corpus, tmp_path / "traces.jsonl")
        export_atif(corpus, tmp_path / "documents.jsonl")
        for messages in (False, True):
            target = tmp_path / "rows.jsonl"
            credit.export(
                corpus, "grpo", target, measure="outcome", messages=messages, overwrite=True
            )
            row = json.loads(target.read_text())
            assert len(row["completions"]) == len(row["advantages"]) == 2
    (scoped,) = json.loads((tmp_path / "traces.jsonl").read_text())["resourceSpans"][0][
        "scopeSpans"
    ]
    names = [span["name"].split()[0] for span in scoped["spans"]]
    assert names == ["invoke_agent", "chat", "execute_tool", "chat", "execute_tool"]
    steps = json.loads((tmp_path / "documents.jsonl").read_text())["steps"]
    assert [step["message"] for step in steps if step["source"] == "agent"] == ["one", "two"]


@pytest.mark.slow
def test_traces_are_written_to_lines_alone(tmp_path: Path) -> None:
    record(tmp_path / "runs")
    with (
        trajrec.open(tmp_path / "runs") as corpus,
        pytest.raises(ValueError, match=r"written to \.jsonl"),
    ):
        export_otlp(corpus, tmp_path / "traces.pb")


def test_further_choices_of_an_answer_are_counted(tmp_path: Path) -> None:
    choices = [{"role": "assistant", "parts": [{"type": "text", "content": c}]} for c in "abc"]
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.output.messages": json.dumps(choices)}
    span: dict[str, Any] = {
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "spanId": "00f067aa0ba902b7",
        "attributes": [{"key": k, "value": {"stringValue": v}} for k, v in attributes.items()],
    }
    scoped = {"scopeSpans": [{"spans": [span]}]}
    path = write_json(tmp_path / "t.json", {"resourceSpans": [scoped]})
    with imported(path, tmp_path / "out") as corpus:
        traces = export_otlp(corpus, tmp_path / "traces.jsonl")
        documents = export_atif(corpus, tmp_path / "atif")
    reason = "further choices of an answer stay in the log"
    assert traces.account.dropped[reason] == 2
    assert documents.account.dropped[reason] == 2


@pytest.mark.slow
def test_all_that_a_message_says_is_exported(tmp_path: Path) -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "AA"}}
    picture = {"image": {"format": "png"}}
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "name": "ann", "content": "a"},
        {"role": "user", "content": "b", "images": ["AA"]},
        {"role": "user", "parts": [{"text": "c"}, image]},
        {"role": "model", "parts": [{"text": "so", "thought": True}, {"text": "d"}]},
        {"role": "user", "content": [{"text": "e"}, picture]},
        {"role": "tool", "tool_call_id": "c1", "content": "f", "name": "look"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "g"}]},
    ]
    with trajrec.episode(tmp_path / "runs") as ep:
        ep.model(lambda **_: chat("one"), messages=messages)
        with trajrec.episode(tmp_path / "runs", task="inner"):
            pass
    trajrec.close_logs()
    comes_back(tmp_path / "runs")
    spans = json.loads((tmp_path / "runs.jsonl").read_text())["resourceSpans"][0]["scopeSpans"][0]
    root, call, inner = (
        {pair["key"]: next(iter(pair["value"].values())) for pair in span["attributes"]}
        for span in spans["spans"]
    )
    assert json.loads(call["gen_ai.input.messages"]) == [
        {"role": "developer", "parts": [{"type": "text", "content": "be brief"}]},
        {"role": "user", "parts": [{"type": "text", "content": "a"}], "name": "ann"},
        {"role": "user", "parts": [{"type": "text", "content": "b"}], "images": ["AA"]},
        {
            "role": "user",
            "parts": [{"type": "text", "content": "c"}, {"type": "inlineData"} | image],
        },
        {
            "role": "assistant",
            "parts": [
                {"type": "text", "content": "d"},
                {"type": "reasoning", "content": "so"},
            ],
        },
        {"role": "user", "parts": [{"type": "text", "content": "e"}, {"type": "image"} | picture]},
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "c1", "response": "f", "name": "look"}],
        },
        {"role": "assistant", "parts": [messages[-1]]},
    ]
    assert (inner["trajrec.caller_step"], "trajrec.caller_step" in root) == ("0", False)
