"""The journal: it has all that the log does not have yet, and nothing that was not recorded."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Scripted, Witness, run
from tiers import Share, suite, third_slow

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.errors import LogError, LogWriteError
from trajrec.log import columns, flusher, items, journal, journal_reader, mounts
from trajrec.log.events import Blob
from trajrec.log.journal import FIRST_HALF, MAX_HALF_BYTES, journal_path
from trajrec.log.reader import LogReader
from trajrec.log.repair import recover
from trajrec.recording.event_log import close_logs, open_event_log
from trajrec.values.diff import is_same

pytestmark = pytest.mark.usefixtures("no_flusher")

Rows = dict[tuple[int, int], tuple[Any, ...]]


def rows(path: Path) -> Rows:
    """Return all readable steps, by episode and number."""
    with LogReader(path) as reader:
        numbers = {event.episode for chunk in reader.chunks() for event in chunk.record.events}
        return {
            (number, step.step): (step.action, step.observation, step.reward, step.info)
            for number in sorted(numbers)
            for step in Episode(reader, number).steps()
        }


def numbers(k: int) -> Any:
    return np.array([k, 2 * k], np.float32), float(k), k == 29, False, {}


def endless(k: int) -> Any:
    return np.full(20, k), 1.0, False, False, {}


def mixed(k: int) -> Any:
    infos: list[dict[str, Any]] = [{}, {"k": k}, {"k": "x"}, {"other": None}]
    reward: Any = [1, 1.5, np.float32(2), 2**70][k % 4]
    return {"a": k, "b": (np.full(3, k), "lamp")}, reward, k == 29, False, infos[k % 4]


def frames(k: int) -> Any:
    frame = np.zeros((30, 40), np.uint8)
    frame[k % 30, : k % 7] = 200
    return frame, 1.0, k == 29, False, {}


def stacks(k: int) -> Any:
    return (
        np.stack([frames(max(0, k - back))[0] for back in (3, 2, 1, 0)]),
        1.0,
        k == 29,
        False,
        {},
    )


def shapes(k: int) -> Any:
    return np.zeros(1 + k // 10), 1.0, k == 29, False, {}


KINDS = {f.__name__: f for f in (numbers, mixed, frames, stacks, shapes)}
STATES: dict[str, Any] = {
    "none": {"state": False},
    "every": {"state": lambda env: {"k": env.unwrapped.k}},
    "digests": {"state": lambda env: np.arange(env.unwrapped.k), "keep_states": "digests"},
    "keys": {"state": lambda env: np.arange(env.unwrapped.k), "keep_states": "keys"},
}


@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize("kind", KINDS)
def test_log_reads_the_same_before_and_after_its_close(
    kind: str, states: str, tmp_path: Path
) -> None:
    witness = Witness(Scripted(KINDS[kind]))
    env = trajrec.record(witness, tmp_path, **STATES[states])
    run(env, 2)
    env.reset(seed=5)
    for _ in range(7):
        env.step(3)
    with LogReader(env.path) as reader:
        assert reader.journal
        before = rows(env.path)
        states_before = [Episode(reader, k).states for k in range(3)]
        digests_before = [Episode(reader, k).state_digests for k in range(3)]
    assert len(before) == 67
    for (number, step), row in before.items():
        truth = witness.episodes[number]
        assert is_same(row[1], truth["observations"][step + 1])
        assert is_same(row[2], truth["rewards"][step])
        assert is_same(row[3], truth["infos"][step])
    env.close()
    assert is_same(rows(env.path), before)
    with LogReader(env.path) as reader:
        assert not reader.journal
        assert is_same([Episode(reader, k).states for k in range(3)], states_before)
        assert is_same([Episode(reader, k).state_digests for k in range(3)], digests_before)


@pytest.mark.parametrize("kind", KINDS)
def test_recovered_log_has_the_items_of_its_journal(kind: str, tmp_path: Path) -> None:
    env = trajrec.record(Scripted(KINDS[kind]), tmp_path / "runs")
    run(env, 1)
    env.flush()
    run(env, 1)
    killed = tmp_path / "killed.trj"
    shutil.copy(env.path, killed)
    shutil.copy(journal_path(env.path), journal_path(killed))
    truth = rows(env.path)
    env.close()
    assert is_same(rows(killed), truth)
    recovery = recover(killed)
    assert not recovery.was_sealed
    assert not recovery.damaged_copy
    assert not journal_path(killed).exists()
    assert is_same(rows(killed), truth)
    assert recover(killed).was_sealed


def test_copy_without_the_journal_is_an_older_log(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(numbers), tmp_path / "runs")
    run(env, 1)
    env.flush()
    run(env, 1)
    copy = tmp_path / "copy.trj"
    shutil.copy(env.path, copy)
    env.close()
    assert len(rows(copy)) == 30


def test_journal_beside_a_sealed_log_is_stale(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(numbers), tmp_path)
    run(env, 1)
    stale = journal_path(env.path).read_bytes()
    run(env, 1)
    env.close()
    truth = rows(env.path)
    journal_path(env.path).write_bytes(stale)
    with LogReader(env.path) as reader:
        assert not reader.journal
    assert is_same(rows(env.path), truth)
    assert recover(env.path).was_sealed
    assert not journal_path(env.path).exists()


def test_journal_of_another_log_is_not_read(tmp_path: Path) -> None:
    first = trajrec.record(Scripted(numbers), tmp_path)
    second = trajrec.record(Scripted(numbers), tmp_path)
    run(first, 1)
    run(second, 1)
    second.flush()
    shutil.copy(journal_path(first.path), journal_path(second.path))
    assert len(rows(second.path)) == 30
    first.close()
    second.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, Rows]:
    """A log of which one episode is written and one lies in the journal: log, journal, rows."""
    env = trajrec.record(Scripted(mixed), tmp_path_factory.mktemp("small"))
    run(env, 1)
    env.flush()
    run(env, 1)
    log = env.path.read_bytes()
    contents = journal_path(env.path).read_bytes()
    truth = rows(env.path)
    env.close()
    return log, contents, truth


@suite("log", fixed=150, drawn=2000, whole=None)
def test_flipped_bit_of_a_journal_is_detected_or_harmless(
    share: Share, small: tuple[bytes, bytes, Rows], tmp_path: Path
) -> None:
    log, contents, truth = small
    path = tmp_path / "log.trj"
    path.write_bytes(log)
    used = len(contents.rstrip(b"\0"))
    for bit in share.of(range(8 * used)):
        flipped = bytearray(contents)
        flipped[bit // 8] ^= 1 << bit % 8
        journal_path(path).write_bytes(flipped)
        readable = rows(path)
        # The written episode is whole, and the journal has its items up to the flipped one.
        assert [key for key in truth if key[0] == 0] == [key for key in readable if key[0] == 0]
        assert all(is_same(row, truth[key]) for key, row in readable.items())


@suite("log", fixed=30, drawn=300, whole=3000)
def test_foreign_bytes_in_a_journal_are_no_items(
    share: Share, small: tuple[bytes, bytes, Rows], tmp_path: Path
) -> None:
    log, contents, truth = small
    path = tmp_path / "log.trj"
    path.write_bytes(log)
    rng = share.rng()
    for _ in range(share.size or 0):
        damaged = bytearray(contents)
        start = int(rng.integers(0, 1 << 15))
        size = int(rng.integers(1, 1 << 12))
        damaged[start : start + size] = rng.bytes(size)
        journal_path(path).write_bytes(damaged[: int(rng.integers(0, len(contents)))])
        readable = rows(path)
        assert len(readable) >= 30
        assert all(is_same(row, truth[key]) for key, row in readable.items())


def count_writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    written: list[int] = []
    original = os.pwrite

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        written.append(offset)
        return original(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    return written


def test_journal_is_written_by_calls_where_maps_are_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "has_coherent_maps", lambda path: False)
    written = count_writes(monkeypatch)
    env = trajrec.record(Scripted(numbers), tmp_path)
    run(env, 2)
    assert len(written) > 60
    assert len(rows(env.path)) == 60
    env.close()
    assert len(rows(env.path)) == 60


MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 {device} / / rw,relatime shared:1 - {system} /dev/vda rw,discard
"""


@pytest.mark.parametrize(
    ("system", "is_trusted"),
    [("ext4", True), ("xfs", True), ("tmpfs", True), ("nfs4", False), ("fuse.sshfs", False),
     ("btrfs", False), ("9p", False), ("cifs", False)],
)  # fmt: skip
def test_only_local_file_systems_are_trusted_with_maps(
    system: str, is_trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = os.stat(tmp_path).st_dev
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS.format(device=f"{os.major(device)}:{os.minor(device)}", system=system))
    monkeypatch.setattr(mounts, "MOUNTS", table)
    assert mounts.has_coherent_maps(tmp_path) == is_trusted
    table.unlink()
    assert not mounts.has_coherent_maps(tmp_path)


def test_space_is_claimed_by_writing_where_it_cannot_be_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    env = trajrec.record(Scripted(numbers), tmp_path)
    blocks = journal_path(env.path).stat().st_blocks
    assert 512 * blocks >= 2 * journal.HALF_BYTES
    run(env, 1)
    assert len(rows(env.path)) == 30
    env.close()


def test_full_disk_shows_when_the_recorder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(LogWriteError, match="No space left on device"):
        trajrec.record(Scripted(numbers), tmp_path)
    assert not list(tmp_path.iterdir())


def long(size: int) -> Callable[[int], Any]:
    return lambda k: (bytes([k % 256]) * size, float(k), False, False, {})


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(("size", "n_steps"), [(50, 9000), (3000, 3000), (200_000, 60)])
def test_full_journal_is_emptied_without_the_flusher(
    size: int, n_steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its thread never runs: as if C code kept the interpreter's lock all the time.
    monkeypatch.setattr(flusher.Flusher, "wake_up", lambda self: None)
    env = trajrec.record(Scripted(long(size)), tmp_path)
    env.reset()
    for k in range(n_steps):
        env.step(k)
        if k % 997 == 0 or k == n_steps - 1:
            with LogReader(env.path) as reader:
                assert not reader.damage
                assert Episode(reader, 0).actions == list(range(k + 1))
    assert journal_path(env.path).stat().st_size <= 2 * MAX_HALF_BYTES + 64
    env.close()
    with LogReader(env.path) as reader:
        assert Episode(reader, 0).actions == list(range(n_steps))


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("size", [100, 100_000, 3_000_000])
def test_events_of_any_size_are_in_the_journal_or_in_the_log(size: int, tmp_path: Path) -> None:
    log = open_event_log(tmp_path, "raise", "process")
    n = 30
    for k in range(n):
        log.add(blob(k, size))
        with LogReader(log.path) as reader:
            seen = [event for chunk in reader.chunks() for event in chunk.record.events]
        assert seen == [blob(j, size) for j in range(k + 1)]
    close_logs()


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("part", ["obs", "info", "action"])
@pytest.mark.parametrize(
    "large", [b"x" * 3_000_000, "x" * 3_000_000, {"a": np.zeros(400_000), "b": "x"}]
)
def test_steps_larger_than_the_journal_are_recorded(part: str, large: Any, tmp_path: Path) -> None:
    def result_of(k: int) -> Any:
        info = {"large": large} if part == "info" else {}
        return (large if part == "obs" else k), 1.0, k == 2, False, info

    env = trajrec.record(Scripted(result_of), tmp_path, redact=False)
    run(env, 2, policy=lambda obs: large if part == "action" else 0)
    env.close()
    with LogReader(env.path) as reader:
        for number in range(2):
            for step in Episode(reader, number).steps():
                value = {"obs": step.observation, "info": step.info, "action": step.action}[part]
                assert is_same(value, {"large": large} if part == "info" else large)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("side", "n_steps", "max_bytes"), [(850, 30, 60_000), (1500, 12, 120_000), (2100, 3, 4_000_000)]
)
def test_large_pictures_are_told_by_their_changes(
    side: int, n_steps: int, max_bytes: int, tmp_path: Path
) -> None:
    first = np.random.default_rng(0).integers(0, 255, (side // 50, side // 50, 3), np.uint8)
    first = first.repeat(50, 0).repeat(50, 1)

    def picture(k: int) -> Any:
        changed = first.copy()
        changed[10 : 15 + 5 * k, 20:30] = k + 1
        return changed

    env = trajrec.record(Scripted(lambda k: (picture(k), 1.0, False, False, {})), tmp_path)
    env.reset()
    for k in range(n_steps):
        env.step(0)
        if k % 5 == 2:
            with LogReader(env.path) as reader:
                seen = Episode(reader, 0).observations
            assert len(seen) == k + 2
            assert np.array_equal(seen[-1], picture(k))
    env.close()
    assert env.path.stat().st_size < max_bytes
    with LogReader(env.path) as reader:
        for k, seen in enumerate(Episode(reader, 0).observations[1:]):
            assert np.array_equal(seen, picture(k))


@pytest.mark.parametrize("part", ["obs", "info"])
def test_pictures_of_any_number_are_read_back(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A chunk has so many bytes of pictures; each picture has 30 kB, and changes by some.
    monkeypatch.setattr(items, "MAX_COLUMN_BYTES", 1_000_000)
    monkeypatch.setattr(columns, "MAX_PART", 2_000_000)

    def picture(k: int) -> Any:
        changed = np.full((100, 100, 3), 7, np.uint8)
        changed[:5, : k % 100] = 200
        return changed

    def result_of(k: int) -> Any:
        info = {"picture": picture(k)} if part == "info" else {}
        return (picture(k) if part == "obs" else float(k)), 1.0, False, False, info

    env = trajrec.record(Scripted(result_of), tmp_path)
    env.reset()
    for _ in range(400):
        env.step(0)

    def check() -> None:
        with LogReader(env.path) as reader:
            assert not reader.damage
            steps = list(Episode(reader, 0).steps())
        assert len(steps) == 400
        for k, step in enumerate(steps):
            seen = step.observation if part == "obs" else step.info["picture"]
            assert np.array_equal(seen, picture(k))

    check()
    env.close()
    check()


def blob(k: int, size: int) -> Blob:
    return Blob(k, k.to_bytes(16, "big"), bytes([k % 256]) * size)


@pytest.mark.slow
def test_threads_share_the_journal_of_one_log(tmp_path: Path) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    log = open_event_log(tmp_path, "raise", "process")
    try:

        def add(thread: int) -> None:
            for k in range(2000):
                log.add(blob(1000 * thread + k % 1000, 300 if k % 50 else 30_000))

        threads = [threading.Thread(target=add, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    with LogReader(log.path) as reader:
        assert not reader.damage
        live = [event for chunk in reader.chunks() for event in chunk.record.events]
    close_logs()
    with LogReader(log.path) as reader:
        assert [event for chunk in reader.chunks() for event in chunk.record.events] == live
    for thread in range(4):
        own = [event.episode for event in live if event.episode // 1000 == thread]
        assert own == [1000 * thread + k % 1000 for k in range(2000)]


def tail(path: Path) -> Iterator[int]:
    """Yield the number of steps that a reader sees, and check them."""
    reader = LogReader(path)
    while True:
        reader.refresh()
        assert not reader.damage
        actions = Episode(reader, 0).actions
        assert actions == list(range(len(actions)))
        yield len(actions)


def test_reader_follows_a_recording_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flusher, "FLUSH_S", 0.01)
    env = trajrec.record(Scripted(endless), tmp_path)
    env.reset()
    has_seen_enough = threading.Event()
    n_recorded = []

    def record() -> None:
        n_steps = 0
        # A fast machine could be done before the reader looks twice.
        while n_steps < 12_000 or not (has_seen_enough.is_set() or n_steps >= 500_000):
            env.step(n_steps)
            n_steps += 1
        n_recorded.append(n_steps)

    thread = threading.Thread(target=record)
    thread.start()
    seen = [0]
    for n_steps in tail(env.path):
        assert n_steps >= seen[-1]
        seen.append(n_steps)
        if len(set(seen)) > 3 or n_recorded:
            break
    has_seen_enough.set()
    thread.join()
    assert len(set(seen)) > 3
    assert next(tail(env.path)) == n_recorded[0]
    env.close()


@pytest.mark.slow
def test_sql_sees_each_step_of_a_running_recording(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=0)
    query = "SELECT ending, n_steps, total_reward, missing_steps FROM episodes ORDER BY number"
    with trajrec.open(tmp_path) as corpus:
        for k in range(5):
            env.step(k % 2)
            assert corpus.sql(query).fetchall() == [("running", k + 1, k + 1.0, 0)]
            assert corpus.sql("SELECT count(*) FROM steps").fetchall() == [(k + 1,)]
            if k == 2:
                env.flush()
        (episode,) = corpus.episodes()
        assert episode.actions == [0, 1, 0, 1, 0]
        env.reset(seed=1)
        env.close()
        assert corpus.sql(query).fetchall() == [("abandoned", 5, 5.0, 0)]
        assert corpus.sql("SELECT count(*) FROM steps").fetchall() == [(5,)]


@pytest.mark.slow
def test_sql_sees_each_call_of_a_running_agent(tmp_path: Path) -> None:
    items = {"lamp": 1}
    with trajrec.episode(tmp_path, task="shelf", watch=items) as ep:
        ep.register_tool(trajrec.Tool("put", None, "write"))
        for k in range(4):
            items["lamp"] = k + 2
            ep.execute("put", {"k": k}, run=lambda k=k: k)
            with trajrec.open(tmp_path) as corpus:
                calls = corpus.sql("SELECT tool, result FROM attempts ORDER BY step").fetchall()
                assert calls == [("put", str(j)) for j in range(k + 1)]
                (changes,) = corpus.sql("SELECT count(*) FROM state_changes").fetchall()
                assert changes == (k + 1,)
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT ending FROM episodes").fetchall() == [("terminated",)]


def test_journal_without_its_permission_is_an_error_of_its_log(tmp_path: Path) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        pytest.skip("root may read everything")
    env = trajrec.record(Scripted(numbers), tmp_path)
    run(env, 1)
    journal_path(env.path).chmod(0)
    with pytest.raises(LogError, match="cannot be read"):
        LogReader(env.path)
    env.close()


def test_a_new_half_of_the_journal_makes_no_chunk_of_one_row(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=0)
    for k in range(12_000):
        *_, terminated, _, _ = env.step(k % 2)
        if terminated:
            env.reset()
    env.close()
    with LogReader(env.path) as reader:
        sizes = [chunk.n_obs for chunk in reader.chunks()]
    assert min(sizes[:-1]) > 1000


class Interrupted(io.FileIO):
    """A journal whose first whole read stops in the middle, while the writer goes on."""

    go_on: Callable[[], None]
    n_reads = 0

    def readall(self) -> bytes:
        Interrupted.n_reads += 1
        if self.n_reads > 1:
            return super().readall()
        size = os.fstat(self.fileno()).st_size
        first = self.read(FIRST_HALF + (size - FIRST_HALF) // 2)
        Interrupted.go_on()
        return first + super().readall()


def test_read_while_the_halves_change_has_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = trajrec.record(Scripted(endless), tmp_path)
    env.reset()
    n_steps = 0

    def record_until_the_second_half_begins() -> None:
        nonlocal n_steps
        while len(journal_reader.read_journal(env.path)) < 2:
            for _ in range(500):
                env.step(n_steps)
                n_steps += 1

    for _ in range(500):
        env.step(n_steps)
        n_steps += 1
    monkeypatch.setattr(Interrupted, "go_on", record_until_the_second_half_begins, raising=False)
    monkeypatch.setattr(
        journal_reader, "open", lambda path, mode, buffering: Interrupted(path), raising=False
    )
    with LogReader(env.path) as reader:
        assert Interrupted.n_reads > 1
        assert not reader.damage
        assert Episode(reader, 0).actions == list(range(n_steps))
    env.close()


@pytest.mark.slow
@third_slow("log")
@pytest.mark.parametrize("lost", ["frames of the log", "middle of the journal"])
def test_items_lost_before_others_in_the_journal_are_damage(lost: str, tmp_path: Path) -> None:
    """As after a power failure, when later pages were kept and earlier ones not."""
    env = trajrec.record(Scripted(lambda k: (k, 1.0, False, False, {})), tmp_path)
    env.reset()
    # No step is in it: the frames of the log are lost.
    copy = tmp_path / "copies" / "copy.trj"
    copy.parent.mkdir()
    shutil.copy(env.path, copy)
    first = 0 if lost == "middle of the journal" else 1
    halves: list[journal_reader.Half] = []
    while len(halves) < 2 or halves[0].first_number < first or not halves[1].records:
        for _ in range(10):
            env.step(0)
        halves = journal_reader.read_journal(env.path)
    data = bytearray(journal_path(env.path).read_bytes())
    if lost == "middle of the journal":
        middle = (FIRST_HALF + len(data)) // 2
        data[10_000:middle] = bytes(middle - 10_000)
    journal_path(copy).write_bytes(data)
    env.close()
    (problem,) = trajrec.open(copy.parent).problems()
    assert "neither in the log nor in its journal" in problem.reason
    with LogReader(copy) as reader:
        (damage,) = reader.damage
        end = halves[0].first_number or halves[1].first_number
        assert re.fullmatch(
            rf"items \d+ to {end - 1} are neither in the log nor in its journal", damage.reason
        )
        assert reader.has_losses
