"""Makes the sample logs again, byte for byte: `python sample_trajectories/make.py [FOLDER]`.

Ids, clock and what describes this process are held still, so that only a change of the format changes the bytes (or another
version of zstd: they were made with 1.5.7).
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym

import trajrec
from trajrec import envs
from trajrec.log.writer import LogWriter
from trajrec.recording import provenance, recorder
from trajrec.recording.options import LogOrigin

BEGIN_NS = 1_750_000_000_000_000_000
RUNTIME = {
    "python": "3.13.0",
    "platform": "sample",
    "packages": {"gymnasium": "1.4.0", "numpy": "2.4.0"},
}
WALK = [0, 0, 0, 0, 2, *[1] * 7, 3]
CARELESS = [1, 1, 1, 3]


class FlakyCartPole(gym.Wrapper[Any, Any, Any, Any]):
    """A CartPole whose motor fails now and then."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.n = 0

    def step(self, action: Any) -> Any:
        self.n += 1
        if self.n % 9 == 0:
            raise TimeoutError("the motor did not answer within 50 ms")
        return self.env.step(action)


@trajrec.verifier(id="solved", version="1")
def solved(env: Any) -> bool:
    """The environment's own state says that the task was solved."""
    bare = env.unwrapped
    return bool(bare.task_solved() if isinstance(bare, envs.Shop) else bare.get_state()["has_key"])


def play(
    folder: Path,
    name: str,
    env: gym.Env[Any, Any],
    policy: Callable[[int], Any],
    n: int,
    **options: Any,
) -> Any:
    """Record episodes into a log of a fixed name; return the recorder, still open."""
    clock = itertools.count(BEGIN_NS, 1_000_000)
    origin = LogOrigin(log_id=name, clock_ns=lambda: next(clock))
    recording = recorder.open_recorder(env, folder, origin, **options)
    for k in range(n):
        recording.reset(seed=k)
        step, done = 0, False
        while not done:
            try:
                _, _, terminated, truncated, _ = recording.step(policy(step))
                done = terminated or truncated
            except TimeoutError:
                done = False  # the next action is the next try, as in a patient loop
            step += 1
    return recording


def make(folder: Path) -> None:
    """Make all sample logs in a folder."""
    writer = mock.patch.object(
        recorder, "LogWriter", functools.partial(LogWriter, background=False)
    )
    process = mock.patch.multiple(
        provenance, describe_runtime=lambda: RUNTIME, hostname=lambda: "sample"
    )
    process_id = mock.patch("os.getpid", return_value=1)
    brief = mock.patch("traceback.format_exception", lambda exc: [f"{type(exc).__name__}: {exc}\n"])
    with writer, process, process_id, brief:
        keydoor, shop = gym.make("trajrec/KeyDoor-v0"), gym.make("trajrec/Shop-v0")
        play(folder, "won-keydoor", keydoor, lambda k: WALK[k], 2, checks=[solved]).close()
        play(folder, "lost-keydoor", keydoor, lambda k: CARELESS[k], 2, checks=[solved]).close()
        play(
            folder, "won-shop", shop, lambda k: shop.unwrapped.ground_truth()[k], 3, checks=[solved]
        ).close()  # type: ignore[attr-defined]
        play(
            folder,
            "crashed-cartpole",
            FlakyCartPole(gym.make("CartPole-v1")),
            lambda k: k // 2 % 2,
            3,
        ).close()
        # A killed process: what it had handed over by then, and a torn write after that.
        killed = play(folder, "killed-cartpole", gym.make("CartPole-v1"), lambda k: k // 2 % 2, 2)
        killed.reset(seed=9)
        for k in range(4):
            killed.step(k % 2)
        killed.flush()
        whole = killed.path.stat().st_size
        killed.step(0)
        killed.flush()
        data = killed.path.read_bytes()
        killed.close()
        killed.path.write_bytes(data[: whole + 99])


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
