"""The environments and policies that are recorded, and the compared recorders (the arms)."""

from __future__ import annotations

import base64
import inspect
import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np

import trajrec
from benchmarks import scratch_folder
from trajrec.corpus.episode import Episode
from trajrec.log.reader import LogReader
from trajrec.types import Action, AnyEnv, Array, Info, JsonObject, Observation, Value

Policy = Callable[[Observation], Action]
StepResult = tuple[Observation, float, bool, bool, Info]

# Smaller arrays are numbers in JSON, as a user without a recorder would write them.
BASE64_BYTES = 1024


class Sprites(gym.Env[Array, np.int64]):
    """The last four frames of six plain sprites on a still background, as (84, 84, 4) uint8.

    These frames are harder than those on which the goals were measured: as msgpack with zstd, whole
    episodes take 0.86 kB a step here and took 0.36 kB a step there.
    """

    observation_space = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space = gym.spaces.Discrete(4)

    N_SPRITES = 6
    # Frames of 84 pixels less a sprite of 6.
    N_POSITIONS = 78
    MAX_STEPS = 250

    def reset(
        self, *, seed: int | None = None, options: JsonObject | None = None
    ) -> tuple[Array, Info]:
        super().reset(seed=seed)
        # Background and colours are the same in each episode, as in a game.
        rng = np.random.default_rng(0)
        tiles = rng.integers(0, 80, (12, 12), np.uint8)
        self.background = np.kron(tiles, np.ones((7, 7), np.uint8))
        self.colours = rng.integers(100, 255, self.N_SPRITES, np.uint8)
        self.positions = self.np_random.integers(0, self.N_POSITIONS, (self.N_SPRITES, 2))
        self.speeds = self.np_random.integers(-2, 3, (self.N_SPRITES, 2))
        self.n_steps = 0
        self.frames = [self._draw()] * 4
        return np.stack(self.frames, axis=-1), {}

    def step(self, action: np.int64) -> StepResult:
        self.n_steps += 1
        self.positions = (self.positions + self.speeds) % self.N_POSITIONS
        self.frames = [*self.frames[1:], self._draw()]
        truncated = self.n_steps >= self.MAX_STEPS
        return np.stack(self.frames, axis=-1), 0.0, False, truncated, {}

    def _draw(self) -> Array:
        frame: Array = self.background.copy()
        for colour, (x, y) in zip(self.colours, self.positions, strict=True):
            frame[x : x + 6, y : y + 6] = colour
        return frame


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """An environment and a policy to record.

    Attributes:
        name: Its name in the table.
        make: Returns the environment.
        policy: Returns the policy for an environment.
        n_steps: Number of steps to record.
        goal_us: Goal of the CPU time a step beyond the bare environment.
        goal_bytes: Goal of the bytes a step.
    """

    name: str
    make: Callable[[], AnyEnv]
    policy: Callable[[AnyEnv], Policy]
    n_steps: int
    goal_us: float
    goal_bytes: float


def random_policy(env: AnyEnv) -> Policy:
    """Return the policy that draws from the action space, seeded."""
    env.action_space.seed(0)
    return lambda _: env.action_space.sample()


def _balance(env: AnyEnv) -> Policy:
    """Return a policy that balances the pole for all 500 steps."""
    return lambda observation: int(3 * observation[2] + observation[3] > 0)


def _make_cartpole() -> AnyEnv:
    return gym.make("CartPole-v1")


def _make_breakout() -> AnyEnv:
    import ale_py

    gym.register_envs(ale_py)
    return gym.make("ALE/Breakout-v5")


SCENARIOS = (
    Scenario(
        name="CartPole, 500-step episodes",
        make=_make_cartpole,
        policy=_balance,
        n_steps=20_000,
        goal_us=2,
        goal_bytes=16,
    ),
    Scenario(
        name="CartPole, ~21-step episodes",
        make=_make_cartpole,
        policy=random_policy,
        n_steps=10_000,
        goal_us=4,
        goal_bytes=float("nan"),
    ),
    Scenario(
        name="84x84x4 uint8",
        make=Sprites,
        policy=random_policy,
        n_steps=3_000,
        goal_us=40,
        goal_bytes=210,
    ),
    Scenario(
        name="ALE Breakout RGB",
        make=_make_breakout,
        policy=random_policy,
        n_steps=1_500,
        goal_us=100,
        goal_bytes=250,
    ),
)


def loop(env: AnyEnv, policy: Policy, n_steps: int) -> int:
    """Run whole episodes until a number of steps is reached; return the number of steps."""
    n_done = 0
    while n_done < n_steps:
        observation, _ = env.reset(seed=0 if n_done == 0 else None)
        is_over = False
        while not is_over:
            observation, _, terminated, truncated, _ = env.step(policy(observation))
            is_over = terminated or truncated
            n_done += 1
    return n_done


class Arm:
    """A recorder under test; this one records nothing, so it is the baseline.

    Attributes:
        folder: A new folder of its own.
    """

    name: ClassVar[str] = "bare"

    def __init__(self) -> None:
        self.folder = scratch_folder()

    def wrap(self, env: AnyEnv) -> AnyEnv:
        """Return the environment to step."""
        return env

    def finish(self, env: AnyEnv) -> None:
        """Write the rest of the data."""

    def read_back(self) -> int:
        """Read all observations, actions and rewards; return the number of steps."""
        return 0

    def size_bytes(self) -> int:
        """Return the bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def clean(self) -> None:
        """Delete the folder: a run of JSON lines with images takes 100 MB."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Trajrec(Arm):
    """trajrec with its default options."""

    name = "trajrec"

    def wrap(self, env: AnyEnv) -> AnyEnv:
        return trajrec.record(env, self.folder)

    def finish(self, env: AnyEnv) -> None:
        env.close()

    def read_back(self) -> int:
        n_steps = 0
        for path in self.folder.glob("*.trj"):
            with LogReader(path) as reader:
                numbers = {
                    segment.episode
                    for chunk in reader.chunks()
                    for segment in chunk.record.segments
                }
                for number in sorted(numbers):
                    episode = Episode(reader, number, reader.chunks_of(number))
                    n_steps += len(episode.rewards)
                    assert len(episode.observations) == len(episode.actions) + 1
        return n_steps


class JsonLines(Arm):
    """A recorder without a library: a JSON line a step, images in base64."""

    name = "JSONL"

    def wrap(self, env: AnyEnv) -> AnyEnv:
        return _JsonLinesWriter(env, self.folder / "steps.jsonl")

    def finish(self, env: AnyEnv) -> None:
        assert isinstance(env, _JsonLinesWriter)
        env.file.close()

    def read_back(self) -> int:
        n_steps = 0
        with open(self.folder / "steps.jsonl", encoding="ascii") as file:
            for line in file:
                _from_json(json.loads(line)["o"])
                n_steps += 1
        return n_steps


class _JsonLinesWriter(gym.Wrapper[Observation, Action, Observation, Action]):
    def __init__(self, env: AnyEnv, path: Path) -> None:
        super().__init__(env)
        self.file = path.open("w", encoding="ascii")

    def step(self, action: Action) -> StepResult:
        observation, reward, terminated, truncated, info = self.env.step(action)
        row = {
            "a": np.asarray(action).tolist(),
            "o": _to_json(observation),
            "r": float(reward),
            "t": terminated,
            "u": truncated,
        }
        self.file.write(json.dumps(row) + "\n")
        return observation, float(reward), terminated, truncated, info


def _to_json(array: Array) -> Value:
    if array.nbytes < BASE64_BYTES:
        return array.tolist()
    return base64.b64encode(array.tobytes()).decode("ascii")


def _from_json(value: Value) -> Array:
    if isinstance(value, list):
        return np.asarray(value)
    return np.frombuffer(base64.b64decode(value), np.uint8)


class Minari(Arm):
    """Minari's DataCollector with HDF5, without the lossy compression of pixels if possible."""

    data_format: ClassVar[str] = "hdf5"
    name = "Minari HDF5"

    def wrap(self, env: AnyEnv) -> AnyEnv:
        # An extra of the benchmarks.
        import minari

        os.environ["MINARI_DATASETS_PATH"] = str(self.folder)
        options = {}
        # Not every version of Minari compresses pixels as JPEG.
        if "jpeg_encoding" in inspect.signature(minari.DataCollector.__init__).parameters:
            options["jpeg_encoding"] = False
        collector: AnyEnv = minari.DataCollector(env, data_format=self.data_format, **options)
        return collector

    def finish(self, env: AnyEnv) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env.create_dataset(  # type: ignore[attr-defined]
                "bench/run-v0",
                algorithm_name="x",
                author="x",
                author_email="x@x",
                code_permalink="x",
            )

    def read_back(self) -> int:
        import minari

        n_steps = 0
        for episode in minari.load_dataset("bench/run-v0").iterate_episodes():
            n_steps += len(episode.rewards)
            np.asarray(episode.observations)
        return n_steps


class MinariArrow(Minari):
    """Minari's DataCollector with Arrow files."""

    data_format = "arrow"
    name = "Minari Arrow"


ARMS: tuple[type[Arm], ...] = (Arm, Trajrec, Minari, MinariArrow, JsonLines)
