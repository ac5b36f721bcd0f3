"""Bodies of model calls in every dialect, written by hand from the documentation of their APIs.

Each dialect tells the same story: a user asks for an order, the model makes two calls in one answer
(the second with malformed arguments, where the dialect can carry such), the results come back, one
of them as an error.
"""

from __future__ import annotations

import copy
import json
import random
import struct
import zlib
from typing import Any


def dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def sse(*events: Any, names: bool = False, done: bool = False) -> bytes:
    """Return events as a stream, named by their type if asked."""
    blocks = []
    for event in events:
        name = b"event: " + event["type"].encode() + b"\n" if names else b""
        blocks.append(name + b"data: " + dump(event) + b"\n\n")
    return b"".join(blocks) + (b"data: [DONE]\n\n" if done else b"")


def frame(name: str, value: Any, kind: str = "event") -> bytes:
    """Return one frame of Amazon's event streams."""
    field = {"event": ":event-type", "exception": ":exception-type"}[kind]
    headers = b""
    for key, text in (
        (field, name),
        (":content-type", "application/json"),
        (":message-type", kind),
    ):
        headers += bytes([len(key)]) + key.encode() + b"\x07"
        headers += struct.pack(">H", len(text)) + text.encode()
    payload = json.dumps(value).encode()
    start = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    body = start + struct.pack(">I", zlib.crc32(start)) + headers + payload
    return body + struct.pack(">I", zlib.crc32(body))


SCHEMA = {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]}
BROKEN = '{"order": "O2"'

# Chat completions.

CHAT_URL = "https://api.openai.com/v1/chat/completions"
CHAT_CALLS = [
    {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_order", "arguments": '{"order":"O1"}'},
    },
    {"id": "call_2", "type": "function", "function": {"name": "refund", "arguments": BROKEN}},
]
CHAT_REQUEST = {
    "model": "gpt-5-mini",
    "messages": [
        {"role": "developer", "content": "You help."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look at"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                {"type": "text", "text": "order O1."},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": CHAT_CALLS},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"cents":500}'},
        {"role": "tool", "tool_call_id": "call_2", "content": "no such order"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "get_order",
                "description": "Look up an order.",
                "parameters": SCHEMA,
            },
        },
        {"type": "custom", "custom": {"name": "note", "description": "Write a note."}},
    ],
    "temperature": 0.5,
    "stream": True,
}
CHAT_USAGE = {
    "prompt_tokens": 82,
    "completion_tokens": 17,
    "total_tokens": 99,
    "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 9, "audio_tokens": 0},
}
CHAT_ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1764150000,
    "model": "gpt-5-mini-2025-08-07",
    "system_fingerprint": "fp_1",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Let me look.", "tool_calls": CHAT_CALLS},
            "finish_reason": "tool_calls",
        }
    ],
    "usage": CHAT_USAGE,
}


def _chat_chunk(delta: Any, finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1764150000,
        "model": "gpt-5-mini-2025-08-07",
        "system_fingerprint": "fp_1",
        "choices": [] if delta is None else [choice],
        "usage": None,
        **fields,
    }


def _chat_call(index: int, **fields: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, **fields}]}


CHAT_CHUNKS = [
    _chat_chunk({"role": "assistant", "content": ""}, obfuscation="abc"),
    _chat_chunk({"content": "Let me "}),
    _chat_chunk({"content": "look."}),
    _chat_chunk(
        _chat_call(0, id="call_1", type="function", function={"name": "get_order", "arguments": ""})
    ),
    _chat_chunk(_chat_call(0, function={"arguments": '{"order"'})),
    _chat_chunk(
        _chat_call(1, id="call_2", type="function", function={"name": "refund", "arguments": ""})
    ),
    _chat_chunk(_chat_call(1, function={"arguments": '{"order": '})),
    _chat_chunk(_chat_call(0, function={"arguments": ':"O1"}'})),
    _chat_chunk(_chat_call(1, function={"arguments": '"O2"'})),
    _chat_chunk({}, "tool_calls"),
    _chat_chunk(None, usage=CHAT_USAGE),
]

# Responses.

RESPONSES_URL = "https://api.openai.com/v1/responses"
RESPONSES_CALLS = [
    {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_1",
        "name": "get_order",
        "arguments": '{"order":"O1"}',
        "status": "completed",
    },
    {
        "type": "function_call",
        "id": "fc_2",
        "call_id": "call_2",
        "name": "refund",
        "arguments": BROKEN,
        "status": "completed",
    },
]
RESPONSES_MESSAGE = {
    "type": "message",
    "id": "msg_1",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}],
}
RESPONSES_REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "Two calls."}],
}
RESPONSES_REQUEST = {
    "model": "gpt-5-mini",
    "instructions": "You help.",
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Look at"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA=="},
                {"type": "input_text", "text": "order O1."},
            ],
        },
        RESPONSES_REASONING,
        RESPONSES_MESSAGE,
        *RESPONSES_CALLS,
        {"type": "function_call_output", "call_id": "call_1", "output": '{"cents":500}'},
        {
            "type": "function_call_output",
            "call_id": "call_2",
            "output": [{"type": "input_text", "text": "no such order"}],
        },
    ],
    "tools": [
        {
            "type": "function",
            "name": "get_order",
            "description": "Look up an order.",
            "parameters": SCHEMA,
            "strict": True,
        },
        {"type": "web_search"},
        {"type": "mcp", "server_label": "shop", "server_url": "https://example.org"},
    ],
    "previous_response_id": "resp_0",
    "temperature": 0.5,
    "stream": True,
}
RESPONSES_ANSWER = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1764150000,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "model": "gpt-5-mini-2025-08-07",
    "output": [RESPONSES_REASONING, RESPONSES_MESSAGE, *RESPONSES_CALLS],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 82,
        "input_tokens_details": {"cached_tokens": 64},
        "output_tokens": 17,
        "output_tokens_details": {"reasoning_tokens": 9},
        "total_tokens": 99,
    },
}


def _responses_events() -> list[dict[str, Any]]:
    begun = {**RESPONSES_ANSWER, "status": "in_progress", "output": [], "usage": None}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {"type": "reasoning", "id": "rs_1", "summary": []},
        },
    ]
    at = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
    part = "response.reasoning_summary_part"
    text = "response.reasoning_summary_text"
    events += [
        {"type": f"{part}.added", **at, "part": {"type": "summary_text", "text": ""}},
        {"type": f"{text}.delta", **at, "delta": "Two "},
        {"type": f"{text}.delta", **at, "delta": "calls."},
        {"type": f"{text}.done", **at, "text": "Two calls."},
        {"type": f"{part}.done", **at, "part": {"type": "summary_text", "text": "Two calls."}},
        {"type": "response.output_item.done", "output_index": 0, "item": RESPONSES_REASONING},
    ]
    at = {"item_id": "msg_1", "output_index": 1, "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": []}
    started = {**RESPONSES_MESSAGE, "status": "in_progress", "content": []}
    events += [
        {"type": "response.output_item.added", "output_index": 1, "item": started},
        {"type": "response.content_part.added", **at, "part": empty},
        {"type": "response.output_text.delta", **at, "delta": "Let me ", "logprobs": []},
        {"type": "response.output_text.delta", **at, "delta": "look.", "logprobs": []},
        {"type": "response.output_text.done", **at, "text": "Let me look.", "logprobs": []},
        {
            "type": "response.content_part.done",
            **at,
            "part": RESPONSES_MESSAGE["content"][0],
        },
        {"type": "response.output_item.done", "output_index": 1, "item": RESPONSES_MESSAGE},
    ]
    kind = "response.function_call_arguments"
    for number, call in enumerate(RESPONSES_CALLS, 2):
        arguments = call["arguments"]
        at = {"item_id": call["id"], "output_index": number}
        started = {**call, "arguments": "", "status": "in_progress"}
        events += [
            {"type": "response.output_item.added", "output_index": number, "item": started},
            {"type": f"{kind}.delta", **at, "delta": arguments[:5]},
            {"type": f"{kind}.delta", **at, "delta": arguments[5:]},
            {"type": f"{kind}.done", **at, "arguments": arguments, "name": call["name"]},
            {"type": "response.output_item.done", "output_index": number, "item": call},
        ]
    events.append({"type": "response.completed", "response": RESPONSES_ANSWER})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


RESPONSES_EVENTS = _responses_events()

# Anthropic.

ANTHROPIC_URL = "https://api.anthropic.com/v1/messages"
ANTHROPIC_REQUEST = {
    "model": "claude-test",
    "max_tokens": 1024,
    "system": [
        {"type": "text", "text": "You help.", "cache_control": {"type": "ephemeral"}},
    ],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look at"},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": "AA=="},
                },
                {"type": "text", "text": "order O1."},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Two calls.", "signature": "EqQ="},
                {"type": "text", "text": "Let me look."},
                {
                    "type": "tool_use",
                    "id": "toolu_1",
                    "name": "get_order",
                    "input": {"order": "O1"},
                },
                {"type": "tool_use", "id": "toolu_2", "name": "refund", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": '{"cents":500}'},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "is_error": True,
                    "content": [{"type": "text", "text": "no such order"}],
                },
            ],
        },
    ],
    "tools": [
        {"name": "get_order", "description": "Look up an order.", "input_schema": SCHEMA},
        {"type": "web_search_20250305", "name": "web_search"},
    ],
    "temperature": 0.5,
    "stream": True,
}
ANTHROPIC_ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-test-1",
    "content": [
        {"type": "thinking", "thinking": "Two calls.", "signature": "EqQ="},
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "toolu_1", "name": "get_order", "input": {"order": "O1"}},
        {"type": "tool_use", "id": "toolu_2", "name": "refund", "input": {}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 8,
        "cache_creation_input_tokens": 10,
        "cache_read_input_tokens": 64,
        "output_tokens": 17,
        "service_tier": "standard",
    },
}
ANTHROPIC_EVENTS = [
    {
        "type": "message_start",
        "message": {
            **ANTHROPIC_ANSWER,
            "content": [],
            "stop_reason": None,
            "usage": {**ANTHROPIC_ANSWER["usage"], "output_tokens": 1},  # type: ignore[dict-item]
        },
    },
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "thinking", "thinking": "", "signature": ""},
    },
    {"type": "ping"},
    *(
        {"type": "content_block_delta", "index": 0, "delta": delta}
        for delta in (
            {"type": "thinking_delta", "thinking": "Two "},
            {"type": "thinking_delta", "thinking": "calls."},
            {"type": "signature_delta", "signature": "EqQ="},
        )
    ),
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    *(
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": text}}
        for text in ("Let me ", "look.")
    ),
    {"type": "content_block_stop", "index": 1},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "toolu_1", "name": "get_order", "input": {}},
    },
    *(
        {
            "type": "content_block_delta",
            "index": 2,
            "delta": {"type": "input_json_delta", "partial_json": text},
        }
        for text in ("", '{"order": ', '"O1"}')
    ),
    {"type": "content_block_stop", "index": 2},
    {
        "type": "content_block_start",
        "index": 3,
        "content_block": {"type": "tool_use", "id": "toolu_2", "name": "refund", "input": {}},
    },
    {
        "type": "content_block_delta",
        "index": 3,
        "delta": {"type": "input_json_delta", "partial_json": ""},
    },
    {"type": "content_block_stop", "index": 3},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {"output_tokens": 17},
    },
    {"type": "message_stop"},
]

# Gemini.

GEMINI_URL = "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:{}"
GEMINI_REQUEST = {
    "systemInstruction": {"parts": [{"text": "You help."}]},
    "contents": [
        {
            "role": "user",
            "parts": [
                {"text": "Look at"},
                {"inlineData": {"mimeType": "image/png", "data": "AA=="}},
                {"text": "order O1."},
            ],
        },
        {
            "role": "model",
            "parts": [
                {"text": "Let me look."},
                {"functionCall": {"name": "get_order", "args": {"order": "O1"}}},
                {"functionCall": {"name": "refund", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "get_order", "response": {"cents": 500}}},
                {"functionResponse": {"name": "refund", "response": {"error": "no such order"}}},
            ],
        },
    ],
    "tools": [
        {
            "functionDeclarations": [
                {
                    "name": "get_order",
                    "description": "Look up an order.",
                    "parametersJsonSchema": SCHEMA,
                }
            ]
        },
        {"googleSearch": {}},
    ],
    "generationConfig": {"temperature": 0.5, "maxOutputTokens": 99},
}
GEMINI_USAGE = {
    "promptTokenCount": 82,
    "candidatesTokenCount": 8,
    "thoughtsTokenCount": 9,
    "cachedContentTokenCount": 64,
    "totalTokenCount": 99,
}
GEMINI_PARTS: list[dict[str, Any]] = [
    {"text": "Two calls.", "thought": True},
    {"text": "Let me look."},
    {"functionCall": {"name": "get_order", "args": {"order": "O1"}}, "thoughtSignature": "EqQ="},
    {"functionCall": {"name": "refund", "args": {}}},
]
GEMINI_ANSWER = {
    "candidates": [
        {"content": {"parts": GEMINI_PARTS, "role": "model"}, "finishReason": "STOP", "index": 0}
    ],
    "usageMetadata": GEMINI_USAGE,
    "modelVersion": "gemini-2.5-flash",
    "responseId": "r1",
}


def _gemini_chunk(*parts: Any, said: int, **fields: Any) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"parts": [*parts], "role": "model"}, "index": 0, **fields}],
        "usageMetadata": {**GEMINI_USAGE, "candidatesTokenCount": said},
        "modelVersion": "gemini-2.5-flash",
        "responseId": "r1",
    }


GEMINI_CHUNKS = [
    _gemini_chunk({"text": "Two ", "thought": True}, said=0),
    _gemini_chunk({"text": "calls.", "thought": True}, {"text": "Let me "}, said=2),
    _gemini_chunk({"text": "look."}, said=3),
    _gemini_chunk(*GEMINI_PARTS[2:], said=8, finishReason="STOP"),
]

# Ollama.

OLLAMA_URL = "http://127.0.0.1:11434/api/chat"
OLLAMA_CALLS = [
    {"function": {"name": "get_order", "arguments": {"order": "O1"}}},
    {"function": {"name": "refund", "arguments": {}}},
]
OLLAMA_REQUEST = {
    "model": "qwen3",
    "messages": [
        {"role": "system", "content": "You help."},
        {"role": "user", "content": "Look at\norder O1.", "images": ["AA=="]},
        {"role": "assistant", "content": "", "tool_calls": OLLAMA_CALLS},
        {"role": "tool", "tool_name": "get_order", "content": '{"cents":500}'},
        {"role": "tool", "tool_name": "refund", "content": "no such order"},
    ],
    "tools": [CHAT_REQUEST["tools"][0]],  # type: ignore[index]
    "options": {"temperature": 0.5, "num_ctx": 4096},
}
OLLAMA_ANSWER = {
    "model": "qwen3",
    "created_at": "2026-11-26T12:00:03Z",
    "message": {
        "role": "assistant",
        "content": "Let me look.",
        "thinking": "Two calls.",
        "tool_calls": OLLAMA_CALLS,
    },
    "done_reason": "stop",
    "done": True,
    "total_duration": 4883583458,
    "prompt_eval_count": 82,
    "eval_count": 17,
}


def _ollama_line(second: int, **message: Any) -> dict[str, Any]:
    return {
        "model": "qwen3",
        "created_at": f"2026-11-26T12:00:0{second}Z",
        "message": {"role": "assistant", "content": "", **message},
        "done": False,
    }


OLLAMA_LINES = [
    _ollama_line(0, thinking="Two "),
    _ollama_line(0, thinking="calls."),
    _ollama_line(1, content="Let me "),
    _ollama_line(1, content="look."),
    _ollama_line(2, tool_calls=OLLAMA_CALLS[:1]),
    _ollama_line(2, tool_calls=OLLAMA_CALLS[1:]),
    {**OLLAMA_ANSWER, "message": {"role": "assistant", "content": ""}},
]

# Bedrock's Converse.

BEDROCK_URL = "https://bedrock-runtime.eu-west-1.amazonaws.com/model/amazon.nova-lite-v1%3A0/{}"
BEDROCK_REQUEST = {
    "system": [{"text": "You help."}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"text": "Look at"},
                {"image": {"format": "png", "source": {"bytes": "AA=="}}},
                {"text": "order O1."},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"text": "Let me look."},
                {
                    "toolUse": {
                        "toolUseId": "tooluse_1",
                        "name": "get_order",
                        "input": {"order": "O1"},
                    }
                },
                {"toolUse": {"toolUseId": "tooluse_2", "name": "refund", "input": {}}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "toolResult": {
                        "toolUseId": "tooluse_1",
                        "content": [{"json": {"cents": 500}}],
                        "status": "success",
                    }
                },
                {
                    "toolResult": {
                        "toolUseId": "tooluse_2",
                        "content": [{"text": "no such order"}],
                        "status": "error",
                    }
                },
            ],
        },
    ],
    "inferenceConfig": {"temperature": 0.5, "maxTokens": 99},
    "toolConfig": {
        "tools": [
            {
                "toolSpec": {
                    "name": "get_order",
                    "description": "Look up an order.",
                    "inputSchema": {"json": SCHEMA},
                }
            }
        ]
    },
}
BEDROCK_ANSWER = {
    "output": {
        "message": {
            "role": "assistant",
            "content": [
                {
                    "reasoningContent": {
                        "reasoningText": {"text": "Two calls.", "signature": "EqQ="}
                    }
                },
                {"text": "Let me look."},
                {
                    "toolUse": {
                        "toolUseId": "tooluse_1",
                        "name": "get_order",
                        "input": {"order": "O1"},
                    }
                },
                {"toolUse": {"toolUseId": "tooluse_2", "name": "refund", "input": {}}},
            ],
        }
    },
    "stopReason": "tool_use",
    "usage": {
        "inputTokens": 8,
        "outputTokens": 17,
        "totalTokens": 99,
        "cacheReadInputTokens": 64,
        "cacheWriteInputTokens": 10,
    },
    "metrics": {"latencyMs": 551},
}


def _bedrock_delta(index: int, **delta: Any) -> tuple[str, Any]:
    return "contentBlockDelta", {"contentBlockIndex": index, "delta": delta}


def _bedrock_use(index: int, number: int, name: str) -> tuple[str, Any]:
    use = {"toolUseId": f"tooluse_{number}", "name": name}
    return "contentBlockStart", {"contentBlockIndex": index, "start": {"toolUse": use}}


BEDROCK_EVENTS = [
    ("messageStart", {"role": "assistant", "p": "abc"}),
    _bedrock_delta(0, reasoningContent={"text": "Two "}),
    _bedrock_delta(0, reasoningContent={"text": "calls."}),
    _bedrock_delta(0, reasoningContent={"signature": "EqQ="}),
    ("contentBlockStop", {"contentBlockIndex": 0}),
    _bedrock_delta(1, text="Let me "),
    _bedrock_delta(1, text="look."),
    ("contentBlockStop", {"contentBlockIndex": 1}),
    _bedrock_use(2, 1, "get_order"),
    _bedrock_delta(2, toolUse={"input": '{"order":'}),
    _bedrock_delta(2, toolUse={"input": ' "O1"}'}),
    ("contentBlockStop", {"contentBlockIndex": 2}),
    _bedrock_use(3, 2, "refund"),
    _bedrock_delta(3, toolUse={"input": ""}),
    ("contentBlockStop", {"contentBlockIndex": 3}),
    ("messageStop", {"stopReason": "tool_use"}),
    ("metadata", {"usage": BEDROCK_ANSWER["usage"], "metrics": {"latencyMs": 551}}),
]

SSE = "text/event-stream; charset=utf-8"
AMAZON = "application/vnd.amazon.eventstream"

REQUESTS = {
    "chat": (CHAT_URL, CHAT_REQUEST),
    "responses": (RESPONSES_URL, RESPONSES_REQUEST),
    "anthropic": (ANTHROPIC_URL, ANTHROPIC_REQUEST),
    "gemini": (GEMINI_URL.format("streamGenerateContent?alt=sse"), GEMINI_REQUEST),
    "ollama": (OLLAMA_URL, OLLAMA_REQUEST),
    "bedrock": (BEDROCK_URL.format("converse-stream"), BEDROCK_REQUEST),
}
"""Dialect -> address and body of a request that asks for a stream."""

ANSWERS: dict[str, dict[str, Any]] = {
    "chat": CHAT_ANSWER,
    "responses": RESPONSES_ANSWER,
    "anthropic": ANTHROPIC_ANSWER,
    "gemini": GEMINI_ANSWER,
    "ollama": OLLAMA_ANSWER,
    "bedrock": BEDROCK_ANSWER,
}
"""Dialect -> whole answer."""

STREAMS = {
    "chat": (SSE, sse(*CHAT_CHUNKS, done=True)),
    "responses": (SSE, sse(*RESPONSES_EVENTS, names=True)),
    "anthropic": (SSE, sse(*ANTHROPIC_EVENTS, names=True)),
    "gemini": (SSE, b"".join(b"data: " + dump(c) + b"\r\n\r\n" for c in GEMINI_CHUNKS)),
    "ollama": ("application/x-ndjson", b"".join(dump(line) + b"\n" for line in OLLAMA_LINES)),
    "bedrock": (AMAZON, b"".join(frame(*event) for event in BEDROCK_EVENTS)),
}
"""Dialect -> content type and bytes of the same answer, streamed."""

# Changes that a fuzzer makes.

WRONG = [None, True, 0, -1, 2**70, 1e308, "", "x", "\ud800", [], [[]], {}, {"": None}, [None, {}]]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return each place in a value as its holder and key."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], (dict, list)):
            found += places(value[key])
    return found


def changed(rng: random.Random, value: Any) -> Any:
    """Return a copy of a JSON value with wrong types and missing members at a few places."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 4)):
        sites = places(value)
        if not sites:
            break
        holder, key = rng.choice(sites)
        choice = rng.random()
        if choice < 0.6:
            holder[key] = copy.deepcopy(rng.choice(WRONG))
        elif choice < 0.8:
            other_holder, other = rng.choice(sites)
            holder[key] = copy.deepcopy(other_holder[other])
        elif isinstance(holder, dict):
            del holder[key]
    return value


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return bytes of which some are changed, removed or doubled."""
    for _ in range(rng.randint(0, 3)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((1, 1, 1, 7, 100)))
        piece = rng.choice((b"", b"\xff", b'"', b"\n\n", b"{", b"]", b"\\", data[start:end] * 2))
        data = data[:start] + piece + data[end:]
    return data
