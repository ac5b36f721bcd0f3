"""Functions as tools: wrappers that record each call, and look like the functions.

Frameworks read the name, the signature, the type hints and the docstring of a function to describe
it to a model, and ask whether it is a coroutine function. A wrapper gives the same answers.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias, TypeVar, overload

from trajrec.agents.arguments import arguments_of, tool_name
from trajrec.protocols import Access
from trajrec.types import JsonObject, Value
from trajrec.values.recorded import RecordedStream

ToolFunction: TypeAlias = Callable[..., Any]

AnyFunction = TypeVar("AnyFunction", bound=ToolFunction)

# The calls that a hook in a framework records around their functions: name of the tool, model's id.
_HOOKED: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("trajrec_hooked_tools", default=())


class ToolStream(Protocol):
    """One call of a generator as a tool. The items are the call's result.

    Attributes:
        recorded: The recorded items, to be given in place of the generator's; None to run it.
    """

    recorded: RecordedStream | None

    def running(self) -> AbstractContextManager[None]:
        """Return the block in which the generator runs up to its next item."""
        ...

    def received(self, item: Value) -> None:
        """Note an item."""
        ...

    def ended(self, error: BaseException | None) -> None:
        """Note the end, with the exception that the generator raised."""
        ...


class AnsweredStream:
    """A stream that is answered from a recording.

    Args:
        recorded: The recorded items; None runs the generator, of which nothing is noted.
    """

    def __init__(self, recorded: RecordedStream | None) -> None:
        self.recorded = recorded

    def running(self) -> AbstractContextManager[None]:
        """Return the block in which the generator runs up to its next item."""
        return contextlib.nullcontext()

    def received(self, item: Value) -> None:
        """Do nothing."""

    def ended(self, error: BaseException | None) -> None:
        """Do nothing."""


class ToolDecorator(ABC):
    """The base class of episodes, for their decorator `tool`."""

    @overload
    def tool(
        self,
        function: AnyFunction,
        *,
        name: str = "",
        schema: JsonObject | None = None,
        access: Access = "unknown",
    ) -> AnyFunction: ...

    @overload
    def tool(
        self,
        function: None = None,
        *,
        name: str = "",
        schema: JsonObject | None = None,
        access: Access = "unknown",
    ) -> Callable[[AnyFunction], AnyFunction]: ...

    def tool(
        self,
        function: ToolFunction | None = None,
        *,
        name: str = "",
        schema: JsonObject | None = None,
        access: Access = "unknown",
    ) -> ToolFunction:
        """Make a function a tool: a decorator, with and without arguments.

            @ep.tool(access="write")
            async def refund(order: str) -> str: ...

        Sync and async functions, generators, bound methods and callable objects can be tools. The
        items of a generator are recorded as the result of its call.

        Args:
            function: The function.
            name: Name of the tool. Default: the function's name.
            schema: JSON schema of its arguments.
            access: See `Tool`.

        Returns:
            A function of the same name, signature and type hints that records each call of the
            tool. `call` finds the tool by its name.
        """
        if function is None:
            return functools.partial(self.tool, name=name, schema=schema, access=access)
        if isinstance(function, (staticmethod, classmethod)):
            # The wrapper takes the place of the function itself, which gets no object or its class.
            wrapped = self.tool(function.__func__, name=name, schema=schema, access=access)
            return type(function)(wrapped)
        name = name or tool_name(function)
        self._add_tool(function, name=name, schema=schema, access=access)
        return wrap_tool(self, name, function)

    @abstractmethod
    def execute(
        self,
        tool: str,
        arguments: JsonObject,
        *,
        call_id: str = "",
        run: Callable[[], Value] | None = None,
    ) -> Value:
        """Call a tool."""

    @abstractmethod
    def open_stream(self, tool: str, arguments: JsonObject, call_id: str = "") -> ToolStream:
        """Begin the call of a tool that is a generator."""

    @abstractmethod
    def _add_tool(
        self, function: ToolFunction, *, name: str, schema: JsonObject | None, access: Access
    ) -> None:
        """Describe a function as a tool."""


@contextlib.contextmanager
def hooked(tool: str, call_id: str = "") -> Iterator[None]:
    """Mark a block as the call of a tool that is recorded already: its wrapper adds no record."""
    token = _HOOKED.set((*_HOOKED.get(), (tool, call_id)))
    try:
        yield
    finally:
        # A block that is left in another context than it was entered in has no such token.
        with contextlib.suppress(ValueError):
            _HOOKED.reset(token)


def is_hooked(tool: str, call_id: str = "") -> bool:
    """Return whether this code runs within a call of a tool that a hook records.

    With another id of the model, it is another call: that of a sub-agent in it.
    """
    return any(
        name == tool and (not call_id or not outer_id or call_id == outer_id)
        for name, outer_id in _HOOKED.get()
    )


class NamedGenerators:
    """The generators among the tools of an episode, which are called by name."""

    def __init__(self) -> None:
        self._functions: dict[str, ToolFunction] = {}

    def add(self, name: str, function: ToolFunction) -> None:
        """Note the function of a tool."""
        # Here, because each call asks for it.
        self._functions.pop(name, None)
        if is_generator(function):
            self._functions[name] = function

    def begun(
        self, episode: ToolDecorator, tool: str, arguments: JsonObject, call_id: str
    ) -> Value:
        """Return the generator of a call by name, which begins when it is read.

        Returns:
            None if the tool is no generator.
        """
        function = self._functions.get(tool)
        if function is None:
            return None
        return wrap_tool(episode, tool, function, call_id=call_id)(**arguments)


def wrap_tool(
    episode: ToolDecorator, name: str, function: ToolFunction, *, call_id: str = ""
) -> ToolFunction:
    """Return a function that looks like another one and records its calls as a tool's.

    Args:
        episode: The episode.
        name: Name of the tool.
        function: The function.
        call_id: Id that the model gave the one call of a generator.
    """
    called = _called(function)
    if inspect.iscoroutinefunction(called):
        wrapper = _async_wrapper(episode, name, function)
    elif inspect.isasyncgenfunction(called):
        wrapper = _async_stream_wrapper(episode, name, function, call_id)
    elif inspect.isgeneratorfunction(called):
        wrapper = _stream_wrapper(episode, name, function, call_id)
    else:
        wrapper = _plain_wrapper(episode, name, function)
    is_class = isinstance(function, type)
    # Not the attributes of a class: they are no attributes of a function.
    functools.update_wrapper(wrapper, called, updated=() if is_class else ("__dict__",))
    wrapper.__name__ = tool_name(function)
    wrapper.__doc__ = inspect.getdoc(function)
    return wrapper


def is_generator(function: ToolFunction) -> bool:
    """Return whether the calls of a function give generators, sync or async."""
    called = _called(function)
    return inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called)


def _called(function: ToolFunction) -> ToolFunction:
    """Return the function that has the signature and the type hints: of an object, its method."""
    if inspect.isroutine(function) or isinstance(function, (type, functools.partial)):
        return function
    method: ToolFunction = function.__call__  # type: ignore[operator]
    return method


def _plain_wrapper(episode: ToolDecorator, name: str, function: ToolFunction) -> ToolFunction:
    def recorded(*args: Value, **kwargs: Value) -> Value:
        if is_hooked(name):
            return function(*args, **kwargs)
        arguments = arguments_of(function, args, kwargs)
        return episode.execute(name, arguments, run=lambda: function(*args, **kwargs))

    return recorded


def _async_wrapper(episode: ToolDecorator, name: str, function: ToolFunction) -> ToolFunction:
    async def recorded(*args: Value, **kwargs: Value) -> Value:
        if is_hooked(name):
            return await function(*args, **kwargs)
        arguments = arguments_of(function, args, kwargs)
        result = episode.execute(name, arguments, run=lambda: function(*args, **kwargs))
        # A call that failed before it was awaited is recorded as one that is not.
        return await result if inspect.isawaitable(result) else result

    return recorded


def _stream_wrapper(
    episode: ToolDecorator, name: str, function: ToolFunction, call_id: str
) -> ToolFunction:
    def recorded(*args: Value, **kwargs: Value) -> Generator[Value, Value, Value]:
        if is_hooked(name):
            return (yield from function(*args, **kwargs))
        stream = episode.open_stream(name, arguments_of(function, args, kwargs), call_id)
        if stream.recorded is not None:
            return (yield from stream.recorded)
        returned = yield from _noted(lambda: function(*args, **kwargs), stream)
        if returned is not None and not isinstance(stream, AnsweredStream):
            warnings.warn(
                f"the tool {name}, a generator, returned a value: only its items are recorded, so a "
                "rerun or a rollout gives None in its place; yield it as the last item",
                stacklevel=2,
            )
        return returned

    return recorded


def _noted(run: Callable[[], Any], stream: ToolStream) -> Generator[Value, Value, Value]:
    """Run a generator and note its items and its end; what is sent or thrown in reaches it."""
    try:
        with stream.running():
            generator = run()
            item = next(generator)
        while True:
            stream.received(item)
            try:
                sent = yield item
            except GeneratorExit:
                with stream.running():
                    generator.close()
                raise
            except BaseException as exc:
                with stream.running():
                    item = generator.throw(exc)
            else:
                with stream.running():
                    item = generator.send(sent)
    except StopIteration as stop:
        stream.ended(None)
        return stop.value
    except BaseException as exc:
        stream.ended(exc)
        raise


def _async_stream_wrapper(
    episode: ToolDecorator, name: str, function: ToolFunction, call_id: str
) -> ToolFunction:
    async def recorded(*args: Value, **kwargs: Value) -> AsyncGenerator[Value, Value]:
        stream: ToolStream = AnsweredStream(None)
        if not is_hooked(name):
            stream = episode.open_stream(name, arguments_of(function, args, kwargs), call_id)
        if stream.recorded is not None:
            async for item in stream.recorded:
                yield item
            return
        # As in `_noted`: Python has no `yield from` for async generators.
        try:
            with stream.running():
                generator = function(*args, **kwargs)
                item = await anext(generator)
            while True:
                stream.received(item)
                try:
                    sent = yield item
                except GeneratorExit:
                    with stream.running():
                        await generator.aclose()
                    raise
                except BaseException as exc:
                    with stream.running():
                        item = await generator.athrow(exc)
                else:
                    with stream.running():
                        item = await generator.asend(sent)
        except StopAsyncIteration:
            stream.ended(None)
        except BaseException as exc:
            stream.ended(exc)
            raise

    return recorded
