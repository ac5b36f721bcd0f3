"""Environments that are broken in one way each; `python broken.py FOLDER CLASS` records one."""

from __future__ import annotations

import os
import random
import socket
import socketserver
import sys
import threading
import time
from typing import Any

import gymnasium as gym
import numpy as np


class Sound(gym.Env[Any, Any]):
    """Counts up to 12, and draws as it should."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gym.spaces.Discrete(3)
        self.n = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n = 0
        return self.see(), {}

    def step(self, action: Any) -> Any:
        self.n += 1
        return self.see(), float(self.np_random.random()), self.n >= 12, False, {}

    def see(self) -> Any:
        return np.array([self.n, self.extra() if self.n == 5 else 0.0], np.float64)

    def extra(self) -> float:
        return 0.0


class Clock(Sound):
    def extra(self) -> float:
        return time.time()


class GlobalRandom(Sound):
    def extra(self) -> float:
        return random.random()


class Coin(Sound):
    """What it shows is one of two: two runs often differ from a third in the same place, by chance."""

    def see(self) -> Any:
        return np.array([self.n, random.random() < 0.5], np.float64)


class GlobalReward(Sound):
    """Pays by what no log and no scenario knows of."""

    def step(self, action: Any) -> Any:
        observation, _, *ending = super().step(action)
        return observation, random.random(), *ending


class HashOrder(Sound):
    def extra(self) -> float:
        return float(hash("red") % 1_000_003)


class UnseededGenerator(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.copy_for_record = np.random.default_rng()

    def extra(self) -> float:
        return float(self.copy_for_record.random())


class Address(Sound):
    def extra(self) -> float:
        self.thing = object()
        return float(id(type(self.thing)) ^ id(self))


class Threads(Sound):
    """Sums in as many parts as it has threads, as numerical libraries do."""

    def extra(self) -> float:
        parts = int(os.environ.get("OMP_NUM_THREADS") or 1)
        values = (1.0 / np.arange(1, 100_001)).astype(np.float32)
        return float(
            sum(
                float(np.cumsum(part, dtype=np.float32)[-1])
                for part in np.array_split(values, parts)
            )
        )


class StateLeak(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.episodes = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.episodes += 1
        return super().reset(seed=seed)

    def extra(self) -> float:
        return float(self.episodes)


class Noisy(gym.ObservationWrapper[Any, Any, Any]):
    """A wrapper that draws from a generator that nobody seeds."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.noise = random.Random()

    def observation(self, observation: Any) -> Any:
        return observation + self.noise.random()


class Network(Sound):
    """Asks a server what to show."""

    def extra(self) -> float:
        with socket.create_connection(
            ("127.0.0.1", int(os.environ["TRAJREC_TEST_PORT"]))
        ) as connection:
            return float(connection.recv(64))


def wrapper_rng() -> Any:
    return Noisy(Sound())


class Counter(socketserver.BaseRequestHandler):
    """Answers with another number each time."""

    n = 0

    def handle(self) -> None:
        Counter.n += 1
        self.request.sendall(str(Counter.n).encode())


def serve() -> socketserver.ThreadingTCPServer:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Counter)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


if __name__ == "__main__":
    import trajrec

    env = trajrec.record(globals()[sys.argv[2]](), sys.argv[1])
    for _ in range(3):
        env.reset()
        done = False
        while not done:
            _, _, done, _, _ = env.step(1)
    env.close()
