"""Environments that are not deterministic, each for one reason.

`python broken.py FOLDER CLASS` records three episodes of one.
"""

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

system_random = random.SystemRandom()


class Sound(gym.Env[Any, Any]):
    """Counts to 12 and draws from its own generator: the sound one, which the others break."""

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
    """Shows one of two values by chance, so two runs often differ from a third at the same step."""

    def see(self) -> Any:
        return np.array([self.n, random.random() < 0.5], np.float64)


class SystemReward(Sound):
    """Pays a random reward from the system's generator, which nobody can seed."""

    def step(self, action: Any) -> Any:
        observation, _, *ending = super().step(action)
        return observation, system_random.random(), *ending


class HashOrder(Sound):
    def extra(self) -> float:
        return float(hash("red") % 1_000_003)


class UnseededGenerator(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng()

    def extra(self) -> float:
        return float(self.generator.random())


class Address(Sound):
    def extra(self) -> float:
        return float(id(object) ^ id(self))


class Threads(Sound):
    """Sums in as many parts as there are threads, as numerical libraries do."""

    def extra(self) -> float:
        parts = int(os.environ.get("OMP_NUM_THREADS") or 1)
        values = (1.0 / np.arange(1, 100_001)).astype(np.float32)
        # cumsum adds one by one; sum would add in pairs, and round less.
        sums = [np.cumsum(part, dtype=np.float32)[-1] for part in np.array_split(values, parts)]
        return float(sum(float(part_sum) for part_sum in sums))


class StateLeak(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.n_episodes = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.n_episodes += 1
        return super().reset(seed=seed)

    def extra(self) -> float:
        return float(self.n_episodes)


class Noisy(gym.ObservationWrapper[Any, Any, Any]):
    """A wrapper with a generator that nobody seeds."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.noise = random.Random()

    def observation(self, observation: Any) -> Any:
        return observation + self.noise.random()


class Network(Sound):
    """Shows the answer of a server."""

    def extra(self) -> float:
        address = ("127.0.0.1", int(os.environ["TRAJREC_TEST_PORT"]))
        with socket.create_connection(address) as connection:
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
        is_over = False
        while not is_over:
            _, _, is_over, _, _ = env.step(1)
    env.close()
