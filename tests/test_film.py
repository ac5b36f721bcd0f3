"""Films of episodes: what is shown is what was observed, or what an equal replay draws."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import only

import trajrec
from trajrec.cli.main import main
from trajrec.errors import ReplayError
from trajrec.replay import fork
from trajrec.replay.rendering import render_episode
from trajrec.view.film import picture_of
from trajrec.view.film_file import Reel, write_film

image_module = pytest.importorskip("PIL.Image", reason="pip install 'trajrec[film]'")

CHANGED = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

class Heavy(CartPoleEnv):
    def step(self, action):
        self.n = getattr(self, "n", 0) + 1
        if self.n == 4:
            self.force_mag = 20.0
        return super().step(action)

def make():
    return Heavy(render_mode="rgb_array")
"""


class Screen(gym.Env[Any, Any]):
    """Shows a grey screen that gets lighter; the third step raises."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(0, 255, (10, 16), np.uint8)

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def shown(self) -> Any:
        return np.full((10, 16), 40 * self.n, np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n = 0
        return self.shown(), {}

    def step(self, action: Any) -> Any:
        self.n += 1
        if self.fails and self.n == 3:
            raise RuntimeError("the screen is broken")
        return self.shown(), 0.0, self.n == 5, False, {}


def record_screen(folder: Path, *, fails: bool = False) -> Any:
    env = trajrec.record(Screen(fails), folder)
    env.reset(seed=1)
    try:
        for _ in range(5):
            env.step(0)
    except RuntimeError:
        pass
    env.close()
    return only(folder)


def record_cartpole(folder: Path) -> Any:
    env = trajrec.record(gym.make("CartPole-v1"), folder)
    env.reset(seed=3)
    for action in (0, 1, 1, 0, 1, 0):
        env.step(action)
    env.close()
    return only(folder)


def images(path: Path) -> list[Any]:
    with image_module.open(path) as image:
        found = []
        for number in range(image.n_frames):
            image.seek(number)
            found.append(np.asarray(image.convert("RGB")))
    return found


def test_a_film_shows_each_observed_picture(tmp_path: Path, capsys: Any) -> None:
    episode = record_screen(tmp_path / "runs")
    film = tmp_path / "film.gif"
    assert main(["film", str(tmp_path / "runs"), episode.id, "-o", str(film), "--scale", "2"]) == 0
    assert "6 pictures, the reset to step 4, as they were observed" in capsys.readouterr().out
    shown = images(film)
    assert [picture.shape for picture in shown] == [(20, 32, 3)] * 6
    assert [int(picture[0, 0, 0]) for picture in shown] == [0, 40, 80, 120, 160, 200]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.gif", "runs"]


def test_a_step_that_raised_has_no_picture(tmp_path: Path, capsys: Any) -> None:
    episode = record_screen(tmp_path / "runs", fails=True)
    film = tmp_path / "film.gif"
    assert main(["film", str(tmp_path / "runs"), episode.id, "-o", str(film)]) == 0
    assert [int(picture[0, 0, 0]) for picture in images(film)] == [0, 40, 80]
    assert "steps without a picture: 1" in capsys.readouterr().err


def test_steps_of_a_film_can_be_chosen(tmp_path: Path) -> None:
    episode = record_screen(tmp_path / "runs")
    film = tmp_path / "film.gif"
    words = ["film", str(tmp_path / "runs"), episode.id, "-o", str(film), "--steps", "1:5:2"]
    assert main(words) == 0
    assert [int(picture[0, 0, 0]) for picture in images(film)] == [80, 160]


def test_a_sheet_shows_pictures_at_even_distances(tmp_path: Path) -> None:
    reel = Reel()
    for step in range(-1, 100):
        reel.add(step, np.full((12, 12, 4), (step + 1, 0, 0, 255), np.uint8))
    steps = write_film(tmp_path / "sheet.png", reel, scale=1)
    assert (len(steps), steps[0], steps[-1]) == (24, -1, 99)
    assert set(np.diff(steps)) <= {4, 5}
    (sheet,) = images(tmp_path / "sheet.png")
    assert {int(red) for red in np.unique(sheet[4:16, :, 0])} <= {step + 1 for step in steps} | {
        255
    }


def test_pictures_of_several_sizes_make_no_film(tmp_path: Path) -> None:
    reel = Reel()
    reel.add(0, np.zeros((12, 12, 4), np.uint8))
    reel.add(1, np.zeros((12, 14, 4), np.uint8))
    with pytest.raises(ValueError, match="after step 1 has 14 x 12 pixels, those before have 12 x"):
        write_film(tmp_path / "film.gif", reel)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "has no pictures in its observations; --render runs it again"),
        (["--render", "--steps", "90:"], "has no such steps: it has 6"),
        (["-o", "film.avi"], "a film is a file named *.gif, *.mp4, *.png, got 'film.avi'"),
    ],
)
def test_a_film_without_pictures_is_refused(
    tmp_path: Path, words: list[str], said: str, capsys: Any
) -> None:
    episode = record_cartpole(tmp_path)
    assert main(["film", str(tmp_path), episode.id, "-o", str(tmp_path / "a.gif"), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_replay_draws_what_the_environment_would_have_shown(tmp_path: Path) -> None:
    pytest.importorskip("pygame", reason="pip install 'gymnasium[classic-control]'")
    episode = record_cartpole(tmp_path)
    drawn: dict[int, Any] = {}
    assert render_episode(episode, drawn.__setitem__).grade == "exact"
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=3)
    expected = [env.render()]
    for action in episode.actions:
        env.step(action)
        expected.append(env.render())
    env.close()
    assert sorted(drawn) == list(range(7))
    assert all(np.array_equal(drawn[k], picture) for k, picture in enumerate(expected))


@pytest.mark.slow
def test_a_film_ends_where_its_replay_diverges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("pygame", reason="pip install 'gymnasium[classic-control]'")
    episode = record_cartpole(tmp_path / "runs")
    (tmp_path / "heavy.py").write_text(CHANGED)
    monkeypatch.chdir(tmp_path)
    words = ["film", str(tmp_path / "runs"), episode.id, "-o", "film.png", "--render"]
    assert main([*words, "--env", "heavy:make"]) == 1
    told = capsys.readouterr()
    assert "4 pictures, the reset to step 2, drawn by a replay: diverged" in told.out
    assert "first difference at step 3" in told.err


@pytest.mark.slow
def test_a_fork_is_drawn_from_its_own_first_step(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("pygame", reason="pip install 'gymnasium[classic-control]'")
    episode = record_cartpole(tmp_path)
    with fork(episode, at=4) as env:
        env.step(0)
        env.step(1)
        own = env.episode_id
    assert own is not None
    film = tmp_path / "film.gif"
    assert main(["film", str(tmp_path), own, "-o", str(film), "--render"]) == 0
    assert "2 pictures, step 4 to step 5, drawn by a replay: exact" in capsys.readouterr().out


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path / "agent") as ep:
        ep.tool(lambda: 1, name="look")()
    trajrec.close_logs()
    with pytest.raises(ReplayError, match="an agent's episode has no environment to draw"):
        render_episode(only(tmp_path / "agent"), dict[int, Any]().__setitem__)
    episode = record_cartpole(tmp_path / "runs")
    with pytest.raises(ReplayError, match="has render_mode=None; give a function"):
        render_episode(episode, dict[int, Any]().__setitem__, env=lambda: gym.make("CartPole-v1"))


@pytest.mark.slow
def test_a_video_has_all_pictures(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="pip install 'trajrec[film]'")
    reel = Reel()
    for step in range(10):
        reel.add(step, np.full((31, 41, 4), (20 * step, 100, 0, 255), np.uint8))
    write_film(tmp_path / "film.mp4", reel, fps=10, scale=1)
    command = [ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(tmp_path / "film.mp4")]
    decode = [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    data = subprocess.run(decode, capture_output=True, check=True).stdout
    pictures = np.frombuffer(data, np.uint8).reshape(-1, 32, 42, 3)
    assert len(pictures) == 10
    for step, picture in enumerate(pictures):
        assert abs(int(picture[10, 10, 0]) - 20 * step) < 12


def test_transparent_pictures_are_shown_on_paper(tmp_path: Path) -> None:
    reel = Reel()
    clear = np.zeros((10, 10, 4), np.uint8)
    reel.add(0, clear)
    picture = picture_of(np.full((10, 10, 3), 7, np.uint8))
    assert picture is not None
    reel.add(1, picture)
    write_film(tmp_path / "film.gif", reel, scale=1)
    assert [int(shown[5, 5, 0]) for shown in images(tmp_path / "film.gif")] == [255, 7]
