"""`ep.tool` as a decorator: functions keep their looks, their results and their exceptions."""

from __future__ import annotations

import asyncio
import functools
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import only
from tiers import third_slow

import trajrec
from trajrec.corpus.attempts import Attempt


def refund(order: str, *, amount: int = 1) -> str:
    """Pay an order back."""
    return f"{order}: {amount}"


async def refund_later(order: str, amount: int = 1) -> str:
    """Pay an order back later."""
    await asyncio.sleep(0)
    return f"{order}: {amount}"


def lines(text: str) -> Iterator[str]:
    """Yield the lines."""
    for line in text.split():
        if line == "bad":
            raise ValueError("a bad line")
        yield line


async def lines_later(text: str) -> AsyncIterator[str]:
    """Yield the lines later."""
    for line in lines(text):
        await asyncio.sleep(0)
        yield line


class Till:
    """A till."""

    def pay(self, amount: int) -> int:
        """Pay out."""
        return -amount

    async def __call__(self, amount: int) -> int:
        return amount


def attempts(folder: Path) -> list[Attempt]:
    trajrec.close_logs()
    return only(folder).transcript.attempts


@pytest.mark.parametrize("function", [refund, refund_later, lines, lines_later, Till().pay])
def test_a_decorated_function_looks_like_itself(tmp_path: Path, function: Any) -> None:
    ep = trajrec.episode(tmp_path)
    for tool in (ep.tool(function), ep.tool(access="write")(function)):
        assert tool.__name__ == function.__name__
        assert inspect.signature(tool) == inspect.signature(function)
        assert typing.get_type_hints(tool) == typing.get_type_hints(function)
        assert inspect.getdoc(tool) == inspect.getdoc(function)
        for question in ("iscoroutinefunction", "isgeneratorfunction", "isasyncgenfunction"):
            asked = getattr(inspect, question)
            assert asked(tool) == asked(function)


def test_objects_and_partials_are_named_tools(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        till = ep.tool(Till())
        part = ep.tool(functools.partial(refund, amount=3))
        assert (till.__name__, part.__name__) == ("Till", "refund")
        assert typing.get_type_hints(till) == {"amount": int, "return": int}
        assert list(inspect.signature(till).parameters) == ["amount"]
        assert inspect.getdoc(till) == "A till."
        assert asyncio.run(till(4)) == 4
        assert part("O1") == "O1: 3"
    assert [(a.tool, a.arguments, a.result) for a in attempts(tmp_path)] == [
        ("Till", {"amount": 4}, 4),
        ("refund", {"order": "O1"}, "O1: 3"),
    ]


def test_a_decorator_with_arguments_describes_the_tool(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:

        @ep.tool(name="pay_back", access="write")
        def pay(order: str) -> str:
            return order

        assert pay("O1") == ep.call("pay_back", order="O1")
    assert [(a.tool, a.start.access) for a in attempts(tmp_path)] == [("pay_back", "write")] * 2


def agent_of_streams(ep: Any) -> list[Any]:
    """Read a generator whole, in part, and up to its exception, sync and async."""
    said: list[Any] = [list(ep.tool(lines)("a b"))]
    few = ep.tool(lines)("c d e")
    said.append(next(few))
    few.close()
    said.append(list(ep.call("lines", text="by name")))
    broken = ep.tool(lines)("f bad")
    said.append(next(broken))
    with pytest.raises(ValueError, match="a bad line"):
        next(broken)

    async def read() -> list[str]:
        return [item async for item in ep.tool(lines_later)("g h")]

    return [*said, asyncio.run(read())]


def test_the_items_of_a_generator_are_its_result(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        said = agent_of_streams(ep)
    assert [(a.result, a.end.outcome if a.end else "") for a in attempts(tmp_path)] == [
        (["a", "b"], "ok"),
        (["c"], "ok"),
        (["by", "name"], "ok"),
        (["f"], "error"),
        (["g", "h"], "ok"),
    ]
    with trajrec.rerun(only(tmp_path)) as rerun:
        assert agent_of_streams(rerun) == said


def test_a_generator_gets_what_is_sent_to_it(tmp_path: Path) -> None:
    def echo() -> Iterator[Any]:
        sent = yield "first"
        try:
            yield sent
        except KeyError as exc:
            yield f"caught {exc}"
        return "end"

    with trajrec.episode(tmp_path) as ep:
        generator = ep.tool(echo)()
        assert [next(generator), generator.send(5)] == ["first", 5]
        assert generator.throw(KeyError("k")) == "caught 'k'"
        with (
            pytest.warns(UserWarning, match="returned a value"),
            pytest.raises(StopIteration) as stopped,
        ):
            next(generator)
        assert stopped.value.value == "end"
    (attempt,) = attempts(tmp_path)
    assert attempt.result == ["first", 5, "caught 'k'"]


def test_an_item_that_changes_later_is_kept(tmp_path: Path) -> None:
    def totals() -> Iterator[dict[str, int]]:
        total: dict[str, int] = {}
        for name in "abc":
            total[name] = len(total)
            yield total

    with trajrec.episode(tmp_path) as ep:
        for total in ep.tool(totals)():
            total.pop("a", None)
    (attempt,) = attempts(tmp_path)
    assert attempt.result == [{"a": 0}, {"b": 0}, {"b": 0, "c": 1}]


def test_a_generator_called_by_name_reruns_lazily(tmp_path: Path) -> None:
    def agent(ep: Any) -> list[Any]:
        ep.tool(lines)
        ep.tool(lines_later)
        ep.tool(refund)
        early = ep.execute("lines", {"text": "a b"}, call_id="call_7")
        said = [
            ep.call("refund", order="O1"),
            next(early),
            *early,
            next(ep.call("lines", text="c")),
        ]

        async def read() -> list[str]:
            return [item async for item in ep.call("lines_later", text="d e")]

        return [*said, *asyncio.run(read())]

    with trajrec.episode(tmp_path) as ep:
        said = agent(ep)
    assert [(a.tool, a.start.call_id) for a in attempts(tmp_path)] == [
        ("refund", ""),
        ("lines", "call_7"),
        ("lines", ""),
        ("lines_later", ""),
    ]
    with trajrec.rerun(only(tmp_path)) as rerun:
        assert agent(rerun) == said == ["O1: 1", "a", "b", "c", "d", "e"]


def test_value_that_a_generator_returns_is_named_as_unrecorded(tmp_path: Path) -> None:
    def lines() -> Iterator[str]:
        yield "a"
        return "end"

    def outer(tool: Any) -> Iterator[str]:
        yield (yield from tool())

    with trajrec.episode(tmp_path) as ep:
        tool = ep.tool(lines)
        with pytest.warns(
            UserWarning, match="lines, a generator, returned a value: only its items"
        ):
            assert list(outer(tool)) == ["a", "end"]
    assert [a.result for a in attempts(tmp_path)] == [["a"]]


def test_an_awaitable_object_keeps_its_attributes(tmp_path: Path) -> None:
    class Query:
        def __init__(self, text: str) -> None:
            self.text = text

        def __await__(self) -> Iterator[Any]:
            yield from asyncio.sleep(0).__await__()
            return self.text.upper()

    async def agent(ep: Any) -> None:
        tool = ep.tool(Query, name="ask")
        query = tool("a")
        assert query.text == "a"
        assert (await query, await query) == ("A", "A")
        assert await asyncio.gather(tool("b"), ep.model(Query, "c")) == ["B", "C"]
        assert tool("never awaited").text == "never awaited"

    with trajrec.episode(tmp_path) as ep:
        asyncio.run(agent(ep))
    assert [a.result for a in attempts(tmp_path) if a.end] == ["A", "B"]


def test_a_future_stays_one_and_is_recorded(tmp_path: Path) -> None:
    async def find(query: str) -> str:
        await asyncio.sleep(60 if query == "slow" else 0)
        return query.upper()

    def search(query: str) -> asyncio.Future[str]:
        return asyncio.ensure_future(find(query))

    async def agent(ep: Any) -> None:
        tool = ep.tool(search)
        calls = [tool("a"), ep.call("search", query="b"), ep.model(search, "c")]
        done, _ = await asyncio.wait(calls)
        assert {call.result() for call in done} == {"A", "B", "C"}
        # The program does not await this one, and may await another twice.
        tool("d")
        slow = tool("slow")
        await asyncio.sleep(0.01)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert (await calls[0], await calls[0]) == ("A", "A")

    with trajrec.episode(tmp_path) as ep:
        asyncio.run(agent(ep))
    assert [(a.result, a.end.outcome if a.end else "") for a in attempts(tmp_path)] == [
        ("A", "ok"),
        ("B", "ok"),
        ("D", "ok"),
        (None, "cancelled"),
    ]
    assert [call.answer for call in only(tmp_path).transcript.model_calls] == ["C"]


class Hostile:
    """An object that raises whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no ==")

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class NoTruth:
    def __bool__(self) -> bool:
        raise RuntimeError("no truth")


def odd_results() -> dict[str, Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    return {
        "cycle": cycle,
        "deep": deep,
        "hostile": Hostile(),
        "no truth": {"error": NoTruth()},
        "function": lambda: 1,
        "generator": (k for k in range(3)),
        "surrogate": "\ud800",
        "class": Till,
    }


@third_slow("agents")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("kind", list(odd_results()))
def test_a_result_that_cannot_be_stored_never_raises(tmp_path: Path, kind: str) -> None:
    result = odd_results()[kind]
    with trajrec.episode(tmp_path) as ep:
        assert ep.tool(lambda: result, name="odd")() is result
        assert ep.tool(lambda given: 1, name="taking")(result) == 1
    assert [a.end.outcome for a in attempts(tmp_path) if a.end] == ["ok", "ok"]


def test_exceptions_reach_the_caller_as_they_were_raised(tmp_path: Path) -> None:
    raised = LookupError("gone", 7)
    cause = OSError("disk")

    def fail() -> None:
        raise raised from cause

    async def fail_later() -> None:
        raise raised from cause

    with trajrec.episode(tmp_path) as ep:
        for call in (ep.tool(fail), lambda: asyncio.run(ep.tool(fail_later)())):
            with pytest.raises(LookupError) as caught:
                call()
            assert caught.value is raised
            assert caught.value.__cause__ is cause
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            ep.tool(lambda order, amount: 1, name="two")("O1")
    kinds = [a.end.error_type for a in attempts(tmp_path) if a.end]
    assert kinds == ["builtins.LookupError", "builtins.LookupError", "builtins.TypeError"]


def test_a_cancellation_keeps_its_origin(tmp_path: Path) -> None:
    async def wait() -> None:
        await asyncio.sleep(30)

    async def give_up() -> None:
        raise asyncio.CancelledError("by the tool")

    async def main(tool: Callable[[], Any], *, cancel: bool) -> None:
        task = asyncio.ensure_future(tool())
        await asyncio.sleep(0.01)
        if cancel:
            task.cancel("by the agent")
        await task

    with trajrec.episode(tmp_path) as ep:
        with pytest.raises(asyncio.CancelledError, match="by the agent"):
            asyncio.run(main(ep.tool(wait), cancel=True))
        with pytest.raises(asyncio.CancelledError, match="by the tool"):
            asyncio.run(main(ep.tool(give_up), cancel=False))
    ends = [a.end for a in attempts(tmp_path)]
    assert [(e.outcome, e.origin) for e in ends if e] == [
        ("cancelled", "agent"),
        ("cancelled", "tool"),
    ]


def test_static_and_class_methods_can_be_tools(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:

        class Shop:
            tax = 2

            @ep.tool
            @staticmethod
            def double(cents: int) -> int:
                return 2 * cents

            @ep.tool(access="read")
            @classmethod
            def taxed(cls, cents: int) -> int:
                return cls.tax * cents

        assert [Shop.double(1), Shop().double(2), Shop.taxed(3), Shop().taxed(4)] == [2, 4, 6, 8]
    assert [a.tool for a in attempts(tmp_path)] == ["double", "double", "taxed", "taxed"]


def test_arguments_have_the_names_of_a_call_by_names(tmp_path: Path) -> None:
    def search(query: str, /, *places: str, **filters: Any) -> int:
        return len(filters)

    def find(query: str, **filters: Any) -> int:
        return len(filters)

    with trajrec.episode(tmp_path) as ep:
        ep.tool(search)("lamp", "a", "b", size=3)
        ep.tool(search)("lamp", query=4)
        ep.tool(find)("lamp", size=3, filters="x")
        ep.tool(find)(query="lamp", size=3, filters="x")
        ep.tool(find)("lamp")
    found = [dict(a.arguments) for a in attempts(tmp_path)]
    assert found == [
        {"query": "lamp", "places": ("a", "b"), "size": 3},
        {"query": "lamp", "filters": {"query": 4}},
        {"query": "lamp", "size": 3, "filters": "x"},
        {"query": "lamp", "size": 3, "filters": "x"},
        {"query": "lamp"},
    ]


class Desk:
    """An object with the repr that Python gives it, which has its address."""

    def __init__(self, ep: Any) -> None:
        self.pay = ep.tool(self.pay_from)

    def pay_from(self, desk: Any, cents: int) -> str:
        raise KeyError(f"no {cents}")


def test_an_agent_that_hands_objects_on_reruns_unchanged(tmp_path: Path) -> None:
    def agent(ep: Any) -> list[str]:
        texts = []
        for cents in (1, 2):
            try:
                # Another object each time, in both runs.
                Desk(ep).pay(Desk(ep), cents)
            except KeyError as exc:
                texts.append(str(exc))
        return texts

    with trajrec.episode(tmp_path) as ep:
        texts = agent(ep)
    trajrec.close_logs()
    kept = [Desk(ep) for _ in range(100)]
    with trajrec.rerun(only(tmp_path)) as again:
        assert agent(again) == texts
    assert kept


def test_a_cancelled_tool_hangs_until_it_is_cancelled_again(tmp_path: Path) -> None:
    async def slow(n: int) -> None:
        await asyncio.sleep(60)

    async def slow_items(n: int) -> AsyncIterator[int]:
        yield n
        await asyncio.sleep(60)

    async def agent(ep: Any) -> list[Any]:
        tool, items, ended = ep.tool(slow), ep.tool(slow_items), []
        try:
            await asyncio.wait_for(tool(1), 0.01)
        except TimeoutError:
            ended.append("timeout")
        try:
            async with asyncio.timeout(0.01):
                async for item in items(2):
                    ended.append(item)
        except TimeoutError:
            ended.append("timeout")
        task = asyncio.create_task(tool(3))
        await asyncio.sleep(0)
        task.cancel("enough")
        ended.append((await asyncio.gather(task, return_exceptions=True))[0])
        return ended

    with trajrec.episode(tmp_path) as ep:
        ended = asyncio.run(agent(ep))
    trajrec.close_logs()
    with trajrec.rerun(only(tmp_path)) as again:
        repeated = asyncio.run(agent(again))
    assert ended[:-1] == repeated[:-1] == ["timeout", 2, "timeout"]
    assert isinstance(repeated[-1], asyncio.CancelledError)
