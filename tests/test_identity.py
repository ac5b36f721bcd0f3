"""A log is its id and its contents: moving, copying and rewriting files never changes an answer."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from conftest import record, run
from tiers import mostly_deep, third_slow

import trajrec
from trajrec.corpus.doctor import examine
from trajrec.corpus.index.file import INDEX_NAME, update_index
from trajrec.corpus.index.tables import TABLES
from trajrec.errors import CorpusError, LogError
from trajrec.log.compaction import compact
from trajrec.log.journal import journal_path
from trajrec.log.reader import LogReader
from trajrec.log.repair import recover
from trajrec.log.writer import new_log_id
from trajrec.recording.event_log import close_logs

Rows = dict[str, list[Any]]


def dump(corpus: trajrec.Corpus) -> Rows:
    """Return all rows of the tables, without what tells files apart."""
    rows = {}
    for table in TABLES:
        left_out = "EXCLUDE (mtime_ns)" if table.name == "logs" else ""
        query = f"SELECT * {left_out} FROM {table.name} ORDER BY ALL"
        rows[table.name] = corpus.sql(query).fetchall()
    return rows


def counts(corpus: trajrec.Corpus) -> Any:
    (row,) = corpus.sql(
        "SELECT (SELECT count(*) FROM episodes), (SELECT sum(n_steps) FROM episodes), "
        "(SELECT count(*) FROM steps)"
    ).fetchall()
    return row


def log_in(folder: Path) -> Path:
    (log,) = folder.rglob("*.trj")
    return log


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus of three logs: two of an environment, one of an agent."""
    folder = tmp_path / "runs"
    record(gym.make("CartPole-v1"), folder / "a", 3)
    record(gym.make("CartPole-v1"), folder / "b", 3)
    with trajrec.episode(folder / "agent", watch={"n": [0]}) as ep:
        ep.tool(lambda x: x, name="echo")
        ep.call("echo", x=1)
        ep.check("done", lambda _: True)
    close_logs()
    return folder


@pytest.fixture
def n_read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The logs of the chunks that are read."""
    read: list[Path] = []
    chunk = LogReader.chunk

    def note(reader: LogReader, index: int) -> Any:
        read.append(reader.path)
        return chunk(reader, index)

    monkeypatch.setattr(LogReader, "chunk", note)
    return read


def touch(folder: Path) -> None:
    for log in folder.rglob("*.trj"):
        os.utime(log, (1, 1))
    # An unchanged folder is not listed; this one has changed.
    (folder / "a" / "note.txt").touch()


def move(folder: Path) -> None:
    log = log_in(folder / "a")
    log.rename(folder / "moved.trj")


def move_folder(folder: Path) -> None:
    (folder / "a").rename(folder / "c")


def sync(folder: Path) -> None:
    """Write the same bytes under the same name, as rsync does."""
    log = log_in(folder / "a")
    shutil.copy(log, folder / "a" / ".part")
    (folder / "a" / ".part").replace(log)


def swap(folder: Path) -> None:
    a, b = log_in(folder / "a"), log_in(folder / "b")
    a.rename(folder / "x")
    b.rename(a)
    (folder / "x").rename(b)


def copy(folder: Path) -> None:
    shutil.copy(log_in(folder / "a"), folder / "zz.trj")


def copy_and_drop(folder: Path) -> None:
    """Let the copy go: the original stays."""
    copy(folder)
    trajrec.open(folder).close()
    (folder / "zz.trj").unlink()


def drop_original(folder: Path) -> None:
    copy(folder)
    trajrec.open(folder).close()
    log_in(folder / "a").unlink()


@mostly_deep("index", drawn=4)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    "change", [touch, move, move_folder, sync, swap, copy, copy_and_drop, drop_original]
)
def test_known_contents_are_never_read_again(
    change: Callable[[Path], None], is_open: bool, folder: Path, n_read: list[Path]
) -> None:
    with trajrec.open(folder) as before:
        expected = counts(before)
        n_read.clear()
        if not is_open:
            before.close()
        change(folder)
        if is_open:
            assert counts(before) == expected
            seen = dump(before)
    with trajrec.open(folder) as after:
        assert counts(after) == expected
        if not is_open:
            seen = dump(after)
        assert dump(after) == seen
        assert not n_read
        assert len(list(after.episodes(kind="all"))) == len(seen["all_episodes"])
    shutil.rmtree(folder / ".trajrec")
    with trajrec.open(folder) as rebuilt:
        assert dump(rebuilt) == seen


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("has_copy", [False, True])
def test_compacting_an_indexed_live_log_doubles_nothing(
    is_open: bool, has_copy: bool, tmp_path: Path
) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    n_steps = run(env, 20)
    env.flush()
    corpus = trajrec.open(tmp_path)
    assert counts(corpus) == (20, n_steps, n_steps)
    n_steps += run(env, 20, seed=None)
    env.close()
    if not is_open:
        corpus.close()
    compact(env.path)
    if has_copy:
        shutil.copy(env.path, tmp_path / "copy.trj")
    if not is_open:
        corpus = trajrec.open(tmp_path)
    assert counts(corpus) == (40, n_steps, n_steps)
    (rows,) = corpus.sql("SELECT count(*) FROM all_episodes WHERE kind = 'copy'").fetchall()
    assert rows == (40 * has_copy,)
    corpus.close()


@pytest.mark.slow
def test_recovered_log_replaces_its_rows(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path / "live")
    n_steps = run(env, 5)
    env.reset()
    env.step(0)
    (tmp_path / "runs").mkdir()
    log = Path(shutil.copy(env.path, tmp_path / "runs"))
    shutil.copy(journal_path(env.path), tmp_path / "runs")
    env.close()
    with trajrec.open(tmp_path / "runs") as corpus:
        before = counts(corpus)
        assert before == (6, n_steps + 1, n_steps + 1)
        recover(log)
        assert counts(corpus) == before
        (sealed,) = corpus.sql("SELECT is_sealed, generation FROM logs").fetchall()
        assert sealed == (True, 1)
    with trajrec.open(tmp_path / "runs") as corpus:
        assert counts(corpus) == before


@pytest.mark.slow
def test_copy_of_an_older_state_counts_nothing(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    run(env, 3)
    env.flush()
    shutil.copy(env.path, tmp_path / "older.trj")
    n_steps = run(env, 3, seed=None)
    env.close()
    shutil.copy(env.path, tmp_path / "before compacting.trj")
    compact(env.path)
    with trajrec.open(tmp_path) as corpus:
        assert counts(corpus)[0] == 6
        by_log = "SELECT log, kind, count(*) FROM all_episodes GROUP BY ALL ORDER BY ALL"
        assert sorted(corpus.sql(by_log).fetchall()) == sorted(
            [
                (env.path.name, "rollout", 6),
                ("before compacting.trj", "copy", 6),
                ("older.trj", "copy", 3),
            ]
        )
        assert corpus.problems() == []
        env.path.unlink()
        (tmp_path / "before compacting.trj").unlink()
        assert counts(corpus)[0] == 3
    assert n_steps


def test_two_continuations_of_one_log_are_a_problem(tmp_path: Path) -> None:
    log_id = new_log_id()
    for name in ("x", "y"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trajrec.recording.recorder_header.new_log_id", lambda *_: log_id)
            env = trajrec.record(gym.make("CartPole-v1"), tmp_path / name)
        run(env, 3, seed=len(name))
        env.close()
    with trajrec.open(tmp_path) as corpus:
        assert counts(corpus)[0] == 3
        (problem,) = corpus.problems()
        assert "two programs went on with copies" in problem.reason


@pytest.mark.slow
def test_damaged_copy_gives_way_to_a_whole_one(folder: Path) -> None:
    with trajrec.open(folder) as corpus:
        expected = counts(corpus)
    log = log_in(folder / "a")
    whole = log.read_bytes()
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 0xFF
    log.write_bytes(damaged)
    shutil.rmtree(folder / ".trajrec")
    with trajrec.open(folder) as corpus:
        assert counts(corpus) != expected
        (folder / "backup.trj").write_bytes(whole)
        assert counts(corpus) == expected
        assert corpus.sql("SELECT count(*) FROM episodes WHERE log = 'backup.trj'").fetchall() == [
            (3,)
        ]


def settle(folder: Path) -> None:
    """Index a folder that was not changed lately: a clock may tick too slowly to tell."""
    update_index(folder)
    time.sleep(2.1)
    update_index(folder)


def overwrite(log: Path, other: bytes) -> None:
    """Put other bytes into a file in place, as an editor or `cp` does."""
    times = log.parent.stat()
    log.write_bytes(other)
    assert log.parent.stat().st_mtime_ns == times.st_mtime_ns


@pytest.mark.slow
def test_log_overwritten_in_place_is_noticed_when_it_is_read(folder: Path, tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path / "other", 2)
    other = log_in(tmp_path / "other").read_bytes()
    log = log_in(folder / "a")
    settle(folder)
    with trajrec.open(folder) as corpus:
        (lost, *_) = corpus.episodes(f"log = 'a/{log.name}'")
    overwrite(log, other)
    with trajrec.open(folder) as corpus:
        assert counts(corpus)[0] == 7
        with pytest.raises(CorpusError, match="another log is in this place now"):
            corpus.episode(lost.id)
        assert counts(corpus)[0] == 6


@pytest.mark.slow
def test_full_scan_notices_a_log_overwritten_in_place(folder: Path, tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path / "other", 2)
    settle(folder)
    overwrite(log_in(folder / "a"), log_in(tmp_path / "other").read_bytes())
    with trajrec.open(folder) as corpus:
        assert counts(corpus)[0] == 7
    with trajrec.open(folder, scan="full") as corpus:
        assert counts(corpus)[0] == 6
    # The index has it from now on.
    with trajrec.open(folder) as corpus:
        assert counts(corpus)[0] == 6


@pytest.mark.slow
def test_full_scan_reads_a_changed_file_again(folder: Path) -> None:
    log = log_in(folder / "a")
    with trajrec.open(folder) as corpus:
        expected = counts(corpus)
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 0xFF
    overwrite(log, bytes(data))
    os.utime(log, (1, 1))
    with trajrec.open(folder, scan="full") as corpus:
        assert counts(corpus) != expected
        assert [problem.log for problem in corpus.problems()] == [f"a/{log.name}"]
    _, findings = examine(folder)
    assert [finding.kind for finding in findings] == ["damaged"]


@pytest.mark.slow
def test_unchanged_folders_are_not_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(folder)
    listed: list[str] = []
    scandir = os.scandir

    def note(path: Any) -> Any:
        listed.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", note)
    trajrec.open(folder).close()
    # Only to see that there is a log at all.
    assert {Path(path).name for path in listed} <= {"runs", "a", "b", "agent"}
    listed.clear()
    with trajrec.open(folder) as corpus:
        listed.clear()
        corpus.sql("SELECT 1")
        assert not listed
        (folder / "b" / "note.txt").touch()
        corpus.sql("SELECT 1")
        assert [Path(path).name for path in listed] == ["b"]


@pytest.mark.slow
@third_slow("index")
@pytest.mark.parametrize("is_open", [False, True])
def test_errors_of_reading_are_tried_again(
    is_open: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = counts(trajrec.open(folder))
    shutil.rmtree(folder / ".trajrec")
    log = log_in(folder / "a")
    chunk = LogReader.chunk
    fails = True

    def fail(reader: LogReader, index: int) -> Any:
        if fails and reader.path == log and index > 0:
            raise LogError("cannot be read: Input/output error", path=log)
        return chunk(reader, index)

    monkeypatch.setattr(LogReader, "chunk", fail)
    corpus = trajrec.open(folder)
    assert counts(corpus)[0] == 4
    assert [problem.log for problem in corpus.problems()] == [f"a/{log.name}"]
    fails = False
    if not is_open:
        corpus.close()
        corpus = trajrec.open(folder)
    assert counts(corpus) == expected
    assert corpus.problems() == []
    corpus.close()
    assert (folder / INDEX_NAME).exists()


@pytest.mark.slow
def test_open_corpus_without_any_log_left_is_empty(tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path, 2)
    with trajrec.open(tmp_path) as corpus:
        log_in(tmp_path).unlink()
        assert counts(corpus)[0] == 0
        assert corpus.sql("SELECT * FROM steps", sandbox=True).fetchall() == []
        assert list(corpus.episodes("n_steps > 0")) == []


def test_log_that_grows_while_it_is_opened_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path / "live")
    run(env, 3)
    env.flush()
    (tmp_path / "runs").mkdir()
    log = Path(shutil.copy(env.path, tmp_path / "runs"))
    env.close()
    with trajrec.open(tmp_path / "runs") as corpus:
        # As if a writer had written between the opening and the look at the size.
        monkeypatch.setattr("trajrec.corpus.corpus._size", lambda path: path.stat().st_size + 1)
        episodes = list(corpus.episodes())
        assert [episode.path for episode in episodes] == [log] * 3
        assert all(len(episode.rewards) == episode.n_steps for episode in episodes)
