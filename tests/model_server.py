"""An OpenAI-compatible server with scripted answers.

`python model_server.py` prints its port and serves until it is killed. The server answers a message
of the user with a call of `get_order`, another message with a text, and the message "fail" with
status 400. An answer is streamed if the request asks for it.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the message that answers a request."""
    last = request["messages"][-1]
    if last["role"] == "user":
        call = {"name": "get_order", "arguments": json.dumps({"order": "O1001"})}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call-1", "type": "function", "function": call}],
        }
    return {"role": "assistant", "content": f"I have read {len(last['content'])} characters."}


class Handler(BaseHTTPRequestHandler):
    """Serves POST /v1/chat/completions."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if request["messages"][-1]["content"] == "fail":
            error = {"message": "the script says so", "type": "invalid_request_error"}
            self._send(400, {"error": error})
            return
        head = {"id": "c-1", "created": 1, "model": "scripted-1"}
        n_prompt = 7 * len(request["messages"])
        usage = {"prompt_tokens": n_prompt, "completion_tokens": 5, "total_tokens": 12}
        message = answer(request)
        if not request.get("stream"):
            reason = "tool_calls" if "tool_calls" in message else "stop"
            choice = {"index": 0, "message": message, "finish_reason": reason}
            self._send(
                200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            )
            return
        pieces = [{"content": word} for word in (message["content"] or "").split(" ")]
        chunks = [{"index": 0, "delta": piece, "finish_reason": None} for piece in pieces]
        chunks.append({"index": 0, "delta": {}, "finish_reason": "stop"})
        lines = [
            json.dumps({**head, "object": "chat.completion.chunk", "choices": [chunk]})
            for chunk in chunks
        ]
        body = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()
        self._raw(200, "text/event-stream", body)

    def _send(self, status: int, body: dict[str, Any]) -> None:
        self._raw(status, "application/json", json.dumps(body).encode())

    def _raw(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing: the port is the only output."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
