"""The nine factors of two runs, as declared and as recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from trajrec.analysis.interface_difference import Factor
from trajrec.analysis.observed import (
    add_facets,
    add_models,
    add_packages,
    facet_sets,
    pair_interfaces,
)
from trajrec.analysis.prompts import add_prompts
from trajrec.analysis.rollouts import Group
from trajrec.analysis.sides import ReadSide, period_of

_OBSERVED = ("check_id", "version", "check_code")

_NAMES_OF_CHECK = frozenset(("verifier", "verifier.id", "verifier.version"))
"""Declared parts of a verifier that the recorded verdicts have too."""


def compare_factors(
    reads: tuple[ReadSide, ReadSide], units: Sequence[str], *, by_training_run: bool
) -> dict[str, Factor]:
    """Return the nine factors: as declared, and corrected by the recordings."""
    a, b = reads
    factors = pair_interfaces(
        (a.groups, b.groups), (a.interfaces, b.interfaces), units, by_training_run=by_training_run
    )
    add_facets(factors, a.groups, b.groups, units)
    add_prompts(factors, a.prompts, b.prompts, units)
    add_packages(factors, a.packages, b.packages)
    bases = [
        interface.get("base") if isinstance(interface, dict) else None
        for read in reads
        for interface in read.interfaces.values()
    ]
    periods = (period_of(a.groups), period_of(b.groups))
    add_models(factors, a.models, b.models, units, bases=bases, periods=periods)
    return factors


def changed_tasks(a: Sequence[Group], b: Sequence[Group], units: Iterable[str]) -> list[str]:
    """Return why tasks of one name are not the same in two runs; [] if they are, as far as known."""
    reasons = []
    for facet, name in (("task_revision", "revision"), ("goal_digest", "goal")):
        of_a = facet_sets(a, facet)
        of_b = facet_sets(b, facet)
        known = of_a.keys() & of_b.keys()
        if n := sum(unit in known and of_a[unit] != of_b[unit] for unit in units):
            reasons.append(f"{n} tasks do not have the same {name} in both runs")
    return reasons


def changed_measure(
    reads: tuple[ReadSide, ReadSide], units: Sequence[str], factors: Mapping[str, Factor]
) -> str:
    """Return why the results of two runs are not of one measure, "" if they are.

    The verdicts say which check gave them. What else is declared of it, such as a judge, they do
    not say.
    """
    parts = []
    for facet in _OBSERVED:
        a, b = (_checks_by_unit(read.groups, facet) for read in reads)
        for unit in units:
            values = (a.get(unit, frozenset()), b.get(unit, frozenset()))
            if values[0] != values[1] or len(values[0]) > 1:
                texts = [
                    ", ".join(sorted(str(value or "unknown") for value in of)) for of in values
                ]
                parts.append(f"verifier.{facet} {texts[0]} -> {texts[1]}")
                break
    parts += _declared(factors["verifier"])
    return f"the check is not the same in both runs: {'; '.join(parts)}" if parts else ""


def _checks_by_unit(groups: Sequence[Group], facet: str) -> dict[str, frozenset[str | None]]:
    """Return the values of a part of the check that graded each task; None if it is unknown."""
    values: dict[str, set[str | None]] = {}
    for group in groups:
        if group.unit is not None and group.n_graded:
            values.setdefault(group.unit, set()).add(group.facets[facet])
    return {unit: frozenset(of_unit) for unit, of_unit in values.items()}


def _declared(verifier: Factor) -> Iterator[str]:
    for difference in verifier.differences:
        if difference.is_declared and difference.path not in _NAMES_OF_CHECK:
            yield str(difference)
    for path in verifier.mixed:
        if path not in _NAMES_OF_CHECK and path.removeprefix("verifier.") not in _OBSERVED:
            yield f"{path} varies within a run"
