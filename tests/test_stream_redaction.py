"""Secrets in the pieces of streams, and in their lines: none stays, and nothing else changes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trajrec.redaction.redactor import Redactor
from trajrec.redaction.response_bodies import LineRedactor
from trajrec.redaction.streams import StreamRedactor, join_pieces
from trajrec.redaction.tracks import MAX_HELD_CHARS
from trajrec.values import codec

REDACTOR = Redactor({})
KEY = "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
WORDS = "lorem ipsum dolor "


def streamed(pieces: list[Any]) -> list[Any]:
    """Return pieces as a log has them."""
    stream = StreamRedactor(REDACTOR)
    done = [data for piece in pieces for data in stream.add(piece)]
    pieces_of_log: list[Any] = codec.decode(join_pieces([*done, *stream.finish()]))
    return pieces_of_log


def lines(*sent: str) -> str:
    """Return the lines of a response as a log has them."""
    stream = LineRedactor(REDACTOR)
    return (b"".join(stream.add(line.encode()) for line in sent) + stream.finish()).decode()


def cut(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


@pytest.mark.parametrize("size", [7, 50, 2000])
def test_a_long_document_with_a_late_secret_stays_json(size: int) -> None:
    said = f'{WORDS * 200}"quoted"\n{{}} end'.replace("{}", KEY)
    document = json.dumps({"path": "/a", "content": said, "n": 1})
    content = json.loads("".join(streamed(cut(document, size))))["content"]
    assert KEY not in content
    begin, _, end = content.partition("[redacted ")
    assert begin == f'{WORDS * 200}"quoted"\n'
    assert end.partition("]")[2] == " end"


def test_a_secret_at_the_limit_of_held_text_is_marked_whole() -> None:
    draw = random.Random(1)
    keys = ["ghp_" + "".join(draw.choices("abcdABCD0123456789", k=36)) for _ in range(600)]
    document = json.dumps({"password": "any words", "keys": WORDS.join(keys)})
    assert len(document) > 2 * MAX_HELD_CHARS
    said = "".join(streamed(cut(document, 611)))
    assert not [key for key in keys if key[:20] in said or key[-20:] in said]
    assert json.loads(said)["keys"].count("[redacted ") == len(keys)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: {text},
        lambda text: {text: 1},
        lambda text: {"a": [{text.encode(): 1}]},
        lambda text: np.array(["a", text]),
        np.str_,
        lambda text: np.bytes_(text.encode()),
        lambda text: bytearray(text.encode()),
    ],
)
def test_pieces_of_each_type_and_their_keys_are_searched(wrap: Callable[[str], Any]) -> None:
    pieces = streamed([wrap("before"), wrap(KEY), wrap("after")])
    assert KEY not in repr(pieces)
    assert repr(pieces[0]) == repr(wrap("before"))
    assert type(pieces[1]) is type(wrap(KEY))
    assert "[redacted github token " in repr(pieces[1])
