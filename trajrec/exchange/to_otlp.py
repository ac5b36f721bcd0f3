"""Writes agents' episodes as OTLP/JSON in the words of OpenTelemetry's conventions for generative
models: a trace for each episode.

A model call is a span `chat`, an attempt at a tool call a span `execute_tool`, the episode the span
`invoke_agent` around them, and a check an event of that. Facts without a word are attributes
`trajrec.*`. A time that is unknown is 0, and no other time.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

from trajrec.corpus.attempts import Attempt
from trajrec.corpus.call_contents import CallContent, content_of, cost_of, offered_tools, plain
from trajrec.corpus.episode import Episode
from trajrec.corpus.model_calls import ModelCall
from trajrec.corpus.untold_parts import untold_parts
from trajrec.exchange.account import Account
from trajrec.exchange.chat import json_text
from trajrec.exchange.episode_facts import (
    count_choices,
    facts_of_call,
    facts_of_episode,
    facts_of_events,
    facts_of_model_call,
)
from trajrec.exchange.otlp import ENDING, EVALUATION, ORDER
from trajrec.exchange.otlp_values import attribute_list
from trajrec.exchange.reading import parse_arguments
from trajrec.types import JsonObject, Value
from trajrec.values.json import to_json
from trajrec.version import __version__
from trajrec.wire.contents import Message
from trajrec.wire.json_bodies import as_dict

# Fields of a message that its role and its parts tell.
_TOLD_FIELDS = frozenset(
    (
        "content",
        "function_call",
        "id",
        "parts",
        "reasoning_content",
        "role",
        "status",
        "tool_call_id",
        "tool_calls",
        "type",
    )
)
_CLIENT = 3
_INTERNAL = 1
_OK = 1
_ERROR = 2


def otlp_export(
    episode: Episode, account: Account, subagents: Sequence[Episode] = ()
) -> JsonObject:
    """Return the export of an episode: its trace.

    Args:
        episode: The episode of an agent.
        account: Counts what is written, and what is not.
        subagents: The episodes that it has begun, each behind its caller.

    Raises:
        LogCorruptError: The log has lost a value.
    """
    spans: list[JsonObject] = []
    order = itertools.count()
    for agent in (episode, *subagents):
        spans += _Writer(agent, account, trace_id=_digest(episode.id, 16), order=order).spans()
    scope = {"name": "trajrec", "version": __version__}
    resource = {"attributes": attribute_list({"service.name": "trajrec"})}
    scoped = [{"scope": scope, "spans": spans}]
    return {"resourceSpans": [{"resource": resource, "scopeSpans": scoped}]}


def _digest(text: str, n_bytes: int) -> str:
    return hashlib.blake2b(text.encode(), digest_size=n_bytes).hexdigest()


class _Writer:
    """Writes the spans of one episode."""

    def __init__(
        self, episode: Episode, account: Account, *, trace_id: str, order: Iterator[int]
    ) -> None:
        self._episode = episode
        self._account = account
        self._trace_id = trace_id
        self._order = order
        self._n_spans = 0

    def spans(self) -> Iterator[JsonObject]:
        """Yield the span of the episode, then those of its calls in the order of their steps."""
        yield self._root()
        transcript = self._episode.transcript
        model_calls: dict[int, list[ModelCall]] = defaultdict(list)
        attempts: dict[int, list[Attempt]] = defaultdict(list)
        for call in transcript.model_calls:
            model_calls[call.start.step].append(call)
        for attempt in transcript.attempts:
            attempts[attempt.start.step].append(attempt)
        # Not the steps up to the recorded end: a damaged log may have calls behind it.
        for step in sorted({*model_calls, *attempts}):
            for call in model_calls[step]:
                yield self._model_span(call)
            for attempt in attempts[step]:
                yield self._tool_span(attempt)

    def _span(
        self,
        name: str,
        attributes: JsonObject,
        times: tuple[int, int],
        *,
        status: JsonObject | None = None,
        kind: int = _INTERNAL,
    ) -> JsonObject:
        number = self._n_spans
        self._n_spans += 1
        self._account.keep("span")
        start_ns, end_ns = times
        span: JsonObject = {
            "traceId": self._trace_id,
            "spanId": _digest(f"{self._episode.id}/{number}", 8),
            "parentSpanId": _digest(f"{self._episode.id}/0", 8),
            "name": name,
            "kind": kind,
            "startTimeUnixNano": str(start_ns),
            "endTimeUnixNano": str(end_ns),
            "attributes": attribute_list({**attributes, ORDER: next(self._order)}),
        }
        if status is not None:
            span["status"] = status
        return span

    def _root(self) -> JsonObject:
        episode = self._episode
        task = episode.task_start
        facts = facts_of_episode(episode, self._account, is_atif=False)
        interface = as_dict(facts.get("interface"))
        scaffold = as_dict(interface.get("scaffold"))
        name = scaffold.get("agent", scaffold.get("name"))
        run = as_dict(facts.get("metadata")).get("run")
        steps: JsonObject = {}
        by_step: dict[int, list[object]] = defaultdict(list)
        for event in episode.agent_events:
            by_step[getattr(event, "step", -1)].append(event)
        for step, events in sorted(by_step.items()):
            of_step = facts_of_events(episode, events)
            if of_step:
                steps[str(step)] = of_step
        rest = [plain(said.value) for said in episode.messages if said.model_call is None]
        attributes: JsonObject = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": name if isinstance(name, str) else None,
            "gen_ai.conversation.id": run if isinstance(run, str) else None,
            ENDING: episode.ending,
            "trajrec.task": facts.get("task"),
            "trajrec.caller_step": None if task is None else task.caller_step,
            "trajrec.stop_reason": facts.get("stop_reason"),
            "trajrec.facts": json_text(facts),
            "trajrec.steps": json_text(steps) if steps else None,
            "trajrec.messages": json_text(rest) if rest else None,
        }
        start_ns = 0 if episode.start is None else episode.start.time_ns
        end_ns = 0 if episode.end is None else episode.end.time_ns
        status = {"code": _ERROR} if episode.ending == "error" else None
        span = self._span("invoke_agent", attributes, (start_ns, end_ns), status=status)
        del span["parentSpanId"]
        if task is not None and task.caller_id is not None:
            span["parentSpanId"] = _digest(f"{task.caller_id}/0", 8)
        checks = sorted(episode.checks, key=lambda check: not check.is_primary)
        if checks:
            span["events"] = [self._check_event(check) for check in checks]
        return span

    def _check_event(self, check: Value) -> JsonObject:
        label = {True: "pass", False: "fail"}.get(check.verdict)
        attributes = {
            "gen_ai.evaluation.name": check.check_id,
            "gen_ai.evaluation.score.value": check.score,
            "gen_ai.evaluation.score.label": label,
            "trajrec.is_primary": check.is_primary,
            "trajrec.status": check.status,
        }
        return {
            "name": EVALUATION,
            "timeUnixNano": str(check.time_ns),
            "attributes": attribute_list(attributes),
        }

    def _model_span(self, call: ModelCall) -> JsonObject:
        content = content_of(call)
        facts = facts_of_model_call(call)
        count_choices(call, self._account)
        parameters = as_dict(facts.pop("parameters", None))
        answer = content.answer
        model = call.request.get("model") if call.wire is None else call.wire.request.model
        tools = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.schema,
            }
            for tool in offered_tools(call)
        ]
        system = [{"type": "text", "content": content.system}]
        inputs = _inputs(content)
        # An import without the content of requests knows of no message, and not that there is none.
        is_known = bool(inputs) or not call.start.is_reconstructed
        attributes: JsonObject = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": model,
            **{f"gen_ai.request.{name}": value for name, value in parameters.items()},
            "gen_ai.system_instructions": None if content.system is None else json_text(system),
            "gen_ai.input.messages": json_text(inputs) if is_known else None,
            "gen_ai.tool.definitions": json_text(tools) if tools else None,
        }
        if answer is not None:
            attributes |= {
                "gen_ai.output.messages": json_text([_output(content)]),
                "gen_ai.response.model": answer.model,
                "gen_ai.response.id": answer.response_id,
                "gen_ai.usage.input_tokens": answer.usage.input,
                "gen_ai.usage.output_tokens": answer.usage.output,
                "gen_ai.usage.cache_read.input_tokens": answer.usage.cached,
                "gen_ai.usage.cache_creation.input_tokens": answer.usage.cache_write,
                "gen_ai.usage.reasoning.output_tokens": answer.usage.reasoning,
                "gen_ai.usage.cost": cost_of(as_dict(plain(answer.value)).get("usage")),
            }
            if answer.finish_reason is not None:
                attributes["gen_ai.response.finish_reasons"] = [answer.finish_reason]
        end = call.end
        attributes["trajrec.attempt"] = call.start.attempt or None
        status = None
        if end is not None and end.outcome != "ok":
            attributes["error.type"] = end.error_type or end.outcome
            status = {"code": _ERROR, "message": end.message}
        times = (call.start.time_ns, 0 if end is None else end.time_ns)
        name = f"chat {model}" if isinstance(model, str) else "chat"
        return self._span(name, attributes, times, status=status, kind=_CLIENT)

    def _tool_span(self, attempt: Attempt) -> JsonObject:
        end = attempt.end
        start = attempt.start
        facts = facts_of_call([attempt])
        attributes: JsonObject = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": attempt.tool,
            "gen_ai.tool.call.id": start.call_id or None,
            "gen_ai.tool.call.arguments": _arguments_text(plain(attempt.arguments)),
            "gen_ai.tool.call.result": plain(attempt.result),
            "trajrec.outcome": attempt.outcome,
            "trajrec.step": start.step,
            "trajrec.attempt": start.attempt or None,
            "trajrec.facts": json_text(facts),
        }
        status: JsonObject | None = None
        if attempt.outcome == "ok":
            status = {"code": _OK}
        elif attempt.has_failed:
            assert end is not None
            attributes["error.type"] = end.error_type or attempt.outcome
            status = {"code": _ERROR, "message": end.message}
        times = (start.time_ns, 0 if end is None else end.time_ns)
        return self._span(f"execute_tool {attempt.tool}", attributes, times, status=status)


def _arguments_text(arguments: Value) -> str:
    """Return arguments as JSON text, with texts for numbers and characters that JSON lacks.

    A reader would take NaN or half of a surrogate pair for a mistake of the model.
    """
    text = json_text(arguments)
    _, mistake = parse_arguments(text)
    return to_json(arguments) if mistake else text


def _inputs(content: CallContent) -> list[JsonObject]:
    """Return the messages of a request."""
    read = [content.message(value) for value in content.messages if _is_message(value)]
    return [_told(message, value) for message, value in read]


def _is_message(value: Value) -> bool:
    # Prompts may be numbers of tokens.
    return not isinstance(value, (int, float, list)) and value is not None


def _output(content: CallContent) -> JsonObject:
    """Return the message of an answer."""
    answer = content.answer
    assert answer is not None
    calls = tuple(asked for asked in answer.calls if not asked.choice)
    message = Message("assistant", answer.text or "", calls)
    output = _told(message, plain(content.answered()))
    if answer.finish_reason is not None:
        output["finish_reason"] = answer.finish_reason
    return output


def _told(message: Message, value: Value) -> JsonObject:
    """Return a message by the conventions, with the fields that these have no word for."""
    fields = as_dict(value)
    parts = _parts(message, value)
    others: JsonObject = {}
    if "role" in fields:
        others = {
            name: field
            for name, field in fields.items()
            if name not in _TOLD_FIELDS and field not in (None, "", [], {})
        }
    if message.role == "tool" and len(message.results) == 1:
        # A message with fields of its own would be one beside its result.
        for part in parts:
            if part["type"] == "tool_call_response":
                part |= {name: field for name, field in others.items() if name not in part}
        others = {}
    # All other words for a role are those of dialects, and say no more than ours.
    role = "developer" if fields.get("role") == "developer" else message.role
    return {"role": role, "parts": parts, **others}


def _parts(message: Message, value: Value) -> list[JsonObject]:
    """Return the parts of a message: its text, calls and results, then its images and the like."""
    parts: list[JsonObject] = []
    reasoning = as_dict(value).get("reasoning_content")
    if isinstance(reasoning, str):
        parts.append({"type": "reasoning", "content": reasoning})
    results: list[JsonObject] = [
        {"type": "tool_call_response", "id": result.call_id, "response": plain(result.content)}
        for result in message.results
    ]
    if message.text and not (results and message.role == "tool"):
        parts.append({"type": "text", "content": message.text})
    for call in message.calls:
        arguments = plain(call.arguments)
        called: JsonObject = {"type": "tool_call", "id": call.call_id, "name": call.name}
        parts.append({**called, "arguments": arguments})
    parts += results
    if message.role != "tool":
        # One of a tool is nothing but its results.
        parts += map(_typed, untold_parts(value))
    return parts


def _typed(part: JsonObject) -> JsonObject:
    """Return a part with the type that the conventions want: Gemini and Bedrock have a member."""
    if part.get("thought") is True and isinstance(part.get("text"), str):
        return {"type": "reasoning", "content": part["text"]}
    member = next((name for name in part if type(part[name]) is dict), next(iter(part)))
    return {"type": member, **part}
