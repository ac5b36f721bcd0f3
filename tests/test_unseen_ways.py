"""Model calls that go past the taps: the record says that it may be partial."""

from __future__ import annotations

import http.client
import socket
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
from conftest import only
from model_server import ModelServer, Turn

import trajrec
from trajrec.log.unseen_ways import unseen_of
from trajrec.taps import hub, unseen

BODY = b'{"model": "m", "messages": [{"role": "user", "content": "Go"}]}'


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unseen, "_asked_for", set())
    monkeypatch.setattr(unseen, "_taken", set())
    monkeypatch.setattr(unseen, "_has_warned", False)
    monkeypatch.setattr(hub, "seen_hosts", set())


def ask_by_socket(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        head = f"POST /api/chat HTTP/1.0\r\nContent-Length: {len(BODY)}\r\n\r\n"
        connection.sendall(head.encode() + BODY)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def unseen_in(folder: Path) -> list[str]:
    trajrec.close_logs()
    end = only(folder).end
    assert end is not None
    return unseen_of(end.extra_data)


@pytest.mark.slow
def test_a_model_call_by_a_socket_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ModelServer([Turn("one"), Turn("two")]) as server:
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.port}")
        with (
            pytest.warns(RuntimeWarning, match="model calls may be missing") as warned,
            trajrec.episode(tmp_path / "first"),
        ):
            assert b"200 OK" in ask_by_socket(server.port)
        # The second one does not warn, and says so in its record.
        with trajrec.episode(tmp_path / "second"):
            ask_by_socket(server.port)
    assert len(warned) == 1
    assert unseen_in(tmp_path / "second") == [f"127.0.0.1:{server.port}"]
    assert unseen_in(tmp_path / "first") == [f"127.0.0.1:{server.port}"]
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT DISTINCT unseen FROM episodes").fetchall() == [
            (f"127.0.0.1:{server.port}",)
        ]
    from trajrec.cli.main import main

    assert main(["show", str(tmp_path), only(tmp_path / "first").id]) == 0
    assert f"127.0.0.1:{server.port}" in capsys.readouterr().out


def test_a_model_call_that_a_tap_sees_is_no_way_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import urllib.request

    with ModelServer([Turn("one")]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        with trajrec.episode(tmp_path):
            urllib.request.urlopen(f"{server.url}/v1/chat/completions", BODY).read()
    assert unseen_in(tmp_path) == []


def test_other_connections_are_no_ways_past(tmp_path: Path) -> None:
    with ModelServer([Turn("one")]) as server, trajrec.episode(tmp_path):
        ask_by_socket(server.port)
    assert unseen_in(tmp_path) == []


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("is_configured", [True, False])
def test_a_request_in_pieces_is_told_of_beside_seen_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_configured: bool
) -> None:
    with ModelServer([Turn("one"), Turn("two")]) as server:
        if is_configured:
            monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        path = "/v1/chat/completions"
        with warnings.catch_warnings(), trajrec.episode(tmp_path):
            warnings.simplefilter("ignore")
            connection.request("POST", path, BODY)
            connection.getresponse().read()
            connection.putrequest("POST", path)
            connection.putheader("Content-Length", str(len(BODY)))
            connection.endheaders(BODY)
            assert connection.getresponse().read()
        connection.close()
        assert len(server.attempts) == 2
    assert unseen_in(tmp_path) == ["http.client.putrequest"] * is_configured
    assert len(only(tmp_path).transcript.model_calls) == 1


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("target", ["aiplatform.googleapis.com:443", "dns:///api.x.ai", "a.b:443"])
@pytest.mark.filterwarnings("ignore:model calls may be missing")
def test_a_channel_of_grpc_to_a_server_of_models_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    grpc: Any = types.ModuleType("grpc")
    grpc.secure_channel = grpc.insecure_channel = lambda target, *_: target
    with trajrec.episode(tmp_path) as ep:
        for replacement in unseen.replacements(grpc):
            wrapper = replacement.make(getattr(grpc, replacement.name))
            monkeypatch.setattr(grpc, replacement.name, wrapper)
        assert grpc.secure_channel(target, None) == target
        ep.model(lambda: "seen")
    assert unseen_in(tmp_path) == ["grpc"] * (target != "a.b:443")


@pytest.mark.slow
def test_a_library_past_the_taps_is_named_if_nothing_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycurl", types.ModuleType("pycurl"))
    with pytest.warns(RuntimeWarning, match="pycurl"), trajrec.episode(tmp_path / "a") as ep:
        ep.tool(len)([])
    assert unseen_in(tmp_path / "a") == ["pycurl"]
    with trajrec.episode(tmp_path / "b") as ep:
        ep.model(lambda: "seen")
    with trajrec.episode(tmp_path / "c", wire=False) as ep:
        ep.tool(len)([])
    assert unseen_in(tmp_path / "b") == unseen_in(tmp_path / "c") == []


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("api.openai.com", True),
        ("API.Anthropic.com.", True),
        ("me.openai.azure.com", True),
        ("bedrock-runtime.eu-west-1.amazonaws.com", True),
        ("s3.eu-west-1.amazonaws.com", False),
        ("notapi.openai.com", False),
        (None, False),
    ],
)
def test_hosts_of_models_are_known_by_name(host: str | None, is_known: bool) -> None:
    unseen._note(host, 443)
    assert bool(unseen._asked_for) == is_known
    hub.seen_hosts.add(hub.host_of(f"https://{(host or 'x').lower().rstrip('.')}:443/v1/messages"))
    assert unseen.ways(1) == []
