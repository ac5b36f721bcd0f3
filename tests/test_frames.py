"""Frames of a log are told from everything that only looks like them, and a log is read by ranges."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgspec
import numpy as np
import pytest
from conftest import Scripted, record, run
from test_crash import read

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.errors import LogCorruptError, LogError
from trajrec.log import frames, source
from trajrec.log.columns import Packer
from trajrec.log.compaction import compact
from trajrec.log.reader import LogReader
from trajrec.log.repair import recover
from trajrec.log.source import ByteSource, FileSource
from trajrec.recording.event_log import open_event_log


def flushed(folder: Path, n_episodes: int, env: gym.Env[Any, Any] | None = None) -> Path:
    """Record episodes with a flush after each; seal the log and return it."""
    recording = trajrec.record(gym.make("FrozenLake-v1") if env is None else env, folder)
    for k in range(n_episodes):
        run(recording, 1, seed=0 if k == 0 else None)
        recording.flush()
    recording.close()
    return recording.path


def unsealed(path: Path) -> bytes:
    """Return the bytes of a log without its footer and trailer."""
    with LogReader(path) as reader:
        return reader.slice(0, reader.frames[-1].end)


def chunk_spans(path: Path) -> list[tuple[int, int]]:
    """Return start and end of each chunk's frame."""
    with LogReader(path) as reader:
        return [(f.offset, f.end) for f in reader.frames if f.kind == frames.CHUNK]


def n_steps(path: Path) -> int:
    return sum(map(len, read(path).values()))


def log_in_values(folder: Path, inner: bytes) -> Path:
    """Record a log whose observations hold the bytes of another one, as no compressor changes them."""
    noise = np.frombuffer(np.random.default_rng(0).bytes(50_000), np.uint8)
    values = [np.concatenate([np.frombuffer(inner, np.uint8), noise]) for _ in range(3)]
    env = trajrec.record(Scripted(lambda k: (values[k + 1], 1.0, k == 1, False, {})), folder)
    run(env)
    env.flush()
    env.close()
    return env.path


def test_log_in_a_torn_value_gives_no_episodes(tmp_path: Path) -> None:
    inner = flushed(tmp_path / "inner", 3).read_bytes()
    path = log_in_values(tmp_path / "outer", inner)
    data = unsealed(path)
    position = data.find(inner[:200])
    assert position > 0
    # The writer was killed in the middle of the frame: all of the inner log was written.
    path.write_bytes(data[: position + len(inner)])
    with LogReader(path) as reader:
        assert not list(reader.chunks())
        assert [damage.is_tail for damage in reader.damage] == [True]
        assert not reader.is_sealed
    with trajrec.open(path.parent) as corpus:
        assert corpus.sql("SELECT count(*) FROM all_episodes").fetchall() == [(0,)]


def test_frames_of_another_log_are_refused_by_its_id(tmp_path: Path) -> None:
    path = flushed(tmp_path / "a", 2)
    other = flushed(tmp_path / "b", 2)
    truth = read(path)
    data = unsealed(path)
    start, end = chunk_spans(other)[0]
    foreign = other.read_bytes()[start:end]
    # In the middle, between two frames, and at the end.
    (first, second) = chunk_spans(path)[:2]
    path.write_bytes(data[: second[0]] + foreign + data[second[0] :] + foreign)
    with LogReader(path) as reader:
        assert [damage.reason for damage in reader.damage] == [
            f"a frame of another log ({other.stem})"
        ] * 2
    assert n_steps(path) == sum(map(len, truth.values()))
    assert first[1] == second[0]


def test_a_repeated_frame_doubles_no_steps(tmp_path: Path) -> None:
    path = flushed(tmp_path, 3)
    before = n_steps(path)
    data = unsealed(path)
    start, end = chunk_spans(path)[1]
    path.write_bytes(data + data[start:end])
    assert n_steps(path) == before
    with LogReader(path) as reader:
        (damage,) = reader.damage
    assert damage.reason == "frame 2 stands behind frame 3: it is a copy, and is left out"
    assert (damage.offset, damage.size) == (len(data), end - start)


def test_two_logs_in_one_file_give_the_first(tmp_path: Path) -> None:
    path = flushed(tmp_path / "a", 2)
    other = flushed(tmp_path / "b", 3)
    before = n_steps(path)
    for second in (path.read_bytes(), other.read_bytes()):
        joined = tmp_path / "joined.trj"
        joined.write_bytes(path.read_bytes() + second)
        assert n_steps(joined) == before
        with LogReader(joined) as reader:
            assert reader.damage
            assert reader.header.log_id == path.stem


def test_trailer_of_another_log_does_not_seal_this_one(tmp_path: Path) -> None:
    path = flushed(tmp_path / "a", 2)
    other = flushed(tmp_path / "b", 2)
    before = n_steps(path)
    path.write_bytes(unsealed(path) + other.read_bytes()[-frames.TRAILER.size :])
    assert n_steps(path) == before


def test_log_without_its_first_frame_keeps_the_others(tmp_path: Path) -> None:
    path = flushed(tmp_path, 60)
    truth = read(path)
    data = bytearray(unsealed(path))
    assert len(chunk_spans(path)) >= 60
    start = frames.Format2.first_frame
    data[start : start + 100] = bytes(100)
    path.write_bytes(data)
    assert read(path).keys() == truth.keys()
    assert n_steps(path) == sum(map(len, truth.values()))
    with LogReader(path) as reader:
        assert reader.header.log_id == path.stem
        assert reader.header.env.recreatable == (
            "the log's header is lost, so the environment is unknown"
        )
        assert Episode(reader, 0).id == episode_ids(path)[0]


def episode_ids(path: Path) -> list[str]:
    from trajrec.log.schema import episode_id

    return [episode_id(path.stem, k) for k in range(60)]


def test_large_log_keeps_copies_of_its_header(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    env = Scripted(lambda k: (noise.random(2000), 1.0, k == 19, False, {}))
    path = flushed(tmp_path, 3, env)
    with LogReader(path) as reader:
        header = reader.header
        kinds = [frame.kind for frame in reader.frames]
    # At 64 KiB and at 256 KiB; each episode takes 300 kB.
    assert kinds.count(frames.HEADER_COPY) == 2
    data = bytearray(unsealed(path))
    start = frames.Format2.first_frame
    data[start : start + 100] = bytes(100)
    path.write_bytes(data)
    with LogReader(path) as reader:
        assert reader.header == header


def test_damaged_columns_lose_steps_but_no_events(tmp_path: Path) -> None:
    path = flushed(tmp_path, 3)
    truth = read(path)
    with LogReader(path) as reader:
        chunk = reader.chunk(2)
        column = next(c for c in chunk.columns() if c.kind != "const" and c.size)
        end = reader.frames[2].end
        (ends,) = [e for e in chunk.record.events if type(e).__name__ == "EpisodeEnd"]
    data = bytearray(path.read_bytes())
    data[end - column.size] ^= 1
    path.write_bytes(data)
    with LogReader(path) as reader:
        damaged = reader.chunk(2)
        assert damaged.record.events == chunk.record.events
        assert damaged.record.segments == []
        (damage,) = reader.damage
        assert damage.reason == (
            "a frame's columns are damaged: its steps are lost, its events are not"
        )
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.sql(
            "SELECT number, ending, n_steps, missing_steps FROM episodes ORDER BY number"
        ).fetchall()
        assert rows[1] == (1, ends.ending, ends.n_steps, ends.n_steps)
        assert corpus.problems()
    kept = read(path)
    assert kept.keys() >= {0, 2}
    assert len(kept.get(1, {})) == 0
    assert sum(map(len, kept.values())) == sum(map(len, truth.values())) - ends.n_steps


def test_each_column_has_a_checksum_of_its_own(tmp_path: Path) -> None:
    path = record(gym.make("CartPole-v1"), tmp_path, 3)
    with LogReader(path) as reader:
        for chunk in reader.chunks():
            assert chunk.columns()
            for column in chunk.columns():
                if column.kind != "const":
                    assert column.checksum == zlib.crc32(chunk.column_bytes(column))
        chunk = reader.chunk(1)
        index = next(k for k, c in enumerate(chunk.columns()) if c.kind != "const")
        forged = msgspec.structs.replace(chunk.record.columns[index], checksum=1)
        chunk.record.columns[index] = forged
        with pytest.raises(LogCorruptError, match="does not match its checksum"):
            chunk.rows(index)


def add_frame(path: Path, kind: int, flags: int = 0) -> None:
    """Append a frame of some kind to an unsealed log."""
    with LogReader(path) as reader:
        sequence = reader.frames[-1].sequence + 1
    meta = Packer().compress(b"\x90")
    (head, *rest) = frames.pack_frame(
        kind, sequence, log_id=bytes.fromhex(path.stem), meta=meta, meta_raw=1
    )
    head = head[:5] + bytes([flags]) + head[6:-4]
    path.write_bytes(
        path.read_bytes() + head + zlib.crc32(head).to_bytes(4, "little") + b"".join(rest)
    )


def test_frames_of_an_unknown_kind_are_skipped_and_kept(tmp_path: Path) -> None:
    path = flushed(tmp_path, 2)
    before = n_steps(path)
    path.write_bytes(unsealed(path))
    add_frame(path, kind=77)
    assert n_steps(path) == before
    assert trajrec.open(tmp_path).problems() == []
    from trajrec.log.repair import recover

    recover(path)
    compact(path)
    with LogReader(path) as reader:
        assert [frame.kind for frame in reader.frames].count(77) == 1
    assert n_steps(path) == before


def test_frames_with_unknown_flags_are_refused_by_name(tmp_path: Path) -> None:
    path = flushed(tmp_path, 2)
    before = n_steps(path)
    path.write_bytes(unsealed(path))
    add_frame(path, frames.CHUNK, flags=4)
    with LogReader(path) as reader:
        assert len(list(reader.chunks())) == 2
        (damage,) = reader.damage
        assert "flags 4 are unknown; upgrade trajrec" in damage.reason
    assert n_steps(path) == before


def test_seal_names_the_contents_of_a_log(tmp_path: Path) -> None:
    path = flushed(tmp_path, 12)
    with LogReader(path) as reader:
        trailer = reader.trailer
        assert trailer is not None
        assert trailer.log_id == bytes.fromhex(path.stem)
        assert trailer.generation == 0
        seal = frames.Seal()
        for frame in reader.frames:
            seal.add(reader.slice(frame.offset, frame.offset + frames.FRAME.size))
        assert trailer.content == seal.digest()
    compact(path)
    with LogReader(path) as reader:
        assert reader.trailer is not None
        assert reader.trailer.log_id == trailer.log_id
        assert reader.trailer.content != trailer.content
        assert reader.trailer.generation == 1


@pytest.mark.parametrize("name", ["os", "_open_files"])
def test_a_source_may_outlive_its_module(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python prints what `__del__` raises when the interpreter ends, and goes on."""
    path = tmp_path / "a.trj"
    path.write_bytes(b"abc")
    file = FileSource(path)
    with monkeypatch.context() as gone:
        gone.setattr(source, name, None)
        file.__del__()
    file.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system forks no process")
@pytest.mark.parametrize("holder", ["source._open_files", "file", "remote"])
def test_a_forked_child_reads_though_a_thread_was_reading(tmp_path: Path, holder: str) -> None:
    path = tmp_path / "log.trj"
    path.write_bytes(b"123456789")
    # In a process of its own, which has no other threads.
    program = f"""
import os, pathlib, signal, threading
from trajrec.log import source
from trajrec.log.remote import RemoteSource
path = pathlib.Path({str(path)!r})
file = source.FileSource(path)
remote = RemoteSource(path, "memory://x", 9)
remote._request = lambda starts, ends: [b"123456789"]
is_held = threading.Event()
is_over = threading.Event()

def hold():
    with {holder}._lock:
        is_held.set()
        is_over.wait()

thread = threading.Thread(target=hold)
thread.start()
is_held.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    ok = file.range(2, 4) == b"34" and remote.range(2, 4) == b"34"
    os._exit(0 if ok else 1)
ended = os.waitpid(child, 0)[1]
is_over.set()
thread.join()
os._exit(ended != 0)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], timeout=60, check=False)
    assert done.returncode == 0


class CountingSource(FileSource):
    """A file that counts the requests that an object storage would get."""

    n_requests = 0

    def range(self, start: int, end: int) -> bytes:
        self.n_requests += 1
        return super().range(start, end)

    def ranges(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        self.n_requests += 1
        return [FileSource.range(self, start, end) for start, end in spans]


def many_episodes(folder: Path, n_episodes: int) -> Path:
    """Record many short episodes."""
    env = trajrec.record(Scripted(lambda k: (np.full(2, k), float(k), k == 2, False, {})), folder)
    for seed in range(n_episodes):
        env.reset(seed=seed)
        for _ in range(3):
            env.step(0)
    env.close()
    return env.path


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("n_episodes", [100, 12_000])
def test_all_episodes_are_listed_in_two_reads(n_episodes: int, tmp_path: Path) -> None:
    path = many_episodes(tmp_path, n_episodes)
    source = CountingSource(path)
    with LogReader(path, source) as reader:
        episodes = reader.episodes()
        assert source.n_requests <= 2
        assert [e.seed for e in episodes] == list(range(n_episodes))
        assert {(e.first_step, e.end_step, e.ending, e.total_reward) for e in episodes} == {
            (0, 3, "terminated", 3.0)
        }
        # One step of one episode takes one more read.
        before = source.n_requests
        number = n_episodes // 2
        (index,) = set(reader.chunks_of(number)) - set(reader.chunks_of(0)) or {1}
        episode = Episode(reader, number, [index])
        assert episode.step_at(1).observation.tolist() == [1, 1]
        assert source.n_requests == before + 1


def test_footer_says_the_same_as_the_chunks(tmp_path: Path) -> None:
    recording = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    run(recording, 30)
    recording.reset(seed=5)
    recording.step(0)
    recording.flush()
    recording.close()
    with LogReader(recording.path) as reader:
        summaries = reader.episodes()
        assert len(summaries) == 31
        for summary in summaries:
            chunks = reader.chunks_of(summary.number)
            episode = Episode(reader, summary.number, chunks)
            assert episode.start is not None
            assert episode.end is not None
            assert (summary.first_frame, summary.last_frame) == (chunks[0], chunks[-1])
            assert (summary.first_step, summary.end_step) == (
                episode.first_step,
                episode.end_step,
            )
            assert (summary.seed, summary.ending) == (episode.start.seed, episode.ending)
            assert (summary.started_ns, summary.ended_ns) == (
                episode.start.time_ns,
                episode.end.time_ns,
            )
            assert summary.total_reward == episode.total_reward


def test_footer_names_tasks_nesting_and_stored_values(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, task="outer") as ep:
        ep.tool(lambda: "x" * 1000, name="big")
        ep.call("big")
        with trajrec.episode(tmp_path, task="inner") as inner:
            inner.stop("done")
    trajrec.close_logs()
    (path,) = tmp_path.glob("*.trj")
    source = CountingSource(path)
    with LogReader(path, source) as reader:
        outer, nested = reader.episodes()
        assert (outer.kind, outer.task, outer.parent_id) == ("rollout", "outer", "")
        assert (nested.kind, nested.task, nested.parent_id) == ("nested", "inner", ep.id)
        assert reader.footer is not None
        digest = reader.footer.blobs.digests[:16]
        before = source.n_requests
        assert b"x" * 1000 in reader.blob(digest)
        assert source.n_requests == before + 1


def test_log_that_is_cut_while_open_kills_no_reader(tmp_path: Path) -> None:
    path = flushed(tmp_path, 5)
    with LogReader(path) as reader:
        size = reader.size
        os.truncate(path, size // 2)
        with pytest.raises(LogCorruptError, match="there is no frame as the footer lists it"):
            reader.chunk(len(reader.frames) - 1)
        with pytest.raises(LogCorruptError, match="became shorter while it was read"):
            reader.slice(0, size)


def test_log_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    path = flushed(tmp_path / "a", 2)
    other = flushed(tmp_path / "b", 3)
    with LogReader(path) as reader:
        assert not reader.refresh()
        os.replace(other, path)
        assert reader.refresh()
        assert reader.header.log_id == other.stem
        assert len(reader.episodes()) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    path = tmp_path / "pipe.trj"
    os.mkfifo(path)
    with pytest.raises(LogError, match="not a regular file"):
        LogReader(path)


def test_file_of_false_frames_is_refused_in_time(tmp_path: Path) -> None:
    path = flushed(tmp_path, 1)
    log_id = bytes.fromhex(path.stem)
    size = 200_000
    # Each header promises all bytes up to the end of the file, with a wrong checksum.
    parts = []
    for k in range(size // frames.FRAME.size):
        head = frames.FRAME.pack(
            frames.FRAME_MAGIC,
            2,
            0,
            0,
            k + 9,
            size - (k + 1) * frames.FRAME.size,
            9,
            0,
            1,
            0,
            log_id,
            0,
        )[:-4]
        parts.append(head + zlib.crc32(head).to_bytes(4, "little"))
    path.write_bytes(unsealed(path) + b"".join(parts))
    start = time.process_time()
    with LogReader(path) as reader:
        assert len(list(reader.chunks())) == 1
        assert reader.damage
    assert time.process_time() - start < 5


def test_source_reads_ranges_like_a_slice(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = bytes(range(256)) * 10
    path.write_bytes(data)
    source: ByteSource = FileSource(path)
    assert source.size == len(data)
    assert source.ranges([(0, 5), (250, 260), (2550, 9999), (9999, 10000), (5, 5)]) == [
        data[0:5],
        data[250:260],
        data[2550:],
        b"",
        b"",
    ]
    source.close()
    source.close()
    with pytest.raises(LogError, match="the reader was closed"):
        source.range(0, 1)


ODD_REWARDS: list[tuple[list[Any], float]] = [
    ([1, 2.5, True], 4.5),
    ([np.int8(1), 1, np.float32(0.5)], 2.5),
    ([np.array(2.0), np.array(3.0), np.array(4.0)], 9.0),
    (["1", "2", "3"], np.nan),
    ([1.0, np.array([1.0]), 1.0], 3.0),
    ([1.0, np.array([1.0, 2.0]), 1.0], np.nan),
    ([1.0, [1.0], 1.0], np.nan),
    ([1.0, None, 1.0], np.nan),
    ([2**2000, 1, 1], np.nan),
]


@pytest.mark.parametrize(("odd", "expected"), ODD_REWARDS)
def test_footer_sums_the_rewards_of_each_episode_alone(
    odd: list[Any], expected: float, tmp_path: Path
) -> None:
    rewards = iter([*odd, 1.0, 1.0, 1.0, *odd])

    def step(k: int) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return k, next(rewards) if k >= 0 else None, k == 2, False, {}

    path = record(Scripted(step), tmp_path, 3)
    for _ in range(2):
        with LogReader(path) as reader:
            totals = [summary.total_reward for summary in reader.episodes()]
        assert np.array_equal(totals, [expected, 3.0, expected], equal_nan=True)
        compact(path)


def test_checks_behind_the_last_step_add_no_step(tmp_path: Path) -> None:
    @trajrec.verifier(id="slow", version="1")
    def slow(world: Any) -> bool:
        # The end is written before the verdict.
        recording.flush()
        return True

    env = Scripted(lambda k: (np.zeros(2), 1.0, k == 2, False, {}))
    recording = trajrec.record(env, tmp_path, checks=[slow])
    run(recording, 2)
    recording.close()
    with LogReader(recording.path) as reader:
        assert [summary.end_step for summary in reader.episodes()] == [3, 3]


def test_footer_counts_the_steps_of_an_interrupted_agent(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, task="t", watch={"n": 1}) as ep:
        ep.tool(time.time)
        ep.call("time")
        ep.side_effect("clock", time.time)
        ep.check(trajrec.verifier(id="any", version="1")(lambda world: True))
        open_event_log(tmp_path, "stop-recording", "process").flush()
        path = Path(shutil.copy(ep.path, tmp_path / "killed.trj"))
    trajrec.close_logs()
    recover(path)
    with LogReader(path) as reader:
        (summary,) = reader.episodes()
        assert (summary.end_step, summary.ending) == (Episode(reader, 0).end_step, "")
        assert summary.end_step == 1
