"""The taps in HTTP libraries: they see what a server sent, and answer with the same."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from conftest import only
from model_server import ModelServer, Turn
from noted import Note, answering, noting, save
from tapped_agents import AGENTS
from tiers import spread, third_slow

import trajrec
from trajrec.agents.exchanges import RecordedExchange

HERE = Path(__file__).parent

QUICK = {"httpx_alone", "httpx2_alone", "aiohttp_alone", "urllib3_alone", "http_client_alone"}


def need(*packages: str) -> None:
    """Skip a test whose packages are not installed."""
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed")


def check_seen(notes: list[Note], server: ModelServer) -> None:
    """Compare what the taps saw with the server's own log."""
    assert len(notes) == len(server.attempts)
    left = list(server.attempts)
    for note in notes:
        path = note.request.url.removeprefix(server.url)
        seen = (path, note.request.body, note.status)
        # In threads, the order of the two logs may differ.
        sent = next(a for a in left if (a.path, a.body, a.status) == seen)
        # A client that asked for a stream leaves an error that it will retry unread.
        assert note.body == sent.sent or (note.body == b"" and note.status in (429, 500))
        left.remove(sent)
        assert note.n_ends >= 1
        assert (note.error is not None) == sent.is_cut
        for name, value in note.request.headers:
            if name not in ("connection", "content-length"):
                assert sent.headers.get(name) == value
    assert not left


def in_new_process(name: str, path: Path, url: str) -> object:
    """Run an agent answered from a folder, with the network shut; return what it said."""
    command = [sys.executable, str(HERE / "tapped_agents.py"), name, str(path), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@third_slow("agents")
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in AGENTS],
)
@pytest.mark.filterwarnings("default")
def test_every_attempt_is_seen_as_the_server_sent_it(name: str, tmp_path: Path) -> None:
    agent = AGENTS[name]
    need(*agent.needs)
    with ModelServer(agent.plan) as server:
        with noting() as notes:
            said = agent.run(server.url)
        check_seen(notes, server)
    with answering(save(notes, tmp_path / "notes.json")):
        assert agent.run(server.url) == said


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("name", ["httpx", "httpx2", "requests"])
@pytest.mark.filterwarnings("default")
def test_a_compressed_request_is_recorded_and_edited_plain(name: str, tmp_path: Path) -> None:
    need(name)
    library = __import__(name)
    key = "sk-proj-" + "abcdEFGH1234ijkl" * 2
    asked = {"model": "m", "messages": [{"role": "user", "content": f"my key is {key}"}]}
    data = gzip.compress(json.dumps(asked).encode())
    headers = {"content-encoding": "gzip", "content-type": "application/json"}

    def send(url: str) -> Any:
        places = {"data": data} if name == "requests" else {"content": data}
        return library.post(f"{url}/v1/chat/completions", headers=headers, **places).json()

    with ModelServer(lambda _request, _number: Turn("done")) as server:
        other = longer(json.dumps(asked).encode())
        with (
            mock.patch.object(RecordedExchange, "sent_body", other),
            trajrec.episode(tmp_path / "edited"),
        ):
            send(server.url)
        (edited,) = server.attempts
        assert edited.body == other
        assert "content-encoding" not in edited.headers
    with ModelServer(lambda _request, _number: Turn("done")) as server:
        with trajrec.episode(tmp_path / "runs"):
            said = send(server.url)
        # The server got the client's own bytes.
        assert server.attempts[0].body == data
    exchange = only(tmp_path / "runs").transcript.exchanges[0]
    assert b"my key is [redacted" in (exchange.request_body or b"")
    with trajrec.rerun(only(tmp_path / "runs")):
        assert send("http://127.0.0.1:1") == said


def longer(body: bytes) -> bytes:
    """Return the body of a request with one more member, longer than before."""
    return json.dumps({**json.loads(body), "edited": "é" * 1000}).encode()


def moved(url: str) -> str:
    """Return an address with one more parameter."""
    return f"{url}{'&' if '?' in url else '?'}moved=%C3%A9"


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in AGENTS],
)
@pytest.mark.filterwarnings("default")
def test_another_body_is_sent_if_asked_for(name: str) -> None:
    agent = AGENTS[name]
    need(*agent.needs)
    with ModelServer(agent.plan) as server:
        with noting(longer, moved) as notes:
            agent.run(server.url)
        assert all(attempt.path.endswith("moved=%C3%A9") for attempt in server.attempts)
        asked = sorted(longer(note.request.body) for note in notes)
        assert asked == sorted(attempt.body for attempt in server.attempts)
        for attempt in server.attempts:
            assert attempt.headers["content-length"] == str(len(attempt.body))


@pytest.mark.parametrize("name", spread("agents", list(AGENTS), drawn=3))
@pytest.mark.filterwarnings("default")
def test_an_episode_holds_and_repeats_every_attempt(name: str, tmp_path: Path) -> None:
    agent = AGENTS[name]
    need(*agent.needs)
    with ModelServer(agent.plan) as server, trajrec.episode(tmp_path):
        said = agent.run(server.url)
    left = list(server.attempts)
    for exchange in only(tmp_path).transcript.exchanges:
        assert exchange.end is not None
        seen = (exchange.start.url, exchange.request_body, exchange.end.status)
        sent = next(
            a for a in left if (server.url + a.path.partition("?")[0], a.body, a.status) == seen
        )
        left.remove(sent)
        assert exchange.response_body == sent.sent or (
            exchange.response_body == b"" and sent.status in (429, 500)
        )
    assert not left
    (counts,) = (
        trajrec.open(tmp_path)
        .sql("SELECT count(*), count(*) FILTER (outcome = 'error') FROM model_calls")
        .fetchall()
    )
    failed = [attempt for attempt in server.attempts if attempt.status != 200]
    assert counts == (len(server.attempts), len(failed))
    assert in_new_process(name, tmp_path, server.url) == json.loads(json.dumps(said))


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("library", ["urllib3", "httpx", "http.client"])
def test_address_of_ipv6_is_told_alike_by_all(tmp_path: Path, library: str) -> None:
    need(library)
    url = "http://[::1]:1/v1/chat/completions"
    with trajrec.episode(tmp_path) as ep, contextlib.suppress(Exception):
        if library == "urllib3":
            import urllib3

            urllib3.PoolManager().request("POST", url, body=b"{}", retries=False)
        elif library == "httpx":
            import httpx

            httpx.post(url, content=b"{}", trust_env=False)
        else:
            connection = http.client.HTTPConnection("::1", 1)
            connection.request("POST", "/v1/chat/completions", b"{}")
    assert ep.has_ended
    (exchange,) = only(tmp_path).transcript.exchanges
    assert exchange.start.url == url
