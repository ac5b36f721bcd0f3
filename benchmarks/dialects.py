"""`python -m benchmarks.dialects`: the cost of reading the bytes of model calls.

Prints for each dialect the CPU time of a chunk of a streamed answer, with splitting, decoding and
assembly; of the contents of a request of 200 kB; and of its keys. Minima of repetitions.
"""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

from trajrec.wire.dialects.choose import dialect_named
from trajrec.wire.keys import RequestKeys, nearest

N_CHUNKS = 2_000
N_REPETITIONS = 15

# Turns of a request of about 200 kB.
N_TURNS = 300

URLS = {
    "chat": "https://example.org/v1/chat/completions",
    "responses": "https://example.org/v1/responses",
    "anthropic": "https://example.org/v1/messages",
    "gemini": "https://example.org/v1beta/models/gemini:streamGenerateContent",
    "ollama": "http://127.0.0.1:11434/api/chat",
    "bedrock": "https://example.org/model/nova/converse-stream",
}


def chunk(name: str, number: int) -> Any:
    """Return a chunk with a few characters of text, with all members that the server sends."""
    text = f" word{number}"
    match name:
        case "chat":
            choice = {"index": 0, "delta": {"content": text}, "logprobs": None}
            return {
                "id": "chatcmpl-CgBpWr9jLsHGYYtGSnJ1lYo7Hk2Xq",
                "object": "chat.completion.chunk",
                "created": 1764150000,
                "model": "gpt-5-mini-2025-08-07",
                "service_tier": "default",
                "system_fingerprint": "fp_560af6e559",
                "choices": [{**choice, "finish_reason": None}],
                "obfuscation": "aV3kPq",
            }
        case "responses":
            return {
                "type": "response.output_text.delta",
                "sequence_number": number,
                "item_id": "msg_0a2b4c6d8e0a2b4c6d8e0a2b4c6d8e",
                "output_index": 0,
                "content_index": 0,
                "delta": text,
                "logprobs": [],
                "obfuscation": "aV3kPq",
            }
        case "anthropic":
            delta = {"type": "text_delta", "text": text}
            return {"type": "content_block_delta", "index": 0, "delta": delta}
        case "gemini":
            content = {"parts": [{"text": text}], "role": "model"}
            return {
                "candidates": [{"content": content, "index": 0}],
                "usageMetadata": {
                    "promptTokenCount": 82,
                    "candidatesTokenCount": number,
                    "totalTokenCount": 82 + number,
                    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 82}],
                },
                "modelVersion": "gemini-2.5-flash",
                "responseId": "r1",
            }
        case "ollama":
            message = {"role": "assistant", "content": text}
            at = "2026-11-26T12:00:00.123456Z"
            return {"model": "qwen3", "created_at": at, "message": message, "done": False}
    return {"contentBlockIndex": 0, "delta": {"text": text}, "p": "abcdefghijklmnop"}


def frame(value: Any) -> bytes:
    """Return an event as a frame of Amazon's event streams."""
    payload = json.dumps(value).encode()
    headers = b""
    for key, text in ((b":event-type", b"contentBlockDelta"), (b":message-type", b"event")):
        headers += bytes([len(key)]) + key + b"\x07" + struct.pack(">H", len(text)) + text
    start = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    body = start + struct.pack(">I", zlib.crc32(start)) + headers + payload
    return body + struct.pack(">I", zlib.crc32(body))


def stream(name: str) -> tuple[str, bytes]:
    """Return the content type and the bytes of an answer in many chunks."""
    values = [chunk(name, number) for number in range(N_CHUNKS)]
    if name == "bedrock":
        return "application/vnd.amazon.eventstream", b"".join(map(frame, values))
    lines = [json.dumps(value, separators=(",", ":")).encode() for value in values]
    if name == "ollama":
        return "application/x-ndjson", b"\n".join(lines)
    kinds = [f"event: {value['type']}\n" if "type" in value else "" for value in values]
    events = [k.encode() + b"data: " + line for k, line in zip(kinds, lines, strict=True)]
    return "text/event-stream", b"\n\n".join(events)


def request(name: str) -> bytes:
    """Return a request of about 200 kB: a conversation of many turns."""
    texts = [f"turn {k}: " + "lorem ipsum dolor sit amet " * 24 for k in range(N_TURNS)]
    roles = ["user", "assistant"] * (N_TURNS // 2)
    pairs = list(zip(roles, texts, strict=True))
    match name:
        case "gemini":
            value: Any = {"contents": [{"role": r, "parts": [{"text": t}]} for r, t in pairs]}
        case "bedrock":
            value = {"messages": [{"role": r, "content": [{"text": t}]} for r, t in pairs]}
        case "responses":
            value = {"model": "m", "input": [{"role": r, "content": t} for r, t in pairs]}
        case _:
            value = {"model": "m", "messages": [{"role": r, "content": t} for r, t in pairs]}
    return json.dumps(value).encode()


def cost_us(function: Callable[[], Any]) -> float:
    """Return the least CPU time of a call, in microseconds."""
    times = []
    for _ in range(N_REPETITIONS):
        start = time.process_time_ns()
        function()
        times.append(time.process_time_ns() - start)
    return min(times) / 1e3


def main() -> None:
    """Measure all dialects."""
    print(f"{'':10} {'us a chunk':>10} {'ms a request':>13} {'all messages':>13}")
    for name, url in URLS.items():
        dialect = dialect_named(name)
        kind, body = stream(name)
        answer = cost_us(lambda d=dialect, k=kind, b=body: d.answer(200, k, b))  # type: ignore[misc]
        data = request(name)
        content = cost_us(lambda d=dialect, u=url, b=data: d.request(u, b))  # type: ignore[misc]
        messages = dialect.request(url, data).messages
        read = cost_us(lambda d=dialect, m=messages: [d.message(one) for one in m])  # type: ignore[misc]
        print(f"{name:10} {answer / N_CHUNKS:10.1f} {content / 1e3:13.2f} {read / 1e3:13.2f}")
    data = request("chat")
    url = URLS["chat"]
    print(f"keys of {len(data) / 1e3:.0f} kB, ms:", end="")
    for key in ("exact", "canonical", "loose"):
        cost = cost_us(lambda k=key: getattr(RequestKeys(url, data), k))  # type: ignore[misc]
        print(f" {key} {cost / 1e3:.2f}", end="")
    changed = data.replace(b"turn 7:", b"turn 8:")
    print(f" nearest of 50 {cost_us(lambda: nearest(changed, [data] * 50)) / 1e3:.1f}")


if __name__ == "__main__":
    main()
