"""SQL equals the logs after any order of recording, killing, rewriting, copying and deleting.

The rows that SQL gives are compared with rows that tests/slow_tables.py computes from the files, and with a new index.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from conftest import Scripted
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from slow_tables import QUERIES, Tables, sort, tables
from tiers import Share, suite

import trajrec
from trajrec.corpus.index.file import update_index
from trajrec.corpus.recheck import recheck
from trajrec.errors import LogError
from trajrec.log.compaction import compact
from trajrec.log.journal import journal_path
from trajrec.log.repair import recover
from trajrec.recording import event_log
from trajrec.recording.event_log import close_logs

numbers = st.integers(0, 1000)


class Broken(Exception):
    """Raised by the environment."""


REWARDS = (0.0, 1, np.float32(0.5), True, 10**400, "1", None, np.array([2.0]), [1.0], 1j)


def result_of(k: int) -> Any:
    # Numbers of one type at first, then any.
    reward = float(k % 3) if k < 8 else REWARDS[k % len(REWARDS)]
    return (0.0, float(k)), reward, False, False, {"k": k}


class Env(Scripted):
    def step(self, action: Any) -> Any:
        if action == 999:
            raise Broken("the environment broke")
        return super().step(action)


def check(state: Any) -> bool:
    return bool(state["n"] % 2)


class Files(RuleBasedStateMachine):
    """A folder of logs, whatever happens to it."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="trajrec-order-"))
        self.folder = self.root / "runs"
        self.folder.mkdir()
        self.aside = self.root / "aside"
        self.aside.mkdir()
        self.recorders: list[Any] = []
        self.agents: list[tuple[Any, dict[str, int]]] = []
        self.corpus: trajrec.Corpus | None = None
        self.n_names = 0
        self.places: dict[int, int] = {}

    def teardown(self) -> None:
        for env in self.recorders:
            with contextlib.suppress(Exception):
                env.close()
        for agent, _ in self.agents:
            agent.__exit__(None, None, None)
        close_logs()
        if self.corpus is not None:
            self.corpus.close()
        shutil.rmtree(self.root)

    # What is in the folder

    def logs(self) -> list[Path]:
        """The logs in the order of their making: the names of recorders are drawn anew each time.

        A number must pick the same log whenever the same sequence runs, also after a renaming.
        """
        found = {path.stat().st_ino: path for path in self.folder.rglob("*.trj")}
        self.places = {file: k for file, k in self.places.items() if file in found}
        new = [file for file in found if file not in self.places]
        next_place = max(self.places.values(), default=-1) + 1
        for k, file in enumerate(sorted(new, key=lambda file: found[file].stat().st_mtime_ns)):
            self.places[file] = next_place + k
        return [found[file] for file in sorted(found, key=self.places.__getitem__)]

    def written(self) -> set[Path]:
        """The logs that this process writes."""
        agents = {log.path for log in event_log._open_logs.values() if not log.writer.is_closed}
        return {env.path for env in self.recorders} | agents

    def free(self) -> list[Path]:
        return [log for log in self.logs() if log not in self.written()]

    def new_path(self, number: int) -> Path:
        folder = self.folder / ("", "a", "a/b", "c")[number % 4]
        folder.mkdir(parents=True, exist_ok=True)
        self.n_names += 1
        # Names in another order than that of their making.
        return folder / f"{number * 7919 % 1000:03d} {self.n_names}.trj"

    # Recording

    @precondition(lambda self: len(self.recorders) < 2)
    @rule(number=numbers)
    def begin(self, number: int) -> None:
        folder = self.folder / ("x", "y")[number % 2]
        keep = ("digests", "all", "keys")[number % 3]
        self.recorders.append(trajrec.record(Env(result_of), folder, keep_states=keep))
        self.recorders[-1].reset(seed=number)

    @precondition(lambda self: self.recorders)
    @rule(number=numbers, n_steps=st.integers(1, 5))
    def step(self, number: int, n_steps: int) -> None:
        env = self.recorders[number % len(self.recorders)]
        for _ in range(n_steps):
            env.step(number % 7)

    @precondition(lambda self: self.recorders)
    @rule(number=numbers)
    def next_episode(self, number: int) -> None:
        env = self.recorders[number % len(self.recorders)]
        if number % 3 == 0:
            with contextlib.suppress(Broken):
                env.step(999)
        env.reset(seed=number)

    @precondition(lambda self: self.recorders)
    @rule(number=numbers)
    def flush(self, number: int) -> None:
        self.recorders[number % len(self.recorders)].flush()

    @precondition(lambda self: self.recorders)
    @rule(number=numbers)
    def end(self, number: int) -> None:
        self.recorders.pop(number % len(self.recorders)).close()

    @precondition(lambda self: not self.agents)
    @rule(number=numbers)
    def begin_agent(self, number: int) -> None:
        state = {"n": number}
        agent = trajrec.episode(self.folder / "agents", watch=state, task=f"task {number}")
        agent.__enter__()

        def add(n: int) -> int:
            state["n"] += n
            if n == 0:
                raise ValueError("nothing to add")
            return state["n"]

        agent.tool(add, access="write")
        self.agents.append((agent, state))

    @precondition(lambda self: self.agents)
    @rule(number=numbers)
    def act(self, number: int) -> None:
        agent, _ = self.agents[-1]
        with contextlib.suppress(ValueError):
            agent.call("add", n=number % 3)
        if number % 4 == 0:
            agent.check(check)
        if number % 5 == 0:
            agent.model(lambda **_: {"content": "go on"}, model="m", messages=[{"content": "?"}])
        if number % 7 == 0:
            agent.side_effect("clock", lambda: number)

    @precondition(lambda self: self.agents)
    @rule(is_closed=st.booleans())
    def end_agent(self, is_closed: bool) -> None:
        agent, _ = self.agents.pop()
        agent.__exit__(None, None, None)
        if is_closed:
            close_logs()

    # Files

    @precondition(lambda self: self.recorders)
    @rule(number=numbers)
    def kill(self, number: int) -> None:
        """Leave the log and the journal of a recorder as a killed process leaves them."""
        env = self.recorders.pop(number % len(self.recorders))
        left = [path for path in (env.path, journal_path(env.path)) if path.exists()]
        for path in left:
            shutil.copy(path, self.aside)
        env.close()
        env.path.unlink()
        for path in left:
            (self.aside / path.name).rename(path)

    @precondition(lambda self: self.logs())
    @rule(number=numbers)
    def copy(self, number: int) -> None:
        logs = self.logs()
        shutil.copy2(logs[number % len(logs)], self.new_path(number))

    @precondition(lambda self: self.free())
    @rule(number=numbers, how=st.sampled_from(["compact", "recover"]))
    def rewrite(self, number: int, how: str) -> None:
        logs = self.free()
        with contextlib.suppress(LogError):
            (compact if how == "compact" else recover)(logs[number % len(logs)])

    @precondition(lambda self: self.free())
    @rule(number=numbers)
    def rename(self, number: int) -> None:
        logs = self.free()
        log = logs[number % len(logs)]
        target = self.new_path(number)
        if journal_path(log).exists():
            journal_path(log).rename(journal_path(target))
        log.rename(target)

    @precondition(lambda self: self.logs())
    @rule(number=numbers)
    def touch(self, number: int) -> None:
        logs = self.logs()
        os.utime(logs[number % len(logs)])

    @precondition(lambda self: len(self.free()) > 1)
    @rule(number=numbers, other=numbers)
    def replace(self, number: int, other: int) -> None:
        """Put the contents of a log in the place of another one, as rsync does."""
        logs = self.free()
        source, target = logs[number % len(logs)], logs[other % len(logs)]
        shutil.copy(source, target.with_suffix(".part"))
        target.with_suffix(".part").replace(target)
        journal_path(target).unlink(missing_ok=True)

    @precondition(lambda self: self.free())
    @rule(number=numbers)
    def delete(self, number: int) -> None:
        logs = self.free()
        log = logs[number % len(logs)]
        log.unlink()
        journal_path(log).unlink(missing_ok=True)

    @rule(names=st.permutations(["a", "c", "d"]))
    def rename_folder(self, names: list[str]) -> None:
        source, target = self.folder / names[0], self.folder / names[1]
        if source.exists() and not target.exists():
            source.rename(target)

    # Asking

    @precondition(lambda self: self.logs())
    @rule(is_rebuilt=st.booleans())
    def index(self, is_rebuilt: bool) -> None:
        update_index(self.folder, rebuild=is_rebuilt)

    @precondition(lambda self: self.logs())
    @rule()
    def verify_again(self) -> None:
        with trajrec.open(self.folder) as corpus:
            list(recheck(corpus, check, kind="all"))
        close_logs()

    @precondition(lambda self: self.logs())
    @rule()
    def open(self) -> None:
        if self.corpus is not None:
            self.corpus.close()
        self.corpus = trajrec.open(self.folder)

    @precondition(lambda self: self.corpus is not None)
    @rule()
    def ask_open_corpus(self) -> None:
        assert self.corpus is not None
        self.compare(self.corpus)

    @precondition(lambda self: self.logs())
    @rule()
    def ask(self) -> None:
        with trajrec.open(self.folder) as corpus:
            self.compare(corpus)

    def compare(self, corpus: trajrec.Corpus) -> None:
        found: Tables = {
            name: sort(corpus.sql(query).fetchall()) for name, query in QUERIES.items()
        }
        query = "SELECT log FROM logs WHERE is_original"
        originals = {log for (log,) in corpus.sql(query).fetchall()}
        running = {log.relative_to(self.folder).as_posix() for log in self.written()}
        expected = tables(self.folder, originals, running)
        for name, rows in expected.items():
            assert found[name] == rows, name
        for episode in corpus.episodes("kind <> 'copy'", kind="all"):
            assert corpus.episode(episode.id).n_steps == episode.n_steps


Make = Callable[[], RuleBasedStateMachine]


# A new verdict closes the log of an agent that goes on.
@pytest.mark.filterwarnings("ignore:.*the log was closed:RuntimeWarning")
# More shards than processes, since a process keeps the test that follows the one it runs.
@pytest.mark.parametrize("shard", range(4))
@suite("index", fixed=0, drawn=1, whole=500)
def test_sql_equals_the_logs_after_any_order_of_changes(share: Share, shard: int) -> None:
    phases = [hypothesis.Phase.generate]
    if share.is_whole:
        # It may take minutes.
        phases.append(hypothesis.Phase.shrink)
    machine = hypothesis.seed(share.seed + shard)(Files)
    run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=share.size,
            stateful_step_count=25,
            phases=phases,
            database=None,
            deadline=None,
            derandomize=False,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
