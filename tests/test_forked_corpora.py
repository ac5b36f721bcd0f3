"""A forked process has copies of its parent's corpora, without the threads of their databases."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium as gym
import pytest
from forked import ends_well

import trajrec
from trajrec.errors import CorpusError

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork processes"),
    # Python warns of a fork beside threads, which is what this is about.
    pytest.mark.filterwarnings("ignore:.*fork"),
]


def record_one(folder: Path) -> None:
    recorder = trajrec.record(gym.make("CartPole-v1"), folder)
    recorder.reset(seed=1)
    recorder.step(1)
    recorder.close()


@pytest.fixture
def corpus(tmp_path: Path) -> trajrec.Corpus:
    return open_one(tmp_path)


def open_one(folder: Path) -> trajrec.Corpus:
    record_one(folder)
    corpus = trajrec.open(folder)
    # The threads of a database start with its first large query.
    corpus.sql("SELECT count(*) FROM range(1000000)").fetchall()
    return corpus


def n_episodes(corpus: trajrec.Corpus) -> int:
    return int(corpus.sql("SELECT count(*) FROM episodes").fetchall()[0][0])


def test_garbage_of_a_corpus_ends_no_forked_process(tmp_path: Path) -> None:
    gc.disable()
    try:
        cycle: list[object] = [open_one(tmp_path)]
        cycle.append(cycle)
        del cycle
        assert ends_well(gc.collect)
    finally:
        gc.enable()
        gc.collect()


def test_forked_process_may_close_a_corpus(corpus: trajrec.Corpus) -> None:
    assert ends_well(corpus.close)
    assert n_episodes(corpus) == 1


def test_forked_process_reads_what_was_recorded_later(corpus: trajrec.Corpus) -> None:
    def read() -> None:
        record_one(corpus.path)
        assert n_episodes(corpus) == 2
        assert len(list(corpus.episodes("n_steps > 0"))) == 2
        corpus.close()

    assert ends_well(read)
    assert n_episodes(corpus) == 2


def test_forked_process_has_an_index_of_its_own(corpus: trajrec.Corpus) -> None:
    def read() -> None:
        # A lock that another thread held as the process was forked stays held in the copy.
        assert n_episodes(corpus) == 1

    with ThreadPoolExecutor(1) as pool:
        pool.submit(corpus._lock.acquire).result()
        assert ends_well(read)
        pool.submit(corpus._lock.release).result()


def test_closed_corpus_stays_closed_in_forked_processes(corpus: trajrec.Corpus) -> None:
    corpus.close()

    def read() -> None:
        with pytest.raises(CorpusError, match="the corpus is closed"):
            n_episodes(corpus)

    assert ends_well(read)


SCRIPT = """
import os, sys
import trajrec
corpus = trajrec.open(sys.argv[1])
rows = corpus.sql("SELECT count(*) FROM range(1000000)")
rows.fetchall()
if process := os.fork():
    print(os.waitpid(process, 0)[1])
"""


def test_forked_process_ends_as_python_does(corpus: trajrec.Corpus) -> None:
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(corpus.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("0\n", "")
