"""A record that contradicts itself, its frame or the log costs its frame, and is named."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import zstandard
from conftest import Scripted, run
from fuzz_parts import Log, Part, put_together, take_apart
from test_crash import Rows, assert_within, read
from tiers import mostly_deep

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.episode import Episode
from trajrec.errors import DecodeError, EncodeError, LogCorruptError, LogError
from trajrec.log import frames, schema
from trajrec.log.chunk import _check_digests
from trajrec.log.reader import LogReader
from trajrec.log.repair import recover
from trajrec.log.rows import ColumnRows
from trajrec.values import codec, item_count

N_CHUNKS = 4
COLUMN = {name: k for k, name in enumerate(schema.Column.__struct_fields__)}
EPISODE, FIRST, N, HAS_RESET = range(4)


def result(k: int) -> Any:
    observation = {"place": np.full(2, k, np.float32), "text": f"row {k}"}
    info = {"n": k} if k % 2 else {}
    return observation, float(k), k == 5, False, info


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of four chunks with two episodes each."""
    env = trajrec.record(Scripted(result), tmp_path_factory.mktemp("log"))
    for k in range(N_CHUNKS):
        run(env, 2, seed=0 if k == 0 else None)
        env.flush()
    env.close()
    return env.path


def column(record: Any, name: str) -> Any:
    return next(column for column in record[2] if column[COLUMN["name"]] == name)


def put(record: Any, name: str, field: str, value: Any) -> None:
    column(record, name)[COLUMN[field]] = value


def nested(n: int) -> Any:
    value: Any = ["leaf", 0]
    for _ in range(n):
        value = ["tuple", [value]]
    return value


def event(record: Any, tag: str) -> Any:
    return next(event for event in record[4] if event[0] == tag)


CONTRADICTIONS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "negative episode": (lambda r: r[1][0].__setitem__(EPISODE, -1), "Expected `int` >= 0"),
    "negative step": (lambda r: r[1][0].__setitem__(FIRST, -5), "Expected `int` >= 0"),
    "huge step": (lambda r: r[1][0].__setitem__(FIRST, 2**31), "Expected `int` <= 21"),
    "step beyond the last": (
        lambda r: r[1][0].__setitem__(FIRST, 2**31 - 3),
        "Expected `int` <= 2146435071",
    ),
    "negative count": (lambda r: r[1][0].__setitem__(N, -1), "Expected `int` >= 0"),
    "huge count": (lambda r: r[1][0].__setitem__(N, 2**30), "more than a chunk may have"),
    "one step more": (lambda r: r[1][0].__setitem__(N, 7), "rows of 1[35]"),
    "no reset": (lambda r: r[1][0].__setitem__(HAS_RESET, False), "of 13"),
    "steps out of order": (
        lambda r: r[1][1].__setitem__(EPISODE, r[1][0][EPISODE]),
        "not in order",
    ),
    "column beyond its frame": (lambda r: put(r, "action", "offset", 10**6), "does not follow"),
    "column before its frame": (lambda r: put(r, "action", "offset", -1), "Expected `int` >= 0"),
    "overlapping columns": (lambda r: put(r, "reward", "offset", 0), "does not follow"),
    "cut column": (lambda r: put(r, "reward", "size", 1), "does not follow|have .* bytes"),
    "fewer rows": (lambda r: put(r, "action", "n", 3), "have 3 rows of 12"),
    "layout of no column": (lambda r: r[3].__setitem__("reward", ["leaf", 99]), "names column 99"),
    "layout of a negative column": (
        lambda r: r[3].__setitem__("reward", ["leaf", -1]),
        "names col",
    ),
    "layout of another column": (lambda r: r[3].__setitem__("reward", ["leaf", 0]), "names column"),
    "layout without items": (
        lambda r: r[3].__setitem__("reward", ["dict", ["a"]]),
        "no known form",
    ),
    "unknown layout": (lambda r: r[3].__setitem__("reward", ["list", 0]), "no known form"),
    "layout too deep": (lambda r: r[3].__setitem__("reward", nested(200)), "nested too deeply"),
    "layout far too deep": (
        lambda r: r[3].__setitem__("reward", nested(400)),
        "nested too deep|recurs",
    ),
    "keys that repeat": (lambda r: r[3]["obs"].__setitem__(1, ["text", "text"]), "no different"),
    "keys swapped": (lambda r: r[3]["obs"][1].reverse(), "names column"),
    "no layout of actions": (lambda r: r[3].pop("action"), "the layouts name|is missing"),
    "column that nothing names": (lambda r: r[2].append(r[2][0]), "does not follow|layouts name"),
    "info of no step": (lambda r: r[5].append([0, 77, codec.encode({})]), "not in the chunk"),
    "negative event": (lambda r: event(r, "end").__setitem__(1, -3), "Expected `int` >= 0"),
    "text for a number": (lambda r: event(r, "end").__setitem__(3, "six"), "Expected `int`"),
    "unknown ending": (lambda r: event(r, "end").__setitem__(4, "won"), "Invalid enum value"),
    "negative time": (lambda r: event(r, "end").__setitem__(2, -1), "Expected `int` >= 0"),
}
"""Of a record with itself or its frame."""

EPISODE_CONTRADICTIONS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "second start": (lambda r: r[4].insert(0, r[4][0]), "second EpisodeStart"),
    "second end": (lambda r: r[4].append(event(r, "end")), "second EpisodeEnd"),
    "start elsewhere": (lambda r: r[4][0].__setitem__(1, 50), "its start is missing"),
    "end before the steps": (lambda r: event(r, "end").__setitem__(3, 2), "rows behind its end"),
    "steps of another episode": (
        lambda r: r[1][0].__setitem__(EPISODE, 0),
        "rows of step 0 behind those",
    ),
    "first step": (lambda r: r[1][0].__setitem__(FIRST, 3), "begins with step 0, its rows with"),
}
"""Of a record with others: only who reads the episode can see them."""

COLUMN_CONTRADICTIONS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "unknown filter": (
        lambda r: put(r, "obs/place", "filter", [9, 1]),
        r"filter \(9, 1\) is unknown",
    ),
    "half a filter": (lambda r: put(r, "obs/place", "filter", [2]), r"filter \(2,\) is unknown"),
    "filter order": (lambda r: put(r, "obs/place", "filter", [2, 2**30]), "differences of order"),
    "filter orders": (lambda r: put(r, "obs/place", "filter", [2, 1, 1, 1]), "zip|shorter|longer"),
    "stack of nothing": (lambda r: put(r, "obs/place", "filter", [3, 5, 0]), "does not fit"),
    "dtype of objects": (lambda r: put(r, "obs/place", "dtype", "|O"), "not stored in columns"),
    "no dtype": (lambda r: put(r, "obs/place", "dtype", "nonsense"), "not understood|data type"),
    "huge dtype": (lambda r: put(r, "obs/place", "dtype", "(9999999,)f8"), "not stored in columns"),
    "huge shape": (lambda r: put(r, "obs/place", "shape", [2**20, 2**10]), "at most"),
    "other shape": (lambda r: put(r, "obs/place", "shape", [3]), "do not fill"),
    "other size": (lambda r: put(r, "obs/place", "raw_bytes", 5), "and 5 are stated"),
    "unknown type": (lambda r: put(r, "reward", "type_name", "str"), "not stored as"),
    "no type": (lambda r: put(r, "reward", "type_name", ""), "not understood"),
    "narrow float": (lambda r: put(r, "action", "type_name", "float"), "not stored as"),
    "rows that do not ascend": (
        lambda r: put(r, "info/n", "rows_data", codec.encode(np.zeros(6, np.uint32))),
        "do not ascend",
    ),
    "rows beyond the chunk": (
        lambda r: put(r, "info/n", "rows_data", codec.encode(np.full(6, 9, np.uint32))),
        "names row 54 of 12",
    ),
    "rows that are no numbers": (
        lambda r: put(r, "info/n", "rows_data", codec.encode("abc")),
        "are no 6 numbers",
    ),
}


def changed(log: Path, folder: Path, change: Callable[[Any], Any], n: int = 1) -> Path:
    """Write a log with a changed record, and all checksums right."""
    parts = take_apart(log.read_bytes())
    change(parts.chunks()[n].record)
    folder.mkdir(exist_ok=True)
    path = folder / "x.trj"
    path.write_bytes(put_together(parts))
    return path


def read_all(path: Path) -> list[frames.Damage]:
    """Read all chunks and episodes; return the damage."""
    with LogReader(path) as reader:
        for chunk in reader.chunks():
            try:
                chunk.decode()
            except LogCorruptError as exc:
                place = (exc.path, exc.offset)
                assert place == (path, chunk.offset)
        for number in range(2 * N_CHUNKS):
            with contextlib.suppress(LogCorruptError):
                list(Episode(reader, number).steps())
        return reader.damage


ALL = CONTRADICTIONS | COLUMN_CONTRADICTIONS | EPISODE_CONTRADICTIONS


@mostly_deep("hostile", drawn=12)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("name", ALL)
def test_contradiction_costs_its_frame_and_is_named(name: str, log: Path, tmp_path: Path) -> None:
    change, reason = ALL[name]
    truth = read(log)
    path = changed(log, tmp_path / "runs", change)
    damage = read_all(path)
    assert any(re.search(reason, d.reason) for d in damage), damage
    with LogReader(path) as reader:
        assert {d.offset for d in damage} <= {frame.offset for frame in reader.frames}
    # Each other frame is there, and no value is another one.
    readable = read_what_can_be(path)
    assert_within(readable, truth)
    assert readable.keys() >= {0, 1, 4, 5, 6, 7}
    with trajrec.open(path.parent) as corpus:
        for episode in corpus.episodes():
            with contextlib.suppress(LogCorruptError):
                list(episode.steps())
        assert corpus.problems()
        query = "SELECT number, step, reward FROM steps JOIN all_episodes USING (episode_id)"
        rows = corpus.sql(query).fetchall()
        assert all(truth[number][step][2] == reward for number, step, reward in rows)
        assert len(rows) >= 6 * 6
    assert main(["replay", str(path.parent)]) in (3, 4)


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("name", CONTRADICTIONS | COLUMN_CONTRADICTIONS)
def test_recover_leaves_out_what_contradicts_itself(name: str, log: Path, tmp_path: Path) -> None:
    truth = read(log)
    path = changed(log, tmp_path / "runs", ALL[name][0])
    data = path.read_bytes()
    result = recover(path)
    assert result.damaged_copy is not None
    assert result.damaged_copy.read_bytes() == data
    assert read_all(path) == []
    readable = read(path)
    assert_within(readable, truth)
    assert readable.keys() == {0, 1, 4, 5, 6, 7}
    with LogReader(path) as reader:
        assert all(Episode(reader, k).end is not None for k in readable)
    assert recover(path).was_sealed


def read_what_can_be(path: Path) -> dict[int, Rows]:
    """Return the steps of the episodes that can be read."""
    steps: dict[int, Rows] = {}
    with LogReader(path) as reader:
        # The second time, the chunk that contradicts itself is known.
        for number in (*range(2 * N_CHUNKS), *range(2 * N_CHUNKS)):
            with contextlib.suppress(LogCorruptError):
                steps[number] = {
                    s.step: (s.action, s.observation, s.reward, s.info)
                    for s in Episode(reader, number).steps()
                }
    return {number: rows for number, rows in steps.items() if rows}


HEADERS: dict[str, Callable[[list[Any]], Any]] = {
    "other log": lambda header: header.__setitem__(0, "0" * 32),
    "arguments that are none": lambda header: header[3].__setitem__(2, b"\xc1"),
    "arguments without names": lambda header: header[3].__setitem__(2, codec.encode([1])),
    "deep map": lambda header: header[6].__setitem__("python", nested(100)),
    "negative time": lambda header: header.__setitem__(1, -1),
}


@pytest.mark.parametrize("name", HEADERS)
def test_contradicting_header_is_replaced_by_its_copy(name: str, log: Path, tmp_path: Path) -> None:
    parts = take_apart(log.read_bytes())
    truth = read(log)
    footer = parts.footer()
    assert footer is not None
    HEADERS[name](footer.record[0])
    path = tmp_path / "x.trj"
    path.write_bytes(put_together(parts))
    with LogReader(path) as reader, LogReader(log) as original:
        assert reader.header == original.header
        assert "footer" in reader.damage[0].reason or "header" in reader.damage[0].reason
    assert read(path).keys() == truth.keys()
    # And without any that is right: the log is named, and the environment unknown.
    HEADERS[name](parts.parts[0].record)
    path.write_bytes(put_together(parts))
    with LogReader(path) as reader, LogReader(log) as original:
        assert reader.header.log_id == original.header.log_id
        assert reader.header.env.class_name == "(unknown)"
    assert_within(read(path), truth)


FOOTERS: dict[str, tuple[Callable[[list[Any]], Any], str]] = {
    "other seal": (lambda f: f.__setitem__(2, bytes(16)), "another seal"),
    "other generation": (lambda f: f.__setitem__(1, 7), ""),
    "episodes of two lengths": (lambda f: f[7][1].pop(), "different lengths"),
    "steps of two lengths": (lambda f: f[6][2].pop(), "different lengths"),
    "half a value": (lambda f: f[8].__setitem__(0, b"abc"), "table of values is cut"),
    "steps of no frame": (lambda f: f[6][0].__setitem__(0, 99), "steps of frame"),
    "steps of a header": (lambda f: f[6][0].__setitem__(0, 0), "no chunk|steps of frame"),
    "negative episode": (lambda f: f[6][1].__setitem__(0, -9), "negative number"),
    "other sizes": (lambda f: f[5][0].__setitem__(1, 70), "do not fill"),
    "frame of no bytes": (lambda f: f[5][0].__setitem__(1, 0), "a frame of 0 bytes"),
    "negative size": (lambda f: f[5][0].__setitem__(1, -100), "Expected `int` >= 0"),
    "huge frame": (lambda f: f[5][0].__setitem__(1, 2**63), "Expected `int`"),
}


@pytest.mark.parametrize("name", [name for name in FOOTERS if name != "other generation"])
def test_contradicting_footer_is_done_without(name: str, log: Path, tmp_path: Path) -> None:
    truth = read(log)
    parts = take_apart(log.read_bytes())
    parts.keeps_tables = True
    footer = parts.footer()
    assert footer is not None
    _set_tables(parts)
    change, reason = FOOTERS[name]
    change(footer.record)
    path = tmp_path / "x.trj"
    path.write_bytes(put_together(parts))
    with LogReader(path) as reader:
        assert reader.chunks_of(0) == [1]
        (damage,) = reader.damage
        assert "footer" in damage.reason
        assert re.search(reason, damage.reason), damage
        assert (damage.offset, damage.size) == _footer_span(path)
    readable = read(path)
    assert_within(readable, truth)
    assert sum(map(len, readable.values())) == sum(map(len, truth.values()))
    recover(path)
    with LogReader(path) as reader:
        assert not reader.damage
        assert len(reader.episodes()) == 2 * N_CHUNKS


def _set_tables(parts: Log) -> None:
    """Have the footer list the frames, before one of its tables is changed."""
    footer = parts.footer()
    assert footer is not None
    before = take_apart(put_together(dataclasses.replace(parts, keeps_tables=False)))
    again = before.footer()
    assert again is not None
    footer.record[:] = again.record


def _footer_span(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    trailer = frames.FORMAT2.trailer(data[-frames.TRAILER.size :])
    assert trailer is not None
    return trailer.footer_offset, len(data) - frames.TRAILER.size - trailer.footer_offset


@pytest.mark.parametrize("table", ["numbers", "first_frames", "n_frames", "end_steps"])
def test_episodes_that_the_footer_cannot_have_are_refused(
    table: str, log: Path, tmp_path: Path
) -> None:
    parts = take_apart(log.read_bytes())
    footer = parts.footer()
    assert footer is not None
    k = schema.EpisodeTable.__struct_fields__.index(table)
    footer.record[7][k][2] = {"numbers": 0, "end_steps": -1}.get(table, -(10**6))
    path = tmp_path / "x.trj"
    path.write_bytes(put_together(parts))
    with LogReader(path) as reader:
        with pytest.raises(LogError, match=r"contradicts itself|only the footer"):
            reader.episodes()
        assert reader.damage


def test_swapped_frames_are_not_taken_for_each_other(log: Path, tmp_path: Path) -> None:
    truth = read(log)
    parts = take_apart(log.read_bytes())
    first, second = parts.chunks()[:2]
    k = parts.parts.index(first)
    first.sequence = k
    second.sequence = k + 1
    parts.parts[k], parts.parts[k + 1] = second, first
    path = tmp_path / "x.trj"
    path.write_bytes(put_together(parts))
    damage = read_all(path)
    assert [d.reason for d in damage] == [f"frame {n} in place of another one" for n in (2, 1)]
    assert_within(read(path), truth)


def bombs() -> dict[str, Callable[[Part], None]]:
    """Return changes that promise, or hold, far more than their bytes."""
    compress = zstandard.ZstdCompressor().compress

    def empty_lists(part: Part) -> None:
        n = 200 << 20
        part.meta = compress(b"\xdd" + n.to_bytes(4, "big") + b"\x90" * n)
        part.meta_raw = n + 5

    def zeros(part: Part) -> None:
        part.meta = compress(bytes(300 << 20))
        part.meta_raw = 300 << 20

    def false_size(part: Part) -> None:
        part.meta = compress(bytes(100))
        part.meta_raw = 200 << 20

    def column_of_zeros(part: Part) -> None:
        stored = compress(bytes(300 << 20))
        put(part.record, "action", "size", len(stored))
        put(part.record, "action", "raw_bytes", 300 << 20)
        part.data = stored
        part.record[2] = [column(part.record, "action")]
        part.record[2][0][COLUMN["offset"]] = 0

    def constant(part: Part) -> None:
        each = column(part.record, "obs/text")
        each[:] = ["obs/text", "const", 12, "", [], "", [], 0, 0, 0, None, None, bytes(30 << 20)]

    def table(part: Part) -> None:
        n = 2**31 - 1
        part.record[4] = []
        part.record[7:] = [[["end", n, [["const", 1]] * 11]], b"\0"]

    return {
        f.__name__: f for f in (empty_lists, zeros, false_size, column_of_zeros, constant, table)
    }


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("name", bombs())
def test_bomb_takes_neither_time_nor_memory(name: str, log: Path, tmp_path: Path) -> None:
    parts = take_apart(log.read_bytes())
    bombs()[name](parts.chunks()[1])
    path = tmp_path / "x.trj"
    path.write_bytes(put_together(parts))
    start = time.process_time()
    tracemalloc.start()
    damage = read_all(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert damage
    assert time.process_time() - start < 5
    assert peak < 700 << 20


def test_value_of_too_many_items_is_neither_written_nor_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert item_count.count_items(codec.encode([1, (2, {"a": [3.0, "x"]}), b"y", 2**70])) == 12
    value = [[]] * 2000
    data = codec.encode(value)
    monkeypatch.setattr(item_count, "COUNTED_BYTES", 1000)
    monkeypatch.setattr(item_count, "MAX_ITEMS", 1500)
    with pytest.raises(EncodeError, match="more than 1500 items"):
        codec.encode(value)
    with pytest.raises(DecodeError, match="more than 1500 items"):
        codec.decode(data)
    assert isinstance(codec.decode(codec.encode(value, opaque=True)), codec.Opaque)
    assert codec.decode(codec.encode(np.zeros(2000))).shape == (2000,)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("n", [101, 500, 990, 5000])
def test_deeply_nested_value_costs_its_frame(n: int, log: Path, tmp_path: Path) -> None:
    def change(record: Any) -> None:
        event(record, "start")[7] = b"\x81\xa1a" * n + b"\xc0"

    path = changed(log, tmp_path / "runs", change)
    with LogReader(path) as reader, contextlib.suppress(DecodeError):
        assert isinstance(Episode(reader, 2).reset_info, dict)
    with trajrec.open(path.parent) as corpus:
        assert len(list(corpus.episodes())) == 2 * N_CHUNKS


def test_recovered_log_lists_an_episode_with_the_largest_step(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        ep.tool(lambda: 1, name="look")
        ep.call("look")
    trajrec.close_logs()
    (path,) = tmp_path.glob("*.trj")
    parts = take_apart(path.read_bytes())
    event(parts.chunks()[0].record, "call")[2] = 2**31 - 1
    event(parts.chunks()[0].record, "end")[0] = "unknown"
    parts.is_sealed = False
    parts.parts.pop()
    path.write_bytes(put_together(parts))
    recover(path)
    with LogReader(path) as reader:
        assert reader.is_sealed
        assert not reader.damage
        assert reader.episodes()[0].end_step == 2**31


def test_states_have_digests_of_3_or_8_bytes(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("FrozenLake-v1"), tmp_path, keep_states="digests")
    run(env, 1, seed=0)
    env.close()

    def change(record: Any) -> None:
        put(record, "state_digest", "dtype", "|i1")

    path = changed(env.path, tmp_path / "runs", change, 0)
    assert any("neither 3 nor 8 bytes" in damage.reason for damage in read_all(path))


@pytest.mark.parametrize("value", [5, np.zeros(5, np.uint8), np.zeros(3, np.int8)])
def test_constant_that_is_no_digest_is_refused(value: Any) -> None:
    constant = schema.Column(name="state_digest", kind="const", n=3)
    rows = ColumnRows(constant, codec.encode(value), zstandard.ZstdDecompressor())
    with pytest.raises(ValueError, match="no digests of 3 or 8 bytes"):
        _check_digests(rows)


def test_recover_counts_generations_up_to_the_largest(log: Path, tmp_path: Path) -> None:
    parts = take_apart(log.read_bytes())
    footer = parts.footer()
    assert footer is not None
    footer.record[1] = 2**31 - 1
    parts.trailer["generation"] = 2**32 - 1
    path = tmp_path / "x.trj"
    path.write_bytes(put_together(parts))
    recover(path)
    with LogReader(path) as reader:
        assert not reader.damage
        assert reader.trailer is not None
        assert reader.trailer.generation == 2**31 - 1


def test_rewards_of_different_lengths_are_objects(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(lambda k: (k, [1.0] * (k + 1), k == 2, False, {})), tmp_path)
    run(env, 1, seed=0)
    env.close()
    with LogReader(env.path) as reader:
        episode = Episode(reader, 0)
        assert episode.rewards.tolist() == [[1.0] * (k + 1) for k in range(len(episode.actions))]
        assert np.isnan(episode.total_reward)


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a", b"\xdc\x00\x01"])
def test_value_nests_as_deeply_as_it_is_written_and_no_deeper(opening: bytes) -> None:
    for n in (90, 100):
        value = codec.decode(opening * n + b"\xc0")
        assert codec.decode(codec.encode(value)) == value
    for n in (103, 200, 900):
        with pytest.raises(DecodeError, match="nested too deeply"):
            codec.decode(opening * n + b"\xc0")
    # In a long value too, beside others.
    with pytest.raises(DecodeError, match="nested too deeply"):
        codec.decode(b"\x92" + codec.encode([{"a": [1]}] * 500) + opening * 150 + b"\xc0")
