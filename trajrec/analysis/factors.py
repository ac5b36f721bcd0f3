"""The effects of several factors that changed between two runs, from runs that change some of them.

With all 2^m combinations of m factors, each factor has an effect alone on the first run, an effect
last to reach the other run, and a Shapley value: its mean over all orders. The three differ if
factors interact, so all are given: the Shapley value alone hides it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trajrec.analysis.cells import Cell, make_cells
from trajrec.analysis.claims import FEWEST_TASKS, TRAINED, find_gaps, sharing_problems
from trajrec.analysis.conditions import outcome_columns
from trajrec.analysis.contrasts import contrast
from trajrec.analysis.estimate import Estimate
from trajrec.analysis.interface_difference import Factor
from trajrec.analysis.planned import apply_plan, planned_trials
from trajrec.analysis.rollouts import Reading, count_excluded, find_check, read_runs
from trajrec.analysis.run_factors import changed_tasks, compare_factors
from trajrec.analysis.sides import Options, ReadSide, Side, complete_side
from trajrec.analysis.source import Source
from trajrec.values.shown import counted

MOST_FACTORS = 4

Names = frozenset[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorEffect:
    """The effect of one factor.

    Attributes:
        first: Of changing it alone, in the first run.
        last: Of changing it last, to reach the run with all changes.
        shapley: Mean over all orders.
    """

    first: Estimate
    last: Estimate
    shapley: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Link:
    """One step of a chain of runs.

    Attributes:
        changed: The factors that changed in it.
        effect: The difference to the run before it.
    """

    changed: tuple[str, ...]
    effect: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorEffects:
    """The effects of the factors that changed.

    Attributes:
        changed: The factors that differ between the first run and that with all changes.
        total: The difference between these two; None if it is refused.
        effects: The effect of each factor; empty if runs are missing.
        interactions: For each two factors, the effect of both less those of each, in the first run.
        chain: In the order of the runs, if each run adds changes to the one before it.
        missing: The combinations of changes that no run has: the next experiments.
        n_tasks: Tasks that all runs have graded rollouts of.
        n_excluded: Rollouts of all runs without a result. No bounds are computed for them.
        reason: Why the effects are refused; "" if they are not.
        notes: Remarks that limit what may be said of the effects.
    """

    changed: tuple[str, ...]
    total: Estimate | None
    effects: Mapping[str, FactorEffect]
    interactions: Mapping[tuple[str, str], Estimate]
    chain: tuple[Link, ...]
    missing: tuple[tuple[str, ...], ...]
    n_tasks: int
    n_excluded: int
    reason: str = ""
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        if self.reason:
            return f"<FactorEffects: refused; {self.reason}>"
        parts = [f"{name} {effect.shapley.signed}" for name, effect in self.effects.items()]
        parts = parts or [f"{'+'.join(link.changed)} {link.effect.signed}" for link in self.chain]
        lost = f"; {self.n_excluded} rollouts without a result" if self.n_excluded else ""
        remarks = "".join(f"; {note}" for note in self.notes)
        return f"<FactorEffects over {self.n_tasks} tasks: {', '.join(parts)}{lost}{remarks}>"


def read_factors(source: Source, wheres: Sequence[str], *, check: str | None) -> FactorEffects:
    """Return the effects of the factors that changed over several runs.

    Args:
        source: The corpus.
        wheres: A SQL condition for each run, the first without changes.
        check: The check that grades.

    Raises:
        QueryError: DuckDB rejects a condition.
        ValueError: There are fewer than two runs, a run has no episodes, or runs share some.
    """
    if len(wheres) < 2:
        raise ValueError(f"give the conditions of at least 2 runs, got {len(wheres)}")
    selected = [name for where in wheres for name in outcome_columns(source, where)]
    if selected:
        return _refused(f"the runs are selected by outcomes ({', '.join(dict.fromkeys(selected))})")
    options = Options(check=check)
    groups = read_runs(source, wheres, Reading(check=find_check(check, source)))
    reads = [
        complete_side(Side(source, where), found, options)
        for where, found in zip(wheres, groups, strict=True)
    ]
    cells = []
    for read in reads:
        of_run, note = apply_plan(make_cells(read.groups), planned_trials(read.interfaces))
        if note is not None:
            return _refused(note)
        cells.append(of_run)
    graded = [{unit for unit, cell in of_run.items() if cell.n} for of_run in cells]
    units = sorted(set.intersection(*graded))
    if len(units) < FEWEST_TASKS:
        return _refused(
            f"{counted(len(units), 'task')} with graded rollouts in all runs (at least "
            f"{FEWEST_TASKS} are needed)"
        )
    most = max(map(len, cells))
    problems = sharing_problems(len(units), most, most, n_units=len(units))
    for number, read in enumerate(reads[1:], 1):
        changed = changed_tasks(reads[0].groups, read.groups, units)
        problems += [f"{reason.removesuffix('both runs')}runs 0 and {number}" for reason in changed]
    if problems:
        return _refused("; ".join(problems))
    changes = _changes(reads, units)
    if isinstance(changes, str):
        return _refused(changes)
    n_homeless = sum(count_excluded(read.groups)["no task"] for read in reads)
    return _effects(changes, cells, units, n_homeless=n_homeless)


def _refused(reason: str) -> FactorEffects:
    return FactorEffects(
        changed=(),
        total=None,
        effects={},
        interactions={},
        chain=(),
        missing=(),
        n_tasks=0,
        n_excluded=0,
        reason=reason,
    )


def _changes(reads: Sequence[ReadSide], units: Sequence[str]) -> list[Names] | str:
    """Return the factors that each run changes, or why that cannot be said."""
    differences: list[Names] = []
    for read in reads:
        factors = compare_factors((reads[0], read), units, by_training_run=False)
        if gaps := find_gaps(factors):
            return gaps[0]
        differences.append(_changed(factors))
    whole = max(range(len(reads)), key=lambda number: len(differences[number]))
    if len(differences[whole]) > MOST_FACTORS:
        return f"{len(differences[whole])} factors changed, of at most {MOST_FACTORS}"
    for number, read in enumerate(reads):
        factors = compare_factors((reads[whole], read), units, by_training_run=False)
        if gaps := find_gaps(factors):
            return gaps[0]
        # Each factor must be as in the first run or as in the last; a third value is no mixture.
        third = differences[number] & _changed(factors)
        if third:
            return f"run {number} has a third value of {', '.join(sorted(third))}"
        if extra := differences[number] - differences[whole]:
            return f"no run has all changes: {', '.join(sorted(extra))} is missing from run {whole}"
    if len(set(differences)) < len(differences):
        return "two runs have the same changes: give one condition for both"
    return differences


def _changed(factors: Mapping[str, Factor]) -> Names:
    return frozenset(name for name, factor in factors.items() if factor.status == "differs")


def _effects(
    changes: Sequence[Names],
    cells: Sequence[Mapping[str, Cell]],
    units: Sequence[str],
    *,
    n_homeless: int,
) -> FactorEffects:
    whole = max(changes, key=len)
    names = sorted(whole)
    passed = {
        of_run: np.array([cells[k][unit].total for unit in units])
        for k, of_run in enumerate(changes)
    }
    counts = {
        of_run: np.array([float(cells[k][unit].n) for unit in units])
        for k, of_run in enumerate(changes)
    }

    def estimate(weights: Mapping[Names, float]) -> Estimate:
        used = [of_run for of_run, weight in weights.items() if weight]
        return contrast(
            [passed[of_run] for of_run in used],
            [counts[of_run] for of_run in used],
            [weights[of_run] for of_run in used],
        )

    none: Names = frozenset()
    subsets = [
        frozenset(subset)
        for size in range(len(names) + 1)
        for subset in itertools.combinations(names, size)
    ]
    missing = [tuple(sorted(subset)) for subset in subsets if subset not in passed]
    effects: dict[str, FactorEffect] = {}
    interactions: dict[tuple[str, str], Estimate] = {}
    if not missing:
        for name in names:
            one = frozenset([name])
            effects[name] = FactorEffect(
                first=estimate({none: -1.0, one: 1.0}),
                last=estimate({whole - one: -1.0, whole: 1.0}),
                shapley=estimate(shapley_weights(names, name)),
            )
        for one_name, other in itertools.combinations(names, 2):
            a = frozenset([one_name])
            b = frozenset([other])
            weights = {none: 1.0, a: -1.0, b: -1.0, a | b: 1.0}
            interactions[one_name, other] = estimate(weights)
    chain = []
    if all(before < after for before, after in itertools.pairwise(changes)):
        chain = [
            Link(changed=tuple(sorted(after - before)), effect=estimate({before: -1.0, after: 1.0}))
            for before, after in itertools.pairwise(changes)
        ]
    return FactorEffects(
        changed=tuple(names),
        total=estimate({none: -1.0, whole: 1.0}) if whole else None,
        effects=effects,
        interactions=interactions,
        chain=tuple(chain),
        missing=tuple(missing),
        n_tasks=len(units),
        n_excluded=sum(cell.n_excluded for of_run in cells for cell in of_run.values()),
        reason="" if whole else "no factor differs between the runs",
        notes=tuple(_notes(names, n_homeless)),
    )


def _notes(changed: Sequence[str], n_homeless: int) -> list[str]:
    """Return the limits of effects that a comparison of two runs would put into its claim."""
    notes = []
    if n_homeless:
        notes.append(f"{n_homeless} rollouts have no task, and count nowhere")
    if trained := [name for name in changed if name in TRAINED]:
        notes.append(
            f"{', '.join(trained)}: the effect is that of these checkpoints, and says nothing about "
            "their recipes"
        )
    if "verifier" in changed:
        notes.append("verifier: the effect is one of the measure, and not of behaviour")
    return notes


def shapley_weights(names: Sequence[str], name: str) -> dict[frozenset[str], float]:
    """Return the weight of each combination of changes in the Shapley value of a factor.

    >>> weights = shapley_weights(["budget", "scaffold"], "budget")
    >>> weights[frozenset()], weights[frozenset(["budget"])]
    (-0.5, 0.5)
    """
    others = [other for other in names if other != name]
    weights: dict[frozenset[str], float] = {}
    for size in range(len(others) + 1):
        share = math.factorial(size) * math.factorial(len(others) - size)
        weight = share / math.factorial(len(names))
        for subset in itertools.combinations(others, size):
            weights[frozenset(subset)] = -weight
            weights[frozenset((*subset, name))] = weight
    return weights


def as_plain(effects: FactorEffects) -> dict[str, Any]:
    """Return the effects as plain data, which JSON can hold."""
    record = dataclasses.asdict(effects)
    record["interactions"] = {
        " x ".join(pair): dataclasses.asdict(estimate)
        for pair, estimate in effects.interactions.items()
    }
    return record
