"""Streams that an agent holds open until after its episode: recorded as far as they came."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import ModelServer, Turn
from test_exchanges import EVENTS, JSON, events
from test_taps import need

import trajrec
from trajrec.wire.exchange import HttpRequest

STREAM = {"messages": [{"role": "user", "content": "Go on"}], "stream": True}
PATH = "/v1/chat/completions"

Hold = Callable[[str, int], Any]


def hold_httpx(url: str, most: int) -> Any:
    import httpx

    client = httpx.Client(timeout=5)
    answer = client.send(client.build_request("POST", url, json=STREAM), stream=True)
    pieces = answer.iter_raw()
    return client, answer, pieces, [next(pieces) for _ in range(most)]


def hold_urllib3(url: str, most: int) -> Any:
    import urllib3

    pool = urllib3.PoolManager(retries=False, timeout=5)
    answer = pool.request("POST", url, json=STREAM, preload_content=False)
    pieces = answer.stream()
    return pool, answer, pieces, [next(pieces) for _ in range(most)]


def hold_http_client(url: str, most: int) -> Any:
    import http.client
    from urllib.parse import urlsplit

    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    connection.request("POST", PATH, json.dumps(STREAM))
    answer = connection.getresponse()
    pieces = iter(answer.read1, b"")
    return connection, answer, pieces, [next(pieces) for _ in range(most)]


HOLDERS: dict[str, Hold] = {
    "httpx": hold_httpx,
    "urllib3": hold_urllib3,
    "http.client": hold_http_client,
}


def close(held: Any) -> None:
    held[1].close()
    held[0].close() if hasattr(held[0], "close") else held[0].clear()


def only_episode(folder: Path) -> Any:
    trajrec.close_logs()
    with trajrec.open(folder) as corpus:
        assert not corpus.problems()
        return next(corpus.episodes())


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("most", [2, 0])
@pytest.mark.parametrize("client", HOLDERS)
def test_a_held_stream_is_recorded_as_far_as_read(client: str, most: int, tmp_path: Path) -> None:
    need(client)
    hold = HOLDERS[client]
    with ModelServer([Turn("one two three four", pause_s=0.01)]) as server:
        with trajrec.episode(tmp_path):
            held = hold(server.url + PATH, most)
        episode = only_episode(tmp_path)
        # Its log is closed: that is no reason for a warning.
        close(held)
    (call,) = episode.transcript.model_calls
    exchange = call.wire.exchange
    assert (call.outcome, exchange.status) == ("open", 200)
    assert exchange.chunks == held[3]
    assert call.wire.answer.is_complete is False
    with trajrec.open(tmp_path) as corpus:
        row = corpus.sql("SELECT outcome, is_complete, status FROM model_calls").fetchall()
    assert row == [("open", False, 200)]
    assert episode.ending == "terminated"
    with trajrec.rerun(episode):
        again = hold(server.url + PATH, most)
    assert again[3] == held[3]
    with pytest.raises(
        Exception, match="stopped reading the recorded stream before its episode ended"
    ):
        list(again[2])
    close(again)


def test_a_held_stream_read_later_is_whole(tmp_path: Path) -> None:
    need("httpx")
    with ModelServer([Turn("one two three", pause_s=0.01)]) as server:
        with trajrec.episode(tmp_path):
            held = hold_httpx(server.url + PATH, 2)
        list(held[2])
        close(held)
    (call,) = only_episode(tmp_path).transcript.model_calls
    assert (call.outcome, call.wire.answer.text) == ("ok", "one two three")
    assert call.wire.answer.is_complete


ASKED = json.dumps(STREAM).encode()
SECRET = "sk-proj-" + "Ab3dEf6h" * 6


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("n_cut", [5, 20, 40, 80])
@pytest.mark.parametrize("reads_on", [True, False])
def test_a_secret_cut_by_the_end_stays_out(n_cut: int, reads_on: bool, tmp_path: Path) -> None:
    text = f"The key is {SECRET} and that is all"
    sent = events([text[k : k + 3] for k in range(0, len(text), 3)])
    with trajrec.episode(tmp_path) as ep:
        exchange = ep.begin_exchange(HttpRequest("POST", f"http://a{PATH}", JSON, ASKED))
        exchange.responded(200, EVENTS)
        n = n_cut // 3
        for piece in sent[:n]:
            exchange.received(piece)
    if reads_on:
        for piece in sent[n:]:
            exchange.received(piece)
        exchange.ended(None)
    episode = only_episode(tmp_path)
    (call,) = episode.transcript.model_calls
    said = call.wire.answer.text or ""
    assert SECRET not in said
    assert said.startswith("The key is"[: n * 3])
    if reads_on:
        assert said.endswith(" and that is all")
    else:
        assert said.count("Ab3dEf6h") <= 3
        assert call.outcome == "open"


def test_a_request_without_a_response_is_open(tmp_path: Path) -> None:
    need("httpx")
    import httpx

    async def main(url: str) -> None:
        async with httpx.AsyncClient() as client:
            with trajrec.episode(tmp_path):
                asking = asyncio.create_task(client.post(url, json=STREAM))
                await asyncio.sleep(0.1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    with ModelServer([Turn("late", delay_s=0.4)]) as server:
        asyncio.run(main(server.url + PATH))
        episode = only_episode(tmp_path)
        (call,) = episode.transcript.model_calls
        # The cancellation came before the log was closed.
        assert call.outcome == "cancelled"


def pieces() -> Iterator[str]:
    yield from ("one", "two", "three")


async def later() -> AsyncIterator[str]:
    for piece in pieces():
        yield piece


def hold_sync(ep: Any, n: int) -> tuple[list[Any], list[Any]]:
    said = ep.model(lambda messages: pieces(), messages=["go"])
    lines = ep.tool(pieces)()
    return [said, lines], [[next(held) for _ in range(n)] for held in (said, lines)]


def hold_async(ep: Any, n: int) -> tuple[list[Any], list[Any]]:
    async def ask(messages: list[str]) -> Any:
        return later()

    async def main() -> Any:
        said = await ep.model(ask, messages=["go"])
        lines = ep.tool(later)()
        return [said, lines], [[await anext(held) for _ in range(n)] for held in (said, lines)]

    with asyncio.Runner() as runner:
        held = runner.run(main())
        # Else the loop closes the generators at its own end.
        runner.get_loop()._asyncgens.clear()  # type: ignore[attr-defined]
    return held


@pytest.mark.parametrize("hold", [hold_sync, hold_async])
def test_generators_that_are_held_are_open(hold: Any, tmp_path: Path) -> None:
    state = {"n": 1}
    with trajrec.episode(tmp_path, watch=state) as ep:
        held, taken = hold(ep, 2)
        state["n"] = 2
    episode = only_episode(tmp_path)
    (call,) = episode.transcript.model_calls
    (attempt,) = episode.transcript.attempts
    assert (call.outcome, call.answer) == ("open", ["one", "two"])
    assert (attempt.outcome, attempt.result) == ("open", ["one", "two"])
    assert not attempt.has_failed
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT outcome FROM attempts").fetchall() == [("open",)]
        assert corpus.sql("SELECT count(*) FROM failures").fetchall() == [(0,)]
    with trajrec.rerun(episode) as ep:
        again = hold(ep, 2)
        assert again[1] == taken
    if hold is hold_sync:
        for stream in again[0]:
            with pytest.raises(
                TimeoutError, match="stopped reading the recorded stream before its episode ended"
            ):
                next(stream)
    del held, again


def test_generators_that_are_read_later_have_ends(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        held, _ = hold_sync(ep, 1)
    rest = [list(stream) for stream in held]
    assert rest == [["two", "three"]] * 2
    episode = only_episode(tmp_path)
    (call,) = episode.transcript.model_calls
    (attempt,) = episode.transcript.attempts
    assert (call.outcome, call.answer) == ("ok", ["one", "two", "three"])
    assert (attempt.outcome, attempt.result) == ("ok", ["one", "two", "three"])


def test_generators_that_end_after_their_log_stay_open(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        held, _ = hold_sync(ep, 1)
    trajrec.close_logs()
    # No warning: the log says that they were open.
    assert [list(stream) for stream in held] == [["two", "three"]] * 2
    episode = only_episode(tmp_path)
    assert episode.transcript.model_calls[0].answer == ["one"]
    assert episode.transcript.attempts[0].result == ["one"]


def test_a_stream_read_on_and_cut_has_nothing_twice(tmp_path: Path) -> None:
    letters = [f"{k:04d} " for k in range(400)]
    # Without the field of padding, a run of digits that is held back for long.
    sent = [re.sub(rb', "obfuscation": "\d+"', b"", event) for event in events(letters)]
    with trajrec.episode(tmp_path) as ep:
        exchange = ep.begin_exchange(HttpRequest("POST", f"http://a{PATH}", JSON, ASKED))
        exchange.responded(200, EVENTS)
        for piece in sent[:40]:
            exchange.received(piece)
        said = ep.model(lambda messages: iter(letters), messages=["go"])
        for _ in range(40):
            next(said)
    for piece in sent[40:300]:
        exchange.received(piece)
    exchange._drain()
    for _ in range(300):
        next(said)
    # Neither has an end in the log, as if the process were killed here.
    episode = only_episode(tmp_path)
    for call in episode.transcript.model_calls:
        text = "".join(call.answer) if call.wire is None else call.wire.answer.text or ""
        assert call.outcome == "open"
        assert len(text) > 40 * 5
        assert "".join(letters).startswith(text)
    del said
