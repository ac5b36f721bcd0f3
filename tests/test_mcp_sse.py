"""MCP servers of the older transport (SSE), and servers that ask for a token, behind the recorder."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import only
from model_server import ModelServer
from test_capture_command import trajrec_command
from test_capture_mcp import AGENT, HERE, PLAN, bare_output, free_port
from tiers import third_slow

import trajrec
from trajrec.proxies.mcp_config import recorders
from trajrec.proxies.mcp_recorder import McpRecorder
from trajrec.proxies.mcp_sse import EndpointError, SseServer, SseStream

TOKEN = "mcp-oauth-7Hq2LmZx81kPq0aTeVn4Rw7YbM2c"


@contextlib.contextmanager
def ledger(folder: Path, *options: str) -> Iterator[str]:
    """Serve a ledger on loopback; yield its address without a path."""
    port = free_port()
    database = folder / "ledger.db"
    words = [sys.executable, str(HERE / "ledger_server.py"), str(database), str(port), *options]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def empty(database: Path) -> None:
    database.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE entries (cents INTEGER)")


@pytest.mark.slow
@third_slow("agents")
def test_a_server_of_the_older_transport_is_recorded_and_answered(tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="mcp is not installed")
    database = tmp_path / "ledger.db"
    runs = tmp_path / "runs"
    config = tmp_path / "servers.json"
    command: list[Any] = [sys.executable, AGENT, f"--config={config}"]
    with ledger(tmp_path, "sse", f"token={TOKEN}") as url, ModelServer(PLAN) as server:
        entry = {
            "type": "sse",
            "url": f"{url}/sse",
            "headers": {"Authorization": f"Bearer {TOKEN}"},
        }
        config.write_text(json.dumps({"mcpServers": {"ledger": entry}}))
        empty(database)
        bare = bare_output(config)
        empty(database)
        ended = trajrec_command(
            "capture", runs, "--mcp", "--watch", database, "--", *command, url=server.url
        )
    assert (ended.returncode, ended.stdout) == (0, bare), ended.stderr
    assert "4 tool calls of 1 server recorded: ledger" in ended.stderr
    rows = [
        (a.tool, a.start.call_id, a.outcome, bool(a.start.invalid), len(a.changes))
        for a in only(runs).transcript.attempts[1:]
    ]
    assert rows == [
        ("mcp__ledger__book", "c-1", "ok", False, 1),
        ("mcp__ledger__book", "c-2", "ok", False, 1),
        ("mcp__ledger__total", "c-3", "ok", False, 0),
        ("mcp__ledger__book", "c-4", "error", True, 0),
    ]
    stored = b"".join(path.read_bytes() for path in runs.rglob("*") if path.is_file())
    assert TOKEN.encode() not in stored
    # The server is gone, and the recording answers in its place.
    again = trajrec_command("rerun", runs, only(runs).id, "--", *command)
    assert (again.returncode, again.stdout) == (0, bare), again.stderr
    assert "no difference" in again.stderr


@pytest.mark.slow
def test_a_token_passes_to_a_server_over_http_and_is_not_stored(tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="mcp is not installed")
    import asyncio

    import httpx2
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    from trajrec.proxies.mcp_sessions import McpRecording
    from trajrec.proxies.server import ProxyServer
    from trajrec.proxies.upstreams import Routes

    async def book(url: str) -> Any:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            httpx2.AsyncClient(headers=headers) as client,
            streamable_http_client(url, http_client=client) as streams,
            ClientSession(streams[0], streams[1]) as session,
        ):
            await session.initialize()
            return (await session.call_tool("book", {"cents": 5})).structured_content

    runs = tmp_path / "runs"
    with ledger(tmp_path, f"token={TOKEN}") as url, trajrec.episode(runs, wire=False) as ep:
        recording = McpRecording(ep)
        proxy = ProxyServer(Routes((), {}), lambda *_: None, mcp=recording)
        proxy.start()
        assert asyncio.run(book(proxy.add_server("ledger", f"{url}/mcp"))) == {"result": 5}
        proxy.close()
        recording.close_all()
    trajrec.close_logs()
    (attempt,) = only(runs).transcript.attempts
    assert (attempt.tool, attempt.outcome) == ("mcp__ledger__book", "ok")
    stored = b"".join(path.read_bytes() for path in runs.rglob("*") if path.is_file())
    assert TOKEN.encode() not in stored


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[SseStream]:
    """A stream of a server, which has begun."""
    with trajrec.episode(tmp_path, wire=False) as episode:
        yield stream_of(episode)


def stream_of(episode: Any, url: str = "http://h:1/sse") -> SseStream:
    server = SseServer(McpRecorder(episode), "notes", url, "/token/mcp-stream/0")
    place = server.place_of("GET", "")
    assert place is not None
    opened = server.exchange(place, b"")
    assert isinstance(opened, SseStream)
    opened.responded(200, [("content-type", "text/event-stream; charset=utf-8")])
    return opened


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_the_address_for_messages_is_written_anew(
    stream: SseStream, size: int, end: str
) -> None:
    opened = stream
    first = f": hello{end}{end}event: endpoint{end}data: /messages/?session_id=7{end}{end}"
    rest = f"event: message{end}data: {{}}{end}{end}: ping{end}{end}"
    data = (first + rest).encode()
    told = b"".join(opened.rewritten(data[i : i + size]) for i in range(0, len(data), size))
    lines = told.decode().replace("\r\n", "\n").split("\n")
    assert lines[:3] == [": hello", "", "event: endpoint"]
    assert lines[3].startswith("data: /token/mcp-stream/0/messages/")
    assert lines[4:] == ["", "event: message", "data: {}", "", ": ping", "", ""]
    path = lines[3].removeprefix("data: /token/mcp-stream/0")
    place = opened._server.place_of("POST", path)
    assert place is not None
    assert place.upstream.url(place.path) == "http://h:1/messages/?session_id=7"
    opened.ended(None)
    assert opened._server.place_of("POST", path) is None


@pytest.mark.parametrize("address", ["https://h:1/messages", "http://h:12/m", "//evil/m"])
def test_an_address_on_another_server_breaks_the_stream_off(
    stream: SseStream, address: str
) -> None:
    with pytest.raises(EndpointError, match="on another server"):
        stream.rewritten(f"event: endpoint\ndata: {address}\n\n".encode())


def test_a_stream_that_never_names_an_address_is_broken_off(stream: SseStream) -> None:
    with pytest.raises(EndpointError, match="does not begin with an address"):
        stream.rewritten(b"data: x\n" * 10_000)


def test_no_path_but_that_of_a_stream_and_its_messages_is_served(stream: SseStream) -> None:
    server = stream._server
    assert server.place_of("GET", "/messages/x") is None
    assert server.place_of("POST", "") is None
    assert server.place_of("POST", "/messages/x") is None
    assert server.place_of("DELETE", "") is None


def test_a_rerun_answers_such_a_server_as_a_process() -> None:
    def refuse(name: str, url: str) -> str:
        raise AssertionError((name, url))

    replace = recorders("http://127.0.0.1:1/t", "rerun", refuse, refuse)
    entry = replace("far", {"type": "sse", "url": "http://h/sse", "headers": {"A": "b"}, "x": 1})
    assert entry is not None
    assert set(entry) == {"command", "args", "env", "x"}
