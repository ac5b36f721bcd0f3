"""Exceptions of HTTP libraries as a log holds them: a name and a message, and back."""

from __future__ import annotations

import contextlib
import re
import sys
from types import ModuleType
from typing import Any

from trajrec.module_names import module_name

# The packages whose exceptions come out of a tap. A log names nothing else that may be raised.
_HOMES = frozenset(
    {"aiohttp", "anyio", "asyncio", "builtins", "concurrent", "http", "httpcore", "httpcore2"}
    | {"httpx", "httpx2", "socket", "ssl", "trio", "urllib3"}
)

# Libraries with the same classes: a newer SDK may use the other one than when it was recorded.
_TWINS = {"httpx": "httpx2", "httpx2": "httpx", "httpcore": "httpcore2", "httpcore2": "httpcore"}

_ERRNO = re.compile(r"\[Errno (\d{1,9})\] (.*)", re.DOTALL)

_CANCELLATIONS = frozenset(
    {"asyncio.exceptions.CancelledError", "concurrent.futures._base.CancelledError"}
    | {"trio.Cancelled", "builtins.GeneratorExit", "builtins.KeyboardInterrupt"}
)


def is_cancellation(name: str) -> bool:
    """Return whether an exception of this class says that the caller gave up.

    The answer of such a request is one that hangs.

    >>> is_cancellation("asyncio.exceptions.CancelledError")
    True
    """
    return name in _CANCELLATIONS


def name_of(error: BaseException) -> str:
    """Return the full name of an exception's class.

    >>> name_of(TimeoutError())
    'builtins.TimeoutError'
    """
    kind = type(error)
    return f"{module_name(kind)}.{kind.__qualname__}"


def rebuild_error(name: str, message: str) -> BaseException:
    """Return an exception of a recorded class and message, to be raised in its place.

    Args:
        name: As `name_of` gives it.
        message: The recorded `str` of the exception.

    Returns:
        An instance of the class, or of a subclass of the same name if its constructor needs more
        than a message; attributes other than the message are then None. A `ConnectionError` that
        names the class, if the class is not loaded, or is none that an HTTP library raises.

    >>> rebuild_error("builtins.TimeoutError", "too slow")
    TimeoutError('too slow')
    >>> rebuild_error("os.system", "ls")
    ConnectionError('os.system: ls')
    """
    # Here: most commands answer from a log without it, and it takes some 20 ms.
    import asyncio

    module, _, qualname = name.rpartition(".")
    kind = None
    if module.partition(".")[0] in _HOMES:
        # Never imported here: what raised it then is loaded now, too.
        kind = getattr(sys.modules.get(module) or _twin_of(module), qualname, None)
    if not isinstance(kind, type) or not issubclass(kind, Exception | asyncio.CancelledError):
        return ConnectionError(f"{name}: {message}")
    if message.startswith("(") and message.endswith(")"):
        # The text of several arguments, of which only a text is left.
        return _of_subclass(kind, message)
    args: tuple[Any, ...] = (message,) if message else ()
    system = _ERRNO.fullmatch(message) if issubclass(kind, OSError) else None
    if system is not None:
        args = (int(system[1]), system[2])
    # Many a constructor wants more than a message.
    with contextlib.suppress(Exception):
        error: BaseException = kind(*args)
        if str(error) == message:
            return error
    return _of_subclass(kind, message)


def as_raised_by(module: ModuleType, error: BaseException) -> BaseException:
    """Return an exception as a library raises it that has the same classes as the recorded one.

    >>> as_raised_by(sys, TimeoutError("too slow"))
    TimeoutError('too slow')
    """
    home, _, _ = type(error).__module__.partition(".")
    if _TWINS.get(home) != module.__name__:
        return error
    return rebuild_error(f"{module.__name__}.{type(error).__qualname__}", str(error))


def _twin_of(module: str) -> ModuleType | None:
    home, dot, rest = module.partition(".")
    return sys.modules.get(f"{_TWINS.get(home, home)}{dot}{rest}")


def _of_subclass(kind: type[BaseException], message: str) -> BaseException:
    """Return an exception of a class that cannot be made from a message alone."""

    def text(_self: BaseException) -> str:
        return message

    def representation(_self: BaseException) -> str:
        return f"{kind.__name__}{message if message.startswith('(') else f'({message!r})'}"

    def attribute(_self: BaseException, _name: str) -> Any:
        return None

    names = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__str__": text,
        "__repr__": representation,
        "__getattr__": attribute,
        "__init__": lambda self, *_: None,
    }
    subclass: type[BaseException] = type(kind.__name__, (kind,), names)
    return subclass(message)
