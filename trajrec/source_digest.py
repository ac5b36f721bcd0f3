"""The digest of the source of code that runs: of a verifier, or a scaffold."""

from __future__ import annotations

import hashlib
import inspect
import re
import types
import weakref
from collections.abc import Callable
from typing import Any


def source_digest(code: Callable[..., Any] | type | types.ModuleType) -> str | None:
    """Return the BLAKE2b-128 digest of the source of a function, class or module.

    It stays the same while the program runs, also if somebody edits the file in the meantime.

    None if there is no source, e.g. for a built-in function and for code that `exec` has made, or
    if other code stands in its place: the file was edited before the digest was first asked for.
    """
    # A bound method is another object each time. What a wrapper wraps may also be a class.
    own: Any = getattr(code, "__func__", code)
    code = inspect.unwrap(own)
    compiled = _compiled(code)
    try:
        known = _digests.get(code)
    except TypeError:
        # A class whose type gives it no hash, or an object without weak references.
        return _digest_now(code)
    # Not ==: the two specifications of a module that was loaded again are equal.
    if known is not None and [*map(id, known[0])] == [*map(id, compiled)]:
        return known[1]
    digest = _digest_now(code)
    _digests[code] = compiled, digest
    return digest


# With what was compiled: a notebook that reloads a file puts new code into the same function.
_digests: weakref.WeakKeyDictionary[object, tuple[tuple[object, ...], str | None]] = (
    weakref.WeakKeyDictionary()
)


def _compiled(code: Callable[..., Any] | type | types.ModuleType) -> tuple[object, ...]:
    """Return what changes if an object is given other code."""
    if isinstance(code, types.ModuleType):
        return (code.__spec__,)
    if not isinstance(code, type):
        return (getattr(code, "__code__", None),)
    return tuple(getattr(item, "__code__", None) for item in vars(code).values())


def _digest_now(code: Callable[..., Any] | type | types.ModuleType) -> str | None:
    try:
        source = inspect.getsource(code)
        file = inspect.getfile(code)
    except (OSError, TypeError):
        return None
    # All code of `exec` has this name. Where Python looks for its source, it finds that of
    # `python -c`.
    if file == "<string>" or not _defines(source, code):
        return None
    # "surrogatepass": a source file may hold lone surrogates in its texts.
    return hashlib.blake2b(source.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _defines(source: str, code: Callable[..., Any] | type | types.ModuleType) -> bool:
    """Return whether a source may be that of an object: it begins with its decorators or name."""
    if isinstance(code, types.ModuleType):
        return True
    if isinstance(code, type):
        begin = rf"class\s+{re.escape(code.__name__)}\b"
    else:
        name = code.__code__.co_name
        if name == "<lambda>":
            return "lambda" in source
        begin = rf"(async\s+)?def\s+{re.escape(name)}\b"
    if source.lstrip().startswith("@"):
        return re.search(rf"^\s*{begin}", source, re.M) is not None
    return re.match(rf"\s*{begin}", source) is not None
