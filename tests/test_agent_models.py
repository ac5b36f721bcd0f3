"""Model calls of agents: conversations, streams, and calls that are made again."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import random
import time
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest
import zstandard
from conftest import only, rows

import trajrec
from trajrec.recording.event_log import close_logs


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


class Answer:
    """A streamed answer that is read in a block."""

    def __init__(self, pieces: str) -> None:
        self._pieces = iter(pieces)

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *exc: object) -> None:
        """Close nothing."""

    def __next__(self) -> str:
        piece = next(self._pieces)
        if piece == "!":
            raise ConnectionError("cut off")
        return piece


def test_an_error_of_the_program_is_no_failure_of_the_model(tmp_path: Path) -> None:
    def read(pieces: str, error: type[BaseException]) -> None:
        with ep.model(Answer, pieces) as answer:
            next(answer)
            if pieces == "ab":
                raise error
            next(answer)

    with trajrec.episode(tmp_path) as ep:
        for pieces, error in (("ab", KeyError), ("a!", ConnectionError), ("ab", KeyboardInterrupt)):
            with pytest.raises(error):
                read(pieces, error)
    close_logs()
    calls = only(tmp_path).transcript.model_calls
    assert [(call.outcome, call.answer) for call in calls] == [
        ("ok", ["a"]),
        ("error", ["a"]),
        ("cancelled", ["a"]),
    ]


def test_piece_that_a_stream_gives_to_what_is_sent_is_recorded(tmp_path: Path) -> None:
    def talk(question: str) -> Any:
        heard = yield "hello"
        heard = yield f"I heard {heard}"
        yield f"and {heard}"

    async def talk_later(question: str) -> Any:
        heard = yield "hello"
        yield f"I heard {heard}"

    async def agent(ep: Any) -> None:
        stream = ep.model(talk_later, "q")
        assert [await anext(stream), await stream.asend("b")] == ["hello", "I heard b"]
        await stream.aclose()

    with trajrec.episode(tmp_path) as ep:
        stream = ep.model(talk, "q")
        assert [next(stream), stream.send("a"), next(stream)] == ["hello", "I heard a", "and None"]
        with pytest.raises(StopIteration):
            stream.send("b")
        asyncio.run(agent(ep))
    calls = trajrec.open(tmp_path).episode(ep.id).transcript.model_calls
    assert [call.answer for call in calls] == [
        ["hello", "I heard a", "and None"],
        ["hello", "I heard b"],
    ]


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


def test_a_clock_that_is_put_back_gives_no_latency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_ns = time.time_ns
    day_ns = 86_400 * 10**9
    n_days = 0

    def put_back(**_: Any) -> str:
        nonlocal n_days
        n_days += 1
        return "done"

    monkeypatch.setattr(time, "time_ns", lambda: real_ns() - n_days * day_ns)
    with trajrec.episode(tmp_path, task="clock") as ep:
        ep.model(put_back, messages=[])
        ep.tool(put_back, name="set_clock")()
        ep.tool(lambda: "done", name="look")()
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT latency_ms FROM model_calls").fetchall() == [(None,)]
        query = "SELECT tool, latency_ms >= 0 FROM attempts ORDER BY step, call"
        assert corpus.sql(query).fetchall() == [("set_clock", None), ("look", True)]


def test_failed_model_calls_count_as_failures_of_the_episode(tmp_path: Path) -> None:
    def refuse(**_: Any) -> Any:
        raise ConnectionError("reset")

    def break_down() -> None:
        raise ValueError("broken")

    with trajrec.episode(tmp_path, wire=False) as ep:
        tool = ep.tool(break_down)
        for call in (lambda: ep.model(refuse, messages=[]), tool):
            with contextlib.suppress(ConnectionError, ValueError):
                call()
    counts = "SELECT n_failures, (SELECT count(*) FROM failures) FROM episodes"
    assert rows(tmp_path, counts) == [(2, 2)]


def test_a_cost_that_no_float_holds_is_unknown(tmp_path: Path) -> None:
    answer = {"usage": {"cost": 10**400, "prompt_tokens": 5}}
    with trajrec.episode(tmp_path) as ep:
        ep.model(lambda **_: answer, model="m", messages=[])
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT cost, json_extract(answer, '$.usage.prompt_tokens') FROM model_calls"
        assert corpus.sql(query).fetchall() == [(None, "5")]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("n_tries", [0, 2])
def test_calls_of_a_dropped_task_are_cancelled(tmp_path: Path, n_tries: int) -> None:
    async def wait(**_: Any) -> None:
        await asyncio.sleep(60)

    async def agent(ep: Any) -> None:
        tool = ep.tool(wait)
        for attempt in ep.attempts(n_tries) if n_tries else [contextlib.nullcontext()]:
            with attempt:
                await asyncio.gather(ep.model(wait, messages=[]), tool())

    loop = asyncio.new_event_loop()
    with trajrec.episode(tmp_path) as ep:
        # In a context of its own, as all tasks; it is closed in this one.
        task = loop.create_task(agent(ep), context=contextvars.copy_context())
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()
        del task
        gc.collect()
    transcript = only(tmp_path).transcript
    assert [call.outcome for call in transcript.model_calls] == ["cancelled"]
    assert [attempt.outcome for attempt in transcript.attempts] == ["cancelled"]
