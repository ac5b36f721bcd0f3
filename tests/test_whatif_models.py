"""What if another model had answered, of clients that name the model in the address."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tiers import third_slow
from whatif_agents import only_episode

import trajrec
from trajrec.replay import what_if
from trajrec.replay.whatif.changes import Model

Ask = Callable[[str], str]
"""Asks a model by a real client for a text."""


def gemini(said: str) -> Any:
    return {"candidates": [{"content": {"role": "model", "parts": [{"text": said}]}}]}


def converse(said: str) -> Any:
    message = {"role": "assistant", "content": [{"text": said}]}
    return {"output": {"message": message}, "stopReason": "end_turn"}


class Handler(BaseHTTPRequestHandler):
    """Answers with the path of the request, in the form of Gemini or Bedrock."""

    paths: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.paths.append(self.path)
        answer = converse if self.path.startswith("/model/") else gemini
        body = json.dumps(answer(self.path)).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def paths() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a server, and the paths of its requests."""
    handler = type("Own", (Handler,), {"paths": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler.paths
        server.shutdown()


def genai(url: str, monkeypatch: pytest.MonkeyPatch) -> Ask:
    pytest.importorskip("google.genai", reason="google-genai is not installed")
    from google import genai
    from google.genai import types

    def ask(text: str) -> str:
        options = types.HttpOptions(base_url=url)
        client = genai.Client(api_key="none", http_options=options)
        return str(client.models.generate_content(model="small", contents=text).text)

    return ask


def bedrock(url: str, monkeypatch: pytest.MonkeyPatch, *, is_signed: bool = False) -> Ask:
    pytest.importorskip("botocore", reason="botocore is not installed")
    import botocore.session
    from botocore.config import Config

    # An API key needs https; it signs nothing either.
    config = None if is_signed else Config(signature_version=botocore.UNSIGNED)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")

    def ask(text: str) -> str:
        client = botocore.session.get_session().create_client(
            "bedrock-runtime", region_name="eu-west-1", endpoint_url=url, config=config
        )
        messages = [{"role": "user", "content": [{"text": text}]}]
        answer = client.converse(modelId="small", messages=messages)
        return str(answer["output"]["message"]["content"][0]["text"])

    return ask


def record(ask: Ask, folder: Path) -> tuple[Any, Callable[[], list[str]]]:
    """Record a program that asks twice, and return its episode and the program."""

    def agent() -> list[str]:
        return [ask("One?"), ask("Two?")]

    with trajrec.capture(folder), trajrec.episode(folder) as ep:
        agent()
        ep.stop("done")
    return only_episode(folder), agent


def is_large(said: list[str]) -> bool:
    return "large" in said[1]


@pytest.mark.slow
@third_slow("whatif")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("client", "model", "named"),
    [(genai, "large", "models/large:"), (bedrock, "large-v1:0", "model/large-v1%3A0/")],
)
def test_other_model_is_asked_at_its_own_address(
    paths: tuple[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    client: Any,
    model: str,
    named: str,
) -> None:
    url, asked = paths
    ask = client(url, monkeypatch)
    episode, agent = record(ask, tmp_path)
    recorded = asked[0]
    asked.clear()
    result = what_if(
        episode, at=1, change=Model(model), agent=lambda ep: agent(), n=2, success=is_large
    )
    assert (result.unchanged.n_won, result.changed.n_won) == (0, 2), str(result)
    assert result.n_equal_controls == 2
    assert [path for path in asked if path == recorded] == [recorded] * 2
    assert len([path for path in asked if named in path]) == 2
    assert len(asked) == 4
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.sql(
            "SELECT DISTINCT model FROM model_calls JOIN forks USING (episode_id) "
            "WHERE metadata->>'$.what_if.arm' = 'changed'"
        ).fetchall()
    assert rows == [(model,)]


@pytest.mark.slow
@third_slow("whatif")
@pytest.mark.filterwarnings("default")
def test_signed_request_is_not_sent_with_another_model(
    paths: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = paths
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    ask = bedrock(url, monkeypatch, is_signed=True)
    episode, agent = record(ask, tmp_path)
    asked.clear()
    result = what_if(
        episode, at=1, change=Model("large"), agent=lambda ep: agent(), n=1, success=is_large
    )
    assert "signed for AWS" in str(result)
    assert not any("large" in path for path in asked)
