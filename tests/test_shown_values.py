"""Messages show how two values differ, however long they are."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trajrec
from trajrec.protocols import Tool
from trajrec.recording.event_log import close_logs
from trajrec.replay import first_difference, replay_episode
from trajrec.values.shown import SHORT_CHARACTERS, short_pair

ROW = np.dtype([("number", "i8"), ("weight", "f8")])


def changed(array: Any, index: int) -> Any:
    array = array.copy()
    array[index] = (7, 7.0)
    return array


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("x" * 3000 + "cat" + "y" * 3000, "x" * 3000 + "dog" + "y" * 3000),
        ("x" * 3000, "x" * 3001),
        ("two  spaces", "two spaces"),
        ("x" * 400 + "  ", "x" * 400 + " "),
        (b"a" * 500, b"a" * 499 + b"b"),
        ([1] * 400 + [2], [1] * 400 + [3]),
        (np.zeros(5000, ROW), changed(np.zeros(5000, ROW), 2500)),
        (np.zeros(5000, "f4"), np.zeros((50, 100), "f4")),
        (np.zeros(5000, "f4"), np.zeros(5000, "f8")),
        ("\n" * 300 + "a", "\n" * 300 + "b"),
    ],
)
def test_two_different_values_never_look_the_same(a: Any, b: Any) -> None:
    text_a, text_b = short_pair(a, b)
    assert text_a != text_b
    assert max(len(text_a), len(text_b)) <= SHORT_CHARACTERS + 30
    assert short_pair(b, a) == (text_b, text_a)


def test_random_texts_show_their_first_difference() -> None:
    draw = random.Random(1)
    for _ in range(2000):
        text = "".join(draw.choices("ab \n'\"\\é", k=draw.randrange(1, 600)))
        place = draw.randrange(len(text))
        other = text[:place] + draw.choice("cde") + text[place + draw.randrange(2) :]
        shown = short_pair(text, other)
        assert shown[0] != shown[1], (text, other)


class Letters:
    """A world whose tool answers with a long text that one letter in the middle changes."""

    def __init__(self, letter: str = "a") -> None:
        self.letter = letter

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> str:
        return "Read."

    def tools(self) -> list[Tool]:
        return [Tool.with_args("read", "read")]

    def call(self, name: str, arguments: dict[str, Any], /) -> str:
        return "a long story " * 500 + f"<{self.letter}>" + " goes on" * 500

    def get_state(self) -> dict[str, int]:
        return {}


def test_a_divergence_in_a_long_text_is_seen(tmp_path: Path) -> None:
    ids = []
    for letter in "ab":
        with trajrec.episode(tmp_path, task="t", world=Letters(letter)) as ep:
            ep.call("read")
        ids.append(ep.id)
    close_logs()
    corpus = trajrec.open(tmp_path)
    first, second = map(corpus.episode, ids)
    report = replay_episode(first, world=Letters("b"), explain=False)
    assert "<a>" in str(report)
    assert "<b>" in str(report)
    assert "<b>" in report.as_dict()["divergence"]["actual"]
    (difference,) = first_difference(first, second)
    assert "<a>" in str(difference)
    assert "<b>" in difference.as_dict()["b"]
