"""The interface of a run: verifier, base model, scaffold, budget and the like.

A gain can be attributed to one of them only if all of them are recorded. A field that is not given
is recorded as unknown, and an unknown field never compares equal.
"""

from __future__ import annotations

import inspect
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from trajrec.module_names import module_name
from trajrec.source_digest import source_digest
from trajrec.types import Value

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
"""The fields of an interface. The first six are the factors that reports confuse with each other;
the last three confound a comparison of the others."""

Reason = Literal["unknown", "not_applicable", "redacted", "not_captured"]
REASONS: tuple[Reason, ...] = get_args(Reason)


def interface(path: str | Path | None = None, /, **fields: Value) -> dict[str, Any]:
    """Describe the interface that episodes run under.

    The result is the value for `interface=` of `trajrec.record` and `trajrec.episode`.

    Args:
        path: A TOML file with fields; `fields` take precedence over it.
        fields: Any of verifier, base, lineage, optimizer, scaffold, budget, env, sampling,
            eval_protocol. A value is plain data; a function, class or module, of which the name and
            the digest of the source are recorded; or `missing(reason)`.

    Returns:
        Plain data with all nine fields. A field that was not given is {"missing": "unknown"}.

    Raises:
        ValueError: A name is none of the nine fields.
        OSError: The file cannot be read.

    >>> interface(base={"model": "m-1", "revision": "8f2"}, budget={"tokens": 4096})["optimizer"]
    {'missing': 'unknown'}
    """
    given: dict[str, Any] = {}
    if path is not None:
        with open(path, "rb") as file:
            given = tomllib.load(file)
    given.update(fields)
    if unknown := sorted(given.keys() - set(FIELDS)):
        raise ValueError(
            f"fields of an interface must be among {', '.join(FIELDS)}, got {unknown[0]!r}"
        )
    return {
        name: _described(given[name]) if name in given else missing("unknown") for name in FIELDS
    }


def missing(reason: Reason) -> dict[str, str]:
    """Mark a field as missing, with the reason.

    Args:
        reason: "unknown", "not_applicable", "redacted" or "not_captured".

    Raises:
        ValueError: `reason` is none of these words.

    >>> interface(optimizer=missing("not_applicable"))["optimizer"]
    {'missing': 'not_applicable'}
    """
    if reason not in REASONS:
        raise ValueError(f"reason must be one of {', '.join(REASONS)}, got {reason!r}")
    return {"missing": reason}


def _described(value: Value) -> Value:
    """Return a value with its functions, classes and modules as names and digests."""
    if isinstance(value, (types.ModuleType, type)) or inspect.isroutine(value):
        module = "" if isinstance(value, types.ModuleType) else f"{module_name(value)}."
        name = getattr(value, "__qualname__", getattr(value, "__name__", ""))
        return {
            "code": f"{module}{name}",
            "code_digest": source_digest(value) or missing("not_captured"),
        }
    if isinstance(value, Mapping):
        return {str(key): _described(item) for key, item in value.items()}
    return value
