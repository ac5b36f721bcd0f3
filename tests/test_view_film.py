"""The pictures of an environment are shown as they were observed, one by one and as a film."""

from __future__ import annotations

import base64
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from chromium import find_chromium, opened
from starlette.testclient import TestClient
from test_view import assert_harmless, signed_in
from tiers import third_slow

import trajrec
from trajrec.view.film import Film, film_chunk, film_of, picture_of, png, small
from trajrec.view.report import make_report

SHAPE = (12, 16, 3)
N_STEPS = 80


class Pixels(gym.Env[Any, int]):
    """Random pictures, of which one step is another shape."""

    observation_space = gym.spaces.Box(0, 255, SHAPE, np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n_steps = 0
        return self._look(), {}

    def step(self, action: int) -> Any:
        self.n_steps += 1
        return self._look(), 1.0, self.n_steps >= N_STEPS, False, {}

    def _look(self) -> Any:
        return self.np_random.integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trajrec.Corpus]:
    folder = tmp_path_factory.mktemp("film")
    for make in (Pixels, lambda: gym.make("CartPole-v1")):
        env = trajrec.record(make(), folder, factory=make if make is Pixels else None)
        env.reset(seed=1)
        is_over = False
        while not is_over:
            _, _, is_terminated, is_truncated, _ = env.step(1)
            is_over = is_terminated or is_truncated
        env.close()
    with trajrec.open(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(corpus: trajrec.Corpus) -> TestClient:
    return signed_in(corpus)


def pixels_of(corpus: trajrec.Corpus) -> trajrec.Episode:
    return next(item for item in corpus.episodes() if item.n_steps == N_STEPS)


def unpacked_png(data: bytes) -> Any:
    """Return the pixels of a PNG file of ours, by the specification of PNG."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    parts = {}
    at = 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        name = data[at + 4 : at + 8]
        parts[name] = data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert checksum == zlib.crc32(name + parts[name])
        at += 12 + length
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    assert (depth, colour, rest) == (8, 6, [0, 0, 0])
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 4)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((84, 84), (84, 84)),
        ((84, 70, 1), (84, 70)),
        ((84, 70, 3), (84, 70)),
        ((84, 70, 4), (84, 70)),
        ((3, 84, 70), (84, 70)),
        ((4, 84, 70), (84, 70)),
        ((84,), None),
        ((7, 84, 84), None),
        ((4, 4), None),
        ((3000, 3000), None),
    ],
)
def test_arrays_of_bytes_are_pictures_by_their_shape(
    shape: tuple[int, ...], expected: tuple[int, int] | None
) -> None:
    picture = picture_of(np.ones(shape, np.uint8))
    assert (None if picture is None else picture.shape[:2]) == expected


def test_a_stack_shows_its_newest_picture() -> None:
    stack = np.stack([np.full((9, 9), value, np.uint8) for value in range(4)])
    picture = picture_of({"numbers": np.zeros(3), "pixels": stack})
    assert picture is not None
    assert picture[0, 0].tolist() == [3, 3, 3, 255]
    assert picture_of(stack.astype(np.float32)) is None


def test_a_picture_is_a_png_of_its_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 4), dtype=np.uint8)
    assert np.array_equal(unpacked_png(png(pixels)), pixels)


def test_a_film_has_each_observation_bit_for_bit(corpus: trajrec.Corpus) -> None:
    episode = pixels_of(corpus)
    film = film_of(episode)
    assert film == Film(16, 12, 64)
    seen = []
    for number in range(2):
        data = zlib.decompress(film_chunk(episode, film, number))
        frames = np.frombuffer(data, np.uint8).reshape(-1, 12, 16, 4)
        seen += list(np.bitwise_xor.accumulate(frames))
    assert len(seen) == N_STEPS
    for step, frame in enumerate(seen):
        assert np.array_equal(frame[..., :3], episode.step_at(step).observation)
        assert (frame[..., 3] == 255).all()


def test_pictures_have_addresses_and_all_else_has_none(
    corpus: trajrec.Corpus, client: TestClient
) -> None:
    episode = pixels_of(corpus)
    answer = client.get(f"/e/{episode.id}/5/frame.png")
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(unpacked_png(answer.content)[..., :3], episode.step_at(5).observation)
    assert client.get(f"/e/{episode.id}/film/1").status_code == 200
    assert client.get(f"/e/{episode.id}/film/2").status_code == 404
    assert f'src="/e/{episode.id}/5/frame.png"' in client.get(f"/e/{episode.id}/5").text
    pole = next(item for item in corpus.episodes() if item.n_steps != N_STEPS)
    for path in ("0/frame.png", "film/0"):
        assert client.get(f"/e/{pole.id}/{path}").status_code == 404
    page = client.get(f"/e/{pole.id}").text
    assert 'id="film"' not in page
    assert_harmless(page)


def test_a_strip_shows_the_course_of_the_episode(
    corpus: trajrec.Corpus, client: TestClient
) -> None:
    episode = pixels_of(corpus)
    page = client.get(f"/e/{episode.id}").text
    sources = re.findall(r'src="(/e/[^"]*small=1)"', page)
    assert len(sources) == 12
    assert sources[0].endswith("/0/frame.png?small=1")
    assert sources[-1].endswith(f"/{N_STEPS - 1}/frame.png?small=1")
    for source in sources:
        assert client.get(source).headers["content-type"] == "image/png"
    assert small(np.zeros((210, 170, 4), np.uint8)).shape == (105, 85, 4)
    assert small(np.zeros((84, 160, 4), np.uint8)).shape == (84, 160, 4)


def test_a_report_holds_a_strip_of_pictures(corpus: trajrec.Corpus) -> None:
    episode = pixels_of(corpus)
    report = make_report(corpus, episode.id)
    assert "it has 12 of its pictures, small: `trajrec view` plays all" in report
    found = re.findall(
        r'href="#(\d+)"><img alt="[^"]*" src="data:image/png;base64,([^"]*)"', report
    )
    assert len(found) == 12
    for step, data in found:
        pixels = unpacked_png(base64.b64decode(data))[..., :3]
        assert np.array_equal(pixels, episode.step_at(int(step)).observation)


@pytest.mark.slow
@third_slow("pages")
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
def test_a_browser_plays_the_film_step_by_step(corpus: trajrec.Corpus) -> None:
    episode = pixels_of(corpus)
    pixel = (
        "[...document.querySelector('#film canvas').getContext('2d').getImageData(3, 2, 1, 1).data]"
    )
    step = "Number(document.querySelector('#steps [aria-current]').dataset.step)"
    with opened(Path(corpus.path)) as (base, page):
        page.goto(f"{base}/e/{episode.id}/60")
        page.wait_until("document.querySelector('#film canvas') !== null")
        for at in (60, 61, 62):
            page.wait_until(
                f"document.getElementById('frame-step').textContent === 'after step {at}'"
            )
            assert page.evaluate(pixel)[:3] == episode.step_at(at).observation[2, 3].tolist()
            page.press("j")
        page.press(" ")
        page.wait_until(f"{step} > 66")
        page.press(" ")
        page.wait_until(f"document.querySelector('#pane h2').textContent === 'Step ' + {step}")
        page.wait_until(f"location.pathname.endsWith('/' + {step})")
        at = page.evaluate(step)
        page.wait_until(f"document.getElementById('frame-step').textContent === 'after step {at}'")
        assert page.evaluate(pixel)[:3] == episode.step_at(at).observation[2, 3].tolist()
        assert [words for words in page.errors if "willReadFrequently" not in words] == []


@pytest.mark.slow
@third_slow("pages")
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
def test_the_film_plays_on_beyond_the_listed_steps(
    corpus: trajrec.Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    env = trajrec.record(Pixels(), tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "N_STEPS", 2_030)
    env.reset(seed=1)
    for _ in range(2_030):
        env.step(1)
    env.close()
    with opened(tmp_path) as (base, page), trajrec.open(tmp_path) as long:
        (episode,) = long.episodes()
        page.goto(f"{base}/e/{episode.id}/1490")
        page.wait_until("document.querySelector('#film canvas') !== null")
        page.press(" ")
        page.wait_until(
            "Number(document.querySelector('#steps [aria-current]')?.dataset.step) > 1502"
        )
        assert page.evaluate("document.getElementById('play').textContent") == "pause (space)"
        page.press(" ")
        page.wait_until("document.getElementById('play').textContent === 'play (space)'")


def test_the_scripts_stay_small() -> None:
    static = Path(trajrec.__file__).parent / "view" / "static"
    assert sum(path.stat().st_size for path in static.glob("*.js")) <= 25_000
