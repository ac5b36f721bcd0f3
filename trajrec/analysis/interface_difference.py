"""The difference of the interfaces of two runs, factor by factor and path by path.

Interfaces are compared leaf by leaf and not by digest: a digest neither says which path differs nor
sees that a part deep inside is marked as unknown. Unknown never equals unknown; not_applicable
equals not_applicable.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from trajrec.run_interface import FIELDS, REASONS, missing
from trajrec.types import Value

FactorStatus = Literal["same", "differs", "unknown", "mixed", "not_applicable"]

UNKNOWN_REASONS = frozenset(REASONS) - {"not_applicable"}

ABSENT = "(absent)"
"""Stands for a path that an interface does not have, though it has the part above it."""

# Names of values that the runs of one training recipe produce; they differ between any two runs.
TRAINING_RUN = ("lineage", "training_run")
OF_TRAINING_RUN: set[tuple[str, ...]] = {
    TRAINING_RUN,
    *(("base", name) for name in ("revision", "checkpoint", "digest", "sha", "commit")),
}

Path = tuple[str, ...]


class PathDifference(NamedTuple):
    """A part of an interface that differs.

    Attributes:
        path: The part, e.g. "scaffold.prompt".
        a: Its value in the first run, as JSON.
        b: Its value in the second run.
        is_declared: Whether the interfaces say so; False if only the recordings show it.
    """

    path: str
    a: str
    b: str
    is_declared: bool = True

    def __str__(self) -> str:
        note = "" if self.is_declared else " (undeclared)"
        return f"{self.path} {self.a} -> {self.b}{note}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factor:
    """The comparison of one factor of two interfaces.

    Attributes:
        name: The factor, e.g. "scaffold".
        status: "same", "differs", "unknown" (a part is, and nothing known differs), "mixed" (it
            varies within a run), or "not_applicable" in both.
        differences: Parts that differ.
        unknown: Paths that are unknown in either run.
        mixed: Paths that vary within a run.
    """

    name: str
    status: FactorStatus
    differences: tuple[PathDifference, ...] = ()
    unknown: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()


def compare_interfaces(
    pairs: Iterable[tuple[Sequence[Value], Sequence[Value]]], *, by_training_run: bool = False
) -> dict[str, Factor]:
    """Compare the declared interfaces of two runs.

    Args:
        pairs: For each task, or for each set of tasks with the same interfaces, the interfaces of
            the first and of the second run as plain data; None stands for an unknown one.
        by_training_run: Whether the parts that differ between training runs of one recipe are left
            out, because each training run is a unit of its own.

    Returns:
        Each of the nine factors.

    >>> old = {"scaffold": {"prompt": "A", "tools": 3}}
    >>> new = {"scaffold": {"prompt": "B", "tools": 3}}
    >>> factors = compare_interfaces([([old], [new])])
    >>> factors["scaffold"].status, str(factors["scaffold"].differences[0])
    ('differs', 'scaffold.prompt "A" -> "B"')
    >>> factors["budget"].status
    'unknown'
    """
    skipped: set[Path] = OF_TRAINING_RUN if by_training_run else set()
    pairs = list(pairs)
    return {name: _factor(name, pairs, skipped) for name in FIELDS}


def _factor(
    name: str, pairs: list[tuple[Sequence[Value], Sequence[Value]]], skipped: set[Path]
) -> Factor:
    differences: dict[str, PathDifference] = {}
    unknown: dict[str, None] = {}
    mixed: dict[str, None] = {}
    is_applicable = False
    for of_a, of_b in pairs:
        docs_a = [_leaves(name, interface) for interface in of_a]
        docs_b = [_leaves(name, interface) for interface in of_b]
        for path in sorted({path for doc in (*docs_a, *docs_b) for path in doc} - skipped):
            text = ".".join(path)
            values_a = {_look_up(doc, path) for doc in docs_a}
            values_b = {_look_up(doc, path) for doc in docs_b}
            both = values_a | values_b
            is_applicable = is_applicable or both != {_NOT_APPLICABLE}
            if _UNKNOWN in both:
                unknown[text] = None
            elif len(values_a) > 1 or len(values_b) > 1:
                mixed[text] = None
            elif values_a != values_b:
                (a,) = values_a
                (b,) = values_b
                differences.setdefault(text, PathDifference(text, a, b))
    status: FactorStatus = "same"
    if mixed:
        status = "mixed"
    elif differences:
        status = "differs"
    elif unknown:
        status = "unknown"
    elif not is_applicable:
        status = "not_applicable"
    return Factor(
        name=name,
        status=status,
        differences=tuple(differences.values()),
        unknown=tuple(unknown),
        mixed=tuple(mixed),
    )


_NOT_APPLICABLE = "not applicable"
_UNKNOWN = "unknown"


def _leaves(name: str, interface: Value) -> dict[Path, str]:
    """Return the leaves of a factor, by path, as JSON or as one of the two marks above."""
    value: Value = missing("unknown")
    if isinstance(interface, Mapping) and interface.get(name) is not None:
        value = interface[name]
    leaves: dict[Path, str] = {}
    _add_leaves(value, (name,), leaves)
    return leaves


def _add_leaves(value: Value, path: Path, leaves: dict[Path, str]) -> None:
    if isinstance(value, Mapping):
        reason = value.get("missing") if len(value) == 1 else None
        if reason == "not_applicable":
            leaves[path] = _NOT_APPLICABLE
        elif isinstance(reason, str) and reason in UNKNOWN_REASONS:
            leaves[path] = _UNKNOWN
        elif value:
            for key, item in value.items():
                _add_leaves(item, (*path, str(key)), leaves)
        else:
            leaves[path] = "{}"
    elif isinstance(value, list) and value:
        for k, item in enumerate(value):
            _add_leaves(item, (*path, str(k)), leaves)
    else:
        if isinstance(value, float) and value.is_integer():
            # 4096.0 and 4096 are one number.
            value = int(value)
        leaves[path] = json.dumps(value, ensure_ascii=False)


def _look_up(leaves: Mapping[Path, str], path: Path) -> str:
    """Return the leaf at a path; unknown if a part above it is, and absent if there is none."""
    for length in range(len(path), 0, -1):
        leaf = leaves.get(path[:length])
        if leaf is not None and (length == len(path) or leaf in (_UNKNOWN, _NOT_APPLICABLE)):
            return leaf
    # The path may lead to a part whose own leaves are compared one by one.
    below = [other for other in leaves if other[: len(path)] == path]
    if any(leaves[other] == _UNKNOWN for other in below):
        return _UNKNOWN
    return "(parts)" if below else ABSENT


def training_runs(interfaces: Mapping[str, Value]) -> dict[str, str | None]:
    """Return the training run that each interface names in `lineage.training_run`, by its id."""
    runs: dict[str, str | None] = {}
    for interface_id, interface in interfaces.items():
        value = _look_up(_leaves("lineage", interface), TRAINING_RUN)
        is_named = value not in (_UNKNOWN, _NOT_APPLICABLE, ABSENT, "(parts)")
        runs[interface_id] = value if is_named else None
    return runs


def with_observed(
    factor: Factor, differences: Sequence[PathDifference], unknown: Sequence[str] = ()
) -> Factor:
    """Return a factor with differences that only the recordings show.

    A declared difference explains an observed one of the same factor, so that one is left out.
    """
    if factor.status == "mixed" or not (differences or unknown):
        return factor
    if factor.status == "differs":
        return factor
    return dataclasses.replace(
        factor,
        status="differs" if differences else "unknown",
        differences=(*factor.differences, *differences),
        unknown=(*factor.unknown, *unknown),
    )


def as_plain(factor: Factor) -> dict[str, Any]:
    """Return a factor as plain data."""
    return {
        "status": factor.status,
        "differences": [difference._asdict() for difference in factor.differences],
        "unknown": list(factor.unknown),
        "mixed": list(factor.mixed),
    }
