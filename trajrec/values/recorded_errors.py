"""Recorded exceptions as exceptions again, with the text that they had.

An agent tells its model the text of a tool's exception, so that another text would be another
request. Nothing is imported for it: only classes whose modules are loaded are used, and no
constructor is called but those of Python's own exceptions.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import re
import sys
from collections.abc import Iterator

from trajrec.errors import RecordedError
from trajrec.types import Value

# Their text is the repr of their argument.
_OF_REPRS = (KeyError, SystemExit, StopIteration, StopAsyncIteration)

_SYSTEM_ERROR = re.compile(r"\[Errno (\d{1,9})\] (.*?)(?:: ('.*'|\".*\"))?", re.DOTALL)

# Longer ones are texts, not the reprs of arguments.
_MOST_LITERAL_CHARS = 10_000


def loaded_class(type_name: str) -> Value:
    """Return a class by module and qualified name if its module is loaded, else None."""
    names = type_name.split(".")
    for n in range(len(names) - 1, 0, -1):
        found: Value = sys.modules.get(".".join(names[:n]))
        if found is not None:
            for name in names[n:]:
                found = getattr(found, name, None)
            return found
    return None


def as_exception(type_name: str, message: str) -> BaseException:
    """Return a recorded exception, whose text is the recorded one.

    It is of its own class if that is loaded, or of a subclass of the same name if no arguments
    are known that give the text. Otherwise it is a RecordedError of that name.

    >>> as_exception("builtins.KeyError", "'O1001'")
    KeyError('O1001')
    """
    cls = loaded_class(type_name)
    if isinstance(cls, type) and issubclass(cls, BaseException):
        for args in _arguments(cls, message):
            # An exception's own code may do anything.
            with contextlib.suppress(Exception):
                exc = _made(cls, args)
                if str(exc) == message:
                    return exc
        if _runs_no_code_for_subclasses(cls):
            with contextlib.suppress(Exception):
                return _made(_telling(cls, cls.__module__, cls.__qualname__, message), (message,))
    module, _, name = type_name.rpartition(".")
    return _telling(RecordedError, module, name, message)(type_name, message)


def _made(cls: type[BaseException], args: tuple[Value, ...]) -> BaseException:
    if _is_builtin(cls):
        return cls(*args)
    # Its own constructors may do anything.
    base = next(filter(_is_builtin, cls.__mro__))
    exc: BaseException = base.__new__(cls, *args)
    exc.args = args
    return exc


def _is_builtin(cls: type) -> bool:
    # Not by the name of its module, which a class may have set.
    return vars(builtins).get(cls.__name__) is cls


def _runs_no_code_for_subclasses(cls: type) -> bool:
    """Return whether a class can be derived from without running code of its own."""
    is_hooked = any("__init_subclass__" in vars(base) for base in cls.__mro__ if base is not object)
    return type(cls) is type and not is_hooked


def _arguments(cls: type[BaseException], message: str) -> Iterator[tuple[Value, ...]]:
    """Yield arguments that may give an exception its text, the likeliest first."""
    if not message:
        yield ()
    system = _SYSTEM_ERROR.fullmatch(message) if issubclass(cls, OSError) else None
    if system is not None:
        number, text, path = system.groups()
        yield (int(number), text) if path is None else (int(number), text, _literal(path))
    value = _literal(message)
    if value is not None and issubclass(cls, _OF_REPRS):
        yield (value,)
    if isinstance(value, tuple) and len(value) > 1:
        yield value
    yield (message,)


def _literal(text: str) -> Value:
    """Return the plain value that a text is the repr of; None if there is none."""
    if len(text) > _MOST_LITERAL_CHARS:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _telling(cls: type[BaseException], module: str, name: str, message: str) -> type[BaseException]:
    """Return a subclass of an exception's class whose instances have a text."""

    def text(_self: BaseException) -> str:
        return message

    def representation(_self: BaseException) -> str:
        return f"{name.rpartition('.')[2]}({message!r})"

    names = {
        "__module__": module,
        "__qualname__": name,
        "__str__": text,
        "__repr__": representation,
    }
    return type(name.rpartition(".")[2], (cls,), names)
