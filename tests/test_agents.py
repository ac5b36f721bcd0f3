"""Agents that call tools and models: all their calls are recorded, and none is changed."""

from __future__ import annotations

import asyncio
import datetime
import gc
import os
import random
import secrets
import subprocess
import sys
import time
import types
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import only, rows
from shop_agent import solve, solved
from tiers import third_slow

import trajrec
from trajrec.agents.context import current_episode, enter_episode, leave_episode
from trajrec.envs import Shop
from trajrec.envs.shop import ToolError
from trajrec.envs.shop_tasks import TASKS
from trajrec.errors import UnknownToolError
from trajrec.recording.event_log import close_logs, open_event_log
from trajrec.replay import first_difference


@third_slow("agents")
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


@pytest.mark.slow
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
    part = types.SimpleNamespace(type="text", text="sold out")
    answer = types.SimpleNamespace(isError=True, content=[part])
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
        ("b", "error", False, "sold out"),
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


@pytest.mark.slow
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


@pytest.mark.slow
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
        with pytest.warns(RuntimeWarning, match="broken raised KeyError and gave no verdict"):
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


@pytest.mark.slow
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


def test_an_episode_is_left_once(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, task="t") as ep:
        pass
    for exc in (None, KeyError("late")):
        with pytest.raises(ValueError, match=f"episode {ep.id} has ended: nothing more"):
            ep.__exit__(None if exc is None else KeyError, exc, None)
    assert rows(
        tmp_path,
        "SELECT ending, count(*) FROM failures RIGHT JOIN episodes USING (episode_id) GROUP BY ALL",
    ) == [("terminated", 1)]


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


def test_a_function_in_place_of_a_tools_name_is_refused(tmp_path: Path) -> None:
    def search(query: str) -> str:
        return query

    with trajrec.episode(tmp_path) as ep:
        with pytest.raises(TypeError, match=r"called by its name.*ep\.tool\(function\)"):
            ep.call(search, query="lamp")  # type: ignore[arg-type]
        assert ep.tool(search)(query="lamp") == "lamp"
    close_logs()
    assert rows(tmp_path, "SELECT tool, outcome FROM attempts") == [("search", "ok")]


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
@third_slow("agents")
def test_an_agents_log_compacts_and_recovers_without_loss(
    tmp_path: Path,
) -> None:
    from trajrec.log.compaction import compact
    from trajrec.log.repair import recover

    for task in range(3):
        solve(tmp_path, task)
        # A chunk for each task, so that there is something to compact.
        open_event_log(tmp_path, "stop-recording", "process").flush()
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


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("hints", "access"),
    [
        ({"readOnlyHint": True, "openWorldHint": True}, "read"),
        ({"open_world_hint": True}, "external"),
        ({"destructive_hint": False}, "write"),
        (None, "unknown"),
    ],
)
def test_a_sessions_tools_have_the_access_of_their_hints(
    tmp_path: Path, hints: dict[str, bool] | None, access: str
) -> None:
    class Session:
        async def list_tools(self) -> Any:
            annotations = None if hints is None else types.SimpleNamespace(**hints)
            tool = types.SimpleNamespace(name="f", description="", annotations=annotations)
            return types.SimpleNamespace(tools=[tool])

        async def call_tool(self, name: str, arguments: Any) -> int:
            return 1

    async def call(session: Any) -> None:
        await session.list_tools()
        await session.call_tool("f", {})

    with trajrec.episode(tmp_path):
        asyncio.run(call(trajrec.mcp(Session())))
    assert rows(tmp_path, "SELECT access FROM attempts") == [(access,)]


def test_ctrl_c_in_a_verifier_ends_the_episode(tmp_path: Path) -> None:
    def slow(state: Any) -> bool:
        raise KeyboardInterrupt

    episode = trajrec.episode(tmp_path, checks=[slow])
    with pytest.raises(KeyboardInterrupt), episode:
        pass
    assert trajrec.current_episode() is None
    with trajrec.episode(tmp_path):
        pass
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.sql("SELECT kind, ending FROM all_episodes ORDER BY started_at").fetchall()
        assert rows == [("rollout", "error"), ("rollout", "terminated")]
        rows = corpus.sql("SELECT phase, origin, error_type FROM failures").fetchall()
        assert rows == [("check", "verifier", "builtins.KeyboardInterrupt")]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"multipleOf": 0}, 3),
        ({"type": "number", "multipleOf": 0.1}, float("inf")),
        ({"type": "number", "multipleOf": 0.1}, float("nan")),
        ({"uniqueItems": True}, [{1, 2}, [object()]]),
        ({"patternProperties": {"^a": {}}}, {1: 2}),
    ],
)
def test_schema_that_cannot_be_checked_stops_no_call(
    tmp_path: Path, schema: dict[str, Any], value: Any
) -> None:
    with trajrec.episode(tmp_path) as ep:
        ep.tool(lambda n: "ok", name="look", schema={"properties": {"n": schema}})
        assert ep.call("look", n=value) == "ok"
    close_logs()
    (attempt,) = only(tmp_path).transcript.attempts
    assert (attempt.start.invalid, attempt.outcome) == ("", "ok")


def test_odd_objects_of_a_program_raise_nothing_into_it(tmp_path: Path) -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    class Odd:
        def __getattr__(self, name: str) -> Any:
            raise KeyError(name)

    def fail() -> None:
        raise Silent

    odd = Odd()
    with trajrec.episode(tmp_path) as ep:
        with pytest.raises(Silent):
            ep.execute("fail", {}, run=fail)
        assert ep.model(lambda _: odd, 1) is odd
        assert ep.execute("odd", {}, run=lambda: odd) is odd
        assert ep.side_effect("odd", lambda: odd) is odd
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT tool, outcome, message FROM attempts ORDER BY step, call"
        found = [("fail", "error", "<exception str() failed>"), ("odd", "ok", None)]
        assert corpus.sql(query).fetchall() == found


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("metadata", [None, {"run": "a", "trial": 3}])
def test_transcript_has_the_task_and_its_metadata(tmp_path: Path, metadata: Any) -> None:
    with trajrec.episode(tmp_path, task="refund-17", metadata=metadata):
        pass
    trajrec.close_logs()
    transcript = only(tmp_path).transcript
    assert (transcript.task, transcript.metadata) == ("refund-17", metadata)
