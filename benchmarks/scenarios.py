"""The environments and policies that are recorded, and the arms that record them."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import trajrec
from benchmarks import scratch_folder
from trajrec.corpus.episode import Episode
from trajrec.log.reader import LogReader

Policy = Callable[[Any], Any]


class Sprites(gym.Env[Any, Any]):
    """84x84x4 uint8 observations: the last four frames of six plain sprites that move over a still background.

    Harder than the frames that the figures to reach were measured on: whole episodes as msgpack with zstd take 0.86 kB a step,
    theirs 0.36.
    """

    observation_space = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        rng = np.random.default_rng(0)
        self.background = np.kron(
            rng.integers(0, 80, (12, 12), np.uint8), np.ones((7, 7), np.uint8)
        )
        self.colours = rng.integers(100, 255, 6, np.uint8)
        self.places = self.np_random.integers(0, 78, (6, 2))
        self.speeds = self.np_random.integers(-2, 3, (6, 2))
        self.k = 0
        self.frames = [self._draw()] * 4
        return np.stack(self.frames, axis=-1), {}

    def step(self, action: Any) -> Any:
        self.k += 1
        self.places = (self.places + self.speeds) % 78
        self.frames = [*self.frames[1:], self._draw()]
        return np.stack(self.frames, axis=-1), 0.0, False, self.k >= 250, {}

    def _draw(self) -> Any:
        frame = self.background.copy()
        for colour, (x, y) in zip(self.colours, self.places, strict=True):
            frame[x : x + 6, y : y + 6] = colour
        return frame


@dataclass(frozen=True)
class Scenario:
    """An environment, a policy, how many steps, and the figures to reach."""

    name: str
    make: Callable[[], gym.Env[Any, Any]]
    policy: Callable[[gym.Env[Any, Any]], Policy]
    n_steps: int
    target_us: float
    target_bytes: float


def _random(env: gym.Env[Any, Any]) -> Policy:
    env.action_space.seed(0)
    return lambda _: env.action_space.sample()


def _balance(env: gym.Env[Any, Any]) -> Policy:
    return lambda o: int(3 * o[2] + o[3] > 0)


def _breakout() -> gym.Env[Any, Any]:
    import ale_py

    gym.register_envs(ale_py)
    return gym.make("ALE/Breakout-v5")


SCENARIOS = (
    Scenario(
        "CartPole, 500-step episodes", lambda: gym.make("CartPole-v1"), _balance, 20_000, 2, 16
    ),
    Scenario(
        "CartPole, ~21-step episodes",
        lambda: gym.make("CartPole-v1"),
        _random,
        10_000,
        4,
        float("nan"),
    ),
    Scenario("84x84x4 uint8", Sprites, _random, 3_000, 40, 210),
    Scenario("ALE Breakout RGB", _breakout, _random, 1_500, 100, 250),
)


def loop(env: gym.Env[Any, Any], policy: Policy, n_steps: int) -> int:
    """Run whole episodes until so many steps are done; return how many were."""
    done_steps, first = 0, True
    while done_steps < n_steps:
        observation, _ = env.reset(seed=0 if first else None)
        first, over = False, False
        while not over:
            observation, _, terminated, truncated, _ = env.step(policy(observation))
            over = terminated or truncated
            done_steps += 1
    return done_steps


class Arm:
    """One way of recording: wraps the environment, finishes, reads back. `folder` is its own and fresh."""

    name = "bare"

    def __init__(self) -> None:
        self.folder = scratch_folder()

    def wrap(self, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        """Return the environment that is stepped."""
        return env

    def finish(self, env: gym.Env[Any, Any]) -> None:
        """Write whatever is left."""

    def read_back(self) -> int:
        """Read all observations, actions and rewards; return how many steps that were."""
        return 0

    def size_bytes(self) -> int:
        """Return the bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def clean(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Trajrec(Arm):
    """Ours, as it comes."""

    name = "trajrec"

    def wrap(self, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        return trajrec.record(env, self.folder)

    def finish(self, env: gym.Env[Any, Any]) -> None:
        env.close()

    def read_back(self) -> int:
        n = 0
        for path in self.folder.glob("*.trj"):
            with LogReader(path) as reader:
                for number in range(
                    len({s.episode for c in reader.chunks() for s in c.record.segments})
                ):
                    episode = Episode(reader, number, reader.chunks_of(number))
                    n += len(episode.rewards)
                    assert len(episode.observations) == len(episode.actions) + 1
        return n


class JsonLines(Arm):
    """The naive way: a JSON line a step, images in base64."""

    name = "JSONL"

    def wrap(self, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        return _JsonLines(env, self.folder / "steps.jsonl")

    def finish(self, env: gym.Env[Any, Any]) -> None:
        env.file.close()  # type: ignore[attr-defined]

    def read_back(self) -> int:
        n = 0
        with open(self.folder / "steps.jsonl", encoding="ascii") as file:
            for line in file:
                _from_json(json.loads(line)["o"])
                n += 1
        return n


class _JsonLines(gym.Wrapper[Any, Any, Any, Any]):
    def __init__(self, env: gym.Env[Any, Any], path: Path) -> None:
        super().__init__(env)
        self.file = path.open("w", encoding="ascii")

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        row = {
            "a": np.asarray(action).tolist(),
            "o": _to_json(result[0]),
            "r": float(result[1]),
            "t": result[2],
            "u": result[3],
        }
        self.file.write(json.dumps(row) + "\n")
        return result


def _to_json(array: Any) -> Any:
    return (
        array.tolist() if array.nbytes < 1024 else base64.b64encode(array.tobytes()).decode("ascii")
    )


def _from_json(value: Any) -> Any:
    return (
        np.asarray(value)
        if isinstance(value, list)
        else np.frombuffer(base64.b64decode(value), np.uint8)
    )


class Minari(Arm):
    """Minari's DataCollector. Pixels without its lossy JPEG where it can be turned off."""

    data_format = "hdf5"
    name = "Minari HDF5"

    def wrap(self, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        import os

        import minari

        os.environ["MINARI_DATASETS_PATH"] = str(self.folder)
        return minari.DataCollector(
            env, data_format=self.data_format, **_raw_pixels(minari.DataCollector)
        )

    def finish(self, env: gym.Env[Any, Any]) -> None:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env.create_dataset(
                "bench/run-v0",
                algorithm_name="x",
                author="x",
                author_email="x@x",
                code_permalink="x",
            )  # type: ignore[attr-defined]

    def read_back(self) -> int:
        import minari

        n = 0
        for episode in minari.load_dataset("bench/run-v0").iterate_episodes():
            n += len(episode.rewards)
            np.asarray(episode.observations)
        return n


def _raw_pixels(collector: Any) -> dict[str, Any]:
    import inspect

    return (
        {"jpeg_encoding": False}
        if "jpeg_encoding" in inspect.signature(collector.__init__).parameters
        else {}
    )


class MinariArrow(Minari):
    """The same with Arrow files."""

    data_format = "arrow"
    name = "Minari Arrow"


ARMS: tuple[type[Arm], ...] = (Arm, Trajrec, Minari, MinariArrow, JsonLines)
