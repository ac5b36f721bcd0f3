"""Infos of numbers are searched once for each form, and every secret is found nevertheless."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from trajrec.recording.step_redaction import StepRedaction
from trajrec.redaction.redactor import Redactor

KEY = "sk-proj-" + "Ab3dEfGh" * 4

NUMBERS: list[Any] = [1, 2.5, True, np.float32(0.5), np.int64(3)]
ARRAYS: list[Any] = [np.zeros(2), np.arange(3), np.array([True]), np.zeros((2, 0))]
OTHERS: list[Any] = [
    KEY,
    KEY.encode(),
    None,
    np.array([KEY]),
    np.array([KEY], object),
    np.str_(KEY),
    [KEY],
    {"x": KEY},
    {"api_key": "hunter2hunter2"},
    "plain",
    (1, KEY),
]
NAMES: list[Any] = [
    "x_position",
    "distance_from_origin",
    "password",
    "db_password",
    "api_key",
    "value",
    "name",
    "kty",
    "kind",
    KEY,
    3,
    ("a", KEY),
    b"bytes",
]


def draw(rng: random.Random) -> dict[Any, Any]:
    values = rng.choice((NUMBERS, NUMBERS + ARRAYS, NUMBERS + ARRAYS + OTHERS))
    return {name: rng.choice(values) for name in rng.sample(NAMES, rng.randrange(4))}


@pytest.mark.parametrize("seed", range(3))
def test_infos_are_cleaned_as_by_a_redactor_that_remembers_nothing(seed: int) -> None:
    rng = random.Random(seed)
    redactor = Redactor()
    remembering = StepRedaction(redactor)
    for _ in range(600):
        info = draw(rng)
        expected, n = redactor.redacted(info, where="info", opaque=True)
        cleaned = remembering.clean("info", info)
        assert repr(cleaned) == repr(expected)
        assert (cleaned is info) == (expected is info)
        assert remembering.take_counts() == ({"info": n} if n else {})


def test_a_text_in_the_place_of_a_number_is_searched() -> None:
    redaction = StepRedaction(Redactor())
    info: dict[str, Any] = {"distance_from_origin": 1.0, "password": 3}
    for _ in range(5):
        assert redaction.clean("info", info) is info
    assert KEY not in repr(redaction.clean("info", {**info, "distance_from_origin": KEY}))
    assert redaction.take_counts() == {"info": 1}


def test_an_array_named_kind_is_recorded() -> None:
    info = {"kind": np.arange(3), "step": 1}
    assert StepRedaction(Redactor()).clean("info", info) is info
    cleaned = StepRedaction(Redactor()).clean("info", {**info, "note": KEY})
    assert cleaned["kind"].tolist() == [0, 1, 2]
    assert KEY not in cleaned["note"]
