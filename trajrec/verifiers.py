"""Checks: versioned verdicts on the state that an episode ended in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from trajrec.protocols import Verdict
from trajrec.run_interface import source_digest

F = TypeVar("F", bound=Callable[..., Any])


def verifier(*, id: str, version: str, family: str = "programmatic") -> Callable[[F], F]:
    """Give a check its id and version.

    Args:
        id: What the check is called in the corpus, e.g. "refund-booked".
        version: Raised whenever the same state may get another verdict.
        family: What kind of verifier: "programmatic", "environmental", "judge", ...

    >>> @verifier(id="upright", version="1")
    ... def upright(env):
    ...     return abs(env.unwrapped.state[2]) < 0.1
    >>> upright.verifier_id
    'upright'
    """

    def mark(function: F) -> F:
        function.verifier_id, function.verifier_version, function.verifier_family = (  # type: ignore[attr-defined]
            id,
            version,
            family,
        )
        return function

    return mark


def identity(check: Any) -> tuple[str, str, str]:
    """Return id, version and family of a check; of one without, its name, "0" and "programmatic"."""
    name = getattr(check, "__qualname__", type(check).__qualname__)
    return (
        getattr(check, "verifier_id", f"{getattr(check, '__module__', '?')}:{name}"),
        str(getattr(check, "verifier_version", "0")),
        getattr(check, "verifier_family", "programmatic"),
    )


def code_digest(check: Any) -> str | None:
    """Return the BLAKE2b-128 digest of a check's source, or None where there is none."""
    return source_digest(check if inspect.isroutine(check) else type(check))


def as_verdict(found: Any) -> Verdict:
    """Read what a check returned.

    Raises:
        TypeError: It is neither a bool, a number, None nor a Verdict.
    """
    if isinstance(found, Verdict):
        return found
    if found is None or isinstance(found, bool) or type(found).__name__ in ("bool_", "bool"):
        return Verdict(None if found is None else bool(found))
    if isinstance(found, (int, float)) or hasattr(found, "__float__"):
        return Verdict(None, score=float(found))
    raise TypeError(f"a check must return bool, float, None or Verdict, got {type(found).__name__}")
