"""A log that is cut, damaged, or whose writer is killed gives what is left of it, and nothing that was not recorded."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Scripted, record, run
from tiers import Share, suite

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.errors import LogError, LogWriteError
from trajrec.log.reader import LogReader
from trajrec.log.repair import compact, recover
from trajrec.values.diff import is_same

Rows = dict[int, tuple[Any, ...]]


def read(path: Path) -> dict[int, Rows]:
    """Return every step that can be read, by episode and number."""
    found: dict[int, Rows] = {}
    with LogReader(path) as reader:
        numbers = {s.episode for chunk in reader.chunks() for s in chunk.record.segments}
        for number in numbers:
            episode = Episode(reader, number, reader.chunks_of(number))
            found[number] = {
                s.step: (s.action, s.observation, s.reward, s.info) for s in episode.steps()
            }
    return found


def assert_within(found: dict[int, Rows], truth: dict[int, Rows]) -> None:
    for number, rows in found.items():
        for step, row in rows.items():
            assert is_same(row, truth[number][step]), (number, step)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small log of several chunks, some of them columns and some whole values."""
    folder = tmp_path_factory.mktemp("small")
    env = trajrec.record(gym.make("FrozenLake-v1"), folder)
    for k in range(4):
        run(env, 2, seed=0 if k == 0 else None)
        env.flush()
    env.close()
    return env.path


@suite("log", fixed=200, drawn=4000, whole=None)
def test_any_one_flipped_bit_is_detected_or_harmless(
    share: Share, small: Path, tmp_path: Path
) -> None:
    truth, data = read(small), small.read_bytes()
    damaged = tmp_path / "damaged.trj"
    kept = 0
    bits = share.of(range(8 * len(data)))
    for bit in bits:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(flipped)
        try:
            found = read(damaged)
        except LogError:
            continue
        assert_within(found, truth)
        kept += sum(map(len, found.values()))
    assert kept > 0.5 * len(bits) * sum(map(len, truth.values()))


@suite("log", fixed=100, drawn=1000, whole=None)
def test_a_log_cut_at_any_length_gives_the_steps_before_the_cut(
    share: Share, small: Path, tmp_path: Path
) -> None:
    truth, data = read(small), small.read_bytes()
    cut, last = tmp_path / "cut.trj", 0
    for length in [*share.of(range(len(data) - 1)), len(data) - 1]:
        cut.write_bytes(data[:length])
        try:
            found = read(cut)
        except LogError:
            assert last == 0
            continue
        assert_within(found, truth)
        n = sum(map(len, found.values()))
        assert n >= last
        last = n
    assert last == sum(map(len, truth.values()))


def test_a_zeroed_block_loses_only_its_own_steps(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("Acrobot-v1"), tmp_path)
    for k in range(10):
        run(env, 1, seed=0 if k == 0 else None)
        env.flush()
    env.close()
    truth, data = read(env.path), bytearray(env.path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 512] = bytes(512)
    env.path.write_bytes(data)
    found = read(env.path)
    assert_within(found, truth)
    lost = sum(map(len, truth.values())) - sum(map(len, found.values()))
    assert 0 < lost <= 1500
    # Of an episode that lay in the lost block whole nothing is left that could miss it but the log's damage.
    gone = sum(len(steps) for number, steps in truth.items() if number not in found)
    with trajrec.open(tmp_path) as corpus:
        assert corpus.problems()
        assert corpus.sql("SELECT sum(missing_steps) FROM episodes").fetchall()[0][0] == lost - gone


KILLED = """
import json, os, signal, sys, time
import gymnasium as gym
import trajrec

def record(folder, told):
    env = trajrec.record(gym.make("CartPole-v1"), folder)
    side = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    episode, env_step = -1, env.step
    while True:
        episode += 1
        env.reset(seed=episode)
        step = 0
        done = False
        while not done:
            result = env_step(step % 2)
            os.write(side, b"%d %d %d %.9g\\n" % (episode, step, time.monotonic_ns(), result[0][2]))
            step += 1
            done = result[2] or result[3]

trajrec.record  # imported once, for all that are forked
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    where = json.loads(line)
    pid = os.fork()
    if pid == 0:
        record(*where)
    print(pid, flush=True)
"""


@pytest.fixture
def recorders() -> Iterator[subprocess.Popen[str]]:
    """A process that forks one that records for each folder and file that it is told: none of them waits for imports."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def kill_once(recorders: subprocess.Popen[str], folder: Path, after_s: float) -> None:
    """Let a process record, kill it, and compare the log with what it had told by then."""
    assert recorders.stdin is not None
    assert recorders.stdout is not None
    folder.mkdir()
    side = folder / "told"
    recorders.stdin.write(json.dumps([str(folder), str(side)]) + "\n")
    recorders.stdin.flush()
    pid = int(recorders.stdout.readline())
    while not side.exists() or side.stat().st_size == 0:
        time.sleep(0.005)
        os.kill(pid, 0)
    time.sleep(after_s)
    killed_ns = time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            time.sleep(0.001)
    told = [
        line.split() for line in side.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")
    ]
    steps = {(int(e), int(s)): (int(t), float(x)) for e, s, t, x in told}
    (path,) = folder.glob("*.trj")
    found = read(path)
    for (episode, step), (when_ns, _) in steps.items():
        if when_ns < killed_ns - 200_000_000:
            assert step in found[episode], (episode, step, "lost")
    told_last = max(steps)
    for episode, rows in found.items():
        for step, row in rows.items():
            # The one step between a write to the log and its telling may be in the log alone.
            if (episode, step) <= told_last:
                assert row[1][2] == np.float32(steps[episode, step][1])
    with trajrec.open(folder) as corpus:
        endings = corpus.sql("SELECT ending, count(*) FROM episodes GROUP BY 1").fetchall()
        assert dict(endings).get("interrupted", 0) <= 1
        assert dict(endings).get("running", 0) == 0
        assert (
            corpus.sql("SELECT coalesce(sum(missing_steps), 0) FROM episodes").fetchall()[0][0] == 0
        )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_kill_9_loses_nothing_older_than_200_ms(
    tmp_path: Path, recorders: subprocess.Popen[str]
) -> None:
    for k, after_s in enumerate(np.random.default_rng(0).uniform(0.0, 0.5, 6)):
        kill_once(recorders, tmp_path / str(k), float(after_s))


@suite("log", fixed=0, drawn=20, whole=500)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_kill_9_at_random_moments_loses_nothing_older_than_200_ms(
    share: Share, tmp_path: Path, recorders: subprocess.Popen[str]
) -> None:
    for k, after_s in enumerate(share.rng().uniform(0.0, 0.6, share.size)):
        kill_once(recorders, tmp_path / str(k), float(after_s))


def test_a_killed_writers_log_is_sealed_by_recover_with_every_step_kept(tmp_path: Path) -> None:
    path = record(gym.make("Taxi-v4"), tmp_path, 2)
    truth, data = read(path), path.read_bytes()
    path.write_bytes(data[: len(data) - 60])
    result = recover(path)
    assert not result.was_sealed
    assert result.damaged_copy is None
    with LogReader(path) as reader:
        assert reader.is_sealed
        assert not reader.damage
    assert_within(read(path), truth)
    assert sum(map(len, read(path).values())) == sum(map(len, truth.values()))
    assert recover(path).was_sealed


def test_recover_keeps_a_damaged_file_and_never_launders_damage(
    small: Path, tmp_path: Path
) -> None:
    truth, data = read(small), bytearray(small.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "damaged.trj"
    path.write_bytes(data)
    result = recover(path)
    assert result.damaged_copy is not None
    assert result.damaged_copy.read_bytes() == bytes(data)
    assert_within(read(path), truth)


def test_recover_refuses_a_log_that_is_being_written(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    run(env, 1)
    env.flush()
    with pytest.raises(LogError, match="a living process is writing this log"):
        recover(env.path)
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Taxi-v4", "MiniGrid-DoorKey-5x5-v0", "Blackjack-v1"]
)
def test_compacting_keeps_every_value_and_saves_bytes(env_id: str, tmp_path: Path) -> None:
    if env_id.startswith("MiniGrid"):
        pytest.importorskip("minigrid")
    env = trajrec.record(gym.make(env_id), tmp_path)
    for k in range(12):
        run(env, 1, seed=0 if k == 0 else None)
        env.flush()
    env.close()
    truth = read(env.path)
    with LogReader(env.path) as reader:
        states = [Episode(reader, k).states for k in range(12)]
    result = compact(env.path)
    assert result.size_after < result.size_before
    assert result.chunks_after < result.chunks_before
    found = read(env.path)
    assert_within(found, truth)
    assert sum(map(len, found.values())) == sum(map(len, truth.values()))
    with LogReader(env.path) as reader:
        assert is_same([Episode(reader, k).states for k in range(12)], states)
    assert compact(env.path).size_after == result.size_after


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Any:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip("cannot mount a small disk here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def noise(k: int) -> Any:
    return np.random.default_rng(k + 1).random(2000, np.float32), 1.0, False, k == 999, {}


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_full_disk_stops_the_loop_and_all_before_is_readable(tiny_disk: Path) -> None:
    env = trajrec.record(Scripted(noise), tiny_disk)
    with pytest.raises(LogWriteError, match="No space left on device"):
        run(env, 3)
    with pytest.raises(LogWriteError):
        env.reset()
    with pytest.raises(LogWriteError):
        env.close()
    found = read(env.path)
    assert 20 < len(found[0]) < 1000
    assert all(is_same(row[1], noise(step)[0]) for step, row in found[0].items())


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
@pytest.mark.filterwarnings("ignore:.*No space left on device:RuntimeWarning")
def test_a_full_disk_lets_the_loop_go_on_where_the_user_chose_so(tiny_disk: Path) -> None:
    env = trajrec.record(Scripted(noise), tiny_disk, on_error="warn")
    assert run(env, 2) == 2000
    env.close()
    found = read(env.path)
    assert 20 < len(found[0]) < 1000
    assert all(is_same(row[1], noise(step)[0]) for step, row in found[0].items())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_writes_nothing_into_its_parents_log(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=0)
    env.step(0)
    child = os.fork()
    if child == 0:
        env.step(1)
        env.close()
        os._exit(0)
    os.waitpid(child, 0)
    env.step(0)
    env.close()
    with LogReader(env.path) as reader:
        assert not reader.damage
        assert Episode(reader, 0).actions == [0, 0]


def test_what_an_uncaught_exception_leaves_is_whole(tmp_path: Path) -> None:
    code = (
        "import gymnasium as gym, trajrec, sys\n"
        "env = trajrec.record(gym.make('CartPole-v1'), sys.argv[1])\n"
        "env.reset(seed=0)\n"
        "for k in range(5): env.step(k % 2)\n"
        "raise SystemExit(json)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert "NameError" in done.stderr
    (path,) = tmp_path.glob("*.trj")
    with LogReader(path) as reader:
        assert Episode(reader, 0).actions == [0, 1, 0, 1, 0]
        assert Episode(reader, 0).ending == "interrupted"
