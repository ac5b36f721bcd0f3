"""How exchanges end: broken off, refused, late, cancelled, left; seen and answered alike."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import Call, ModelServer, Turn
from noted import Note, answering, noting, save
from test_taps import need

import trajrec

PATH = "/v1/chat/completions"
STREAM = {"messages": [{"role": "user", "content": "Go on"}], "stream": True}
WHOLE = {"messages": STREAM["messages"]}

LONG = Turn("one two three four five")


def pieces_of_httpx(url: str, asked: Any, name: str = "httpx", most: int = 99) -> Iterator[bytes]:
    httpx = __import__(name)
    with httpx.Client(timeout=0.5) as client, client.stream("POST", url, json=asked) as answer:
        for number, piece in enumerate(answer.iter_raw()):
            yield piece
            if number + 1 == most:
                return


def pieces_of_httpx2(url: str, asked: Any, most: int = 99) -> Iterator[bytes]:
    return pieces_of_httpx(url, asked, "httpx2", most)


def pieces_of_urllib3(url: str, asked: Any, most: int = 99) -> Iterator[bytes]:
    import urllib3

    with urllib3.PoolManager(retries=False, timeout=0.5) as pool:
        answer = pool.request("POST", url, json=asked, preload_content=False)
        try:
            for number, piece in enumerate(answer.stream()):
                yield piece
                if number + 1 == most:
                    return
        finally:
            answer.close()


def pieces_of_requests(url: str, asked: Any, most: int = 99) -> Iterator[bytes]:
    import requests

    with requests.post(url, json=asked, stream=True, timeout=0.5) as answer:
        for number, piece in enumerate(answer.iter_content(None)):
            yield piece
            if number + 1 == most:
                return


def pieces_of_urllib(url: str, asked: Any, most: int = 99) -> Iterator[bytes]:
    import urllib.request

    request = urllib.request.Request(url, json.dumps(asked).encode())
    with urllib.request.urlopen(request, timeout=0.5) as answer:
        if "stream" not in asked:
            # Only this notices that a body is cut.
            yield answer.read()
            return
        number = 0
        while piece := answer.read1():
            yield piece
            number += 1
            if number == most:
                return


def in_loop(pieces: Any, most: int) -> Iterator[bytes]:
    """Yield what an asynchronous iterator yields, in a loop of its own."""

    async def main() -> tuple[list[bytes], BaseException | None]:
        taken: list[bytes] = []
        try:
            async for piece in pieces:
                taken.append(piece)
                if len(taken) == most:
                    break
        except Exception as error:
            return taken, error
        finally:
            await pieces.aclose()
        return taken, None

    taken, error = asyncio.run(main())
    yield from taken
    if error is not None:
        raise error


def pieces_of_async_httpx(url: str, asked: Any, most: int = 99) -> Iterator[bytes]:
    import httpx

    async def pieces() -> Any:
        async with (
            httpx.AsyncClient(timeout=0.5) as client,
            client.stream("POST", url, json=asked) as answer,
        ):
            async for piece in answer.aiter_raw():
                yield piece

    return in_loop(pieces(), most)


def pieces_of_aiohttp(url: str, asked: Any, most: int = 99) -> Iterator[bytes]:
    import aiohttp

    async def pieces() -> Any:
        timeout = aiohttp.ClientTimeout(total=0.5)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, json=asked) as answer,
        ):
            async for piece in answer.content.iter_any():
                yield piece

    return in_loop(pieces(), most)


CLIENTS = {
    "httpx": pieces_of_httpx,
    "httpx2": pieces_of_httpx2,
    "httpx, asynchronous": pieces_of_async_httpx,
    "aiohttp": pieces_of_aiohttp,
    "urllib": pieces_of_urllib,
    "urllib3": pieces_of_urllib3,
    "requests": pieces_of_requests,
}

each_client = pytest.mark.parametrize("client", CLIENTS)


def take(pieces: Iterator[bytes]) -> tuple[list[bytes], str, str]:
    """Return the pieces, and the class and message of the exception that ended them."""
    taken = []
    try:
        for piece in pieces:
            taken.append(piece)
    except Exception as error:
        kind = type(error)
        # Older releases of urllib3 name an object by its address.
        text = re.sub(" at 0x[0-9a-f]+", "", str(error))
        return taken, f"{kind.__module__}.{kind.__qualname__}", text
    return taken, "", ""


def check_same(
    client: str, turn: Turn, asked: Any, tmp_path: Path, most: int = 99
) -> tuple[Note, Any, ModelServer]:
    """Let a client ask once, without the taps, with them, and from notes; compare what it took."""
    need(client.partition(",")[0])
    run = CLIENTS[client]
    with ModelServer([turn] * 2) as server:
        bare = take(run(server.url + PATH, asked, most=most))
        with noting() as notes:
            tapped = take(run(server.url + PATH, asked, most=most))
    # The network may join pieces, so a client that leaves after some may have more in one run.
    both = sorted((b"".join(tapped[0]), b"".join(bare[0])), key=len)
    assert both[1].startswith(both[0])
    assert both[0] == both[1] or most < 99
    assert tapped[1:] == bare[1:]
    (note,) = notes
    # These read on before they hand out a piece, and drop it if that fails.
    seen = b"".join(note.chunks)
    is_eager = client in ("urllib", "urllib3", "requests")
    assert seen == b"".join(tapped[0]) or (tapped[1] and is_eager)
    with answering(save(notes, tmp_path / "notes.json")) as answered:
        assert take(run(server.url + PATH, asked, most=most)) == tapped
    assert (answered[0].status, answered[0].body) == (note.status, note.body)
    assert type(answered[0].error) is type(note.error) or answered[0].error is not None
    return note, tapped, server


@pytest.mark.mostly_slow(1)
@each_client
def test_a_stream_breaks_at_the_same_piece(client: str, tmp_path: Path) -> None:
    note, taken, server = check_same(
        client, Turn("one two three", broken_after=2), STREAM, tmp_path
    )
    assert b"".join(taken[0]) == server.attempts[0].sent
    assert taken[1]
    assert note.error is not None


@pytest.mark.mostly_slow(1)
@each_client
def test_a_body_that_is_cut_is_an_error(client: str, tmp_path: Path) -> None:
    note, taken, _ = check_same(client, Turn("one two", broken_after=40), WHOLE, tmp_path)
    assert note.error is not None
    assert taken[1]


@pytest.mark.mostly_slow(1)
@each_client
def test_a_dropped_connection_has_no_response(client: str, tmp_path: Path) -> None:
    note, taken, _ = check_same(client, Turn(is_dropped=True), WHOLE, tmp_path)
    assert note.status == 0
    assert note.order[0] == "ended"
    assert taken[1]


@pytest.mark.slow
@each_client
def test_a_late_response_times_out_alike(client: str, tmp_path: Path) -> None:
    note, taken, _ = check_same(client, Turn("late", delay_s=0.8), WHOLE, tmp_path)
    assert note.status == 0
    assert note.error is not None
    assert taken[1]


@pytest.mark.slow
@each_client
def test_a_late_piece_times_out_alike(client: str, tmp_path: Path) -> None:
    note, taken, _ = check_same(client, Turn("one", stalls_at=2, pause_s=0.8), STREAM, tmp_path)
    assert note.status == 200
    assert note.error is not None
    assert taken[1]
    if client not in ("urllib3", "requests"):
        assert b"".join(taken[0]).count(b"data:") == 2


@pytest.mark.mostly_slow(1)
@each_client
def test_a_stream_that_is_left_gives_what_was_taken(client: str, tmp_path: Path) -> None:
    turn = Turn("one two three four five", pause_s=0.02)
    note, taken, _ = check_same(client, turn, STREAM, tmp_path, most=3)
    assert len(taken[0]) == 3
    assert note.error is None
    assert note.n_ends >= 1


@pytest.mark.mostly_slow(1)
@each_client
def test_a_compressed_body_is_reported_as_its_headers_say(client: str, tmp_path: Path) -> None:
    need(client.partition(",")[0])
    run = CLIENTS[client]
    for asked in (WHOLE, STREAM):
        with ModelServer([Turn("one two three", is_gzipped=True)]) as server, noting() as notes:
            take(run(server.url + PATH, asked))
        assert notes[0].body == server.attempts[0].sent
        with answering(save(notes, tmp_path / "notes.json")):
            taken = take(run(server.url + PATH, asked))
        assert b"".join(taken[0]) == server.attempts[0].sent


@pytest.mark.mostly_slow(1)
@each_client
def test_a_refused_connection_is_an_attempt(client: str, tmp_path: Path) -> None:
    need(client.partition(",")[0])
    run = CLIENTS[client]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}{PATH}"
        bare = take(run(url, WHOLE))
        with noting() as notes:
            assert take(run(url, WHOLE)) == bare
    (note,) = notes
    assert note.status == 0
    assert note.error is not None
    with answering(save(notes, tmp_path / "notes.json")):
        assert take(run(url, WHOLE)) == bare


def cancelled_httpx(url: str, name: str = "httpx") -> Any:
    httpx = __import__(name)

    async def main() -> Any:
        async with httpx.AsyncClient() as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.post(url + PATH, json=WHOLE), 0.2)
            return (await client.post(url + PATH, json=WHOLE)).json()

    return asyncio.run(main())


def cancelled_aiohttp(url: str) -> Any:
    import aiohttp

    async def main() -> Any:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(session.post(url + PATH, json=WHOLE), 0.2)
            async with session.post(url + PATH, json=WHOLE) as answer:
                return await answer.json()

    return asyncio.run(main())


@pytest.mark.parametrize("cancelled", [cancelled_httpx, cancelled_aiohttp])
def test_a_cancelled_request_hangs_until_cancelled(
    cancelled: Callable[[str], Any], tmp_path: Path
) -> None:
    need(cancelled.__name__.partition("_")[2])
    with ModelServer([Turn("late", delay_s=0.6), Turn("in time")]) as server, noting() as notes:
        said = cancelled(server.url)
    assert isinstance(notes[0].error, asyncio.CancelledError)
    assert notes[1].error is None
    with answering(save(notes, tmp_path / "notes.json")) as answered:
        assert cancelled(server.url) == said
    assert isinstance(answered[0].error, asyncio.CancelledError)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_an_openai_stream_left_early_is_closed(tmp_path: Path) -> None:
    need("openai")
    import openai

    def run(url: str) -> list[str]:
        said = []
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(model="m", **STREAM)
            for chunk in stream:
                said.append(chunk.choices[0].delta.content)
                if len(said) == 3:
                    break
            stream.close()
        return said

    plan = [Turn("a b c d e f", [Call("f")], pause_s=0.02)]
    with ModelServer(plan) as server, noting() as notes:
        said = run(server.url)
    (note,) = notes
    assert note.n_ends >= 1
    assert note.body.count(b"data:") == 3
    assert server.attempts[0].sent.startswith(note.body)
    with answering(save(notes, tmp_path / "notes.json")):
        assert run(server.url) == said
    assert json.loads((tmp_path / "notes.json").read_text())[0]["error"] is None


REDIRECTED = {
    "httpx": lambda url: _redirected_httpx("httpx", url),
    "httpx2": lambda url: _redirected_httpx("httpx2", url),
    "requests": lambda url: _redirected_requests(url),
}


def _redirected_httpx(name: str, url: str) -> Any:
    httpx = __import__(name)
    with httpx.Client(follow_redirects=True) as client:
        answer = client.post(url, json=WHOLE)
    return answer.status_code, answer.json()


def _redirected_requests(url: str) -> Any:
    import requests

    answer = requests.post(url, json=WHOLE, timeout=9)
    return answer.status_code, answer.json()


@pytest.mark.slow
@pytest.mark.parametrize("client", REDIRECTED)
def test_a_redirected_request_is_redirected_again(client: str, tmp_path: Path) -> None:
    need(client)
    ask = REDIRECTED[client]
    plan = [Turn(status=307, headers={"Location": f"{PATH}?key=1"}), LONG]
    with ModelServer(plan) as server, trajrec.episode(tmp_path):
        said = ask(server.url + PATH)
    assert said[0] == 200
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus, trajrec.rerun(next(corpus.episodes())):
        assert ask(server.url + PATH) == said
