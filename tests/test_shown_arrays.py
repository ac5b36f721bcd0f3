"""`trajrec show` names large arrays, which JSON has as null, and is short about their changes."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import trajrec
from trajrec.cli.main import main
from trajrec.values.codec import Plain
from trajrec.values.json import to_json, to_text


class Painting(gym.Env[Any, Any]):
    """Paints its whole picture in each step."""

    observation_space = gym.spaces.Dict(
        {"picture": gym.spaces.Box(0, 9, (21, 79), np.int16), "n": gym.spaces.Discrete(9)}
    )
    action_space = gym.spaces.Box(-1, 1, (100,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n = 0
        return self.see(), {}

    def see(self) -> Any:
        return {"picture": np.full((21, 79), self.n, np.int16), "n": self.n}

    def step(self, action: Any) -> Any:
        self.n += 1
        return self.see(), 0.0, self.n == 3, False, {"masks": [np.zeros((9, 9), bool)]}

    def get_state(self) -> Any:
        return {"picture": self.see()["picture"]}

    def set_state(self, state: Any) -> None:
        self.n = int(state["picture"][0, 0])


def shown(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["show", *words]) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_large_arrays_are_shown_by_type_and_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = trajrec.record(Painting(), tmp_path)
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros(100, np.float32))
    env.close()
    (episode,) = trajrec.open(tmp_path).episodes()
    words = [str(tmp_path), episode.id]
    line = shown(*words, capsys=capsys).splitlines()[-1]
    for text in ("float32 (100,)", '"picture":"int16 (21, 79)"', '"masks":["bool (9, 9)"]'):
        assert text in line
    step = shown(*words, "--step", "1", capsys=capsys)
    assert 'state_before   {"picture":"int16 (21, 79)"}' in step
    assert "null" not in step
    # A few of the 1,659 changes, and their number.
    assert step.count("state changed") == 20
    assert step.endswith("1639 more changes; --json has all\n")
    row = json.loads(shown(*words, "--step", "1", "--json", capsys=capsys))
    assert len(row["state_changes"]) == 21 * 79
    assert row["state_before"] == {"picture": None}
    assert "int16 (21, 79)" in shown(*words, "--state", "/picture", capsys=capsys)


@pytest.mark.slow
def test_the_viewer_shows_large_arrays_by_type_and_shape(tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="the viewer needs pip install 'trajrec[view]'")
    from test_view import signed_in

    env = trajrec.record(Painting(), tmp_path)
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros(100, np.float32))
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        page = signed_in(corpus).get(f"/e/{episode.id}/1").text
    text = html.unescape(page)
    assert "null" not in text
    for part in ("float32 (100,)", '"picture":"int16 (21, 79)"', '"masks":["bool (9, 9)"]'):
        assert part in text


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        float("nan"),
        "text",
        None,
        b"\x01",
        {"a": (1, [np.arange(3)]), 7: {2, 1}},
        np.float32(0.5),
        np.arange(64),
        Plain("package.Point", "object", {"x": np.arange(3)}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_all_else_is_shown_as_json(value: Any) -> None:
    assert to_text(value) == to_json(value)
