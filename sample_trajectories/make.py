"""Make the sample logs again, byte for byte: `python sample_trajectories/make.py [FOLDER]`.

Ids, the clock and the description of this process are fixed. The bytes therefore change only with
the format, or with another version of zstd than 1.5.7.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Unpack
from unittest import mock

import gymnasium as gym

import trajrec
from trajrec import envs
from trajrec.envs.keydoor import LEFT, OPEN, PICK_UP, RIGHT
from trajrec.log.writer import LogWriter
from trajrec.recording import error_text, log_series, opening, provenance, recorder
from trajrec.recording.options import LogOrigin, RecordOptions
from trajrec.recording.traceback_text import TracebackText
from trajrec.types import Action, AnyEnv, Observation

# A round time in 2025: the samples do not depend on the day on which they are made.
BEGIN_NS = 1_750_000_000_000_000_000
STEP_NS = 1_000_000
RUNTIME = {
    "python": "3.13.0",
    "platform": "sample",
    "packages": {"gymnasium": "1.4.0", "numpy": "2.4.0"},
}

# From the middle of eight cells: to the key, and back to the door.
WITH_KEY = [*[LEFT] * 4, PICK_UP, *[RIGHT] * 7, OPEN]
WITHOUT_KEY = [*[RIGHT] * 3, OPEN]

# Bytes of the frame that the killed process was writing: a part of it.
TORN_BYTES = 99


class FlakyCartPole(gym.Wrapper[Observation, Action, Observation, Action]):
    """A CartPole whose motor fails at every ninth step."""

    def __init__(self, env: AnyEnv) -> None:
        super().__init__(env)
        self.n_steps = 0

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, object]]:
        self.n_steps += 1
        if self.n_steps % 9 == 0:
            raise TimeoutError("the motor did not answer within 50 ms")
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward), terminated, truncated, info


# A log stores a digest of its verifiers' source: another character here, and the samples change.
@trajrec.verifier(id="solved", version="1")
def solved(env: Any) -> bool:
    """The environment's own state says that the task was solved."""
    bare = env.unwrapped
    return bool(bare.task_solved() if isinstance(bare, envs.Shop) else bare.get_state()["has_key"])


def play(
    folder: Path,
    name: str,
    env: AnyEnv,
    policy: Callable[[int], Action],
    n_episodes: int,
    **options: Unpack[RecordOptions],
) -> recorder.Recorder:
    """Record episodes into a log of a given name; return the recorder, still open."""
    clock = itertools.count(BEGIN_NS, STEP_NS)
    origin = LogOrigin(name=name, clock_ns=lambda: next(clock))
    recording = opening.open_recorder(env, folder, origin, **options)
    for k in range(n_episodes):
        recording.reset(seed=k)
        step = 0
        is_over = False
        while not is_over:
            try:
                _, _, terminated, truncated, _ = recording.step(policy(step))
                is_over = terminated or truncated
            except TimeoutError:
                # A patient agent: its next action is the next try.
                is_over = False
            step += 1
    return recording


def error_without_frames(exc: BaseException) -> TracebackText:
    """Return the text of an exception without paths and line numbers of this machine."""
    return TracebackText("", f"{type(exc).__name__}: {exc}\n")


def make(folder: Path) -> None:
    """Make all sample logs in a folder."""
    with ExitStack() as patches:
        # In this thread: the samples must not depend on the scheduling of threads.
        writer = functools.partial(LogWriter, background=False)
        patches.enter_context(mock.patch.object(log_series, "LogWriter", writer))
        patches.enter_context(
            mock.patch.multiple(
                provenance, describe_runtime=lambda: RUNTIME, hostname=lambda: "sample"
            )
        )
        patches.enter_context(mock.patch("os.getpid", return_value=1))
        # A traceback has paths and line numbers of this machine.
        patches.enter_context(
            mock.patch.object(error_text, "format_traceback", error_without_frames)
        )
        _make_finished(folder)
        _make_killed(folder)


def _make_finished(folder: Path) -> None:
    """Make the logs of processes that ended as they should."""
    keydoor = gym.make("trajrec/KeyDoor-v0")
    play(folder, "won-keydoor", keydoor, lambda k: WITH_KEY[k], 2, checks=[solved]).close()
    play(folder, "lost-keydoor", keydoor, lambda k: WITHOUT_KEY[k], 2, checks=[solved]).close()
    shop = gym.make("trajrec/Shop-v0")
    bare_shop = shop.unwrapped
    assert isinstance(bare_shop, envs.Shop)
    play(
        folder, "won-shop", shop, lambda k: bare_shop.ground_truth()[k], 3, checks=[solved]
    ).close()
    flaky = FlakyCartPole(gym.make("CartPole-v1"))
    play(folder, "crashed-cartpole", flaky, lambda k: k // 2 % 2, 3).close()


def _make_killed(folder: Path) -> None:
    """Make the log of a killed process: all steps up to a flush, and a torn frame behind it."""
    env = gym.make("CartPole-v1")
    recording = play(folder, "killed-cartpole", env, lambda k: k // 2 % 2, 2)
    recording.reset(seed=9)
    for k in range(4):
        recording.step(k % 2)
    recording.flush()
    whole_bytes = recording.path.stat().st_size
    recording.step(0)
    recording.flush()
    data = recording.path.read_bytes()
    recording.close()
    recording.path.write_bytes(data[: whole_bytes + TORN_BYTES])


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
