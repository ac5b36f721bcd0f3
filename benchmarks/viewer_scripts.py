"""Programs for the environments of other tools: each writes the same episode in its tool's form.

They read the turns from their input, as JSON: text, order, and the error of the call, "" without.
"""

from __future__ import annotations

INSPECT = """
import json, sys
from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, write_eval_log
from inspect_ai.model import ChatMessageAssistant, ChatMessageTool, ChatMessageUser
from inspect_ai.tool import ToolCall, ToolCallError

messages = [ChatMessageUser(content="Look at the orders.")]
for number, turn in enumerate(json.load(sys.stdin)):
    call = ToolCall(id=f"c{number}", function="get_order", arguments={"order": turn["order"]})
    messages.append(ChatMessageAssistant(content=turn["text"], tool_calls=[call], model="m-1"))
    error = ToolCallError("unknown", turn["error"]) if turn["error"] else None
    content = "" if error else json.dumps({"order": turn["order"], "item": "lamp", "cents": 5400})
    messages.append(
        ChatMessageTool(content=content, tool_call_id=call.id, function="get_order", error=error)
    )
spec = EvalSpec(
    created="2026-01-01T00:00:00+00:00", task="long", dataset=EvalDataset(name="long", samples=1),
    model="m-1", config=EvalConfig(),
)
sample = EvalSample(id=1, epoch=1, input="Look at the orders.", target="", messages=messages)
write_eval_log(EvalLog(eval=spec, status="success", samples=[sample]), "long.eval")
"""

PYDANTIC_AI_TRACE = """
import json, pathlib, sys
from pydantic_ai.messages import (
    ModelMessagesTypeAdapter, ModelRequest, ModelResponse, RetryPromptPart, TextPart, ToolCallPart,
    ToolReturnPart, UserPromptPart,
)

messages = [ModelRequest(parts=[UserPromptPart(content="Look at the orders.")])]
for number, turn in enumerate(json.load(sys.stdin)):
    name, key = "get_order", f"c{number}"
    call = ToolCallPart(tool_name=name, args={"order": turn["order"]}, tool_call_id=key)
    messages.append(ModelResponse(parts=[TextPart(content=turn["text"]), call], model_name="m-1"))
    if turn["error"]:
        part = RetryPromptPart(content=turn["error"], tool_name=name, tool_call_id=key)
    else:
        value = {"order": turn["order"], "item": "lamp", "cents": 5400}
        part = ToolReturnPart(tool_name=name, content=value, tool_call_id=key)
    messages.append(ModelRequest(parts=[part]))
pathlib.Path("trace.json").write_bytes(ModelMessagesTypeAdapter.dump_json(messages))
"""

# A session of Claude Code, the first of the forms that it reads.
TRAJVIZ = """
import datetime, json, sys

start = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
lines = []

def add(kind, message):
    at = start + datetime.timedelta(seconds=len(lines))
    parent = f"u{len(lines) - 1}" if lines else None
    lines.append({
        "type": kind, "uuid": f"u{len(lines)}", "parentUuid": parent, "sessionId": "s",
        "timestamp": at.isoformat().replace("+00:00", "Z"), "cwd": "/", "version": "2.0.0",
        "isSidechain": False, "userType": "external", "message": message,
    })

add("user", {"role": "user", "content": "Look at the orders."})
for number, turn in enumerate(json.load(sys.stdin)):
    key = f"toolu_{number}"
    call = {"type": "tool_use", "id": key, "name": "get_order", "input": {"order": turn["order"]}}
    add("assistant", {
        "id": f"msg_{number}", "type": "message", "role": "assistant", "model": "m-1",
        "content": [{"type": "text", "text": turn["text"]}, call], "stop_reason": "tool_use",
        "usage": {"input_tokens": 40, "output_tokens": 20},
    })
    value = turn["error"] or json.dumps({"order": turn["order"], "item": "lamp", "cents": 5400})
    result = {"type": "tool_result", "tool_use_id": key, "content": value}
    if turn["error"]:
        result["is_error"] = True
    add("user", {"role": "user", "content": [result]})
with open("trace.jsonl", "w") as file:
    file.writelines(json.dumps(line) + "\\n" for line in lines)
"""
