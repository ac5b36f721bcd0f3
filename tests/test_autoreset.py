"""A reset without a step leaves no episode, as loops leave one that reset at once after an end."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Scripted, Witness, run
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from test_interrupts import Interrupter, InterruptError
from tiers import Share, suite, third_slow

import trajrec
from trajrec.corpus.doctor import examine
from trajrec.corpus.episode import Episode
from trajrec.errors import EnvContractError, LogWriteError
from trajrec.log.events import Redaction
from trajrec.log.reader import LogReader
from trajrec.recording.recorder import Recorder
from trajrec.values.diff import is_same

MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]


def all_episodes(folder: Path) -> list[tuple[Any, ...]]:
    """Return (number, ending, steps) of everything that the logs of a folder have."""
    with trajrec.open(folder) as corpus:
        query = "SELECT number, ending, n_steps FROM all_episodes ORDER BY log, number"
        return corpus.sql(query).fetchall()


def numbers(k: int) -> Any:
    return np.array([k, 2 * k], np.float32), float(k), k == 4, False, {}


def test_resets_without_steps_leave_no_episode_and_no_number(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(numbers), tmp_path)
    assert env.episode_id is None
    env.reset(seed=0)
    dropped = env.episode_id
    assert env.is_open
    env.reset(seed=1)
    kept = env.episode_id
    env.step(0)
    env.reset(seed=2)
    assert env.episode_id not in (None, dropped, kept)
    env.close()
    assert not env.is_open
    assert env.episode_id == kept
    assert all_episodes(tmp_path) == [(1, "abandoned", 1)]
    with trajrec.open(tmp_path) as corpus:
        assert [(e.id, e.start and e.start.seed) for e in corpus.episodes()] == [(kept, 1)]


def test_reset_that_is_looked_at_and_closed_leaves_no_episode(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=0)
    env.flush()
    assert all_episodes(tmp_path) == []
    env.close()
    env.close()
    assert all_episodes(tmp_path) == []


def test_running_log_without_items_is_sound(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    for _ in range(2):
        with LogReader(env.path) as reader:
            assert (reader.damage, list(reader.chunks())) == ([], [])
        assert examine(tmp_path) == (1, [])
        env.reset(seed=0)
    env.close()


def test_step_without_a_reset_is_refused_as_before(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(numbers), tmp_path)
    with pytest.raises(EnvContractError, match="step before the first reset"):
        env.step(0)
    run(env)
    with pytest.raises(EnvContractError, match="step after the end"):
        env.step(0)
    env.close()


class Fragile(gym.Wrapper[Any, Any, Any, Any]):
    """Raises at the resets, and at the first steps, that the options name."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.raises_at_step = bool(options and options.get("step"))
        result = self.env.reset(seed=seed)
        if options and options.get("reset"):
            raise RuntimeError("no reset")
        return result

    def step(self, action: Any) -> Any:
        if self.raises_at_step:
            raise RuntimeError("no step")
        return self.env.step(action)


def test_failures_of_resets_and_first_steps_are_recorded(tmp_path: Path) -> None:
    env = trajrec.record(Fragile(Scripted(numbers)), tmp_path)
    with pytest.raises(RuntimeError):
        env.reset(options={"reset": True})
    env.reset(options={"step": True})
    with pytest.raises(RuntimeError):
        env.step(0)
    env.reset()
    env.close()
    assert all_episodes(tmp_path) == [(0, "error", 0), (1, "error", 1)]


@pytest.mark.parametrize("mode", MODES)
def test_vectors_that_reset_by_themselves_leave_no_empty_episode(
    tmp_path: Path, mode: AutoresetMode
) -> None:
    # All end in the last step of the loop, so that all have been reset.
    make = functools.partial(Scripted, numbers)
    envs = trajrec.record(SyncVectorEnv([make] * 3, autoreset_mode=mode), tmp_path)
    envs.reset(seed=0)
    for _ in range(5 if mode is AutoresetMode.SAME_STEP else 6):
        envs.step(np.zeros(3, np.int64))
    envs.close()
    assert all_episodes(tmp_path) == [(0, "terminated", 5)] * 3


def recorded_script(folder: Path) -> Recorder:
    return trajrec.record(Scripted(numbers), folder)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_vectors_in_processes_leave_no_empty_episode(tmp_path: Path, mode: AutoresetMode) -> None:
    make = functools.partial(recorded_script, tmp_path)
    envs = AsyncVectorEnv([make] * 2, autoreset_mode=mode)
    envs.reset(seed=0)
    for _ in range(5 if mode is AutoresetMode.SAME_STEP else 6):
        envs.step(np.zeros(2, np.int64))
    envs.close()
    assert all_episodes(tmp_path) == [(0, "terminated", 5)] * 2


def test_share_of_episodes_counts_resets_with_steps(tmp_path: Path) -> None:
    # Each episode begins with two resets: every second reset is one without a step.
    env = trajrec.record(Scripted(numbers), tmp_path, every=2)
    for _ in range(3):
        env.reset()
        run(env)
    env.close()
    assert all_episodes(tmp_path) == [(k, "terminated", 5) for k in (1, 3, 5)]


def test_kept_episodes_are_those_with_steps(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(numbers), tmp_path, keep_last=8)
    for _ in range(30):
        env.reset()
        env.reset()
        run(env)
    env.close()
    assert 8 <= len(all_episodes(tmp_path)) <= 10


@pytest.mark.slow
def test_audit_leaves_resets_without_steps_out(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path, audit=1.0)
    for seed in range(3):
        env.reset(seed=seed)
        run(env, seed=seed)
    env.reset()
    env.close()
    assert [report.grade for report in env.audits] == ["exact"] * 3  # type: ignore[attr-defined]


def frames(k: int) -> Any:
    frame = np.zeros((24, 64), np.uint8)
    frame[3, max(0, k) : max(0, k) + 4] = 7
    return frame, 1.0, k == 7, False, {}


class Changing:
    """Results whose kind changes from reset to reset."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.kind = 0

    def __call__(self, k: int) -> Any:
        if k == -1:
            self.kind = int(self.rng.integers(4))
        value = np.full(2 + self.kind, self.rng.integers(9))
        observation: Any = {"v": value} if self.kind == 3 else value
        info = {"k": k} if self.rng.random() < 0.3 else {}
        return observation, float(k), self.rng.random() < 0.2, False, info


class Moving:
    """Frames that change a little at each step, and wholly at each reset."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.frame = np.zeros((24, 64), np.uint8)

    def __call__(self, k: int) -> Any:
        if k == -1:
            self.frame[:] = self.rng.integers(2, size=self.frame.shape)
        self.frame[self.rng.integers(24), self.rng.integers(64)] += 1
        return self.frame, 1.0, self.rng.random() < 0.1, False, {}


class Telling:
    """Texts, some of which have a secret."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def __call__(self, k: int) -> Any:
        secret = f"sk-proj-{'a1B2c3D4e5' * 5}"
        text = f"token {secret}" if self.rng.random() < 0.5 else f"step {k}"
        return text, k, self.rng.random() < 0.2, False, {}


KINDS: list[Callable[[np.random.Generator], Any]] = [Changing, Moving, Telling]


@pytest.mark.parametrize("kind", KINDS)
@suite("log", fixed=12, drawn=60, whole=1500)
def test_any_order_of_resets_and_steps_is_recorded_right(
    share: Share, kind: Any, tmp_path: Path
) -> None:
    rng = share.rng()
    for number in range(share.size or 0):
        folder = tmp_path / str(number)
        witness = Witness(Scripted(kind(rng)))
        env = trajrec.record(witness, folder)
        for _ in range(40):
            call = rng.choice(
                ["reset", "step", "step", "step", "flush"], p=[0.3, 0.2, 0.2, 0.2, 0.1]
            )
            if call == "step" and env.is_open:
                env.step(int(rng.integers(9)))
            elif call == "flush":
                env.flush()
            elif call == "reset":
                env.reset(seed=int(rng.integers(1000)))
        env.close()
        expected = [episode for episode in witness.episodes if episode["actions"]]
        with LogReader(env.path) as reader:
            events = [event for chunk in reader.chunks() for event in chunk.record.events]
            assert not reader.damage
            recorded = [Episode(reader, n) for n in sorted({event.episode for event in events})]
            compare(recorded, expected, has_texts=kind is Telling)


def compare(recorded: list[Episode], expected: list[dict[str, Any]], *, has_texts: bool) -> None:
    assert len(recorded) == len(expected)
    for episode, seen in zip(recorded, expected, strict=True):
        assert episode.actions == seen["actions"]
        assert is_same([float(r) for r in episode.rewards], [float(r) for r in seen["rewards"]])
        assert is_same(list(episode.infos), seen["infos"])
        if not has_texts:
            assert is_same(list(episode.observation_values), seen["observations"])
            continue
        for value, text in zip(episode.observation_values, seen["observations"], strict=True):
            assert ("redacted" in value) == ("sk-proj" in text), (value, text)
            assert "sk-proj" in text or value == text


def test_secrets_of_a_reset_are_counted_with_their_episode(tmp_path: Path) -> None:
    secret = f"sk-proj-{'a1B2c3D4e5' * 5}"
    env = trajrec.record(Scripted(lambda k: (f"{secret} {k}", 1.0, k == 2, False, {})), tmp_path)
    env.reset(options={"key": secret})
    env.reset(options={"text": secret})
    env.step(0)
    env.close()
    with LogReader(env.path) as reader:
        events = [event for chunk in reader.chunks() for event in chunk.record.events]
    counted = [(e.episode, e.step, e.field, e.n) for e in events if isinstance(e, Redaction)]
    assert counted == [(1, -1, "options", 1), (1, -1, "obs", 1), (1, 0, "obs", 1)]


def interrupt_first_step(folder: Path, at: int) -> tuple[Recorder, int]:
    """Interrupt the first step of an episode at an instruction; return how many there were."""
    env = trajrec.record(Scripted(numbers), folder)
    env.reset(seed=0)
    interrupter = Interrupter(InterruptError, at)
    with contextlib.suppress(InterruptError), interrupter:
        env.step(5)
    return env, interrupter.n


@pytest.mark.usefixtures("no_flusher")
@suite("kills", fixed=5, drawn=100, whole=None)
def test_first_step_that_was_interrupted_may_be_made_again(share: Share, tmp_path: Path) -> None:
    whole, n_instructions = interrupt_first_step(tmp_path / "whole", -1)
    whole.close()
    # The reset is recorded by the first instructions.
    for at in [*range(20, 45), *share.of(range(n_instructions))]:
        env, _ = interrupt_first_step(tmp_path / "each", at)
        n_made = env.unwrapped.k  # type: ignore[attr-defined]
        env.step(6)
        env.close()
        with LogReader(env.path) as reader:
            episode = Episode(reader, 0)
        # A step that had begun counts, because the environment may have moved.
        assert episode.n_steps == len(episode.actions) + len(episode.failures)
        assert episode.actions in ([6], [5, 6])
        assert n_made <= episode.n_steps - 1 <= 1


KILLED = """
import os, signal, sys
import gymnasium as gym
import trajrec

class Deadly(gym.Wrapper):
    def step(self, action):
        if sys.argv[2] == "step":
            os.kill(os.getpid(), signal.SIGKILL)
        return self.env.step(action)

env = trajrec.record(Deadly(gym.make("CartPole-v1")), sys.argv[1])
env.reset(seed=0)
if sys.argv[2] == "reset":
    os.kill(os.getpid(), signal.SIGKILL)
env.step(0)
if sys.argv[2] == "second reset":
    env.reset(seed=1)
os.kill(os.getpid(), signal.SIGKILL)
"""


@third_slow("agents")
@pytest.mark.parametrize(
    ("at", "rows"),
    [
        ("reset", []),
        ("second reset", [(0, "abandoned", 1)]),
        ("step", [(0, "interrupted", 0)]),
        ("second step", [(0, "interrupted", 1)]),
    ],
)
@pytest.mark.mostly_slow(1)
def test_killed_process_leaves_a_reset_only_with_its_first_step(
    tmp_path: Path, at: str, rows: list[tuple[Any, ...]]
) -> None:
    result = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), at], check=False)
    assert result.returncode == -signal.SIGKILL
    assert all_episodes(tmp_path) == rows


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_child_that_steps_first_records_nothing(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(numbers), tmp_path)
    env.reset(seed=0)
    pid = os.fork()
    if pid == 0:
        try:
            env.step(7)
            env.step(7)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    env.step(1)
    env.close()
    (episode,) = trajrec.open(tmp_path).episodes()
    assert (episode.actions, episode.ending) == ([1], "abandoned")


@pytest.mark.parametrize("on_full", ["stop-recording", "raise"])
def test_log_that_ends_before_the_first_step_is_told(tmp_path: Path, on_full: Any) -> None:
    env = trajrec.record(
        Scripted(lambda k: (np.random.default_rng(k + 1).random(50), 1.0, k == 99, False, {})),
        tmp_path,
        max_bytes=10_000,
        on_full=on_full,
    )
    run(env)
    env.reset()
    env._writer.flush_pending()
    assert env._writer.is_closed
    if on_full == "raise":
        with pytest.raises(LogWriteError, match="it has reached max_bytes"):
            env.step(0)
    else:
        with pytest.warns(RuntimeWarning, match="it has reached max_bytes"):
            env.step(0)
        env.step(0)
        env.close()
    with trajrec.open(tmp_path) as corpus:
        assert not corpus.sql("SELECT number FROM all_episodes WHERE number > 0").fetchall()
