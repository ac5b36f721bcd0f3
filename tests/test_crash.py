"""Logs that are cut, damaged or left by a killed writer: the rest is read, and nothing else."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import pytest
from conftest import Scripted, record, run
from killing import kill_child
from tiers import Share, suite, third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.episode import Episode
from trajrec.errors import LogError, LogWriteError
from trajrec.log import locks
from trajrec.log.compaction import compact
from trajrec.log.reader import LogReader
from trajrec.log.repair import recover
from trajrec.values.diff import is_same

Rows = dict[int, tuple[Any, ...]]


def read(path: Path) -> dict[int, Rows]:
    """Return every readable step, by episode and number."""
    steps: dict[int, Rows] = {}
    with LogReader(path) as reader:
        numbers = {s.episode for chunk in reader.chunks() for s in chunk.record.segments}
        for number in numbers:
            episode = Episode(reader, number, reader.chunks_of(number))
            steps[number] = {
                s.step: (s.action, s.observation, s.reward, s.info) for s in episode.steps()
            }
    return steps


def assert_within(readable: dict[int, Rows], truth: dict[int, Rows]) -> None:
    for number, rows in readable.items():
        for step, row in rows.items():
            assert is_same(row, truth[number][step]), (number, step)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small log of several chunks, with columns and with encoded values."""
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
    truth = read(small)
    data = small.read_bytes()
    damaged = tmp_path / "damaged.trj"
    n_read = 0
    bits = share.of(range(8 * len(data)))
    for bit in bits:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(flipped)
        try:
            steps = read(damaged)
        except LogError:
            continue
        assert_within(steps, truth)
        n_read += sum(map(len, steps.values()))
    assert n_read > 0.5 * len(bits) * sum(map(len, truth.values()))


@suite("log", fixed=100, drawn=1000, whole=None)
def test_cut_log_gives_every_step_before_the_cut(share: Share, small: Path, tmp_path: Path) -> None:
    truth = read(small)
    data = small.read_bytes()
    cut = tmp_path / "cut.trj"
    last = 0
    for length in [*share.of(range(len(data) - 1)), len(data) - 1]:
        cut.write_bytes(data[:length])
        try:
            steps = read(cut)
        except LogError:
            assert last == 0
            continue
        assert_within(steps, truth)
        n = sum(map(len, steps.values()))
        assert n >= last
        last = n
    assert last == sum(map(len, truth.values()))


@pytest.mark.slow
def test_zeroed_block_loses_only_its_own_steps(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("Acrobot-v1"), tmp_path)
    for k in range(10):
        run(env, 1, seed=0 if k == 0 else None)
        env.flush()
    env.close()
    truth = read(env.path)
    data = bytearray(env.path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 512] = bytes(512)
    env.path.write_bytes(data)
    readable = read(env.path)
    assert_within(readable, truth)
    lost = sum(map(len, truth.values())) - sum(map(len, readable.values()))
    assert 0 < lost <= 1500
    with trajrec.open(tmp_path) as corpus:
        assert corpus.problems()
        # An episode of which no record is left has nothing that could count its steps.
        listed = {episode.number for episode in corpus.episodes()}
        gone = sum(len(steps) for number, steps in truth.items() if number not in listed)
        assert corpus.sql("SELECT sum(missing_steps) FROM episodes").fetchall()[0][0] == lost - gone


KILLED = """
import json, os, signal, sys
import gymnasium as gym
import trajrec

def record(folder, reports):
    env = trajrec.record(gym.make("CartPole-v1"), folder)
    file = os.open(reports, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    episode, env_step = -1, env.step
    while True:
        episode += 1
        env.reset(seed=episode)
        step = 0
        done = False
        while not done:
            result = env_step(step % 2)
            os.write(file, b"%d %d %.9g\\n" % (episode, step, result[0][2]))
            step += 1
            done = result[2] or result[3]

trajrec.record  # imported once, for all children
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    arguments = json.loads(line)
    pid = os.fork()
    if pid == 0:
        record(*arguments)
    print(pid, flush=True)
"""


@pytest.fixture
def recorders() -> Iterator[subprocess.Popen[str]]:
    """A process that forks a recording child for each line it gets, so that no child imports."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def kill_once(recorders: subprocess.Popen[str], folder: Path, after_s: float) -> None:
    """Have a process record, kill it, and compare the log with the steps that it reported."""
    folder.mkdir()
    reports = folder / "reports"
    kill_child(recorders, [str(folder), str(reports)], reports, after_s)
    lines = reports.read_bytes().splitlines(keepends=True)
    reported = [line.split() for line in lines if line.endswith(b"\n")]
    steps = {(int(e), int(s)): float(x) for e, s, x in reported}
    (path,) = folder.glob("*.trj")
    readable = read(path)
    for episode, step in steps:
        assert step in readable[episode], (episode, step, "lost")
    last_reported = max(steps)
    for episode, rows in readable.items():
        for step, row in rows.items():
            # A step that was killed between its recording and its report is in the log alone.
            if (episode, step) <= last_reported:
                assert row[1][2] == np.float32(steps[episode, step])
    with trajrec.open(folder) as corpus:
        endings = corpus.sql("SELECT ending, count(*) FROM episodes GROUP BY 1").fetchall()
        assert dict(endings).get("interrupted", 0) <= 1
        assert dict(endings).get("running", 0) == 0
        assert (
            corpus.sql("SELECT coalesce(sum(missing_steps), 0) FROM episodes").fetchall()[0][0] == 0
        )


@pytest.mark.slow
@third_slow("kills")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_kill_9_loses_no_step_that_returned(
    tmp_path: Path, recorders: subprocess.Popen[str]
) -> None:
    for k, after_s in enumerate(np.random.default_rng(0).uniform(0.0, 0.5, 6)):
        kill_once(recorders, tmp_path / str(k), float(after_s))


@suite("log", fixed=0, drawn=8, whole=500)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_kill_9_at_random_moments_loses_no_step(
    share: Share, tmp_path: Path, recorders: subprocess.Popen[str]
) -> None:
    for k, after_s in enumerate(share.rng().uniform(0.0, 0.6, share.size)):
        kill_once(recorders, tmp_path / str(k), float(after_s))


def unsealed(small: Path) -> tuple[bytes, int]:
    """Return a log without its footer, and the offset of its last frame."""
    with LogReader(small) as reader:
        last = reader.frames[-1]
        return reader.slice(0, last.end), last.offset


def test_truncated_frame_is_reported_with_its_offset(small: Path, tmp_path: Path) -> None:
    data, offset = unsealed(small)
    path = tmp_path / "torn.trj"
    path.write_bytes(data[:-1])
    with LogReader(path) as reader:
        (damage,) = reader.damage
    assert (damage.offset, damage.size) == (offset, len(data) - 1 - offset)
    assert damage.is_tail
    assert damage.reason == "the file stops in the middle of a frame"


def test_damaged_last_frame_is_not_called_torn(small: Path, tmp_path: Path) -> None:
    data, offset = unsealed(small)
    path = tmp_path / "damaged.trj"
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with LogReader(path) as reader:
        (damage,) = reader.damage
    assert offset < damage.offset
    assert damage.offset + damage.size == len(data)
    assert not damage.is_tail
    assert damage.reason == "a frame's columns are damaged: its steps are lost, its events are not"


def test_recover_seals_a_killed_writers_log_whole(tmp_path: Path) -> None:
    path = record(gym.make("Taxi-v4"), tmp_path, 2)
    truth = read(path)
    data = path.read_bytes()
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


def test_recover_keeps_a_copy_of_a_damaged_log(small: Path, tmp_path: Path) -> None:
    truth = read(small)
    data = bytearray(small.read_bytes())
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


def test_logs_that_are_being_written_do_not_fail_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fcntl")
    record(gym.make("CartPole-v1"), tmp_path, 1)
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    run(env, 1)
    env.flush()
    before = env.path.read_bytes()
    for command in ("recover", "compact"):
        assert main([command, str(tmp_path)]) == 0
        assert f"{env.path}: left as it is" in capsys.readouterr().err
        assert main([command, str(env.path)]) == 3
        assert "a living process is writing this log" in capsys.readouterr().err
    assert env.path.read_bytes() == before
    env.close()


def test_a_reader_that_asks_for_the_writer_takes_no_lock_from_it(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "log.trj"
    path.touch()
    with open(path, "rb") as reading, open(path, "ab") as writing:
        fcntl.flock(reading, fcntl.LOCK_SH)
        timer = threading.Timer(0.1, fcntl.flock, (reading, fcntl.LOCK_UN))
        timer.start()
        locks.hold(writing.fileno())
        timer.join()
        assert locks.is_being_written(path)


@pytest.mark.slow
@third_slow("kills")
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
    steps = read(env.path)
    assert_within(steps, truth)
    assert sum(map(len, steps.values())) == sum(map(len, truth.values()))
    with LogReader(env.path) as reader:
        assert is_same([Episode(reader, k).states for k in range(12)], states)
    assert compact(env.path).size_after == result.size_after


def test_log_with_a_nan_score_can_be_compacted(tmp_path: Path) -> None:
    def score(*_: Any) -> trajrec.Verdict:
        return trajrec.Verdict(None, math.nan)

    env = trajrec.record(gym.make("CartPole-v1"), tmp_path, checks=[score])
    for k in range(12):
        run(env, 1, seed=0 if k == 0 else None)
        env.flush()
    env.close()
    result = compact(env.path)
    assert result.chunks_after < result.chunks_before


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Any:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    finished = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if finished.returncode:
        pytest.skip("cannot mount a small disk here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def noise(k: int) -> Any:
    return np.random.default_rng(k + 1).random(2000, np.float32), 1.0, False, k == 999, {}


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_full_disk_stops_the_loop_and_keeps_earlier_steps(tiny_disk: Path) -> None:
    env = trajrec.record(Scripted(noise), tiny_disk, on_full="raise")
    with pytest.raises(LogWriteError, match="No space left on device"):
        run(env, 3)
    with pytest.raises(LogWriteError):
        env.reset()
    with pytest.raises(LogWriteError):
        env.close()
    rows = read(env.path)[0]
    assert 20 < len(rows) < 1000
    assert all(is_same(row[1], noise(step)[0]) for step, row in rows.items())


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_full_disk_does_not_end_training(tiny_disk: Path) -> None:
    env = trajrec.record(Scripted(noise), tiny_disk)
    with pytest.warns(RuntimeWarning, match="No space left on device") as warned:
        assert run(env, 2) == 2000
    env.close()
    assert len(warned) == 1
    rows = read(env.path)[0]
    assert 20 < len(rows) < 1000
    assert all(is_same(row[1], noise(step)[0]) for step, row in rows.items())


@pytest.mark.mostly_slow(1)
@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
@pytest.mark.parametrize("on_full", ["stop-recording", "raise"])
def test_full_disk_does_not_end_agents_that_begin_later(
    tiny_disk: Path, on_full: Literal["stop-recording", "raise"]
) -> None:
    def work_on(n_episodes: int) -> None:
        for k in range(n_episodes):
            with trajrec.episode(tiny_disk, task=str(k), on_full=on_full) as ep:
                ep.tool(lambda seed: random.Random(seed).randbytes(50_000), name="draw")(k)

    if on_full == "raise":
        with pytest.raises(LogWriteError, match="No space left on device"):
            work_on(60)
        return
    with pytest.warns(RuntimeWarning, match="No space left on device") as warned:
        work_on(60)
    assert len(warned) == 1
    with trajrec.open(tiny_disk) as corpus:
        ((n_episodes,),) = corpus.sql("SELECT count(*) FROM episodes").fetchall()
    assert 3 < n_episodes < 60
    # With space again, the next episode begins a log.
    resized = ["mount", "-o", "remount,size=4m", str(tiny_disk)]
    subprocess.run(resized, check=True)
    work_on(1)
    trajrec.close_logs()
    with trajrec.open(tiny_disk) as corpus:
        assert corpus.sql("SELECT count(*) FROM episodes").fetchall() == [(n_episodes + 1,)]


def run_in_child(function: Callable[[], None]) -> None:
    """Call a function in a forked process, and check that it did not raise."""
    child = os.fork()
    if child == 0:
        # Without a finally the child would go on as a second test run.
        try:
            function()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_annotate_in_a_forked_child_is_not_refused(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=0)
    env.step(0)
    run_in_child(lambda: env.annotate(value=1.0))
    env.close()
    with trajrec.open(tmp_path) as corpus:
        assert [episode.step_values for episode in corpus.episodes()] == [{}]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_child_cannot_write_its_parents_log(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=0)
    env.step(0)

    def step_in_child() -> None:
        env.step(1)
        env.flush()
        with pytest.warns(RuntimeWarning, match="its process was forked"):
            env.reset()
        env.step(1)
        env.close()

    run_in_child(step_in_child)
    env.step(0)
    with LogReader(env.path) as reader:
        assert Episode(reader, 0).actions == [0, 0]
    env.close()
    with LogReader(env.path) as reader:
        assert not reader.damage
        assert Episode(reader, 0).actions == [0, 0]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The files and folders that are forced to the disk, with their sizes then."""
    found: list[tuple[str, int]] = []

    def note(descriptor: int) -> None:
        found.append((os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fdatasync", note)
    monkeypatch.setattr(os, "fsync", note)
    return found


def on_disk(log: Path, synced: list[tuple[str, int]], folder: Path) -> Episode:
    """Return the first episode of a log as it was when it was forced to the disk."""
    sizes = [size for name, size in synced if name == str(log)]
    copy = folder / "copy.trj"
    copy.write_bytes(log.read_bytes()[: sizes[-1]])
    return Episode(LogReader(copy), 0)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_ended_episode_is_on_the_disk_if_the_machine_may_fail(
    tmp_path: Path, synced: list[tuple[str, int]]
) -> None:
    folder = tmp_path / "new" / "runs"
    env = trajrec.record(gym.make("CartPole-v1"), folder, durability="machine")
    env.reset(seed=0)
    is_over = False
    n_steps = 0
    while not is_over:
        assert not synced
        is_over = env.step(n_steps % 2)[2]
        n_steps += 1
    assert {str(folder), str(folder.parent)} <= {name for name, _ in synced}
    episode = on_disk(env.path, synced, tmp_path)
    assert (episode.ending, episode.n_steps) == ("terminated", n_steps)
    env.close()
    with trajrec.episode(tmp_path / "agents", durability="machine") as ep:
        ep.side_effect("clock", lambda: 1)
    assert on_disk(ep.path, synced, tmp_path).ending == "terminated"


FORKING = """
import os, signal, sys
import gymnasium as gym
import trajrec

trajrec.episode(sys.argv[1], task="agent").__enter__().register_tool(trajrec.Tool("t", None, "read"))
env = trajrec.record(gym.make("CartPole-v1"), sys.argv[1])
env.reset(seed=0)
env.step(0)
child = os.fork()
if child == 0:
    signal.pause()
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_forked_child_does_not_keep_the_lock_of_its_dead_parent(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FORKING, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.wait()
    try:
        with trajrec.open(tmp_path) as corpus:
            endings = corpus.sql("SELECT ending FROM episodes").fetchall()
            assert endings == [("interrupted",)] * 2
        for path in tmp_path.glob("*.trj"):
            # It refuses a log that is being written.
            assert not recover(path).was_sealed
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.slow
def test_uncaught_exception_leaves_a_readable_log(tmp_path: Path) -> None:
    code = (
        "import gymnasium as gym, trajrec, sys\n"
        "env = trajrec.record(gym.make('CartPole-v1'), sys.argv[1])\n"
        "env.reset(seed=0)\n"
        "for k in range(5): env.step(k % 2)\n"
        "raise SystemExit(json)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert "NameError" in finished.stderr
    (path,) = tmp_path.glob("*.trj")
    with LogReader(path) as reader:
        assert Episode(reader, 0).actions == [0, 1, 0, 1, 0]
        assert Episode(reader, 0).ending == "interrupted"
