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


@pytest.mark.parametrize(
    ("form", "harmless", "secret"),
    [
        ('data: {"password": "%s"}\n', "", "any words"),
        ('{"token": "%s"}\n', "a", "9f86d081884c7d65"),
        ('{"name": "%s", "value": "any words"}\n', "colour", "password"),
        ('["%s", "hu9n7t3er2"]\n', "colour", "password"),
        ('{"selector": "%s", "text": "any words"}\n', "#user", "input[name=password]"),
    ],
)
def test_a_name_hides_a_secret_in_the_hundredth_equal_line(
    form: str, harmless: str, secret: str
) -> None:
    alone = lines(form % secret)
    assert "[redacted " in alone
    assert lines(*[form % harmless] * 99, form % secret) == form % harmless * 99 + alone


def test_lines_that_only_python_calls_json_are_texts_that_go_on() -> None:
    said = lines(
        f'{{"loss": NaN, "half": "\\ud83d", "text": "\u00e9 {KEY[:20]}"}}\n',
        f'{{"loss": NaN, "half": "\\ud83d", "text": "{KEY[20:]} \u00e9"}}\n',
    )
    first, second = (json.loads(line) for line in said.splitlines())
    assert first["text"].startswith("\u00e9 [redacted github token ")
    assert second["text"] == " \u00e9"
    assert first["half"] == "\ud83d"


def test_a_key_in_a_line_is_searched_and_its_line_stays_json() -> None:
    said = lines(f'data: {{"files": {{"{KEY}": "\u00e9"}}}}\n')
    assert KEY not in said
    assert list(json.loads(said[6:])["files"].values()) == ["\u00e9"]


def test_a_word_that_is_harmless_elsewhere_is_a_piece_of_a_secret() -> None:
    key = f"{KEY[:30]}tool{KEY[30:]}"
    pieces = [key[:30], "tool", key[34:]]
    said = lines(
        '{"role": "tool"}\n',
        *(json.dumps({"role": "tool", "text": piece}) + "\n" for piece in pieces),
    )
    assert [json.loads(line)["text"] for line in said.splitlines()[2:]] == ["", ""]


@pytest.mark.parametrize("depth", [600, 5000])
def test_a_deeply_nested_line_raises_nothing(depth: int) -> None:
    said = lines("[" * depth + json.dumps(KEY) + "]" * depth + "\n")
    assert KEY not in said
    assert said.count("[") == depth + 1
