"""The bodies of a scripted model server's answers, after the APIs' documentation."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MODEL = "scripted-1"
"""The name that every answer gives, whatever model was asked for."""


class Call(NamedTuple):
    """A tool call of a scripted answer; its arguments are text, which may be malformed."""

    name: str
    arguments: str = "{}"
    id: str = "call-1"


@dataclass
class Turn:
    """One scripted answer.

    Attributes:
        text: The text, sent word by word if the answer is streamed.
        calls: The tool calls.
        status: The status; another than 200 sends an error.
        error: The message of the error.
        headers: More headers, such as `retry-after-ms`.
        usage: Tokens in and out.
        tells_usage: Whether a stream of chat completions tells them, as the request asks.
        broken_after: Break the connection after so many pieces of a stream, or bytes of a body.
        is_dropped: Break the connection without an answer.
        is_gzipped: Compress the body.
        delay_s: Seconds before the answer.
        pause_s: Seconds before each piece of a stream.
        stalls_at: The only piece to pause before.
    """

    text: str | None = None
    calls: list[Call] = field(default_factory=list)
    status: int = 200
    error: str = "the plan says so"
    headers: dict[str, str] = field(default_factory=dict)
    usage: tuple[int, int] = (7, 5)
    tells_usage: bool = False
    broken_after: int | None = None
    is_dropped: bool = False
    is_gzipped: bool = False
    delay_s: float = 0.0
    pause_s: float = 0.0
    stalls_at: int | None = None

    @property
    def words(self) -> list[str]:
        """The text in pieces."""
        if not self.text:
            return []
        first, *others = self.text.split(" ")
        return [first, *(f" {word}" for word in others)]


def dialect_of(path: str) -> str:
    """Return the API of a path."""
    path = path.partition("?")[0]
    if path.endswith("/responses"):
        return "responses"
    if path.endswith("/messages"):
        return "anthropic"
    if path.endswith("enerateContent"):
        return "gemini"
    return "ollama" if path.endswith("/api/chat") else "chat"


def error_body(dialect: str, turn: Turn) -> dict[str, Any]:
    """Return the body of an error."""
    if dialect == "anthropic":
        return {"type": "error", "error": {"type": "api_error", "message": turn.error}}
    if dialect == "gemini":
        return {"error": {"code": turn.status, "message": turn.error, "status": "INTERNAL"}}
    if dialect == "ollama":
        return {"error": turn.error}
    kind = "invalid_request_error" if turn.status == 400 else "server_error"
    return {"error": {"message": turn.error, "type": kind, "param": None, "code": None}}


def whole_answer(dialect: str, turn: Turn) -> dict[str, Any]:
    """Return the body of an answer that is not streamed."""
    builders = {
        "chat": _chat,
        "responses": _response,
        "anthropic": _message,
        "gemini": _gemini,
        "ollama": _ollama,
    }
    return builders[dialect](turn)


def stream_pieces(dialect: str, turn: Turn) -> list[bytes]:
    """Return the pieces of a streamed answer."""
    builders = {
        "chat": _chat_pieces,
        "responses": _response_pieces,
        "anthropic": _message_pieces,
        "gemini": _gemini_pieces,
        "ollama": _ollama_pieces,
    }
    return builders[dialect](turn)


def _event(data: Any, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    text = data if isinstance(data, str) else json.dumps(data)
    return f"{head}data: {text}\n\n".encode()


def _halves(text: str) -> list[str]:
    """Return a text in two pieces, as arguments come in deltas."""
    middle = len(text) // 2
    return [piece for piece in (text[:middle], text[middle:]) if piece]


def _chat_usage(turn: Turn) -> dict[str, int]:
    tokens_in, tokens_out = turn.usage
    return {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
    }


def _chat_call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _chat(turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": turn.text}
    if turn.calls:
        message["tool_calls"] = [_chat_call(call) for call in turn.calls]
    reason = "tool_calls" if turn.calls else "stop"
    return {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": _chat_usage(turn),
    }


def _chat_pieces(turn: Turn) -> list[bytes]:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word} for word in turn.words]
    for index, call in enumerate(turn.calls):
        begin = _chat_call(call._replace(arguments=""))
        deltas.append({"tool_calls": [{"index": index, **begin}]})
        for piece in _halves(call.arguments):
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    reason = "tool_calls" if turn.calls else "stop"
    choices: list[dict[str, Any]] = [
        {"index": 0, "delta": delta, "finish_reason": None} for delta in deltas
    ]
    choices.append({"index": 0, "delta": {}, "finish_reason": reason})
    head = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    events = [_event({**head, "choices": [choice]}) for choice in choices]
    if turn.tells_usage:
        events.append(_event({**head, "choices": [], "usage": _chat_usage(turn)}))
    return [*events, _event("[DONE]")]


def _response_items(turn: Turn) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if turn.text is not None:
        part = {"type": "output_text", "text": turn.text, "annotations": []}
        items.append(
            {
                "id": "msg-1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [part],
            }
        )
    for call in turn.calls:
        items.append(
            {
                "id": f"fc-{call.id}",
                "type": "function_call",
                "call_id": call.id,
                "name": call.name,
                "arguments": call.arguments,
                "status": "completed",
            }
        )
    return items


def _response(turn: Turn) -> dict[str, Any]:
    tokens_in, tokens_out = turn.usage
    return {
        "id": "resp-1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": MODEL,
        "output": _response_items(turn),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": tokens_in,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": tokens_out,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": tokens_in + tokens_out,
        },
    }


def _response_pieces(turn: Turn) -> list[bytes]:
    whole = _response(turn)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    for index, item in enumerate(whole["output"]):
        head = {"output_index": index, "item_id": item["id"]}
        if item["type"] == "message":
            empty = {**item, "status": "in_progress", "content": []}
            spot = {**head, "content_index": 0}
            part = item["content"][0]
            events.append(_added(index, empty))
            opened = {"type": "response.content_part.added", "part": {**part, "text": ""}}
            events.append({**spot, **opened})
            for word in turn.words:
                said = {"type": "response.output_text.delta", "delta": word, "logprobs": []}
                events.append({**spot, **said})
            done = {"type": "response.output_text.done", "text": turn.text, "logprobs": []}
            events.append({**spot, **done})
            events.append({**spot, "type": "response.content_part.done", "part": part})
        else:
            events.append(_added(index, {**item, "status": "in_progress", "arguments": ""}))
            kind = "response.function_call_arguments"
            for piece in _halves(item["arguments"]):
                events.append({**head, "type": f"{kind}.delta", "delta": piece})
            events.append({**head, "type": f"{kind}.done", "arguments": item["arguments"]})
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": "response.completed", "response": whole})
    return [
        _event({**event, "sequence_number": number}, event["type"])
        for number, event in enumerate(events)
    ]


def _added(index: int, item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def _message_blocks(turn: Turn) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if turn.text is not None:
        blocks.append({"type": "text", "text": turn.text})
    for call in turn.calls:
        # A whole message cannot hold malformed arguments: the server would have sent none.
        arguments = json.loads(call.arguments) if call.arguments.endswith("}") else {}
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": arguments})
    return blocks


def _message(turn: Turn) -> dict[str, Any]:
    return {
        "id": "msg-1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": _message_blocks(turn),
        "stop_reason": "tool_use" if turn.calls else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": turn.usage[0], "output_tokens": turn.usage[1]},
    }


def _message_pieces(turn: Turn) -> list[bytes]:
    whole = _message(turn)
    begun = {**whole, "content": [], "stop_reason": None}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": begun}]
    calls = iter(turn.calls)
    for index, block in enumerate(whole["content"]):
        if block["type"] == "text":
            empty: dict[str, Any] = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": word} for word in turn.words]
        else:
            empty = {**block, "input": {}}
            pieces = _halves(next(calls).arguments)
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        events.append({"type": "content_block_start", "index": index, "content_block": empty})
        for delta in deltas:
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
        events.append({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    usage = {"output_tokens": turn.usage[1]}
    events.append({"type": "message_delta", "delta": ended, "usage": usage})
    events.append({"type": "message_stop"})
    return [_event(event, event["type"]) for event in events]


def _gemini_part(parts: list[dict[str, Any]], turn: Turn, *, is_last: bool) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    answer: dict[str, Any] = {"candidates": [candidate], "modelVersion": "scripted-1"}
    if is_last:
        candidate["finishReason"] = "STOP"
        answer["usageMetadata"] = {
            "promptTokenCount": turn.usage[0],
            "candidatesTokenCount": turn.usage[1],
            "totalTokenCount": sum(turn.usage),
        }
    return answer


def _gemini_calls(turn: Turn) -> list[dict[str, Any]]:
    return [
        {"functionCall": {"name": call.name, "args": json.loads(call.arguments)}}
        for call in turn.calls
    ]


def _gemini(turn: Turn) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"text": turn.text}] if turn.text is not None else []
    return _gemini_part(parts + _gemini_calls(turn), turn, is_last=True)


def _gemini_pieces(turn: Turn) -> list[bytes]:
    answers = [_gemini_part([{"text": word}], turn, is_last=False) for word in turn.words]
    answers.append(_gemini_part(_gemini_calls(turn), turn, is_last=True))
    # Gemini's stream ends its lines as HTTP does.
    return [f"data: {json.dumps(answer)}\r\n\r\n".encode() for answer in answers]


def _ollama_line(message: dict[str, Any], turn: Turn | None) -> dict[str, Any]:
    line = {"model": MODEL, "created_at": "2026-01-01T00:00:00Z", "message": message}
    if turn is None:
        return {**line, "done": False}
    counts = {"prompt_eval_count": turn.usage[0], "eval_count": turn.usage[1]}
    return {**line, "done": True, "done_reason": "stop", **counts}


def _ollama_calls(turn: Turn) -> list[dict[str, Any]]:
    return [
        {"function": {"name": call.name, "arguments": json.loads(call.arguments)}}
        for call in turn.calls
    ]


def _ollama(turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": turn.text or ""}
    if turn.calls:
        message["tool_calls"] = _ollama_calls(turn)
    return _ollama_line(message, turn)


def _ollama_pieces(turn: Turn) -> list[bytes]:
    lines = [_ollama_line({"role": "assistant", "content": word}, None) for word in turn.words]
    if turn.calls:
        asked = {"role": "assistant", "content": "", "tool_calls": _ollama_calls(turn)}
        lines.append(_ollama_line(asked, None))
    lines.append(_ollama_line({"role": "assistant", "content": ""}, turn))
    return [json.dumps(line).encode() + b"\n" for line in lines]
