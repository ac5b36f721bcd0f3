"""A witness that writes each call that reaches an environment into a file, also in other processes.

It stands inside of a recorder, and knows nothing of it: a recording is compared with its files.
"""

from __future__ import annotations

import os
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.replay import replay_episodes


class Channel(gym.Wrapper[Any, Any, Any, Any]):
    """Writes the seed and result of each reset, and the action and result of each step."""

    def __init__(self, env: gym.Env[Any, Any], folder: str | Path) -> None:
        super().__init__(env)
        # Late: a forked process must not share the file.
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file: Any = None
        self._pid = -1

    def _write(self, call: Any) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._file = (self._folder / uuid.uuid4().hex).open("wb", buffering=0)
        self._file.write(pickle.dumps(call))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, info = self.env.reset(seed=seed, options=options)
        self._write(("reset", np.copy(observation)))
        return observation, info

    def step(self, action: Any) -> Any:
        before = np.copy(action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._write(
            ("step", before, np.copy(observation), float(reward), bool(terminated), bool(truncated))
        )
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        if self._pid == os.getpid():
            self._file.close()
            self._pid = -1
        super().close()


class Seen(NamedTuple):
    """An episode: its observations, actions and rewards as bytes, and its flags."""

    observations: tuple[bytes, ...]
    actions: tuple[bytes, ...]
    rewards: tuple[float, ...]
    terminated: bool
    truncated: bool


def recorded_env(env_id: str, folder: str | Path, **options: Any) -> trajrec.Recorder:
    """Return a recorded environment with a channel inside: in `folder` are "runs" and "channel"."""
    env = gym.make(env_id, **options)
    # Each environment is made again without its channel.
    return trajrec.record(Channel(env, Path(folder) / "channel"), Path(folder) / "runs")


def seen_episodes(folder: Path) -> Iterator[list[Seen]]:
    """Yield the episodes with steps of each file of a channel."""
    for path in folder.iterdir():
        episodes: list[list[Any]] = []
        with open(path, "rb") as file:
            while file.peek(1):
                call = pickle.load(file)
                if call[0] == "reset":
                    episodes.append([])
                episodes[-1].append(call)
        yield [as_seen(calls) for calls in episodes if len(calls) > 1]


def as_seen(calls: list[Any]) -> Seen:
    (_, first), *steps = calls
    return Seen(
        (first.tobytes(), *(step[2].tobytes() for step in steps)),
        tuple(step[1].tobytes() for step in steps),
        tuple(step[3] for step in steps),
        steps[-1][4],
        steps[-1][5],
    )


def as_recorded(episode: Episode) -> Seen:
    return Seen(
        tuple(np.asarray(value).tobytes() for value in episode.observation_values),
        tuple(np.asarray(action).tobytes() for action in episode.actions),
        tuple(float(reward) for reward in episode.rewards),
        episode.ending == "terminated",
        episode.ending == "truncated",
    )


def check_recording(folder: Path, env_id: str, **options: Any) -> int:
    """Check that the logs have what the channels saw and that it replays; return the steps."""
    seen = sorted(seen_episodes(folder / "channel"))
    with trajrec.open(folder / "runs") as corpus:
        logs: dict[Path, list[Seen]] = {}
        for episode in corpus.episodes(order_by="log, number", kind="all"):
            logs.setdefault(episode.path, []).append(as_recorded(episode))
        # A file of a channel whose environment was reset and never stepped has no episodes.
        assert sorted(logs.values()) == [episodes for episodes in seen if episodes]
        zero = "SELECT count(*) FROM all_episodes WHERE n_steps = 0"
        assert corpus.sql(zero).fetchall() == [(0,)]
        with gym.make(env_id, **options) as env:
            for report in replay_episodes(corpus.episodes(), env=env):
                assert report.grade == "exact", report
    return sum(len(episode.rewards) for episodes in seen for episode in episodes)
