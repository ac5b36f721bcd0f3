"""HTTP exchanges: the log gives back the bytes that were sent and received, and no secret."""

from __future__ import annotations

import gzip
import json
import random
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import zstandard
from conftest import only
from planted import KINDS, plant
from tiers import third_slow

import trajrec
from trajrec.agents.exchange_memory import REMEMBERED_REQUESTS
from trajrec.agents.routing import router
from trajrec.corpus.http_exchanges import HttpExchange
from trajrec.redaction.redactor import Redactor
from trajrec.redaction.request_bodies import BodyRedactor
from trajrec.redaction.response_bodies import LineRedactor
from trajrec.taps.raw_answers import head_of
from trajrec.wire import encodings
from trajrec.wire.deltas import REMEMBERED, BodyDeltas
from trajrec.wire.dialects.choose import dialect_of, is_model_request
from trajrec.wire.encodings import ContentDecoder
from trajrec.wire.exchange import HttpRequest, is_model_call, plain_url

URL = "https://user:pw@models.example/v1/chat/completions?key=AIzaSecret"
JSON = [("content-type", "application/json")]
EVENTS = [("content-type", "text/event-stream; charset=utf-8")]


def send(
    ep: Any,
    body: bytes,
    pieces: list[bytes],
    *,
    status: int | None = 200,
    headers: list[tuple[str, str]] = JSON,
    error: BaseException | None = None,
    sent: list[tuple[str, str]] = JSON,
) -> None:
    """Report one exchange as a tap does."""
    exchange = ep.begin_exchange(HttpRequest("POST", URL, sent, body))
    if status is not None:
        exchange.responded(status, headers)
    for piece in pieces:
        exchange.received(piece)
    exchange.ended(error)
    exchange.ended(RuntimeError("a second end says nothing"))


def recorded(folder: Path) -> list[HttpExchange]:
    trajrec.close_logs()
    return only(folder).transcript.exchanges


def request_body(n: int, words: int = 20, seed: int = 0) -> bytes:
    draw = random.Random(seed)
    messages = [
        {
            "role": ("user", "assistant")[k % 2],
            "content": " ".join(f"wörd{draw.randrange(10**6)}" for _ in range(words)),
        }
        for k in range(n)
    ]
    body = {"model": "m", "messages": messages, "tools": [{"name": "t", "x": "y" * 300}]}
    return json.dumps(body, ensure_ascii=seed % 2 == 0).encode()


def events(texts: list[str], shape: str = "chat") -> list[bytes]:
    """Return a stream that says some texts, one in each event."""
    shapes: dict[str, Any] = {
        "chat": lambda k, t: {
            "id": "c",
            "choices": [{"index": 0, "delta": {"content": t}, "finish_reason": None}],
            "obfuscation": str(k * 7919),
        },
        "responses": lambda k, t: {
            "type": "response.output_text.delta",
            "sequence_number": k,
            "item_id": "msg_1",
            "output_index": 0,
            "delta": t,
        },
        "anthropic": lambda k, t: {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "input_json_delta", "partial_json": t},
        },
        "calls": lambda k, t: {
            "choices": [
                {
                    "index": 0,
                    "delta": {"tool_calls": [{"index": 1, "function": {"arguments": t}}]},
                }
            ]
        },
    }
    lines = [json.dumps(shapes[shape](k, text)) for k, text in enumerate(texts)]
    head = "event: x\n" if shape in ("responses", "anthropic") else ""
    return [f"{head}data: {line}\n\n".encode() for line in [*lines, '{"done": true}']]


def test_bodies_come_back_byte_by_byte(tmp_path: Path) -> None:
    draw = random.Random(5)
    sent = []
    with trajrec.episode(tmp_path) as ep:
        for k in range(40):
            body = request_body(draw.randrange(12), seed=draw.randrange(4))
            if draw.random() < 0.2:
                body = draw.randbytes(draw.randrange(400))
            answer = b"".join(events([f"w{draw.random()}" for _ in range(draw.randrange(60))]))
            if draw.random() < 0.3:
                answer = draw.randbytes(draw.randrange(5000))
            cuts = sorted(draw.randrange(len(answer) + 1) for _ in range(draw.randrange(9)))
            pieces = [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
            pieces = [piece for piece in pieces if piece]
            headers = EVENTS if draw.random() < 0.7 else JSON
            send(ep, body, pieces, headers=headers, status=200 + k)
            sent.append((body, pieces, 200 + k))
    found = recorded(tmp_path)
    assert [(e.request_body, e.status) for e in found] == [(b, s) for b, _, s in sent]
    assert [e.chunks for e in found] == [pieces for _, pieces, _ in sent]
    assert {e.start.url for e in found} == {"https://models.example/v1/chat/completions"}


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw deflate", "zstd", "br", "broken gzip"])
def test_a_coded_body_is_decoded_or_said_to_be_coded(tmp_path: Path, coding: str) -> None:
    text = b'{"answer": "' + b"lamp " * 200 + b'"}'
    raw = zlib.compressobj(wbits=-15)
    bodies = {
        "gzip": gzip.compress(text),
        "deflate": zlib.compress(text),
        "raw deflate": raw.compress(text) + raw.flush(),
        "zstd": zstandard.compress(text),
        "br": b"\x0b\x02\x80not brotli\x03",
        "broken gzip": b"no gzip at all",
    }
    data = bodies[coding]
    headers = [*JSON, ("content-encoding", coding.split()[-1])]
    with trajrec.episode(tmp_path) as ep:
        send(ep, b"{}", [data[:1], data[1:9], data[9:]], headers=headers)
    (exchange,) = recorded(tmp_path)
    is_decoded = coding not in ("br", "broken gzip")
    assert exchange.response_body == (text if is_decoded else data)
    assert exchange.notes.coding == ("" if is_decoded else headers[-1][1])


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_body_of_several_members_is_decoded_whole(coding: str, size: int) -> None:
    # A server may compress each event by itself.
    compress = {"gzip": gzip.compress, "zstd": zstandard.compress}[coding]
    events = [b"data: %d\n\n" % number for number in range(3)]
    data = b"".join(map(compress, events))
    if coding == "gzip":
        data += bytes(5)
    decoder = ContentDecoder(coding)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert b"".join(map(decoder.decode, pieces)) == b"".join(events)


@pytest.mark.slow
class Brotli:
    """Stands for the package of this name, which a client that asks for br has."""

    error = RuntimeError

    class Decompressor:
        def process(self, data: bytes) -> bytes:
            if data == b"broken":
                raise Brotli.error
            return data[::-1]


def test_a_body_in_br_is_decoded_by_the_clients_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encodings, "_brotli", lambda: Brotli)
    with trajrec.episode(tmp_path) as ep:
        for pieces in ([b'":b{', b'}"'], [b"broken"]):
            send(ep, b"{}", pieces, headers=[*JSON, ("content-encoding", "br")])
    decoded, broken = recorded(tmp_path)
    assert (decoded.chunks, decoded.notes.coding) == ([b'{b:"', b'"}'], "")
    assert (broken.chunks, broken.notes.coding) == ([b"broken"], "br")


def test_a_rerun_gives_an_undecoded_body_with_its_coding(tmp_path: Path) -> None:
    asked = request_body(1)
    headers = [*JSON, ("content-encoding", "br, other")]
    with trajrec.episode(tmp_path) as ep:
        send(ep, asked, [b"\x0b\x02", b"\x80{"], headers=headers)
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.sql("SELECT outcome, is_complete, answer FROM model_calls").fetchall()
        # Nothing is known of its contents.
        assert rows == [("ok", None, None)]
        with trajrec.rerun(next(corpus.episodes())) as again:
            exchange = again.begin_exchange(HttpRequest("POST", URL, JSON, asked))
    assert exchange is not None
    assert exchange.answer is not None
    assert exchange.answer.chunks == [b"\x0b\x02", b"\x80{"]
    assert exchange.answer.headers == headers
    assert b"content-encoding: br, other" in head_of(exchange.answer)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("location", "kept"),
    [
        ("https://u:pw@b.example/v1/chat/completions?key=AIzaSecret#x", None),
        ("completions/?key=AIzaSecret", "completions/"),
        ("http://[::1", ""),
    ],
)
def test_the_place_of_a_redirection_is_kept_without_keys(
    tmp_path: Path, location: str, kept: str | None
) -> None:
    with trajrec.episode(tmp_path) as ep:
        send(ep, b"{}", [], status=307, headers=[("location", location)])
    (exchange,) = recorded(tmp_path)
    plain = "https://b.example/v1/chat/completions" if kept is None else kept
    assert exchange.end is not None
    assert exchange.end.headers == [("location", plain)]


@pytest.mark.slow
def test_a_compressed_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = zstandard.ZstdCompressor(level=3).compress(bytes(1 << 28))
    with trajrec.episode(tmp_path) as ep:
        send(ep, b"{}", [bomb], headers=[*JSON, ("content-encoding", "zstd")])
    (exchange,) = recorded(tmp_path)
    assert exchange.response_body == bomb


@pytest.mark.slow
@pytest.mark.parametrize("field", ["messages", "input", "contents"])
def test_a_long_conversation_is_stored_once(tmp_path: Path, field: str) -> None:
    draw = random.Random(3)
    messages: list[Any] = []
    with trajrec.episode(tmp_path) as ep:
        for _ in range(200):
            for role in ("user", "assistant"):
                text = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz    ", k=450))
                messages.append({"role": role, "content": text})
            body = json.dumps({"model": "m", field: messages, "temperature": 0}).encode()
            send(ep, body, [b"{}"])
    said = len(json.dumps(messages))
    found = recorded(tmp_path)
    assert found[-1].request_body == body
    (log,) = tmp_path.glob("*.trj")
    packed = len(zstandard.compress(json.dumps(messages).encode(), 3))
    assert log.stat().st_size <= 1.3 * said
    assert log.stat().st_size <= 1.6 * packed


def test_conversations_that_take_turns_share_their_bodies() -> None:
    deltas = BodyDeltas()
    n_stored = 0
    for turn in range(20):
        for agent in range(REMEMBERED):
            body = request_body(turn, seed=agent)
            delta = deltas.delta(body)
            deltas.add(turn * REMEMBERED + agent, body, delta)
            n_stored += len(delta.middle) if turn else 0
    assert n_stored <= 1.1 * REMEMBERED * len(body)


@third_slow("agents")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("shape", ["chat", "responses", "anthropic", "calls"])
@pytest.mark.parametrize("size", [1, 3, 11])
def test_secrets_cut_over_events_are_in_no_byte(tmp_path: Path, shape: str, size: int) -> None:
    planted = [plant(kind, seed=f"{shape} {size}") for kind in KINDS]
    with trajrec.episode(tmp_path) as ep:
        for item in planted:
            said = f"Here it is:\n{item.text}\nand that is all of it."
            cut = [said[k : k + size] for k in range(0, len(said), size)]
            send(ep, b"{}", events(cut, shape), headers=EVENTS)
    found = recorded(tmp_path)
    assert [b"and that" in text_of(e) for e in found] == [True] * len(planted)
    reached = [p.secret.encode() not in text_of(e) for p, e in zip(planted, found, strict=True)]
    whole = Redactor()
    wanted = [item.secret not in whole.text(f"Here it is:\n{item.text}\nand") for item in planted]
    # As much as is found in a text that is whole.
    assert [k for k, (a, b) in enumerate(zip(reached, wanted, strict=True)) if b and not a] == []
    assert sum(reached) >= 0.95 * len(planted)


def text_of(exchange: HttpExchange) -> bytes:
    """Return what a stream of `events` says."""
    said = []
    for line in exchange.response_body.split(b"\n"):
        if line.startswith(b"data: "):
            said += strings(json.loads(line[6:]))
    return "".join(said).encode()


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        names = ("content", "arguments", "partial_json")
        own = [value[name] for name in names if isinstance(value.get(name), str)]
        delta = value.get("delta")
        own += [delta] if isinstance(delta, str) else []
        return own + [text for item in value.values() for text in strings(item)]
    return [text for item in value for text in strings(item)] if isinstance(value, list) else []


@pytest.mark.slow
def test_a_secret_is_found_however_the_bytes_are_batched() -> None:
    draw = random.Random(8)
    for item in [plant(kind, seed="batches") for kind in list(KINDS)[:12]]:
        said = f"first {'word ' * 300}{item.text} last {'word ' * 300}"
        body = b"".join(events([said[k : k + 5] for k in range(0, len(said), 5)]))
        results = set()
        for _ in range(6):
            redactor = LineRedactor(Redactor({}))
            out = b""
            at = 0
            while at < len(body):
                n = draw.choice((1, 40, 700, 20_000))
                out += redactor.add(body[at : at + n])
                at += n
            results.add(out + redactor.finish())
        assert all(item.secret.encode() not in result for result in results)
        assert len(results) == 1, item.kind


def test_secrets_in_requests_leave_the_rest_as_it_is(tmp_path: Path) -> None:
    planted = [plant(kind, seed="requests") for kind in KINDS]
    messages: list[Any] = [{"role": "system", "content": "be brief"}]
    with trajrec.episode(tmp_path) as ep:
        for item in planted:
            messages.append({"role": "user", "content": f"use {item.text} for ü"})
            body = json.dumps({"model": "m", "messages": messages, "n": 1}, ensure_ascii=False)
            send(ep, body.encode(), [b"{}"])
    found = recorded(tmp_path)
    last = json.loads(found[-1].request_body or b"")
    assert [m["role"] for m in last["messages"]] == [m["role"] for m in messages]
    assert last["n"] == 1
    redactor = Redactor()
    assert last == redactor.plain(json.loads(body))
    assert sum(item.secret in str(last) for item in planted) <= 0.05 * len(planted)
    for exchange, n in zip(found, range(2, 99), strict=False):
        assert len(json.loads(exchange.request_body or b"")["messages"]) == n


def random_message(draw: random.Random) -> dict[str, Any]:
    secret = plant(draw.choice(list(KINDS)), seed=draw.random()).text
    text = draw.choice(["plain ü", '},{"role": "x"}', "a\\", secret])
    return {"role": "user", "content": text, "password": draw.choice(["", "hunter2secret"])}


def test_an_incremental_search_finds_what_a_whole_one_finds() -> None:
    draw = random.Random(11)
    redactor = Redactor({})
    for _ in range(60):
        incremental = BodyRedactor(redactor)
        messages: list[Any] = []
        for _ in range(draw.randrange(1, 8)):
            messages += [random_message(draw) for _ in range(draw.randrange(3))]
            if messages and draw.random() < 0.3:
                messages.pop(draw.randrange(len(messages)))
            tail = {"model": "m"} if draw.random() < 0.8 else {"api_key": "abcdef123456"}
            data = json.dumps(
                {"messages": messages, **tail},
                separators=draw.choice([(", ", ": "), (",", ":")]),
                ensure_ascii=draw.random() < 0.5,
            ).encode()
            found, _ = incremental.redact(data)
            whole, _ = BodyRedactor(redactor).redact(data)
            assert json.loads(found) == json.loads(whole)


@pytest.mark.parametrize(
    "element",
    [
        '{"content": "a tab\t%s"}',
        '{"content": "%s", "content": "twice"}',
        '{"content": ' + "[" * 600 + '"%s"' + "]" * 600 + "}",
    ],
)
def test_a_new_message_that_is_odd_json_is_searched(element: str) -> None:
    secret = "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
    redactor = BodyRedactor(Redactor({}))
    redactor.redact(b'{"messages": [{"content": "hi"}], "n": 1}')
    body = f'{{"messages": [{{"content": "hi"}}, {element % secret}], "n": 1}}'
    cleaned, _ = redactor.redact(body.encode())
    assert secret.encode() not in cleaned
    assert json.loads(cleaned, strict=False)["messages"][0] == {"content": "hi"}


def test_a_document_of_megabytes_is_searched_by_its_names() -> None:
    body = json.dumps({"image": "A" * (3 << 20), "password": "any words"}).encode()
    cleaned = json.loads(BodyRedactor(Redactor({})).redact(body)[0])
    assert cleaned["password"].startswith("[redacted password ")


def test_attempts_of_one_model_call_share_its_step(tmp_path: Path) -> None:
    first_body = b'{"messages": [], "n": 1}'
    first = [*JSON, ("x-stainless-retry-count", "0")]
    second = [*JSON, ("x-stainless-retry-count", "1")]
    with trajrec.episode(tmp_path) as ep:
        send(ep, first_body, [b"busy"], status=429, sent=first)
        send(ep, first_body, [], status=None, error=ConnectionError("reset"), sent=second)
        send(ep, first_body, [b"{}"], sent=first)
        send(ep, first_body, [b"{}"], sent=first)
        send(ep, b'{"messages": [], "n": 2}', [b"{}"])
        assert ep.n_steps == 3
    starts = [exchange.start for exchange in recorded(tmp_path)]
    assert [(s.step, s.model_call, s.attempt, s.retry_by) for s in starts] == [
        (0, 0, 0, ""),
        (0, 1, 1, "transport"),
        (0, 2, 2, "scaffold"),
        (1, 3, 0, ""),
        (2, 4, 0, ""),
    ]


def test_a_retry_may_begin_before_the_failed_attempt_has_ended(tmp_path: Path) -> None:
    # A client has the head, and maybe all of the body, before a proxy notes that it was sent.
    body = request_body(3)
    with trajrec.episode(tmp_path) as ep:
        first = ep.begin_exchange(HttpRequest("POST", URL, JSON, body))
        first.responded(500, JSON)
        retry = ep.begin_exchange(HttpRequest("POST", URL, JSON, body))
        first.ended(None)
        retry.responded(200, JSON)
        retry.received(b"{}")
        retry.ended(None)
        # The same again, of its own accord.
        send(ep, body, [b"{}"])
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT number, attempt, outcome, status FROM model_calls ORDER BY ALL"
        rows = corpus.sql(query).fetchall()
    assert rows == [(0, 0, "error", 500), (1, 1, "ok", 200), (2, 0, "ok", 200)]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("counts", [(0, 0, 1, 1), (0, 1, 2, 1), (None,) * 4])
def test_equal_requests_at_once_have_retries_of_their_own(
    tmp_path: Path, counts: tuple[int | None, ...]
) -> None:
    # Several samples of one prompt: the retries of a client tell which failure they repeat.
    body = request_body(3)
    sent = [[*JSON, *([("x-stainless-retry-count", str(n))] * (n is not None))] for n in counts]
    with trajrec.episode(tmp_path) as ep:
        begun = [ep.begin_exchange(HttpRequest("POST", URL, sent[k], body)) for k in range(2)]
        for exchange in begun:
            exchange.responded(429, JSON)
            exchange.ended(None)
        send(ep, body, [b"{}"], sent=sent[2])
        send(ep, body, [b"{}"], sent=sent[3])
    starts = [exchange.start for exchange in recorded(tmp_path)]
    order = (1, 0) if counts[1] == 1 else (0, 1)
    assert [(s.step, s.attempt, s.retry_by) for s in starts] == [
        (0, 0, ""),
        (1, 0, ""),
        *((step, 1, "transport") for step in order),
    ]


def test_a_count_of_retries_that_is_no_number_raises_nothing(tmp_path: Path) -> None:
    sent = [*JSON, ("x-stainless-retry-count", "\u00b2")]
    with trajrec.episode(tmp_path) as ep:
        send(ep, request_body(1), [], status=429, sent=sent)
        send(ep, request_body(1), [b"{}"], sent=sent)
    starts = [exchange.start for exchange in recorded(tmp_path)]
    assert [(start.step, start.attempt) for start in starts] == [(0, 0), (0, 1)]


def test_a_retry_stays_in_the_conversation_of_its_client(tmp_path: Path) -> None:
    body = request_body(3)

    def sent(n: int) -> HttpRequest:
        return HttpRequest("POST", URL, [*JSON, ("x-stainless-retry-count", str(n))], body)

    with trajrec.capture(tmp_path):
        begun = [router.begin(sent(0)), router.begin(sent(0))]
        for exchange in (begun[1], lambda: router.begin(sent(1)), begun[0]):
            exchange = exchange() if callable(exchange) else exchange
            assert exchange is not None
            exchange.responded(429, JSON)
            exchange.ended(None)
        # The second client's second retry, and the first one's first.
        for n, status in ((2, 200), (1, 201)):
            exchange = router.begin(sent(n))
            assert exchange is not None
            exchange.responded(status, JSON)
            exchange.received(b"{}")
            exchange.ended(None)
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT list(status ORDER BY number) AS seen FROM model_calls GROUP BY episode_id"
        rows = corpus.sql(f"{query} ORDER BY len(seen)").fetchall()
    assert rows == [([429, 201],), ([429, 429, 200],)]


def test_a_redirected_request_is_one_model_call(tmp_path: Path) -> None:
    body = request_body(3)
    first = [*JSON, ("x-stainless-retry-count", "0")]
    with trajrec.episode(tmp_path) as ep:
        moved = [("location", "https://b.example/v1/messages?key=1")]
        send(ep, body, [], status=307, headers=moved, sent=first)
        request = HttpRequest("POST", "https://b.example/v1/messages?key=1", first, body)
        exchange = ep.begin_exchange(request)
        exchange.responded(200, JSON)
        exchange.received(b"{}")
        exchange.ended(None)
        # The same again, of its own accord.
        send(ep, body, [b"{}"])
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT step, number, attempt, outcome, status, retry_by FROM model_calls"
        rows = corpus.sql(f"{query} ORDER BY number").fetchall()
    assert rows == [
        (0, 0, 0, "ok", 307, None),
        (0, 1, 1, "ok", 200, "transport"),
        (1, 2, 0, "ok", 200, None),
    ]


def test_exchanges_inside_of_a_model_call_belong_to_it(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:

        def call() -> str:
            send(ep, b"{}", [b"{}"])
            return "answer"

        ep.model(call)
        assert ep.n_steps == 1
    (exchange,) = recorded(tmp_path)
    assert exchange.start.model_call == 0
    assert len(only(tmp_path).transcript.model_calls) == 1


def post(url: str, body: bytes) -> bytes | None:
    """Report a request to the episode around it; return what a recording answers."""
    episode = trajrec.current_episode()
    assert episode is not None
    exchange = episode.begin_exchange(HttpRequest("POST", url, JSON, body))
    assert exchange is not None
    if exchange.answer is None:
        exchange.responded(200, JSON)
        exchange.received(b'{"ok": 1}')
        exchange.ended(None)
        return None
    return b"".join(exchange.answer.chunks)


@pytest.mark.slow
def test_a_request_that_asks_no_model_is_no_model_call(tmp_path: Path) -> None:
    note = ("https://chat.example/api/messages", b'{"channel": "lamps", "text": "hello"}')
    model = ("https://models.example/v1/messages", b'{"model": "m", "messages": []}')
    with trajrec.episode(tmp_path) as ep:
        post(*note)
        post(*model)
        post(*note)
        assert ep.n_steps == 1
    found = recorded(tmp_path)
    assert [(e.start.step, e.start.model_call) for e in found] == [(-1, -1), (0, 0), (0, -1)]
    episode = only(tmp_path)
    assert len(episode.transcript.model_calls) == 1
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT n_steps FROM episodes").fetchall() == [(1,)]
    # A rerun answers it all the same, and misses it if the agent leaves it out.
    with trajrec.rerun(episode, on_difference="report") as again:
        assert [post(*request) for request in (note, model, note)] == [b'{"ok": 1}'] * 3
        assert again.n_steps == 1
    assert again.difference is None
    with trajrec.rerun(episode, on_difference="report") as again:
        post(*note)
        post(*model)
    assert again.difference is not None


KILLED = """
import os, sys, time
import trajrec
from trajrec.wire.exchange import HttpRequest
with trajrec.episode(sys.argv[1]) as ep:
    exchange = ep.begin_exchange(HttpRequest("POST", "http://h/v1/messages", [], b"{}"))
    exchange.responded(200, [("content-type", "text/event-stream")])
    for k in range(400):
        exchange.received(b'data: {"index": 0, "delta": {"text": "word%d and "}}\\n\\n' % k)
        time.sleep(0.002)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_the_stream_up_to_the_window(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    (exchange,) = only(tmp_path).transcript.exchanges
    assert exchange.end is None
    n_events = exchange.response_body.count(b"data: ")
    # A quarter of a second has 125 events at most, and the window 512 characters, 50 more.
    assert 400 - 180 <= n_events < 400
    assert exchange.response_body.endswith(b"\n")


def test_only_paths_of_models_are_model_calls() -> None:
    assert is_model_call("POST", "http://localhost:11434/api/chat")
    assert is_model_call("POST", "https://x/v1beta/models/gemini-3:streamGenerateContent?alt=sse")
    assert is_model_call("POST", "https://x/model/a.b-v1:0/converse-stream")
    vertex = "https://eu-aiplatform.googleapis.com/v1/projects/p/locations/eu/publishers"
    for path, body, name in (
        ("anthropic/models/claude:rawPredict", {"anthropic_version": "vertex"}, "anthropic"),
        ("anthropic/models/claude:streamRawPredict", {"anthropic_version": "vertex"}, "anthropic"),
        ("mistralai/models/small:rawPredict", {"model": "small"}, "chat"),
    ):
        data = json.dumps({**body, "messages": []}).encode()
        request = HttpRequest("POST", f"{vertex}/{path}", [], data)
        assert is_model_request(request)
        assert dialect_of(request.url, data).name == name
    for path in ("model/meta.llama3/invoke", "model/x/invoke-with-response-stream"):
        # Of a dialect that is unknown, and a model call all the same.
        request = HttpRequest("POST", f"https://x/{path}", [], b'{"prompt": "Hi"}')
        assert is_model_request(request)
        assert dialect_of(request.url, request.body).name == "unknown"
    assert not is_model_request(HttpRequest("POST", "https://x/v1/invoke", [], b'{"job": 1}'))
    assert not is_model_call("POST", "https://x/v1/models/a:predict")
    assert not is_model_call("POST", "https://x/v1/files")
    assert not is_model_call("GET", "https://x/v1/messages")
    assert plain_url("http://localhost:8/v1/messages") == "http://localhost:8/v1/messages"


def test_requests_whose_bodies_no_tap_could_read_are_no_retries(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        send(ep, b"", [b"{}"], status=500)
        send(ep, b"", [b"{}"])
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.sql("SELECT step, attempt, retry_by FROM model_calls").fetchall()
        assert rows == [(0, 0, None), (1, 0, None)]


def test_model_call_of_an_unknown_dialect_is_captured(tmp_path: Path) -> None:
    url = "https://bedrock-runtime.eu-west-1.amazonaws.com/model/meta.llama3/invoke"
    with trajrec.capture(tmp_path):
        exchange = router.begin(HttpRequest("POST", url, JSON, b'{"prompt": "Hi"}'))
        assert exchange is not None
        exchange.responded(200, JSON)
        exchange.received(b'{"generation": "Hello."}')
        exchange.ended(None)
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT dialect, outcome, input_tokens FROM model_calls"
        assert corpus.sql(query).fetchall() == [("unknown", "ok", None)]


def test_the_bodies_of_earlier_requests_are_not_kept_in_memory(tmp_path: Path) -> None:
    messages: list[Any] = []
    bodies: list[bytes] = []
    answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": "ok"}}]})
    with trajrec.episode(tmp_path) as ep:
        for number in range(20):
            messages.append({"role": "user", "content": str(number) * 1000})
            bodies.append(json.dumps({"model": "m", "messages": messages}).encode())
            exchange = ep.begin_exchange(HttpRequest("POST", URL, JSON, bodies[-1]))
            assert exchange is not None
            exchange.responded(200, JSON)
            exchange.received(answer.encode())
            exchange.ended(None)
        # The list and the argument of the function are two references.
        n_kept = sum(sys.getrefcount(bodies[number]) > 2 for number in range(20))
    # Those that a request may go on from, the first one, and that of the last exchange.
    assert n_kept <= REMEMBERED_REQUESTS + 2
