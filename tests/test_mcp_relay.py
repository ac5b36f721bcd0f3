"""The relay of an MCP server: the session is unchanged, recorded, and answered from the recording."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import only
from tiers import third_slow

import trajrec
from trajrec.proxies.mcp_answers import RecordedCall, RecordedCalls, SessionAnswers
from trajrec.proxies.mcp_messages import access_of, find_tool_error, read_message

HERE = Path(__file__).parent
SERVER = [sys.executable, str(HERE / "tool_server.py")]


class Talk(NamedTuple):
    """The server's lines as JSON, and how it ended."""

    answers: list[Any]
    status: int
    errors: bytes


def talk(command: list[str], lines: list[bytes]) -> Talk:
    """Send lines to a server over stdio, each after the answer to the one before."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    answers = []
    with subprocess.Popen(command, **pipes) as process:
        for line in lines:
            process.stdin.write(line)
            process.stdin.flush()
            answer = process.stdout.readline() if b'"id"' in line else b""
            answers += [json.loads(answer)] if answer else []
        process.stdin.close()
        errors = process.stderr.read()
    return Talk(answers, process.returncode, errors)


def request(number: int, method: str, **params: Any) -> bytes:
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"


ECHO = """
import json, sys, time
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    params = message.get("params", {})
    arguments = params.get("arguments", {})
    answer = {"jsonrpc": "2.0", "id": message["id"]}
    if message["method"] == "tools/list":
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        tools = [{"name": name, "inputSchema": schema} for name in ("double", "fail", "drop")]
        tools[0]["annotations"] = {"readOnlyHint": True}
        answer["result"] = {"tools": tools}
    elif params.get("name") == "drop":
        sys.exit(3)
    elif params.get("name") == "fail":
        answer["result"] = {"isError": True, "content": [{"type": "text", "text": "no such order"}]}
    elif params.get("name") == "double":
        answer["result"] = {"content": [], "structuredContent": {"n": 2 * arguments.get("n", 0)}}
    else:
        answer["error"] = {"code": -32602, "message": "Unknown tool: " + str(params.get("name"))}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def server(tmp_path: Path) -> list[str]:
    path = tmp_path / "server.py"
    path.write_text(ECHO)
    return [sys.executable, str(path)]


def relayed(folder: Path, server: list[str], *options: str) -> list[str]:
    return [sys.executable, "-m", "trajrec", "mcp", str(folder), *options, "--", *server]


LINES = [
    request(0, "tools/list"),
    request(1, "tools/call", name="double", arguments={"n": 4}),
    request(2, "tools/call", name="fail", arguments={"n": 1}),
    request(3, "tools/call", name="double", arguments={"n": "4"}),
    request(4, "tools/call", name="gone", arguments={}),
    b'{"jsonrpc": "2.0", "method": "notifications/progress", "params": {}}\n',
]


@pytest.mark.slow
@third_slow("agents")
def test_a_session_is_relayed_recorded_and_answered(tmp_path: Path, server: list[str]) -> None:
    folder = tmp_path / "runs"
    bare = talk(server, LINES)
    through = talk(relayed(folder, server, "--task", "t"), LINES)
    assert (through.answers, through.status) == (bare.answers, 0)
    with trajrec.open(folder) as corpus:
        query = (
            "SELECT tool, access, outcome, invalid, message, is_raised FROM attempts ORDER BY step"
        )
        rows = corpus.sql(query).fetchall()
        (episode,) = corpus.episodes("task = 't'")
    assert rows == [
        ("double", "read", "ok", None, None, False),
        ("fail", "unknown", "error", None, "no such order", False),
        ("double", "read", "ok", "n must be integer", None, False),
        ("gone", "unknown", "error", "unknown tool", "Unknown tool: gone", True),
    ]
    answer = [sys.executable, "-m", "trajrec", "mcp", str(folder), "--answer", episode.id]
    again = talk(answer, LINES)
    results = [line.get("result") for line in again.answers]
    assert results == [line.get("result") for line in bare.answers]
    assert again.status == 0
    changed = [LINES[0], request(1, "tools/call", name="double", arguments={"n": 5})]
    missed = talk(answer, changed)
    assert "the recording has no double" in missed.answers[1]["error"]["message"]
    assert missed.status == 1
    assert b"left out 4 recorded calls" in missed.errors


@pytest.mark.slow
def test_secrets_of_a_servers_command_are_not_recorded(tmp_path: Path, server: list[str]) -> None:
    folder = tmp_path / "runs"
    assert talk(relayed(folder, [*server, "--token=abc123zz"]), LINES[:1]).status == 0
    with trajrec.open(folder) as corpus:
        ((words,),) = corpus.sql(
            "SELECT json_extract_string(metadata, '$.mcp_server') FROM episodes"
        ).fetchall()
    assert "abc123zz" not in words
    assert "--token=[redacted token" in words


@pytest.mark.slow
def test_a_server_that_dies_leaves_a_failed_call(tmp_path: Path, server: list[str]) -> None:
    folder = tmp_path / "runs"
    lines = [LINES[0], request(1, "tools/call", name="drop", arguments={"n": 1})]
    through = talk(relayed(folder, server), lines)
    assert (len(through.answers), through.status) == (1, 3)
    (attempt,) = only(folder).transcript.attempts
    assert (attempt.outcome, attempt.end and attempt.end.error_type) == (
        "error",
        "builtins.ConnectionError",
    )


@pytest.mark.slow
def test_changes_of_a_database_belong_to_the_call(tmp_path: Path) -> None:
    database = tmp_path / "state.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    path = tmp_path / "writer.py"
    path.write_text(
        f"""
import json, sqlite3, sys
for line in sys.stdin:
    message = json.loads(line)
    with sqlite3.connect({str(database)!r}) as c:
        c.execute("INSERT INTO t(v) VALUES (?)", (message["params"]["arguments"]["v"],))
    print(json.dumps({{"jsonrpc": "2.0", "id": message["id"], "result": {{}}}}), flush=True)
"""
    )
    folder = tmp_path / "runs"
    lines = [request(k, "tools/call", name="put", arguments={"v": f"v{k}"}) for k in (1, 2)]
    # One by one: calls that run at once may change the state in any order.
    command = relayed(folder, [sys.executable, str(path)], "--watch", str(database))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in lines:
            process.stdin.write(line)
            process.stdin.flush()
            process.stdout.readline()
        process.stdin.close()
    with trajrec.open(folder) as corpus:
        rows = corpus.sql("SELECT step, path, after FROM state_changes ORDER BY 1, 2").fetchall()
    assert [(step, after) for step, _, after in rows] == [
        (0, '{"id":1,"v":"v1"}'),
        (1, '{"id":2,"v":"v2"}'),
    ]


@pytest.mark.slow
@third_slow("agents")
def test_the_real_sdk_sees_no_difference(tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="mcp is not installed")
    from mcp import ClientSession
    from mcp.client.stdio import StdioServerParameters, stdio_client

    async def use(command: list[str]) -> list[Any]:
        parameters = StdioServerParameters(
            command=command[0], args=command[1:], env=dict(os.environ)
        )
        async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            tools = await session.list_tools()
            seen: list[Any] = [tool.name for tool in tools.tools]
            for name, arguments in (
                ("write", {"text": "a"}),
                ("read", {}),
                ("fail", {}),
                ("no", {}),
            ):
                try:
                    result = await session.call_tool(name, arguments)
                except Exception as exc:
                    seen.append(f"{type(exc).__name__}: {exc}")
                else:
                    seen.append(result.model_dump())
            return seen

    folder = tmp_path / "runs"
    bare = asyncio.run(use(SERVER))
    assert asyncio.run(use(relayed(folder, SERVER))) == bare
    episode = only(folder)
    calls = [
        (a.tool, a.start.access, a.outcome, a.start.invalid) for a in episode.transcript.attempts
    ]
    assert calls[:3] == [
        ("write", "unknown", "ok", ""),
        ("read", "read", "ok", ""),
        ("fail", "unknown", "error", ""),
    ]
    assert calls[3][0::3] == ("no", "unknown tool")
    answer = [sys.executable, "-m", "trajrec", "mcp", str(folder), "--answer", episode.id]
    assert asyncio.run(use(answer)) == bare


def test_half_a_pair_of_surrogates_is_answered_as_told() -> None:
    call = RecordedCall("say", {"b": "\ud83d", "a": 1}, {"content": ["cut \ude00"]}, "")
    answers = SessionAnswers(RecordedCalls([call]), [])
    asked = b'{"id": 1, "method": "tools/call", "params": '
    asked += b'{"name": "say", "arguments": {"a": 1, "b": "\\ud83d"}}}'
    line = answers.answer(read_message(asked))
    assert read_message(line).result() == {"content": ["cut \ude00"]}
    assert line.decode("utf-8")


def test_calls_are_matched_by_name_and_arguments() -> None:
    calls = RecordedCalls([RecordedCall("f", {"n": n}, {"n": n}, "") for n in (1, 2, 1)])
    answers = SessionAnswers(calls, [])

    def ask(n: int, **more: Any) -> Any:
        line = request(9, "tools/call", name="f", arguments={"n": n}, _meta=more)
        return json.loads(answers.answer(read_message(line)))

    assert [ask(2)["result"], ask(1, token=1)["result"], ask(1)["result"]] == [
        {"n": 2},
        {"n": 1},
        {"n": 1},
    ]
    assert "error" in ask(1)
    assert calls.n_left == 0


@pytest.mark.parametrize(
    "line", [b"", b"no json\n", b"[1, 2]\n", b'{"id": []}\n', b'{"method": 1, "id": 2}\n']
)
def test_a_line_that_is_no_message_is_none(line: bytes) -> None:
    message = read_message(line)
    assert not message.is_request
    assert message.line == line


def test_errors_and_access_are_read_from_hints() -> None:
    assert access_of({"openWorldHint": True, "readOnlyHint": False}) == "external"
    assert access_of({}) == "unknown"
    assert find_tool_error({"isError": True, "content": [{"type": "image"}]}) == "isError"
    assert find_tool_error([1]) is None
