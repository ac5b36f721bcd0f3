"""`trajrec capture --mcp`: the MCP servers of a command are recorded with its model calls."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import only
from model_server import Call, ModelServer, Turn
from test_capture_command import trajrec_command
from tiers import third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.cli.mcp import recorded_call, recorded_requests
from trajrec.proxies.mcp_answers import McpAnswers, RecordedCalls
from trajrec.proxies.mcp_config import recorders, wrapped_servers
from trajrec.proxies.mcp_messages import read_messages
from trajrec.proxies.mcp_sessions import McpRecording
from trajrec.proxies.mcp_sse import Place, SseServer
from trajrec.proxies.server import ProxyServer
from trajrec.proxies.upstreams import Routes
from trajrec.wire.exchange import HttpRequest

HERE = Path(__file__).parent
AGENT = HERE / "command_agents" / "mcp_agent.py"

PLAN = [
    Turn(calls=[Call("book", '{"cents": 5}', "c-1"), Call("book", '{"cents": 7}', "c-2")]),
    Turn(calls=[Call("total", "{}", "c-3"), Call("book", '{"cents": "x"}', "c-4")]),
    Turn("Done."),
]


def ledger_config(folder: Path) -> Path:
    """Write a configuration with a server whose state is a database."""
    path = folder / "servers.json"
    server = {
        "command": sys.executable,
        "args": [str(HERE / "ledger_server.py"), str(folder / "ledger.db")],
        "env": {"LEDGER_KEY": "k"},
    }
    path.write_text(json.dumps({"mcpServers": {"my ledger": server}}))
    return path


def bare_output(config: Path) -> str:
    """Return the output of the agent without a recorder."""
    with ModelServer(PLAN) as server:
        ended = subprocess.run(
            [sys.executable, str(AGENT), str(config)],
            env={**os.environ, "OPENAI_BASE_URL": f"{server.url}/v1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    return ended.stdout


@pytest.mark.slow
@third_slow("agents")
def test_servers_of_a_command_are_recorded_and_answered(tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="mcp is not installed")
    config = ledger_config(tmp_path)
    before = config.read_bytes()
    database = tmp_path / "ledger.db"
    bare = bare_output(config)
    database.unlink()
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE entries (cents INTEGER)")
    connection.close()
    runs = tmp_path / "runs"
    command: list[Any] = [sys.executable, AGENT, f"--config={config}"]
    with ModelServer(PLAN) as server:
        ended = trajrec_command(
            "capture", runs, "--mcp", "--watch", database, "--", *command, url=server.url
        )
    assert (ended.returncode, ended.stdout) == (0, bare), ended.stderr
    assert "4 tool calls of 1 server recorded: my_ledger" in ended.stderr
    assert "3 model calls" in ended.stderr
    assert config.read_bytes() == before
    episode = only(runs)
    rows = [
        (a.tool, a.start.call_id, a.start.access, a.outcome, bool(a.start.invalid), len(a.changes))
        for a in episode.transcript.attempts[1:]
    ]
    assert rows == [
        ("mcp__my_ledger__book", "c-1", "write", "ok", False, 1),
        ("mcp__my_ledger__book", "c-2", "write", "ok", False, 1),
        ("mcp__my_ledger__total", "c-3", "read", "ok", False, 0),
        ("mcp__my_ledger__book", "c-4", "write", "error", True, 0),
    ]
    assert "cents" in str(episode.transcript.attempts[-1].end.message)
    database.unlink()
    again = trajrec_command("rerun", runs, episode.id, "--", *command)
    assert (again.returncode, again.stdout) == (0, bare), again.stderr
    assert "no difference" in again.stderr
    assert not database.exists()
    given = ["--at", 1, "--call", 0, "--arguments", '{"cents": 6}', "-n", 1, "--json"]
    leave = ["--watch", database, "--run-tools", "all"]
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE entries (cents INTEGER)")
    connection.close()
    with ModelServer(PLAN[1:] * 2) as server:
        tried = trajrec_command(
            "whatif", runs, episode.id, *given, *leave, "--", *command, url=server.url
        )
    assert tried.returncode == 0, tried.stderr
    assert json.loads(tried.stdout)["controls"] == {"equal": 2, "of": 2}
    given[4:6] = ["--tool-error", "busy"]
    refused = trajrec_command("whatif", runs, episode.id, *given, *leave, "--", *command)
    assert (refused.returncode, "another result cannot be given" in refused.stderr) == (4, True)


def wrapped(command: list[str], environ: dict[str, str], folder: Path) -> Any:
    address = "http://127.0.0.1:1/token"
    add = lambda name, _url: f"{address}/mcp/{name}"  # noqa: E731
    replace = recorders(address, "record", add, add)
    with wrapped_servers(command, environ, replace) as found:
        copies = [Path(word.rpartition("=")[2]) for word in found.command[1:]]
        copies += map(Path, found.variables.values())
        read = [json.loads(copy.read_text()) for copy in copies if copy.is_file()]
        assert all(copy.stat().st_mode & 0o077 == 0 for copy in copies if copy.is_file())
    assert not [copy for copy in copies if copy.exists() and copy.parent != folder]
    return found, read


SERVER = {"command": "notes", "args": ["--file", "n"], "env": {"KEY": "k"}, "timeout": 5}


@pytest.mark.parametrize("way", ["word", "option", "variable", "text"])
def test_a_configuration_is_found_and_only_copied(tmp_path: Path, way: str) -> None:
    config = {
        "other": 1,
        "mcpServers": {"notes": SERVER, "far": {"type": "ws", "url": "ws://x"}},
    }
    path = tmp_path / "servers.json"
    path.write_text(json.dumps(config))
    word = {"word": str(path), "option": f"--config={path}", "text": json.dumps(config)}
    environ = {"SERVERS": str(path)} if way == "variable" else {}
    found, (copy,) = wrapped(["agent", word.get(way, "-p")], environ, tmp_path)
    assert json.loads(path.read_text()) == config
    assert (found.servers, found.left) == (["notes"], ["far"])
    entry = copy["mcpServers"]["notes"]
    assert copy["other"] == 1
    assert copy["mcpServers"]["far"] == config["mcpServers"]["far"]
    assert entry["args"][-4:] == ["--", "notes", "--file", "n"]
    assert entry["timeout"] == 5
    assert entry["env"]["KEY"] == "k"
    # Other people see the words of a command, so the address stands in a variable.
    assert "token" not in " ".join([*entry["args"], *found.command])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "names no MCP configuration"),
        ('{"mcpServers": {}}', "none of the servers can be recorded"),
        ('{"mcpServers": {"a": {"command": 1}}}', "none of the servers can be recorded: a"),
        ('{"mcpServers": {/* */}}', "must be JSON, without comments"),
        (
            '{"mcpServers": {"a b": {"command": "x"}, "a_b": {"command": "x"}}}',
            "would be recorded by one name",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "servers.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        wrapped(["agent", str(path)], {}, tmp_path)


def test_a_refused_configuration_leaves_no_episode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "servers.json"
    path.write_text('{"mcpServers": {}}')
    assert main(["capture", str(tmp_path / "runs"), "--mcp", "--", "agent", str(path)]) == 2
    assert "none of the servers can be recorded" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_signal_after_the_command_leaves_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    path.write_text('{"mcpServers": {"a": {"command": "true", "env": {"KEY": "secret"}}}}')
    # A process that the command leaves behind keeps a connection to the proxy.
    program = (
        "import os, socket, subprocess, sys, urllib.parse\n"
        "parts = urllib.parse.urlsplit(os.environ['TRAJREC_PROXY'])\n"
        "connection = socket.create_connection((parts.hostname, parts.port))\n"
        "os.set_inheritable(connection.fileno(), True)\n"
        "subprocess.Popen(['sleep', '8'], close_fds=False, stdout=subprocess.DEVNULL)\n"
        "print('ended', flush=True)\n"
    )
    words = [sys.executable, "-c", program, str(path)]
    command = [sys.executable, "-m", "trajrec", "capture", str(tmp_path / "runs"), "--mcp", "--"]
    copies = tmp_path / "copies"
    copies.mkdir()
    with subprocess.Popen(
        [*command, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(copies)},
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ended\n"
            # The command ends, and its proxy is being closed.
            time.sleep(0.3)
            assert list(copies.iterdir())
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 130
        finally:
            process.kill()
    assert not list(copies.iterdir())


def test_hostile_messages_leave_the_session_recorded(tmp_path: Path) -> None:
    def request(message_id: Any, **params: Any) -> bytes:
        message = {"jsonrpc": "2.0", "id": message_id, "method": "tools/call", "params": params}
        return json.dumps(message).encode()

    def answer(message_id: Any, **rest: Any) -> bytes:
        return json.dumps({"jsonrpc": "2.0", "id": message_id, **rest}).encode()

    with trajrec.episode(tmp_path, wire=False) as ep:
        recording = McpRecording(ep)
        session = recording.begin("s")
        lines = [
            ("client", b"\xff\x00" + b"[" * 100_000),
            ("client", request(1, name=["x"], arguments="y")),
            ("server", answer(True, result={})),
            ("client", b"[" + request(2, name="f") + b", 5, " + request("2", name="f") + b"]"),
            ("server", answer("2", result={"structuredContent": "ä\ud800"})),
            ("server", answer(2, error="no object")),
            ("client", request(3, name="f", arguments={"deep": []})),
            ("client", request(3, name="f", arguments={"again": 1})),
            ("client", b'{"method": "notifications/cancelled", "params": {"requestId": [3]}}'),
            ("client", b'{"method": "notifications/cancelled", "params": {"requestId": 3}}'),
            ("server", answer(3, result={})),
            ("server", b'{"id": 1, "result": {"isError": true, "content": {"text": 7}}}'),
            ("server", b'{"id": 1, "result": {}}'),
            ("client", request(4, name="f" * 100_000)),
        ]
        for side, line in lines:
            assert session(side, line) == b""
        recording.end(session)
    assert (recording.n_faults, recording.n_calls) == (0, 6)
    assert read_messages(b"[[[]]]") == []
    trajrec.close_logs()
    attempts = only(tmp_path).transcript.attempts
    assert [(a.tool[:8], a.outcome, a.end and a.end.message) for a in attempts] == [
        ("mcp__s__", "error", "isError"),
        ("mcp__s__", "error", "error"),
        ("mcp__s__", "ok", ""),
        ("mcp__s__", "error", "the id of the request was used again"),
        ("mcp__s__", "cancelled", "cancelled by the client"),
        ("mcp__s__", "error", "the MCP server ended before its answer"),
    ]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def use_ledger(url: str) -> list[Any]:
    """Call the tools of a ledger, two of them at once; return what the client saw."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with (
        streamable_http_client(url) as streams,
        ClientSession(streams[0], streams[1]) as session,
    ):
        await session.initialize()
        listed = await session.list_tools()
        seen: list[Any] = [tool.name for tool in listed.tools]
        both = asyncio.gather(
            session.call_tool("book", {"cents": 5}), session.call_tool("total", {})
        )
        seen.append((await both)[0].structured_content)
        for name, arguments in (("book", {"cents": 7}), ("book", {"cents": "x"}), ("gone", {})):
            try:
                seen.append((await session.call_tool(name, arguments)).model_dump())
            except Exception as exc:
                seen.append(f"{type(exc).__name__}: {exc}")
        return seen


@pytest.mark.slow
@third_slow("agents")
@pytest.mark.parametrize("options", [[], ["json_response", "stateless_http"]])
def test_servers_over_http_are_recorded_and_answered(tmp_path: Path, options: list[str]) -> None:
    pytest.importorskip("mcp", reason="mcp is not installed")
    database = tmp_path / "ledger.db"
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    words = [sys.executable, str(HERE / "ledger_server.py"), str(database), str(port), *options]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        bare = asyncio.run(use_ledger(url))
        database.unlink()
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("CREATE TABLE entries (cents INTEGER)")
        with trajrec.episode(tmp_path / "runs", wire=False, watch=database) as ep:
            recording = McpRecording(ep)
            proxy = ProxyServer(Routes((), {}), lambda *_: None, mcp=recording)
            proxy.start()
            recorded = asyncio.run(use_ledger(proxy.add_server("ledger", url)))
            proxy.close()
            recording.close_all()
        process.kill()
    trajrec.close_logs()
    assert recorded == bare
    assert (recording.n_faults, recording.n_calls) == (0, 5)
    transcript = only(tmp_path / "runs").transcript
    rows = [(a.tool, a.start.access, a.outcome, a.start.invalid != "") for a in transcript.attempts]
    assert sorted(rows[:2]) == [
        ("mcp__ledger__book", "write", "ok", False),
        ("mcp__ledger__total", "read", "ok", False),
    ]
    assert rows[2:] == [
        ("mcp__ledger__book", "write", "ok", False),
        ("mcp__ledger__book", "write", "error", True),
        ("mcp__ledger__gone", "unknown", "error", True),
    ]
    assert [len(a.changes) for a in transcript.attempts[2:]] == [1, 0, 0]
    calls = RecordedCalls([recorded_call(attempt) for attempt in transcript.recorded_attempts])
    answers = McpAnswers(calls, recorded_requests(transcript))
    proxy = ProxyServer(Routes((), {}), lambda *_: None, may_send=lambda: False, mcp=answers)
    proxy.start()
    again = asyncio.run(use_ledger(proxy.add_server("ledger", url)))
    proxy.close()
    assert again == bare
    assert (answers.misses, calls.n_left) == ([], 0)


def test_a_call_whose_answer_was_too_long_stays_open(tmp_path: Path) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "f"}}
    line = json.dumps(call).encode() + b"\n"
    with trajrec.episode(tmp_path, wire=False) as ep:
        recording = McpRecording(ep)
        session = recording.begin("s")
        session("client", line)
        session("server", b"")
        recording.end(session)
    trajrec.close_logs()
    assert (recording.n_faults, recording.first_fault) == (1, "ValueError: it was too long")
    (attempt,) = only(tmp_path).transcript.attempts
    assert attempt.outcome == "open"
    answers = McpAnswers(RecordedCalls([recorded_call(attempt)]), [])
    assert b"the recording has no answer to f({})" in answers.begin("s")("client", line)
    assert (answers.misses, answers.n_answered) == (["answer to f({})"], 0)


def test_copies_of_killed_captures_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    names = [f"trajrec-mcp-{ended.pid}-a", f"trajrec-mcp-{os.getpid()}-b", "trajrec-mcp-c-d"]
    for name in names:
        (tmp_path / name).mkdir()
    config = tmp_path / "servers.json"
    config.write_text(json.dumps({"mcpServers": {"notes": SERVER}}))
    wrapped(["agent", str(config)], {}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["servers.json", *sorted(names[1:])]


def test_servers_of_a_user_of_claude_code_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    project = {"mcpServers": {"local": SERVER}, "disabledMcpServers": ["off"]}
    config = {
        "mcpServers": {"user": SERVER, "off": SERVER, "named": SERVER},
        "projects": {str(Path.cwd()): project},
    }
    (tmp_path / ".claude.json").write_text(json.dumps(config))
    named = tmp_path / "named.json"
    named.write_text(json.dumps({"mcpServers": {"named": {**SERVER, "args": []}}}))
    (tmp_path / ".mcp.json").write_text(json.dumps({"mcpServers": {"asked": SERVER}}))
    environ = {"HOME": str(tmp_path)}
    command = ["/usr/bin/claude", "--mcp-config", str(named), "-p", "Hello."]
    found, copies = wrapped(command, environ, tmp_path)
    assert (found.servers, found.left) == (["named", "user", "local"], ["asked"])
    assert found.command[1].startswith("--mcp-config=")
    assert [list(copy["mcpServers"]) for copy in copies] == [["user", "local"], ["named"]]
    strict, _ = wrapped([*command, "--strict-mcp-config"], environ, tmp_path)
    assert (strict.servers, strict.left) == (["named"], [])


@pytest.mark.slow
def test_a_session_goes_on_when_its_recorder_is_killed(tmp_path: Path) -> None:
    server = tmp_path / "server.py"
    server.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    call = json.loads(line)\n"
        "    print(json.dumps({'jsonrpc': '2.0', 'id': call['id'], 'result': {}}), flush=True)\n"
    )
    agent = tmp_path / "agent.py"
    agent.write_text(
        "import json, os, subprocess, sys\n"
        "entry = json.load(open(sys.argv[1]))['mcpServers']['s']\n"
        "words = [entry['command'], *entry['args']]\n"
        "env = {**os.environ, **entry['env']}\n"
        "server = subprocess.Popen(words, stdin=-1, stdout=-1, env=env)\n"
        "for k in range(60):\n"
        "    call = {'jsonrpc': '2.0', 'id': k, 'method': 'tools/call', 'params': {'name': 'f'}}\n"
        "    server.stdin.write(json.dumps(call).encode() + b'\\n')\n"
        "    server.stdin.flush()\n"
        "    assert json.loads(server.stdout.readline())['id'] == k\n"
        "    print(k, flush=True)\n"
        "    if k == 30:\n"
        "        sys.stdin.readline()\n"
    )
    config = tmp_path / "servers.json"
    entry = {"command": sys.executable, "args": [str(server)]}
    config.write_text(json.dumps({"mcpServers": {"s": entry}}))
    words = ["capture", str(tmp_path / "runs"), "--mcp", "--", sys.executable, str(agent)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-m", "trajrec", *words, str(config)],
        stdin=pipe,
        stdout=pipe,
        # It cannot remove its copy of the configuration.
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as capture:
        assert capture.stdin is not None
        assert capture.stdout is not None
        lines = [int(capture.stdout.readline()) for _ in range(31)]
        capture.kill()
        capture.wait()
        capture.stdin.write(b"go on\n")
        capture.stdin.flush()
        lines += map(int, capture.stdout)
    assert lines == list(range(60))
    outcomes = [attempt.outcome for attempt in only(tmp_path / "runs").transcript.attempts]
    assert outcomes == ["ok"] * 31


@pytest.mark.parametrize("session_id", ["", "s-1"])
def test_a_redirected_call_is_recorded_once(tmp_path: Path, session_id: str) -> None:
    ids = [("mcp-session-id", session_id)] if session_id else []

    def send(method: str, status: int, **answer: Any) -> None:
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "f"}}
        request = HttpRequest("POST", "http://a/mcp", ids, json.dumps(asked).encode())
        exchange = recording.exchange("s", request)
        exchange.responded(status, [("content-type", "application/json"), *ids])
        if answer:
            exchange.received(json.dumps({"jsonrpc": "2.0", "id": 1, **answer}).encode())
        exchange.ended(None)

    with trajrec.episode(tmp_path, wire=False) as ep:
        recording = McpRecording(ep)
        send("initialize", 307)
        send("initialize", 200, result={})
        for _ in range(2):
            send("tools/call", 307)
            send("tools/call", 200, result={"n": 1})
        send("tools/call", 404)
        send("tools/call", 308)
        recording.close_all()
    trajrec.close_logs()
    transcript = only(tmp_path).transcript
    assert (recording.n_faults, recording.n_calls) == (0, 4)
    assert [(a.outcome, a.end and a.end.message) for a in transcript.attempts] == [
        ("ok", ""),
        ("ok", ""),
        ("error", "HTTP status 404, without an answer to the call"),
        ("error", "the MCP server ended before its answer"),
    ]
    assert [event.name for event in transcript.side_effects] == ["mcp s initialize"]


def test_a_client_that_leaves_at_the_end_counts_once(tmp_path: Path) -> None:
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "f"}}
    body = json.dumps(asked).encode()
    with trajrec.episode(tmp_path, wire=False) as ep:
        recording = McpRecording(ep)
        exchange = recording.exchange("s", HttpRequest("POST", "http://a/mcp", [], body))
        exchange.responded(200, [("content-type", "application/json")])
        exchange.received(json.dumps({"jsonrpc": "2.0", "id": 1, "result": {}}).encode())
        exchange.ended(None)
        exchange.ended(GeneratorExit())
        streams = SseServer(recording, "s", "http://a/sse", "/token")
        session = recording.open("s")
        post = streams.exchange(Place(session, streams.upstream, "/"), body)
        post.responded(202, [])
        post.ended(None)
        post.ended(GeneratorExit())
        answer = {"jsonrpc": "2.0", "id": 1, "result": {"n": 1}}
        recording.take_line(session, json.dumps(answer).encode(), is_from_client=False)
        recording.close(session)
        recording.close_all()
    trajrec.close_logs()
    assert recording.n_calls == 2
    attempts = only(tmp_path).transcript.attempts
    assert [(attempt.outcome, attempt.result) for attempt in attempts] == [
        ("ok", {}),
        ("ok", {"n": 1}),
    ]


@pytest.mark.parametrize("coding", ["br", "gzip"])
def test_an_answer_in_another_coding_is_no_failure(tmp_path: Path, coding: str) -> None:
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "f"}}
    with trajrec.episode(tmp_path, wire=False) as ep:
        recording = McpRecording(ep)
        request = HttpRequest("POST", "http://a/mcp", [], json.dumps(asked).encode())
        exchange = recording.exchange("s", request)
        exchange.responded(200, [("content-encoding", coding)])
        for _ in range(2):
            exchange.received(b"\x0b\x05\x80")
        exchange.ended(None)
        recording.close_all()
    trajrec.close_logs()
    assert recording.n_faults == 1
    assert [attempt.outcome for attempt in only(tmp_path).transcript.attempts] == ["open"]
