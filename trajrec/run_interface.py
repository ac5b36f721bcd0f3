"""What an agent ran under: a gain can be attributed only where all of it was recorded. Unknown is recorded as unknown."""

from __future__ import annotations

import hashlib
import inspect
import tomllib
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

FIELDS = (
    "verifier",
    "base",
    "lineage",
    "optimizer",
    "scaffold",
    "budget",
    "env",
    "sampling",
    "eval_protocol",
)
"""The six factors that reports confuse, and three that confound them."""

Reason = Literal["unknown", "not_applicable", "redacted", "not_captured"]
REASONS = ("unknown", "not_applicable", "redacted", "not_captured")


def interface(path: str | Path | None = None, /, **fields: Any) -> dict[str, Any]:
    """Describe the interface that episodes run under, for `interface=` of `trajrec.record` and `trajrec.episode`.

    Args:
        path: A TOML file with these fields; those that are given as well take their place.
        fields: Any of verifier, base, lineage, optimizer, scaffold, budget, env, sampling, eval_protocol: plain data, a
            function, class or module (its name and the digest of its source), or `missing(reason)`.

    Returns:
        Plain data with all nine fields; those that were not given are marked as unknown, which never compares equal.

    Raises:
        ValueError: There is no such field.

    >>> interface(base={"model": "m-1", "revision": "8f2"}, budget={"tokens": 4096})["optimizer"]
    {'missing': 'unknown'}
    """
    found: dict[str, Any] = {}
    if path is not None:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    found.update(fields)
    if strange := sorted(found.keys() - set(FIELDS)):
        raise ValueError(
            f"an interface has no field {strange[0]!r}; its fields are {', '.join(FIELDS)}"
        )
    return {
        name: _described(found[name]) if name in found else missing("unknown") for name in FIELDS
    }


def missing(reason: Reason) -> dict[str, str]:
    """Mark a field as missing: unknown, not_applicable, redacted or not_captured.

    >>> interface(optimizer=missing("not_applicable"))["optimizer"]
    {'missing': 'not_applicable'}
    """
    if reason not in REASONS:
        raise ValueError(f"reason must be one of {', '.join(REASONS)}, got {reason!r}")
    return {"missing": reason}


def source_digest(code: Callable[..., Any] | type | types.ModuleType) -> str | None:
    """Return the BLAKE2b-128 digest of the source of a function, class or module, None where there is none."""
    try:
        source = inspect.getsource(code)
    except (OSError, TypeError):
        return None
    return hashlib.blake2b(source.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _described(value: Any) -> Any:
    if isinstance(value, (types.ModuleType, type)) or inspect.isroutine(value):
        module = "" if isinstance(value, types.ModuleType) else f"{value.__module__}."
        name = getattr(value, "__qualname__", getattr(value, "__name__", ""))
        return {
            "code": f"{module}{name}",
            "code_digest": source_digest(value) or missing("not_captured"),
        }
    if isinstance(value, Mapping):
        return {str(key): _described(item) for key, item in value.items()}
    return value
