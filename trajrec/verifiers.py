"""Verifiers: functions that judge the state an episode ended in, each with an id and a version."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

from trajrec.module_names import module_name
from trajrec.protocols import Verdict
from trajrec.source_digest import source_digest
from trajrec.types import Value

CheckStatus = Literal["ok", "not_evaluated", "error"]


class VerifierIdentity(NamedTuple):
    """The id, version and family under which a verifier's verdicts are stored."""

    id: str
    version: str
    family: str


F = TypeVar("F", bound=Callable[..., Value])


def verifier(*, id: str, version: str, family: str = "programmatic") -> Callable[[F], F]:
    """Give a verifier its id and version.

    Args:
        id: Name of the check in the corpus, e.g. "refund-booked".
        version: Change it whenever the same state may get another verdict.
        family: Kind of verifier: "programmatic", "environmental", "judge", ...

    >>> @verifier(id="upright", version="1")
    ... def upright(env):
    ...     return abs(env.unwrapped.state[2]) < 0.1
    >>> upright.verifier_id
    'upright'
    """

    def mark(function: F) -> F:
        # Attributes, not a wrapper: the function stays picklable, and its source has one digest.
        function.verifier_id = id  # type: ignore[attr-defined]
        function.verifier_version = version  # type: ignore[attr-defined]
        function.verifier_family = family  # type: ignore[attr-defined]
        return function

    return mark


def identify(verifier: object) -> VerifierIdentity:
    """Return the identity of a verifier.

    A callable without an id is identified by its module and name, with version "0".
    """
    name = getattr(verifier, "__qualname__", type(verifier).__qualname__)
    default_id = f"{module_name(verifier)}:{name}"
    # A log holds texts: a program may number its checks, or name no family.
    check_id = getattr(verifier, "verifier_id", None)
    family = getattr(verifier, "verifier_family", None)
    return VerifierIdentity(
        id=default_id if check_id is None else str(check_id),
        version=str(getattr(verifier, "verifier_version", "0")),
        family="programmatic" if family is None else str(family),
    )


def code_digest(verifier: object) -> str | None:
    """Return the BLAKE2b-128 digest of a verifier's source, or None if there is no source."""
    if callable(verifier) and inspect.isroutine(verifier):
        return source_digest(verifier)
    return source_digest(type(verifier))


# A NamedTuple, which is made in half the time of a frozen dataclass: each rollout makes one.
class CheckResult(NamedTuple):
    """The result of one run of a verifier.

    Attributes:
        status: "ok"; "not_evaluated" if the verifier gave neither a verdict nor a score; "error"
            if the verifier raised.
        passed: Whether the check holds; None if the verifier could not tell or raised.
        score: A graded result, in the verifier's own unit.
        evidence: Plain data that the verifier returned as its reason.
        error: The exception that the verifier raised, else None.
    """

    status: CheckStatus
    passed: bool | None = None
    score: float | None = None
    evidence: Value = None
    error: Exception | None = None

    @property
    def verdict(self) -> Verdict:
        """The result without its status; empty if the verifier raised."""
        return Verdict(passed=self.passed, score=self.score, evidence=self.evidence)

    @property
    def value(self) -> float | None:
        """1.0 if the check passed, 0.0 if not; without a verdict the score, which may be None."""
        return self.score if self.passed is None else float(self.passed)

    def raise_if_error(self) -> CheckResult:
        """Raise the verifier's exception again, if it raised; else return this result."""
        if self.error is not None:
            raise self.error
        return self


def run_check(verifier: Callable[..., Value], /, *subject: Value) -> CheckResult:
    """Run a verifier and read its verdict.

    Every place that runs a verifier calls this function: recorders, which store an error as the
    verifier's own failure; replays and forks, which compare or keep the result; and credit, which
    calls `raise_if_error` because a rollout without a verdict must not count as lost.

    Args:
        verifier: A function that returns a bool, a number (a score), None or a Verdict.
        subject: The arguments of the verifier: usually one, the environment, the world or the
            recorded state as plain data. The verifier must not change it.

    Returns:
        The result. An exception of the verifier is not raised: the result has it, with its
        traceback. A return value of another type counts as such an exception (a TypeError).
        KeyboardInterrupt and other exceptions that are no `Exception` pass through.

    >>> run_check(lambda state: state["booked"], {"booked": True}).passed
    True
    >>> run_check(lambda state: state["booked"], {}).error
    KeyError('booked')
    """
    try:
        verdict = as_verdict(verifier(*subject))
    except Exception as exc:
        return CheckResult("error", error=exc)
    said_nothing = verdict.passed is None and verdict.score is None
    return CheckResult(
        status="not_evaluated" if said_nothing else "ok",
        passed=verdict.passed,
        score=verdict.score,
        evidence=verdict.evidence,
    )


def warn_if_error(check_id: str, result: CheckResult) -> None:
    """Warn that a check raised: otherwise a whole run may end without outcomes, and nobody sees it."""
    if result.error is not None:
        # Without its text, which may be another one in each of a million episodes: Python shows a
        # warning once.
        warnings.warn(
            f"the check {check_id} raised {type(result.error).__name__} and gave no verdict; the "
            "table failures has its exception (phase 'check')",
            RuntimeWarning,
            stacklevel=2,
        )


def as_verdict(returned: Value) -> Verdict:
    """Return the verdict that a verifier's return value stands for.

    Raises:
        TypeError: The value is neither a bool, a number, None nor a Verdict.
    """
    if isinstance(returned, Verdict):
        return _checked(returned)
    # NumPy's own bool, by name: NumPy 1 calls the class "bool_", and NumPy 2 "bool".
    if isinstance(returned, bool) or type(returned).__name__ in ("bool_", "bool"):
        return Verdict(bool(returned))
    # An array of one flag, of NumPy, torch or JAX, is no score of 1.0.
    if str(getattr(returned, "dtype", "")) in ("bool", "torch.bool"):
        return Verdict(bool(returned))
    if returned is None:
        return Verdict(None)
    if isinstance(returned, (int, float)) or hasattr(returned, "__float__"):
        return Verdict(None, score=float(returned))
    raise TypeError(
        f"a verifier must return bool, float, None or Verdict, got {type(returned).__name__}"
    )


def _checked(verdict: Verdict) -> Verdict:
    """Return a verdict with Python's own values.

    Raises:
        TypeError: It holds others than a bool and a number.
    """
    passed = verdict.passed
    score = verdict.score
    if passed is not None and type(passed) is not bool:
        passed = as_verdict(passed).passed
        if passed is None:
            raise TypeError(f"passed must be True, False or None, got {verdict.passed!r}")
    if score is not None and type(score) is not float:
        if isinstance(score, str):
            raise TypeError(f"score must be a number or None, got {score!r}")
        score = float(score)
    return Verdict(passed, score, verdict.evidence)
