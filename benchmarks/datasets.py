"""`python -m benchmarks.datasets [ENV ...]`: reading steps for training, beside five other formats.

Records CartPole, Hopper and stacks of four 84x84 frames, writes the same transitions in the formats
of the others, and then reads all of them by turns, so that a machine that others use slows all
alike. Prints the median CPU time of all threads: sequential steps in batches of 4,096 (of the first
epoch, in which memory is new, and of all), and random transitions in batches of 256, each with the
next observation, copied. Formats whose package is
missing are left out (`pip install 'trajrec[bench]'`).
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

import trajrec
from benchmarks import scratch_folder
from trajrec.datasets.transitions import Transitions
from trajrec.types import AnyEnv, Array

N_ROUNDS = 5
BATCH = 4096
RANDOM_BATCH = 256
Columns = dict[str, Array]
COLUMNS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")


class Contestant(NamedTuple):
    """A way of reading.

    Attributes:
        name: Its name.
        n_bytes: The bytes of its files.
        sequential: Yields the number of steps of each part.
        random: Reads so many random transitions; None if it cannot.
        n_random: Random transitions that a round reads.
    """

    name: str
    n_bytes: int
    sequential: Callable[[], Iterator[int]] | None
    random: Callable[[int], object] | None
    n_random: int = 100 * RANDOM_BATCH


class Frames(gym.Env[Array, Any]):
    """A ball and a paddle on 84x84 pixels."""

    observation_space = gym.spaces.Box(0, 255, (84, 84), np.uint8)
    action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Array, Any]:
        super().reset(seed=seed)
        self.k = int(self.np_random.integers(1000))
        self.x = 40
        return self._frame(), {}

    def step(self, action: int) -> tuple[Array, float, bool, bool, Any]:
        self.k += 1
        self.x = int(np.clip(self.x + 3 * (int(action) - 1), 0, 70))
        return self._frame(), float(self.k % 9 == 0), self.np_random.random() < 0.01, False, {}

    def _frame(self) -> Array:
        frame = np.full((84, 84), 30, np.uint8)
        frame[10:20] = np.arange(84) % 7 * 30
        frame[80:82, self.x : self.x + 14] = 200
        row = 20 + self.k % 60
        column = self.k * 2 % 80
        frame[row : row + 2, column : column + 2] = 255
        return frame


ENVIRONMENTS: dict[str, tuple[Callable[[], AnyEnv], int]] = {
    "cartpole": (lambda: gym.make("CartPole-v1"), 300_000),
    "hopper": (lambda: gym.make("Hopper-v5"), 60_000),
    "frames": (lambda: gym.wrappers.FrameStackObservation(Frames(), 4), 8_000),
}


def main() -> None:
    """Print the table of each environment."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.datasets", description=__doc__)
    parser.add_argument("env", nargs="*", help=f"some of {', '.join(ENVIRONMENTS)}; by default all")
    parser.add_argument("--rounds", type=int, default=N_ROUNDS)
    arguments = parser.parse_args()
    if not ENVIRONMENTS.keys() >= set(arguments.env):
        parser.error(f"ENV must be some of {', '.join(ENVIRONMENTS)}")
    for name in arguments.env or ENVIRONMENTS:
        folder = scratch_folder()
        make, n_steps = ENVIRONMENTS[name]
        _record(make(), folder / "runs", n_steps)
        print(f"\n{name}, {n_steps} steps")
        _compare(folder, arguments.rounds)
        shutil.rmtree(folder)


def _record(env: AnyEnv, folder: Path, n_steps: int) -> None:
    recorder = trajrec.record(env, folder)
    recorder.action_space.seed(0)
    recorder.reset(seed=0)
    for _ in range(n_steps):
        *_, terminated, truncated, _ = recorder.step(recorder.action_space.sample())
        if terminated or truncated:
            recorder.reset()
    recorder.close()


def _compare(folder: Path, n_rounds: int) -> None:
    corpus = trajrec.open(folder / "runs")
    began = time.process_time()
    cached = corpus.transitions(cache=folder / "cache", columns=COLUMNS)
    built = len(cached) / (time.process_time() - began)
    columns: Columns = {}
    for batch in corpus.transitions(columns=COLUMNS, shuffle=False, batch_size=len(cached)):
        columns |= batch
    lengths = [row[0] for row in corpus.sql("SELECT n_steps FROM episodes").fetchall()]
    contestants = [*_ours(corpus, folder, cached), *_others(folder, columns, lengths)]
    sequential: dict[str, list[float]] = {}
    random: dict[str, list[float]] = {}
    for _ in range(n_rounds):
        for one in contestants:
            if one.sequential is not None:
                began = time.process_time()
                n = sum(one.sequential())
                sequential.setdefault(one.name, []).append((time.process_time() - began) / n)
            if one.random is not None:
                began = time.process_time()
                one.random(one.n_random)
                seconds = time.process_time() - began
                random.setdefault(one.name, []).append(seconds / one.n_random)
    print(f"{'':36}{'first':>10}{'M steps/s':>10}{'random, us':>12}{'B/step':>10}")
    for one in contestants:
        times = sequential.get(one.name)
        first = "-" if times is None else f"{1e-6 / times[0]:.3g}"
        speed = "-" if times is None else f"{1e-6 / _median(times):.3g}"
        cost = "-" if one.random is None else f"{1e6 * _median(random[one.name]):.3g}"
        print(f"{one.name:36}{first:>10}{speed:>10}{cost:>12}{one.n_bytes / len(cached):>10.0f}")
    print(f"the cache is made at {built / 1e6:.2f} M steps/s")


def _median(values: list[float]) -> float:
    return statistics.median(values)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)


def _ours(corpus: trajrec.Corpus, folder: Path, cached: Transitions) -> list[Contestant]:
    def of_stream(shuffle: bool) -> Callable[[], Iterator[int]]:
        stream = corpus.transitions(batch_size=BATCH, columns=COLUMNS, shuffle=shuffle)

        def read() -> Iterator[int]:
            # Each round decodes the logs anew.
            stream.close()
            for batch in stream:
                yield len(batch["reward"])

        return read

    in_order = corpus.transitions(
        cache=folder / "cache", batch_size=BATCH, columns=COLUMNS, shuffle=False
    )

    def sample(n: int) -> None:
        for _ in range(n // RANDOM_BATCH):
            cached.sample(RANDOM_BATCH)

    def read_cache() -> Iterator[int]:
        for batch in in_order:
            yield len(batch["reward"])

    logs = sum(file.stat().st_size for file in (folder / "runs").glob("*.trj"))
    return [
        Contestant("trajrec, cache", _size(folder / "cache"), read_cache, sample),
        Contestant("trajrec, stream, shuffled", logs, of_stream(True), None),
        Contestant("trajrec, stream, in order", logs, of_stream(False), None),
    ]


def _others(folder: Path, columns: Columns, lengths: list[int]) -> Iterator[Contestant]:
    if _has("pyarrow"):
        from benchmarks.dataset_peers import arrow, parquet

        yield arrow(folder, columns)
        yield parquet(folder, columns)
    if _has("h5py"):
        from benchmarks.dataset_peers import hdf5

        yield hdf5(folder, columns)
    if _has("torchrl"):
        from benchmarks.dataset_peers import torchrl

        yield torchrl(folder, columns)
    if _has("minari"):
        from benchmarks.dataset_peers import minari

        yield minari(folder, columns, lengths)


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


if __name__ == "__main__":
    main()
