"""Corpora and episodes pickle by reference, and keep few files open."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.errors import CorpusError, LogError, QueryError
from trajrec.log.open_files import MAX_OPEN
from trajrec.log.source import FileSource
from trajrec.replay import fork


def fill(folder: Path, n_logs: int = 1, n_episodes: int = 2) -> None:
    for _ in range(n_logs):
        env = trajrec.record(gym.make("CartPole-v1"), folder)
        for seed in range(n_episodes):
            env.reset(seed=seed)
            for k in range(5):
                env.step(k % 2)
        env.close()


def total(episode: Episode) -> float:
    return float(np.sum(episode.observations))


def test_a_pickled_episode_is_small_and_the_same(tmp_path: Path) -> None:
    fill(tmp_path)
    with trajrec.open(tmp_path) as corpus:
        for episode in corpus.episodes():
            data = pickle.dumps(episode)
            assert len(data) < 1000
            copy = pickle.loads(data)
            assert (copy.id, total(copy)) == (episode.id, total(episode))


def test_an_episode_pickles_where_nothing_else_is_imported(tmp_path: Path) -> None:
    fill(tmp_path)
    code = (
        "import copy, pickle, sys, trajrec\n"
        "episode = next(trajrec.open(sys.argv[1]).episodes())\n"
        "for other in (pickle.loads(pickle.dumps(episode)), copy.deepcopy(episode)):\n"
        "    assert other.id == episode.id and len(list(other.steps())) == 5\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_a_pickled_fork_finds_its_parent(tmp_path: Path) -> None:
    fill(tmp_path, n_episodes=1)
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        with fork(episode, at=2) as branch:
            branch.step(0)
        (branched,) = corpus.episodes(kind="fork")
        copy = pickle.loads(pickle.dumps(branched))
    assert copy.parent is not None
    assert copy.parent.id == episode.id


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_another_process_reads_episodes(tmp_path: Path, method: str) -> None:
    fill(tmp_path)
    with trajrec.open(tmp_path) as corpus:
        episodes = list(corpus.episodes())
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.map(total, episodes) == list(map(total, episodes))


@pytest.mark.slow
def test_a_pickled_corpus_opens_the_folder_again(tmp_path: Path) -> None:
    fill(tmp_path)
    query = "SELECT count(*) FROM episodes"
    with trajrec.open(tmp_path) as corpus:
        data = pickle.dumps(corpus)
        fill(tmp_path)
    with pickle.loads(data) as copy:
        assert copy.sql(query).fetchall() == [(4,)]
    with trajrec.open(tmp_path, sandbox=trajrec.corpus.sandbox.Sandbox()) as closed:
        data = pickle.dumps(closed)
    with pickle.loads(data) as copy, pytest.raises(QueryError):
        copy.sql("SELECT * FROM glob('/*')")


def test_a_pickled_episode_has_what_its_log_has_now(tmp_path: Path) -> None:
    def number(n: int) -> int:
        return n

    def calls() -> list[tuple[int, str]]:
        with trajrec.open(tmp_path) as corpus:
            copies = [pickle.loads(pickle.dumps(episode)) for episode in corpus.episodes()]
        return [(len(copy.transcript.attempts), copy.ending) for copy in copies]

    with trajrec.episode(tmp_path) as ep:
        # Whole frames, and items that only the journal has.
        for n_calls in range(1, 4):
            ep.tool(number)(n=n_calls)
            assert calls() == [(n_calls, "running")]
    with trajrec.episode(tmp_path) as ep:
        ep.tool(number)(n=1)
    assert calls() == [(3, "terminated"), (1, "terminated")]
    trajrec.close_logs()
    assert calls() == [(3, "terminated"), (1, "terminated")]


def test_a_pickled_episode_of_a_lost_log_says_so(tmp_path: Path) -> None:
    fill(tmp_path)
    with trajrec.open(tmp_path) as corpus:
        data = pickle.dumps(next(corpus.episodes()))
    (path,) = tmp_path.glob("*.trj")
    other = tmp_path / "other"
    fill(other)
    (log,) = other.glob("*.trj")
    path.unlink()
    with pytest.raises(LogError):
        pickle.loads(data)
    log.rename(path)
    with pytest.raises(CorpusError, match="is not in this log any more"):
        pickle.loads(data)


def n_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_iterating_a_large_corpus_keeps_few_files_open(tmp_path: Path) -> None:
    fill(tmp_path, n_logs=150, n_episodes=1)
    with trajrec.open(tmp_path) as corpus:
        before = n_open_files()
        episodes = []
        most = 0
        for episode in corpus.episodes():
            episodes.append(episode)
            most = max(most, n_open_files())
        assert len(episodes) == 150
        assert most - before <= MAX_OPEN
        # Each can still be read, though its log was closed meanwhile.
        assert len({total(episode) for episode in episodes}) == 1
        assert n_open_files() - before <= MAX_OPEN


def test_a_file_that_is_let_go_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    source = FileSource(path)
    others = []
    for k in range(MAX_OPEN + 5):
        other = tmp_path / str(k)
        other.write_bytes(b"x")
        others.append(FileSource(other))
    assert source.range(2, 5) == b"234"
    source.try_let_go()
    path.write_bytes(b"0123456789ab")
    assert source.refresh()
    assert (source.size, source.range(8, 12)) == (12, b"89ab")


def test_a_file_that_was_replaced_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    source = FileSource(path)
    source.try_let_go()
    (tmp_path / "new").write_bytes(b"abcdefghij")
    (tmp_path / "new").rename(path)
    assert not source.refresh()
    with pytest.raises(LogError, match="was replaced since it was opened"):
        source.range(0, 3)


def test_threads_read_while_files_are_let_go(tmp_path: Path) -> None:
    contents = {}
    for k in range(MAX_OPEN + 40):
        path = tmp_path / str(k)
        path.write_bytes(str(k).encode() * 50)
        contents[k] = FileSource(path)

    def read(seed: int) -> int:
        rng = random.Random(seed)
        n_wrong = 0
        for _ in range(1500):
            k = rng.randrange(len(contents))
            n_wrong += contents[k].range(0, 4) != (str(k) * 50).encode()[:4]
        return n_wrong

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(read, range(6))) == [0] * 6
