"""Episodes of agents in several tasks, threads and processes, and their index meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import rows
from shop_agent import solve
from tiers import third_slow

import trajrec
from trajrec.agents import running_calls
from trajrec.agents.exchange_memory import Asking, ExchangeMemory
from trajrec.corpus.index.file import INDEX_NAME
from trajrec.envs import Shop
from trajrec.envs.shop import ToolError
from trajrec.recording.event_log import close_logs, open_event_log
from trajrec.wire.dialects.choose import dialect_of


@pytest.mark.slow
def test_concurrent_episodes_keep_their_calls_apart(tmp_path: Path) -> None:
    async def double(x: int) -> int:
        await asyncio.sleep(random.random() * 0.01)
        return 2 * x

    async def one(number: int) -> str:
        async with trajrec.episode(tmp_path, task=str(number)) as ep:
            ep.tool(double)
            for k in range(3):
                assert await ep.call("double", x=1000 * number + k) == 2 * (1000 * number + k)
            with ep.step():
                await asyncio.gather(*(ep.call("double", x=1000 * number + k) for k in range(3, 6)))
        return ep.id

    async def main() -> list[str]:
        return await asyncio.gather(*(one(number) for number in range(200)))

    ids = asyncio.run(main())
    result = rows(
        tmp_path,
        "SELECT episode_id, any_value(task), list((arguments->>'x')::INT ORDER BY "
        "step, call), count(DISTINCT step), "
        "bool_and((result::INT) = 2 * (arguments->>'x')::INT) FROM attempts JOIN "
        "episodes USING (episode_id) GROUP BY 1",
    )
    assert {row[0] for row in result} == set(ids)
    for _, task, arguments, n_steps, is_right in result:
        assert arguments == [1000 * int(task) + k for k in range(6)]
        assert (n_steps, is_right) == (4, True)


def test_threads_may_call_tools_of_one_episode(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        ep.tool(lambda x: (time.sleep(0.001), x)[1], name="echo")
        threads = [
            threading.Thread(target=lambda k=k: [ep.call("echo", x=10 * k + i) for i in range(10)])
            for k in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    result = rows(
        tmp_path, "SELECT (arguments->>'x')::INT, result::INT, outcome FROM attempts ORDER BY ALL"
    )
    assert result == [(x, x, "ok") for x in range(80)]


KILLED = """
import sys, time, trajrec
with trajrec.episode(sys.argv[1], task="killed") as ep:
    ep.tool(lambda x: x, name="quick")
    ep.tool(lambda: time.sleep(60), name="slow")
    for x in range(20):
        ep.call("quick", x=x)
    print("ready", flush=True)
    ep.call("slow")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_leaves_its_call_open(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.2)
        assert rows(tmp_path, "SELECT ending FROM episodes") == [("running",)]
        os.kill(child.pid, signal.SIGKILL)
    assert rows(tmp_path, "SELECT task, ending, n_steps FROM episodes") == [
        ("killed", "interrupted", 21)
    ]
    assert rows(tmp_path, "SELECT outcome, count(*) FROM attempts GROUP BY 1 ORDER BY 2") == [
        ("open", 1),
        ("ok", 20),
    ]


@pytest.mark.slow
@third_slow("agents")
def test_an_index_built_meanwhile_equals_one_built_later(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, world=Shop(seed=1), options={"task": 4}) as ep:
        for order in ("O1001", "nowhere", "O1002"):
            with contextlib.suppress(ToolError):
                ep.call("get_order", order=order)
            open_event_log(tmp_path, "stop-recording", "process").flush()
            assert rows(tmp_path, "SELECT count(*) FROM attempts")[0][0] == ep.n_steps
        solve(tmp_path, 1)
    close_logs()
    tables = ("episodes", "steps", "attempts", "failures", "state_changes", "checks", "model_calls")
    before = {table: rows(tmp_path, f"SELECT * FROM {table} ORDER BY ALL") for table in tables}
    (tmp_path / INDEX_NAME).unlink()
    assert {
        table: rows(tmp_path, f"SELECT * FROM {table} ORDER BY ALL") for table in tables
    } == before
    assert len(before["attempts"]) == 6


@pytest.mark.slow
def test_an_open_corpus_counts_a_growing_episode_once(
    tmp_path: Path,
) -> None:
    with trajrec.episode(tmp_path, watch={"n": [0]}) as ep:
        ep.tool(lambda x: x, name="echo")
        ep.call("echo", x=0)
        open_event_log(tmp_path, "stop-recording", "process").flush()
        with trajrec.open(tmp_path) as corpus:
            for x in range(1, 4):
                ep.call("echo", x=x)
                open_event_log(tmp_path, "stop-recording", "process").flush()
                result = corpus.sql(
                    "SELECT count(*), (SELECT count(*) FROM steps), any_value(tool) FROM attempts"
                ).fetchall()
                assert result == [(x + 1, x + 1, "echo")]
                assert corpus.sql("SELECT n_steps FROM episodes").fetchall() == [(x + 1,)]


def test_episodes_that_are_over_cost_later_calls_nothing(tmp_path: Path) -> None:
    state = {"n": 0}
    for number in range(5):
        with trajrec.episode(tmp_path / "runs", watch=state) as ep:
            ep.tool(state.update, name="put")(n=number)
        assert len(running_calls._CHAIN.get()) <= 1


@contextlib.contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Have a thread do some work again and again during a block, and switch often."""
    before = sys.getswitchinterval()
    is_over = threading.Event()

    def run() -> None:
        while not is_over.is_set():
            work()

    thread = threading.Thread(target=run)
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        sys.setswitchinterval(before)


def test_memory_is_searched_while_requests_are_added() -> None:
    url = "http://h/v1/chat/completions"
    body = b'{"messages":[{"role":"user","content":"hi"}]}'
    dialect = dialect_of(url, body)
    asking = Asking(dialect.request(url, body), dialect)
    memory = ExchangeMemory()
    memory.add_request(url, body)
    with meanwhile(lambda: memory.add_request(url, body)):
        for _ in range(500):
            assert memory.continued(asking).n == 0


def test_log_of_one_episode_has_the_options_of_no_other(tmp_path: Path) -> None:
    lasting = open_event_log(tmp_path, "raise", "machine")
    stopping = open_event_log(tmp_path, "stop-recording", "process")
    assert open_event_log(tmp_path, "raise", "machine") is lasting
    options = [(log.writer.on_full, log.writer.durability) for log in (lasting, stopping)]
    assert options == [("raise", "machine"), ("stop-recording", "process")]
    close_logs()
