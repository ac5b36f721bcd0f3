"""Streams in their formats: server-sent events, JSON objects, Amazon's frames."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from dialect_bodies import AMAZON, BEDROCK_EVENTS, frame

from trajrec.wire.aws_stream import split_frames
from trajrec.wire.dialects.streams import DONE, read_stream
from trajrec.wire.json_bodies import MAX_DEPTH, NOT_JSON, read_json
from trajrec.wire.json_stream import JsonSplitter, split_objects
from trajrec.wire.sse import EventSplitter, ServerSentEvent, split_events

EVENTS: list[tuple[str, bytes, list[tuple[str, bytes]]]] = [
    ("one line", b"data: a\n\n", [("", b"a")]),
    ("no space", b"data:a\n\n", [("", b"a")]),
    ("one of two spaces", b"data:  a\n\n", [("", b" a")]),
    ("a name", b"event: ping\ndata: {}\n\n", [("ping", b"{}")]),
    ("a name behind the data", b"data: {}\nevent: ping\n\n", [("ping", b"{}")]),
    ("several lines", b"data: a\ndata:\ndata: b\n\n", [("", b"a\n\nb")]),
    ("CRLF", b"event: x\r\ndata: a\r\n\r\ndata: b\r\n\r\n", [("x", b"a"), ("", b"b")]),
    ("CR", b"data: a\rdata: b\r\rdata: c\r\r", [("", b"a\nb"), ("", b"c")]),
    ("line ends mixed", b"data: a\r\n\ndata: b\n\r\n", [("", b"a"), ("", b"b")]),
    ("comments", b": hello\n\n:\ndata: a\n: bye\n\n", [("", b"a")]),
    ("other fields", b"id: 7\nretry: 10\ndata: a\nfoo: bar\n\n", [("", b"a")]),
    ("no data", b"event: ping\n\nid: 7\n\n", []),
    ("an empty text", b"data\n\ndata:\n\n", [("", b""), ("", b"")]),
    ("no blank line at the end", b"data: a\n\ndata: [DONE]", [("", b"a"), ("", b"[DONE]")]),
    ("one line end at the end", b"data: a\n", [("", b"a")]),
    ("more blank lines", b"\n\n\ndata: a\n\n\n\ndata: b\n\n\n", [("", b"a"), ("", b"b")]),
    ("a byte order mark", b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
    ("UTF-8", "data: é🙂\n\n".encode(), [("", "é🙂".encode())]),
    ("bytes that are no UTF-8", b"event: \xff\ndata: \xff\n\n", [("\ufffd", b"\xff")]),
    ("nothing", b"", []),
]


@pytest.mark.parametrize(
    ("body", "expected"), [case[1:] for case in EVENTS], ids=[c[0] for c in EVENTS]
)
def test_events_are_split_in_pieces_of_any_size(
    body: bytes, expected: list[tuple[str, bytes]]
) -> None:
    assert split_events(body) == [ServerSentEvent(*one) for one in expected]
    for size in range(1, len(body) + 1):
        splitter = EventSplitter()
        events = [
            event
            for start in range(0, len(body), size)
            for event in splitter.feed(body[start : start + size])
        ]
        assert events + splitter.finish() == [ServerSentEvent(*one) for one in expected], size


def test_a_blank_line_of_cr_may_end_a_piece() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"event: x\rdata: a\r\r") == []
    assert splitter.feed(b"data: b") == [ServerSentEvent("x", b"a")]
    assert splitter.finish() == [ServerSentEvent("", b"b")]
    # The last one, if nothing follows it.
    assert splitter.feed(b"data: c\r\r") + splitter.finish() == [ServerSentEvent("", b"c")]


def test_event_is_told_as_soon_as_it_ends() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: a\n") == []
    assert splitter.feed(b"\n") == [ServerSentEvent("", b"a")]
    assert splitter.finish() == []


OBJECTS: list[Any] = [
    {"a": 1},
    {"text": 'a "quoted" } text \\ ] {', "n": [[{}], []]},
    {"é🙂": "\u2028\n"},
    {},
    {"deep": {"deep": {"deep": [1, {"x": None}]}}},
]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("form", ["lines", "array", "together"])
def test_objects_are_split_in_pieces_of_any_size(form: str, indent: int | None) -> None:
    texts = [json.dumps(one, indent=indent, ensure_ascii=False) for one in OBJECTS]
    body = {
        "lines": "\n".join(texts) + "\n",
        "array": f"[{','.join(texts)}\n]",
        "together": "".join(texts),
    }[form].encode()
    assert [json.loads(data) for data in split_objects(body)] == OBJECTS
    for size in (1, 2, 3, 7, 50):
        splitter = JsonSplitter()
        objects = [
            json.loads(data)
            for start in range(0, len(body), size)
            for data in splitter.feed(body[start : start + size])
        ]
        assert objects == OBJECTS
        assert splitter.finish() == []
    events = read_stream("application/json", body)
    assert events is not None
    assert [event.value for event in events] == OBJECTS


def test_last_object_that_is_cut_off_is_told_at_the_end() -> None:
    splitter = JsonSplitter()
    assert splitter.feed(b'{"a": 1}\n{"b": "x') == [b'{"a": 1}']
    assert splitter.feed(b"}") == []
    assert splitter.finish() == [b'{"b": "x}']
    assert splitter.feed(b'{"c": 2}') == [b'{"c": 2}']


def test_one_object_is_no_stream() -> None:
    for body in (b"", b"{}", b' {"a": 1}\n', b'{"a": ', b"hello", b"7"):
        assert read_stream("application/json", body) is None
    # An error under the name of a stream.
    assert read_stream("text/event-stream", b'{"error": "x"}') is None
    assert read_stream("text/event-stream", b"") == []


def test_events_are_known_without_a_content_type() -> None:
    for body in (b"data: {}\n\n", b": ping\n\ndata: {}\n\n", b"\n\nevent: x\ndata: {}\n\n"):
        events = read_stream("", body)
        assert events is not None
        assert [event.value for event in events] == [{}]
    done = read_stream("text/plain", b"data: [DONE]\n\n")
    assert done is not None
    assert done[0].value is DONE


def test_frames_are_read_until_one_is_damaged() -> None:
    frames = [frame(*event) for event in BEDROCK_EVENTS]
    whole = b"".join(frames)
    assert [one.name for one in split_frames(whole)] == [name for name, _ in BEDROCK_EVENTS]
    rng = random.Random(0)
    for _ in range(100):
        place = rng.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        n_sound = sum(1 for end in ends(frames) if end <= place)
        assert len(split_frames(bytes(damaged))) == n_sound
        assert len(split_frames(whole[:place])) == n_sound
    events = read_stream(AMAZON, frame("throttlingException", {"message": "slow"}, "exception"))
    assert events is not None
    assert events[0] == ("throttlingException", {"message": "slow"}, True)


def ends(frames: list[bytes]) -> list[int]:
    """Return the end of each frame in all of them together."""
    return [sum(map(len, frames[: k + 1])) for k in range(len(frames))]


def nested(depth: int) -> bytes:
    return b'{"a":[' * (depth // 2) + b"7" + b"]}" * (depth // 2)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\xef\xbb\xbf{}", {}),
        (b'"\\ud800"', "\ud800"),
        (b"1e999", float("inf")),
        (b"1" + b"0" * 40, 10**40),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b"", NOT_JSON),
        (b"{}{}", NOT_JSON),
        (b'"\xff"', NOT_JSON),
        (b"1" * 5_000, NOT_JSON),
        (b"[" * 500 + b"]" * 500, NOT_JSON),
    ],
)
def test_json_of_strangers_is_read_or_none(data: bytes, value: Any) -> None:
    assert read_json(data) == value


def test_depth_decides_and_not_the_number_of_brackets() -> None:
    assert read_json(nested(MAX_DEPTH)) is not NOT_JSON
    assert read_json(nested(MAX_DEPTH + 2)) is NOT_JSON
    assert len(read_json(b"[" + b",".join([b"[[]]"] * 999) + b"]")) == 999
    texts = json.dumps(["{[" * 99, {"a": "]]" * 99}] * 20).encode()
    assert len(read_json(texts)) == 40
    mixed = b"[" + texts + b"," + nested(MAX_DEPTH) + b"]"
    assert read_json(mixed) is NOT_JSON


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_error_without_a_field_name_ends_a_stream(line_end: bytes) -> None:
    error = json.dumps({"error": {"code": 503, "message": "boom"}}, indent=2).encode()
    body = b"data: {}\n\n" + error + b"\n"
    events = read_stream("text/event-stream", body.replace(b"\n", line_end))
    assert events is not None
    assert [event.value for event in events] == [{}, json.loads(error)]
