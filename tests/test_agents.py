"""Agents that call tools and models: all their calls are recorded, and none is changed."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
import types
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pydantic
import pytest
import zstandard
from conftest import only
from planted import KINDS, plant

import trajrec
from trajrec.agents.context import current_episode, enter_episode, leave_episode
from trajrec.corpus.index.file import INDEX_NAME
from trajrec.envs import Shop
from trajrec.envs.shop import PaymentTimeout, ToolError
from trajrec.envs.shop_tasks import TASKS
from trajrec.errors import UnknownToolError
from trajrec.log.reader import LogReader
from trajrec.recording.event_log import close_logs, open_event_log
from trajrec.redaction.redactor import Redactor
from trajrec.redaction.streams import STEP_CHARS
from trajrec.redaction.tracks import WINDOW_CHARS
from trajrec.replay import first_difference


def rows(folder: Path, query: str) -> list[Any]:
    with trajrec.open(folder) as corpus:
        return corpus.sql(query).fetchall()


@trajrec.verifier(id="solved", version="2", family="environmental")
def solved(shop: Shop) -> bool:
    return shop.task_solved()


def solve(folder: Path, task: int, seed: int = 7) -> str:
    with trajrec.episode(
        folder, task=f"shop-{task}", world=Shop(seed=seed), options={"task": task}, checks=[solved]
    ) as ep:
        for name, arguments in ep.world.ground_truth_calls():
            with contextlib.suppress(PaymentTimeout):
                ep.call(name, **arguments)
        ep.stop("done", claimed_done=True)
    return ep.id


# Records of a loop


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("task", range(len(TASKS)))
def test_ground_truth_solves_each_task_of_the_shop(tmp_path: Path, task: int) -> None:
    solve(tmp_path, task)
    with trajrec.episode(
        tmp_path, task=f"shop-{task}", world=Shop(seed=7), options={"task": task}, checks=[solved]
    ):
        pass
    result = rows(
        tmp_path,
        "SELECT task, outcome, ending, stop_reason, claimed_done FROM episodes ORDER BY n_steps",
    )
    assert result[0][:3] == (f"shop-{task}", "failure", "terminated")
    assert result[1] == (f"shop-{task}", "success", "terminated", "done", True)


@pytest.mark.slow
def test_failures_retries_and_recoveries_are_recorded(tmp_path: Path) -> None:
    class Flaky:
        n = 0

        def __call__(self, query: str) -> list[str]:
            self.n += 1
            if self.n < 3:
                raise TimeoutError("no answer")
            return [query]

    with trajrec.episode(tmp_path, world=Shop(seed=7), options={"task": 0}) as ep:
        ep.tool(Flaky(), name="search", access="external")
        with pytest.raises(ToolError):
            ep.call("refund_order", order="O1001", cents=10**6)  # step 0: too much
        with pytest.raises(ToolError):
            ep.call("refund_order", order="O1001", cents=10**6)  # step 1: the same again
        ep.call("refund_order", order="O1001", cents=100)  # step 2: recovered
        with pytest.raises(UnknownToolError, match="no tool 'refund'"):
            ep.call("refund", order="O1001")  # step 3: invalid
        # Step 4: two timeouts and an answer.
        for attempt in ep.attempts(3, wait=0.01, on=TimeoutError):
            with attempt:
                assert ep.call("search", query="x") == ["x"]
        with pytest.raises(ToolError):
            ep.call("cancel_order", order="nowhere")  # step 5: never overcome
    attempts = rows(
        tmp_path,
        "SELECT step, attempt, tool, outcome, invalid, retry_by, retry_of_step, "
        "argument_changes, backoff_ms > 9 "
        "FROM attempts ORDER BY ALL",
    )
    assert attempts == [
        (0, 0, "refund_order", "error", None, None, None, None, False),
        (1, 0, "refund_order", "error", None, "agent", 0, "[]", False),
        (2, 0, "refund_order", "ok", None, "agent", 1, '[["/cents",1000000,100,["cents"]]]', False),
        (3, 0, "refund", "error", "unknown tool", None, None, None, False),
        (4, 0, "search", "timeout", None, None, None, None, False),
        (4, 1, "search", "timeout", None, "scaffold", 4, "[]", True),
        (4, 2, "search", "ok", None, "scaffold", 4, "[]", True),
        (5, 0, "cancel_order", "error", None, None, None, None, False),
    ]
    failures = rows(
        tmp_path,
        "SELECT step, attempt, failure_kind, origin, recovered_at, recovered_by "
        "FROM failures ORDER BY ALL",
    )
    assert failures == [
        (0, 0, "error", "tool", 2, "agent"),
        (1, 0, "error", "tool", 2, "agent"),
        (3, 0, "invalid", "agent", None, None),
        (4, 0, "timeout", "infra", 4, "scaffold"),
        (4, 1, "timeout", "infra", 4, "scaffold"),
        (5, 0, "error", "tool", None, None),
    ]
    assert rows(tmp_path, "SELECT n_steps, n_failures FROM episodes") == [(6, 6)]


def test_the_last_try_raises_its_own_exception(tmp_path: Path) -> None:
    def broken() -> None:
        raise ConnectionError("gone")

    with trajrec.episode(tmp_path) as ep:
        ep.tool(broken)
        tries = iter(ep.attempts(2, on=ConnectionError))
        with next(tries):
            ep.call("broken")
        with pytest.raises(ConnectionError, match="gone"), next(tries):
            ep.call("broken")
    assert rows(tmp_path, "SELECT step, attempt, outcome FROM attempts ORDER BY ALL") == [
        (0, 0, "error"),
        (0, 1, "error"),
    ]


def test_arguments_against_the_schema_are_invalid_and_executed(
    tmp_path: Path,
) -> None:
    schema = {
        "type": "object",
        "properties": {
            "cents": {"type": "integer", "minimum": 1},
            "note": {"type": "string", "default": "none"},
        },
        "required": ["cents"],
        "additionalProperties": False,
    }
    with trajrec.episode(tmp_path) as ep:
        ep.tool(lambda **arguments: arguments, name="lenient", schema=schema)
        ep.tool(lambda cents: cents, name="strict", schema=schema)
        ep.tool(lambda: 1, name="broken", schema={"type": "nonsense"})
        assert ep.call("lenient", cents=5) == {"cents": 5}
        assert ep.call("lenient", cents="5") == {"cents": "5"}
        with pytest.raises(TypeError):
            ep.call("strict", amount=5)
        ep.call("broken")
    result = rows(tmp_path, "SELECT tool, outcome, invalid FROM attempts ORDER BY step")
    assert result == [
        ("lenient", "ok", None),
        ("lenient", "ok", "cents must be integer"),
        ("strict", "error", "data must contain ['cents'] properties"),
        ("broken", "ok", None),
    ]
    assert rows(tmp_path, "SELECT failure_kind, origin FROM failures") == [("invalid", "agent")]


def test_attempts_of_tenacity_are_the_scaffolds(tmp_path: Path) -> None:
    import tenacity

    tried: list[int] = []

    def flaky() -> int:
        tried.append(1)
        if len(tried) % 3:
            raise ConnectionError
        return len(tried)

    async def later() -> int:
        return flaky()

    async def main(ep: Any) -> int:
        async for attempt in ep.attempts(
            tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(3))
        ):
            with attempt:
                first = await ep.call("later")
        async for attempt in ep.attempts(3):
            with attempt:
                second = await ep.call("later")
        return int(first + second)

    with trajrec.episode(tmp_path) as ep:
        ep.tool(flaky)
        ep.tool(later)
        plan = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(0.01)
        )
        for attempt in ep.attempts(plan):
            with attempt:
                assert ep.call("flaky") == 3
        assert asyncio.run(main(ep)) == 6 + 9
        tries = iter(ep.attempts(tenacity.Retrying(stop=tenacity.stop_after_attempt(2))))
        for _ in range(2):
            with next(tries):
                ep.call("flaky")
        with pytest.raises(tenacity.RetryError):
            next(tries)
    result = rows(
        tmp_path,
        "SELECT step, attempt, outcome, retry_by, backoff_ms >= 10 FROM attempts "
        "ORDER BY step, attempt",
    )
    assert result[:3] == [
        (0, 0, "error", None, False),
        (0, 1, "error", "scaffold", True),
        (0, 2, "ok", "scaffold", True),
    ]
    assert [row[:3] for row in result[3:]] == [
        *((1, k, "ok" if k == 2 else "error") for k in range(3)),
        *((2, k, "ok" if k == 2 else "error") for k in range(3)),
        *((3, k, "error") for k in range(2)),
    ]


def test_a_returned_error_is_a_failure(
    tmp_path: Path,
) -> None:
    answer = types.SimpleNamespace(isError=True)
    with trajrec.episode(tmp_path) as ep:
        ep.tool(lambda: {"error": "no such order"}, name="a")
        ep.tool(lambda: answer, name="b")
        ep.tool(lambda: {"error": None, "rows": []}, name="c")
        assert ep.call("a") == {"error": "no such order"}
        assert ep.call("b") is answer
        ep.call("c")
    result = rows(tmp_path, "SELECT tool, outcome, is_raised, message FROM attempts ORDER BY step")
    assert result == [
        ("a", "error", False, "no such order"),
        ("b", "error", False, "isError"),
        ("c", "ok", False, None),
    ]


@pytest.mark.slow
def test_calls_after_a_model_call_share_its_step(
    tmp_path: Path,
) -> None:
    with trajrec.episode(tmp_path) as ep:
        ep.tool(lambda x: x, name="echo")
        ep.call("echo", x=0)
        ep.model(lambda **_: {"content": "two calls"}, messages=[{"role": "user", "content": "go"}])
        ep.call("echo", x=1)
        ep.call("echo", x=2)
        ep.model(
            lambda **_: {"content": "done"},
            messages=[{"role": "user", "content": "go"}, {"role": "assistant"}],
        )
        with ep.step():
            ep.call("echo", x=3)
            ep.call("echo", x=4)
        ep.call("echo", x=5)
    result = rows(tmp_path, "SELECT step, call, arguments->>'x' FROM attempts ORDER BY ALL")
    assert result == [(0, 0, "0"), (1, 0, "1"), (1, 1, "2"), (3, 0, "3"), (3, 1, "4"), (4, 0, "5")]
    assert rows(tmp_path, "SELECT step, n_messages FROM model_calls ORDER BY ALL") == [
        (1, 1),
        (2, 2),
    ]
    assert rows(tmp_path, "SELECT step, action IS NULL FROM steps ORDER BY step")[2] == (2, True)


@pytest.mark.slow
def test_a_model_call_in_a_block_is_a_part_of_its_step(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        ep.tool(lambda x: x, name="echo")
        with ep.step() as number:
            ep.call("echo", x=0)
            ep.model(lambda **_: {"content": "go on"}, messages=[])
            ep.call("echo", x=1)
        assert (number, ep.n_steps) == (0, 1)
        ep.model(lambda **_: {"content": "done"}, messages=[])
    assert rows(tmp_path, "SELECT step FROM model_calls ORDER BY number") == [(0,), (1,)]
    assert rows(tmp_path, "SELECT step, call FROM attempts ORDER BY ALL") == [(0, 0), (0, 1)]


def test_episodes_differ_in_the_first_model_call_that_does(tmp_path: Path) -> None:
    def run(prompt: str, text: str, number: int) -> None:
        with trajrec.episode(tmp_path):
            for content in (prompt, "go on"):
                answer = {"id": f"c-{number}", "choices": [{"message": {"content": text}}]}
                current = current_episode()
                assert current is not None
                current.model(
                    lambda a=answer, **_: a, messages=[{"role": "user", "content": content}]
                )

    run("hello", "yes", 0)
    run("hello", "yes", 1)
    run("hello, you", "yes", 2)
    run("hello", "no", 3)
    with trajrec.open(tmp_path) as corpus:
        first, same, asked, told = corpus.episodes(order_by="started_at")
    assert first_difference(first, same) == []
    assert [str(d) for d in first_difference(first, asked)] == [
        "step 0, model call/messages/0/content: 'hello' | 'hello, you'"
    ]
    assert [(d.step, d.field) for d in first_difference(first, told)] == [(0, "answer/text")]


@pytest.mark.slow
def test_a_read_tool_that_writes_is_reported(tmp_path: Path) -> None:
    accounts = {"ada": 5}
    inbox = ["hello"]
    with trajrec.episode(tmp_path, watch={"accounts": accounts, "inbox": lambda: inbox}) as ep:

        def peek() -> int:
            inbox.pop()
            return 1

        ep.tool(lambda to: accounts.update({to: 1}), name="open", access="write")
        ep.tool(peek, access="read")
        ep.call("open", to="ben")
        ep.call("peek")
    assert rows(
        tmp_path, "SELECT step, part, path, before, after FROM state_changes ORDER BY ALL"
    ) == [
        (0, "accounts", "/ben", None, "1"),
        (1, "inbox", "/0", '"hello"', None),
    ]
    assert rows(tmp_path, "SELECT tool, finding FROM attempts WHERE finding IS NOT NULL") == [
        ("peek", "declared read, changed state")
    ]
    assert rows(tmp_path, "SELECT step, phase, origin, message, action FROM failures") == [
        (
            1,
            "state",
            "tool",
            "declared read, changed state",
            '[{"step":1,"call":0,"attempt":0,"tool":"peek"}]',
        )
    ]
    assert only(tmp_path).transcript.initial_state == {"accounts": {"ada": 5}, "inbox": ["hello"]}


def test_an_exception_of_the_loop_is_recorded(tmp_path: Path) -> None:
    def loop() -> None:
        with trajrec.episode(tmp_path, checks=[solved]) as ep:
            ep.tool(lambda: 1, name="one")
            ep.call("one")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert rows(tmp_path, "SELECT ending, n_steps, outcome FROM episodes") == [("error", 1, None)]
    assert rows(tmp_path, "SELECT phase, origin, error_type FROM failures") == [
        ("loop", "agent", "builtins.ZeroDivisionError")
    ]


def test_a_failed_reset_is_an_episode_with_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="options"),
        trajrec.episode(tmp_path, world=Shop(), options={"task": 99}),
    ):
        pass
    assert rows(tmp_path, "SELECT ending, n_steps FROM episodes") == [("error", 0)]
    assert rows(tmp_path, "SELECT phase, step, error_type FROM failures") == [
        ("reset", -1, "builtins.ValueError")
    ]


def test_a_raising_verifier_has_status_error(tmp_path: Path) -> None:
    def broken(_: Any) -> bool:
        raise KeyError("total")

    with trajrec.episode(tmp_path, watch={"a": 1}) as ep:
        assert ep.check(broken).passed is None
        assert ep.check(lambda state: state["a"] == 1).passed is True
        ep.check(
            lambda first, second: trajrec.Verdict(
                first < second, 0.5, {"expected": second, "actual": first}
            ),
            1,
            2,
        )
    result = rows(
        tmp_path, "SELECT status, verdict, score, evidence FROM checks ORDER BY checked_at"
    )
    assert result == [
        ("error", None, None, None),
        ("ok", True, None, None),
        ("ok", True, 0.5, '{"expected":2,"actual":1}'),
    ]
    assert rows(tmp_path, "SELECT phase, origin FROM failures") == [("check", "verifier")]


def test_calls_outside_of_an_episode_raise(tmp_path: Path) -> None:
    ep = trajrec.episode(tmp_path)
    with pytest.raises(ValueError, match="has not begun"):
        ep.call("x")
    with ep:
        ep.tool(lambda: 1, name="one")
        with pytest.raises(KeyError), ep.step():
            raise KeyError
        ep.call("one")
        ep.call("one")
    with pytest.raises(ValueError, match="has ended"):
        ep.call("one")
    with pytest.raises(ValueError, match="has ended"):
        ep.side_effect("x", lambda: 1)
    with pytest.raises(ValueError, match="recorded once"):
        ep.__enter__()
    assert rows(tmp_path, "SELECT step, call FROM attempts ORDER BY ALL") == [(1, 0), (2, 0)]


FORKED = """
import os, sys, warnings, trajrec
with trajrec.episode(sys.argv[1], task="parent") as ep:
    ep.tool(lambda: 1, name="one")
    ep.call("one")
    child = os.fork()
    if child == 0:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ep.call("one")
            ep.call("one")
        assert len(caught) == 1 and "forked process" in str(caught[0].message), caught
        with trajrec.episode(sys.argv[1], task="child") as own:
            own.tool(lambda: 2, name="two")
            own.call("two")
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ep.call("one")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_process_has_its_own_log(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED, str(tmp_path)], check=True)
    result = rows(
        tmp_path,
        "SELECT task, ending, tool, count(*) FROM all_episodes JOIN attempts USING "
        "(episode_id) GROUP BY ALL ORDER BY 1",
    )
    assert result == [("child", "terminated", "two", 1), ("parent", "terminated", "one", 2)]


def test_a_nested_episode_may_begin_before_the_callers_first_step(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, task="outer"), trajrec.episode(tmp_path, task="inner"):
        pass
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT task, caller_step FROM all_episodes ORDER BY number"
        assert corpus.sql(query).fetchall() == [("outer", None), ("inner", -1)]
        assert corpus.problems() == []


def test_a_nested_episode_names_its_caller(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, task="outer") as outer:
        outer.tool(lambda: 1, name="one")
        outer.call("one")
        with trajrec.episode(tmp_path, task="inner") as inner:
            pass
        with trajrec.episode(tmp_path, task="second"):
            pass
    result = rows(
        tmp_path,
        "SELECT task, kind, caller_id, caller_step, parent_id FROM all_episodes ORDER BY number",
    )
    assert result == [
        ("outer", "rollout", None, None, None),
        ("inner", "nested", outer.id, 0, None),
        ("second", "nested", outer.id, 0, None),
    ]
    assert rows(tmp_path, "SELECT task FROM episodes") == [("outer",)]
    assert inner.id != outer.id


# Models


class Message(pydantic.BaseModel):
    role: str
    content: str


@pytest.mark.slow
def test_a_conversation_stores_each_message_once(tmp_path: Path) -> None:
    draw = random.Random(0)
    messages = [{"role": "system", "content": "You are a shop assistant. " * 100}]
    with trajrec.episode(tmp_path) as ep:
        for turn in range(1000):
            messages.append(
                {"role": "user", "content": f"{turn} " + "".join(draw.choices("abcdefgh ", k=200))}
            )
            ep.model(lambda **_: {"ok": True}, model="m", messages=messages, temperature=0.5)
    close_logs()
    size = sum(path.stat().st_size for path in tmp_path.glob("*.trj"))
    history = len(zstandard.ZstdCompressor(3).compress(msgspec.msgpack.encode(messages)))
    assert size < 3 * history
    transcript = only(tmp_path).transcript
    for turn in (0, 1, 500, 999):
        assert transcript.model_calls[turn].messages == messages[: turn + 2]
    assert transcript.model_calls[7].request == {"model": "m", "temperature": 0.5}


def test_an_odd_message_leaves_its_neighbours_right(tmp_path: Path) -> None:
    odd = {"role": "user", "content": 2**70}
    requests = [[{"role": "user", "content": ((1,), (2,), text)}, odd] for text in "abb"]
    with trajrec.episode(tmp_path, wire=False) as ep:
        for messages in requests:
            ep.model(lambda **_: "ok", messages=messages)
    calls = only(tmp_path).transcript.model_calls
    assert [call.messages for call in calls] == requests
    assert [call.start.kept for call in calls] == [0, 0, 2]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("depth", [100, 900, 100_000])
def test_a_deeply_nested_message_never_ends_the_agent(tmp_path: Path, depth: int) -> None:
    deep: Any = "end"
    for _ in range(depth):
        deep = [deep]
    messages = [{"role": "user", "content": "one"}, {"role": "user", "content": deep}]

    def ask_deep_in_the_stack(n_frames: int) -> Any:
        if n_frames:
            return ask_deep_in_the_stack(n_frames - 1)
        return ep.model(lambda **_: "ok", messages=messages)

    with trajrec.episode(tmp_path, wire=False) as ep:
        assert [ask_deep_in_the_stack(n) for n in (0, 300)] == ["ok", "ok"]
    calls = only(tmp_path).transcript.model_calls
    assert [len(call.messages) for call in calls] == [2, 2]
    assert [call.messages[0] for call in calls] == messages[:1] * 2


def test_interleaved_conversations_come_back_whole(tmp_path: Path) -> None:
    def said(*texts: str) -> list[Any]:
        return [{"role": "user", "content": text} for text in texts]

    asked = [
        said("a"),
        said("x"),
        said("a", "b"),
        said("x", "y"),
        said("a", "c"),
        said(),
        said("x", "y", "z"),
        said("a", "b", "d"),
    ]
    asked.append([Message(role="user", content="an object")])
    with trajrec.episode(tmp_path) as ep:
        for messages in asked:
            ep.model(lambda **_: None, messages=messages)
    result = [call.messages for call in only(tmp_path).transcript.model_calls]
    assert result[:-1] == asked[:-1]
    assert result[-1][0].fields == {"role": "user", "content": "an object"}


def test_streamed_answers_are_recorded_whole(tmp_path: Path) -> None:
    async def pieces() -> Any:
        for text in "xyz":
            yield {"delta": text}

    async def ask(**_: Any) -> Any:
        return pieces()

    async def main() -> None:
        async with trajrec.episode(tmp_path) as ep:
            stream = ep.model(lambda **_: iter(["a", "b", "c"]), messages=[])
            assert next(stream) == "a"
            assert list(stream) == ["b", "c"]
            assert [piece["delta"] async for piece in await ep.model(ask, messages=[])] == [
                "x",
                "y",
                "z",
            ]
            next(ep.model(lambda **_: iter([1, 2]), messages=[]))  # given up after the first piece

    asyncio.run(main())
    result = only(tmp_path).transcript.model_calls
    assert [call.answer for call in result] == [
        ["a", "b", "c"],
        [{"delta": "x"}, {"delta": "y"}, {"delta": "z"}],
        [1],
    ]
    assert rows(tmp_path, "SELECT DISTINCT outcome, is_streamed FROM model_calls") == [("ok", True)]


@pytest.mark.slow
def test_a_retried_model_call_is_one_step(tmp_path: Path) -> None:
    answers = iter(
        [
            ConnectionError("reset"),
            {"model": "m-1", "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
        ]
    )

    def ask(**_: Any) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with trajrec.episode(tmp_path) as ep:
        for attempt in ep.attempts(2):
            with attempt:
                ep.model(ask, messages=[])
    result = rows(
        tmp_path,
        "SELECT step, outcome, retry_by, model, input_tokens, output_tokens FROM "
        "model_calls ORDER BY number",
    )
    assert result == [(0, "error", None, None, None, None), (0, "ok", "scaffold", "m-1", 5, 2)]
    assert rows(tmp_path, "SELECT phase, origin FROM failures") == [("model", "infra")]


# Concurrency


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
def test_an_index_built_meanwhile_equals_one_built_later(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, world=Shop(seed=1), options={"task": 4}) as ep:
        for order in ("O1001", "nowhere", "O1002"):
            with contextlib.suppress(ToolError):
                ep.call("get_order", order=order)
            open_event_log(tmp_path, "raise", "process").flush()
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
        open_event_log(tmp_path, "raise", "process").flush()
        with trajrec.open(tmp_path) as corpus:
            for x in range(1, 4):
                ep.call("echo", x=x)
                open_event_log(tmp_path, "raise", "process").flush()
                result = corpus.sql(
                    "SELECT count(*), (SELECT count(*) FROM steps), any_value(tool) FROM attempts"
                ).fetchall()
                assert result == [(x + 1, x + 1, "echo")]
                assert corpus.sql("SELECT n_steps FROM episodes").fetchall() == [(x + 1,)]


# Secrets


KEY = "sk-proj-" + "Ab3dEfGh" * 4
PLANTED = {
    "openai": KEY,
    "github": "ghp_" + "a1B2c3D4" * 4,
    "aws": "AKIA" + "ABCDEFGH12345678",
    "jwt": "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
    "named": "plain-looking-secret-value",
    "variable": "correct-horse-battery",
}


def test_a_function_in_place_of_a_tools_name_is_refused(tmp_path: Path) -> None:
    def search(query: str) -> str:
        return query

    with trajrec.episode(tmp_path) as ep:
        with pytest.raises(TypeError, match=r"called by its name.*ep\.tool\(function\)"):
            ep.call(search, query="lamp")  # type: ignore[arg-type]
        assert ep.tool(search)(query="lamp") == "lamp"
    close_logs()
    assert rows(tmp_path, "SELECT tool, outcome FROM attempts") == [("search", "ok")]


def test_no_byte_of_a_log_has_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_API_TOKEN", PLANTED["variable"])
    text = f"use {PLANTED['github']} and {PLANTED['aws']}, then {PLANTED['variable']}"
    headers = {
        "Authorization": f"Bearer {PLANTED['named']}",
        "X-API-Key": PLANTED["named"],
        "cookie": PLANTED["jwt"],
    }

    def broken(**_: Any) -> None:
        raise RuntimeError(f"401 for {KEY} ({PLANTED['variable']})")

    state = {"mail": text, "config": {"password": PLANTED["named"]}}
    with trajrec.episode(
        tmp_path,
        task=f"task {KEY}",
        goal=text,
        watch=state,
        interface={"base": {"api_key": PLANTED["named"]}},
        metadata=headers,
    ) as ep:
        ep.tool(lambda **arguments: {"echo": arguments}, name="echo")
        ep.tool(broken, name="broken")
        ep.call("echo", headers=headers, text=text, body=KEY.encode())
        with pytest.raises(RuntimeError, match=KEY):
            ep.call("broken", key=KEY)
        state["mail"] = f"changed: {PLANTED['jwt']}"
        state["config"]["password"] = PLANTED["named"] + "-2"  # type: ignore[index]
        ep.call("echo", x=1)
        ep.model(
            lambda **_: Message(role="assistant", content=text),
            messages=[{"role": "user", "content": text * 20}],
        )
        with pytest.raises(RuntimeError):
            ep.model(broken, messages=[], extra_headers=headers)
        ep.side_effect("getenv", os.environ.get, "SHOP_API_TOKEN")
        ep.check(lambda _: trajrec.Verdict(True, evidence={"seen": text}))
        ep.stop(f"stopped at {KEY}")
    close_logs()
    for path in tmp_path.glob("*.trj"):
        raw = path.read_bytes()
        with LogReader(path) as reader:
            raw += msgspec.msgpack.encode(reader.header)
            for chunk in reader.chunks():
                raw += msgspec.msgpack.encode(chunk.record)
                for event in chunk.record.events:
                    for field in msgspec.structs.astuple(event):
                        raw += field if isinstance(field, bytes) else repr(field).encode()
        for name, secret in PLANTED.items():
            assert secret.encode() not in raw, name
    # Equal secrets stay recognisable, and what was redacted says so.
    assert rows(
        tmp_path,
        "SELECT count(DISTINCT regexp_extract(arguments::VARCHAR, 'api key "
        "[0-9a-f]{8}')) FROM attempts",
    ) != [(0,)]
    assert rows(tmp_path, "SELECT is_redacted FROM attempts ORDER BY step") == [
        (True,),
        (True,),
        (False,),
    ]


@pytest.mark.parametrize(
    "key",
    [
        "apiKey",
        "API_KEY",
        "x-API-key",
        "SECRET",
        "Client-Secret",
        "CLIENT_SECRET",
        "COOKIE",
        "sessionToken",
        "PassWord",
    ],
)
@pytest.mark.parametrize(
    "wrap",
    [lambda text: text, lambda text: [text, text], lambda text: {"a": (text.encode(), None, 3)}],
    ids=["text", "list", "dict"],
)
def test_a_key_names_a_secret_in_any_spelling(key: str, wrap: Callable[[str], Any]) -> None:
    data, is_redacted = Redactor({}).encode({"request": {key: wrap("hunter2")}})
    assert is_redacted
    assert b"hunter2" not in data
    assert f"[redacted {key.lower()} ".encode() in data


def chunk(text: str) -> dict[str, Any]:
    """Return a piece of a streamed answer, as the OpenAI API has it."""
    delta = {"role": "assistant", "content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}


def openai_chunk(text: str) -> Any:
    """Return the same as the client of OpenAI makes it of a response."""
    types = pytest.importorskip("openai.types.chat")

    return types.ChatCompletionChunk.model_validate({**chunk(text), "created": 1, "model": "m"})


def anthropic_chunk(text: str) -> dict[str, Any]:
    """Return a piece of a streamed answer, as the Anthropic API has it."""
    return {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": text},
    }


PIECES: dict[str, tuple[Callable[[str], Any], Callable[[Any], str]]] = {
    "texts": (str, str),
    "chunks": (chunk, lambda piece: piece["choices"][0]["delta"]["content"]),
    "objects": (
        openai_chunk,
        lambda piece: piece.fields["choices"][0].fields["delta"].fields["content"],
    ),
    "events": (anthropic_chunk, lambda piece: piece["delta"]["text"]),
    "bytes": (str.encode, bytes.decode),
    "lines of events": (
        lambda text: f"data: {json.dumps(chunk(text))}",
        lambda line: json.loads(line[6:])["choices"][0]["delta"]["content"],
    ),
    "lines of JSON": (
        lambda text: json.dumps({"message": {"content": text}}).encode() + b"\n",
        lambda line: json.loads(line)["message"]["content"],
    ),
}
PROSE = "The agent found that the customer had paid twice for the lamp, and wrote to her. "


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("size", [3, 11])
@pytest.mark.parametrize("form", PIECES)
def test_no_piece_of_a_stream_has_a_secret(tmp_path: Path, form: str, size: int) -> None:
    wrap, text_of = PIECES[form]
    planted = [plant(kind, form) for kind in KINDS]
    # Some secrets come after the first search, some before, and some in the middle of it.
    texts = [f"{PROSE * (k % 9)}Take {p.text} for it." for k, p in enumerate(planted)]
    with trajrec.episode(tmp_path) as ep:
        for text in texts:
            pieces = [wrap(text[k : k + size]) for k in range(0, len(text), size)]
            assert list(ep.model(lambda pieces=pieces: iter(pieces))) == pieces
    close_logs()
    redactor = Redactor()
    calls = only(tmp_path).transcript.model_calls
    for call, secret, text in zip(calls, planted, texts, strict=True):
        answer = "".join(map(text_of, call.answer))
        assert secret.secret not in answer, secret
        assert answer == redactor.text(text)
        assert call.end is not None
        assert call.end.is_redacted
        assert len(call.answer) == -(-len(text) // size)


def test_pieces_without_secrets_are_recorded_as_they_were(tmp_path: Path) -> None:
    pieces = [chunk(PROSE[k % 7 : k % 7 + 4]) for k in range(700)]
    with trajrec.episode(tmp_path) as ep:
        assert list(ep.model(lambda: iter(pieces))) == pieces
        ep.model(lambda: iter([1, None, (2, "x"), {"usage": {"total_tokens": 3}}])).__next__()
    close_logs()
    first, second = only(tmp_path).transcript.model_calls
    assert first.answer == pieces
    assert second.answer == [1]
    assert first.end is not None
    assert not first.end.is_redacted
    assert rows(tmp_path, "SELECT is_streamed, outcome FROM model_calls ORDER BY number") == [
        (True, "ok"),
        (True, "ok"),
    ]


def test_events_that_the_pieces_of_a_stream_cut_are_redacted(tmp_path: Path) -> None:
    # Pieces of a secret may be equal.
    secret = "sk-proj-" + "Ab3dEfGh" * 6
    text = f"{PROSE * 9}Take {secret} € for it. {PROSE * 9}"
    events = [f"data: {json.dumps(chunk(text[k : k + 8]))}\n\n" for k in range(0, len(text), 8)]
    raw = "".join([*events, "data: [DONE]\n\n"]).encode()
    pieces = [raw[k : k + 100] for k in range(0, len(raw), 100)]
    with trajrec.episode(tmp_path) as ep:
        assert list(ep.model(lambda: iter(pieces))) == pieces
    close_logs()
    lines = b"".join(only(tmp_path).transcript.model_calls[0].answer).decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines[:-2]]
    assert "".join(delta["content"] for delta in deltas) == Redactor().text(text)


def test_json_in_a_stream_is_redacted_by_its_names(tmp_path: Path) -> None:
    document = json.dumps({"to": "bob", "note": PROSE * 20, "secrets": {"db": ["swordfish"]}})
    pieces = [document[k : k + 5] for k in range(0, len(document), 5)]
    with trajrec.episode(tmp_path) as ep:
        assert list(ep.model(lambda: iter(pieces))) == pieces
    close_logs()
    answer = "".join(only(tmp_path).transcript.model_calls[0].answer)
    assert "sword" not in answer
    assert json.loads(answer)["note"] == PROSE * 20
    assert json.loads(answer)["secrets"]["db"][0].startswith("[redacted secrets ")


STREAMING = """
import os, sys, trajrec
with trajrec.episode(sys.argv[1]) as ep:
    stream = ep.model(lambda: iter(["The lamp is sold. "] * 500))
    for k in range(400):
        next(stream)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_killed_stream_keeps_its_pieces_up_to_the_window(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", STREAMING, str(tmp_path)], check=False)
    (call,) = only(tmp_path).transcript.model_calls
    assert call.outcome == "open"
    n_missing = 400 - len(call.answer)
    assert n_missing * len("The lamp is sold. ") <= WINDOW_CHARS + STEP_CHARS + 20
    assert set(call.answer) == {"The lamp is sold. "}
    assert rows(tmp_path, "SELECT outcome, is_streamed, answer IS NULL FROM model_calls") == [
        ("open", True, False)
    ]
    with trajrec.rerun(only(tmp_path)) as ep:
        stream = ep.model(no_model)
        assert [next(stream) for _ in call.answer] == call.answer
        with pytest.raises(TimeoutError):
            next(stream)


def no_model() -> None:
    raise AssertionError("a rerun must not call the model")


@pytest.mark.slow
def test_ordinary_text_is_not_redacted(
    tmp_path: Path,
) -> None:
    ordinary = "the task-list of sky-high disk-usage; token count 5; AKITA; eyJ; sk-ip; max_tokens"
    with trajrec.episode(tmp_path / "a", redact=False) as ep:
        ep.tool(lambda key: key, name="echo")
        ep.call("echo", key=KEY)
    with trajrec.episode(tmp_path / "b") as ep:
        ep.tool(lambda text: text, name="echo")
        ep.call("echo", text=ordinary)
    assert only(tmp_path / "a").transcript.attempts[0].result == KEY
    assert only(tmp_path / "b").transcript.attempts[0].arguments == {"text": ordinary}
    assert not only(tmp_path / "b").transcript.attempts[0].start.is_redacted


# Values from outside


def test_frozen_clock_and_randomness_repeat_and_are_restored() -> None:
    from trajrec.agents.freeze import frozen

    def outside() -> list[Any]:
        drawn = [
            random.random(),
            np.random.random(),
            uuid.uuid4().hex,
            os.urandom(4),
            secrets.token_hex(4),
        ]
        return [*drawn, time.time_ns(), datetime.datetime.now(datetime.UTC)]

    random.seed(1)
    expected = [random.random() for _ in range(2)]
    random.seed(1)
    assert random.random() == expected[0]
    at = 1_700_000_000_123_456_789
    with frozen(at, "a"):
        first = outside()
        time.sleep(0.002)
        assert time.time_ns() == first[-2] == at - at % 1000
    with frozen(at, "a"):
        assert outside() == first
    with frozen(at, "b"):
        assert not set(map(str, outside()[:5])) & set(map(str, first[:5]))
    assert random.random() == expected[1]
    assert abs(time.time() - datetime.datetime.now().timestamp()) < 1
    assert uuid.uuid4() != uuid.uuid4()
    assert time.time_ns() > at


def test_side_effects_and_their_exceptions_are_recorded(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        assert ep.side_effect("clock", lambda: 5) == 5
        with pytest.raises(OSError, match="offline"):
            ep.side_effect(
                "fetch", lambda url: (_ for _ in ()).throw(OSError(f"offline: {url}")), "http://x"
            )
    clock, fetch = only(tmp_path).transcript.side_effects
    assert (clock.name, clock.error_type) == ("clock", "")
    assert (fetch.error_type, fetch.message, fetch.value_data) == (
        "builtins.OSError",
        "offline: http://x",
        None,
    )


@pytest.mark.slow
def test_an_agents_log_compacts_and_recovers_without_loss(
    tmp_path: Path,
) -> None:
    from trajrec.log.compaction import compact
    from trajrec.log.repair import recover
    from trajrec.recording.event_log import open_event_log

    for task in range(3):
        solve(tmp_path, task)
        # A chunk for each task, so that there is something to compact.
        open_event_log(tmp_path, "raise", "process").flush()
    close_logs()
    tables = ("episodes", "steps", "attempts", "failures", "state_changes", "checks")
    skipped = "* EXCLUDE (first_frame, last_frame)"

    def content() -> dict[str, list[Any]]:
        return {
            t: rows(tmp_path, f"SELECT {skipped if t == 'episodes' else '*'} FROM {t} ORDER BY ALL")
            for t in tables
        }

    before = content()
    (path,) = tmp_path.glob("*.trj")
    states = [episode.state(episode.n_steps) for episode in trajrec.open(tmp_path).episodes()]
    result = compact(path)
    assert (result.chunks_before, result.chunks_after) == (3, 1)
    assert result.size_after < result.size_before
    assert content() == before
    path.write_bytes(path.read_bytes()[:-100])  # the footer is torn
    recover(path)
    assert content() == before
    assert [
        episode.state(episode.n_steps) for episode in trajrec.open(tmp_path).episodes()
    ] == states


@pytest.mark.slow
def test_an_episode_that_nobody_left_is_not_around_the_next_one(tmp_path: Path) -> None:
    def begin() -> None:
        # As an exception does between the beginning of an episode and that of its block.
        trajrec.episode(tmp_path, task="left").__enter__()

    begin()
    gc.collect()
    with trajrec.episode(tmp_path, task="next"):
        pass
    ended = trajrec.episode(tmp_path, task="ended")
    token = enter_episode(ended.__enter__())
    ended.__exit__(None, None, None)
    enter_episode(ended)
    assert current_episode() is None
    with trajrec.episode(tmp_path, task="last"):
        pass
    leave_episode(token)
    close_logs()
    kinds = rows(tmp_path, "SELECT task, kind FROM all_episodes ORDER BY number")
    assert kinds == [(task, "rollout") for task in ("left", "next", "ended", "last")]
