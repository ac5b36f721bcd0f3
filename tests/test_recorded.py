"""Recorded plain data becomes objects, exceptions and streams again."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import enum
import json
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from trajrec.errors import RecordedError
from trajrec.values.codec import Plain, decode, encode
from trajrec.values.recorded import (
    RecordedObject,
    RecordedStream,
    deliver,
    deliver_error,
    rehydrate,
    resolve,
)
from trajrec.values.recorded_errors import as_exception


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True)
class Order:
    item: str
    colours: list[Colour]


class NeedsArguments(Exception):
    def __new__(cls, code: int) -> NeedsArguments:
        return super().__new__(cls)


def test_loaded_classes_are_made_without_their_constructor() -> None:
    order = Order("lamp", [Colour.RED])
    assert rehydrate(decode(encode({"order": order}))) == {"order": order}


def test_fields_of_a_class_that_is_not_loaded_are_attributes() -> None:
    plain = Plain(
        "shop.Order", "dataclass", {"item": "lamp", "of": Plain("shop.User", "attrs", {})}
    )
    order = rehydrate([plain])[0]
    assert order.item == "lamp"
    assert order.model_dump() == {"item": "lamp", "of": {}}
    with pytest.raises(AttributeError, match=r"the recorded shop\.Order has no field 'price'"):
        _ = order.price


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))]
)
def test_recorded_objects_can_be_copied_and_pickled(duplicate: Any) -> None:
    order = RecordedObject("shop.Order", "dataclass", {"item": "lamp"})
    assert duplicate(order) == order
    assert duplicate(order).item == "lamp"


def test_recorded_exceptions_have_their_class_if_it_is_loaded() -> None:
    exc = as_exception("builtins.TimeoutError", "late")
    assert type(exc) is TimeoutError
    assert str(exc) == "late"


@pytest.mark.parametrize("name", ["shop.OutOfStock", "builtins.int"])
def test_other_recorded_exceptions_are_recorded_errors(name: str) -> None:
    exc = as_exception(name, "sold out")
    assert isinstance(exc, RecordedError)
    assert (exc.type_name, str(exc)) == (name, "sold out")


class OutOfStock(Exception):
    def __init__(self, item: str, n: int) -> None:
        super().__init__(item, n)
        self.item = item

    def __str__(self) -> str:
        return f"no {self.item}"

    class Soon(LookupError):
        pass


def raised(run: Callable[[], object]) -> BaseException:
    try:
        run()
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


RAISED: dict[str, BaseException] = {
    "key": raised(lambda: {}["O1001"]),
    "key, tuple": raised(lambda: {}["a", 1]),
    "several arguments": ValueError("orig", {"x": 1}),
    "none": ValueError(),
    "file": raised(Path("/nonexistent/a").read_text),
    "connection": ConnectionResetError(104, "Connection reset by peer"),
    "bytes": raised(b"\xff".decode),
    "exit": SystemExit(4),
    "number": raised(lambda: int("x")),
    "own": OutOfStock("lamp", 3),
    "nested": OutOfStock.Soon("tomorrow"),
    "json": raised(lambda: json.loads("{")),
    "command": subprocess.CalledProcessError(1, ["false"]),
    "own constructor": NeedsArguments(3),
    "group": ExceptionGroup("g", [ValueError(1)]),
}


@pytest.mark.parametrize("name", RAISED)
def test_recorded_exceptions_have_their_class_and_text(name: str) -> None:
    exc = RAISED[name]
    again = as_exception(f"{type(exc).__module__}.{type(exc).__qualname__}", str(exc))
    assert str(again) == str(exc)
    assert type(again).__name__ == type(exc).__name__
    assert isinstance(again, type(exc)) or name == "group"
    if name not in ("bytes", "own", "own constructor", "command", "group"):
        assert repr(again) == repr(exc)
    if isinstance(exc, OSError):
        assert isinstance(again, OSError)
        assert (again.errno, again.filename) == (exc.errno, exc.filename)
    if isinstance(exc, SystemExit):
        assert isinstance(again, SystemExit)
        assert again.code == 4


class Registered(Exception):
    seen: ClassVar[list[type]] = []

    def __init_subclass__(cls) -> None:
        Registered.seen.append(cls)

    def __str__(self) -> str:
        return "always this"


def test_a_recorded_exception_runs_no_code_for_subclasses() -> None:
    exc = as_exception(f"{__name__}.Registered", "sold out")
    assert isinstance(exc, RecordedError)
    assert str(exc) == "sold out"
    assert not Registered.seen


def test_results_are_delivered_at_once_or_when_awaited() -> None:
    assert deliver(3, is_async=False) == 3
    result = deliver(3, is_async=True)
    assert not isinstance(result, int)
    assert resolve(result) == 3
    with pytest.raises(KeyError):
        deliver_error(KeyError("k"), is_async=False)
    later = deliver_error(KeyError("k"), is_async=True)
    with pytest.raises(KeyError):
        resolve(later)


@pytest.mark.parametrize("error", [None, TimeoutError("late")])
def test_recorded_streams_end_as_they_were_recorded(error: Exception | None) -> None:
    async def collect(stream: RecordedStream) -> list[Any]:
        async with stream:
            return [piece async for piece in stream]

    for run in (list, lambda stream: asyncio.run(collect(stream))):
        stream = RecordedStream(["a", "b"], error)
        if error is None:
            assert run(stream) == ["a", "b"]
            continue
        with pytest.raises(TimeoutError):
            run(stream)
