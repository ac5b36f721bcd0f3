"""Compare two runs: read both, compare their interfaces, measure the difference, decide the claim."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

from trajrec.analysis.arms import Arm, TaskDifference
from trajrec.analysis.cells import Cell, make_cells
from trajrec.analysis.claims import TRAINED, decide_claim, exclusion_problems, sharing_problems
from trajrec.analysis.comparison import Comparison
from trajrec.analysis.conditions import outcome_columns
from trajrec.analysis.cross_grading import CrossGrading, Run, Verifier, cross_grade
from trajrec.analysis.estimate import Estimate
from trajrec.analysis.interface_difference import Factor, compare_interfaces, training_runs
from trajrec.analysis.intervals import (
    Measured,
    Pair,
    bounds_of,
    measure,
    pair_cells,
    task_difference,
)
from trajrec.analysis.planned import apply_plan, planned_trials
from trajrec.analysis.planning import visible_difference
from trajrec.analysis.rollouts import (
    CheckName,
    Group,
    count_excluded,
    read_check,
    read_first_results,
)
from trajrec.analysis.run_factors import changed_measure, changed_tasks, compare_factors
from trajrec.analysis.sides import Options, ReadSide, Side, period_of, read_sides
from trajrec.analysis.training_runs import measure_training_runs


def compare_sides(a: Side, b: Side, options: Options) -> Comparison:
    """Compare two runs.

    Returns:
        The comparison. A refusal is a comparison too: its claim is "unlicensed", with reasons, and
        without a difference if the runs were selected by their outcomes.

    Raises:
        QueryError: DuckDB rejects a condition.
        ValueError: A run has no episodes, an episode is in both runs, or an option is wrong.
    """
    check = read_check(options.check)
    selected = [outcome_columns(side.source, side.where) for side in (a, b)]
    if any(selected):
        names = ", ".join(dict.fromkeys([*selected[0], *selected[1]]))
        return _refused(a, b, check, options, f"the runs are selected by outcomes ({names})")
    reads = read_sides(a, b, options)
    runs = (_runs_by_group(reads[0]), _runs_by_group(reads[1]))
    by_run = all(run is not None for of_side in runs for run in of_side.values())
    cells, plan_notes = _planned_cells((a, b), reads, options)
    pairs = pair_cells(*cells, by_family=options.cluster is not None)
    shared = sorted(cells[0].keys() & cells[1].keys())
    factors = compare_factors(reads, shared, by_training_run=by_run)
    measured = _measure(reads, pairs, runs, factors, options, by_run=by_run and not plan_notes)
    bounds = None
    if options.result_range is not None:
        bounds = bounds_of(*cells, options.result_range, by_family=options.cluster is not None)
    problems = _problems(reads, cells, measured, bounds, n_units=len(pairs))
    if by_run and plan_notes and _is_trained(factors):
        problems.append(
            "training runs are compared by all of their rollouts, whose numbers were not planned: "
            "declare eval_protocol.trials"
        )
    fewest = min(len(set(of_side.values())) for of_side in runs) if by_run else 0
    claim, reasons = decide_claim(factors, problems, fewest_training_runs=fewest)
    n_graded = (
        sum(cell.n for pair in pairs for cell in pair.a),
        sum(cell.n for pair in pairs for cell in pair.b),
    )
    return Comparison(
        check=_check_text(check, reads),
        a=_arm(a, reads[0], cells[0], measured.rate_a, n_graded=n_graded[0]),
        b=_arm(b, reads[1], cells[1], measured.rate_b, n_graded=n_graded[1]),
        difference=measured.difference,
        method=measured.method,
        over=options.over,
        unit=options.cluster or "task",
        n_units=len(pairs),
        claim=claim,
        reasons=reasons,
        problems=tuple(problems),
        notes=(*plan_notes, *_notes(reads, cells, options)),
        factors=factors,
        bounds=bounds,
        smallest_visible=_visible(measured, options),
        dropped=_dropped(cells, pairs),
        tasks=_task_differences(pairs, options),
        spread=measured.spread,
        confidence=options.confidence,
        changed_measure=changed_measure(reads, shared, factors),
        grade_both=_cross_grader((a, b), reads, options, plan_notes),
    )


def _cross_grader(
    sides: tuple[Side, Side],
    reads: tuple[ReadSide, ReadSide],
    options: Options,
    plan_notes: Sequence[str],
) -> Callable[[], CrossGrading] | None:
    """Return a function that splits the difference, None if a run has no single verifier.

    It refuses differences that are not the one that it splits: of verdicts, over tasks.
    """
    reasons = list(plan_notes)
    if options.score:
        reasons.append("the difference is one of scores, and verdicts alone are split")
    if options.cluster is not None:
        reasons.append(
            f"the difference is one over groups by {options.cluster}, and not over tasks"
        )
    verifiers: list[Verifier] = []
    for read in reads:
        used = {
            Verifier(check_id, version, group.facets["check_code"])
            for group in read.groups
            if group.n_graded
            and (check_id := group.facets["check_id"]) is not None
            and (version := group.facets["version"]) is not None
        }
        if len(used) != 1:
            return None
        verifiers += used
    runs = [Run(side.source, side.where) for side in sides]
    first, second = verifiers
    return functools.partial(
        cross_grade,
        runs[0],
        runs[1],
        first,
        second,
        tasks=options.tasks,
        reason="; ".join(reasons),
    )


def _refused(a: Side, b: Side, check: CheckName, options: Options, reason: str) -> Comparison:
    """Return a comparison without numbers."""
    arms = [
        Arm(
            where=side.where,
            interface_ids=(),
            n_episodes=0,
            n_tasks=0,
            n_graded=0,
            n_truncated=0,
            excluded={},
            first=None,
            last=None,
            rate=None,
        )
        for side in (a, b)
    ]
    return Comparison(
        check=str(check),
        a=arms[0],
        b=arms[1],
        difference=None,
        method="none: refused",
        over=options.over,
        unit=options.cluster or "task",
        n_units=0,
        claim="unlicensed",
        reasons=(reason,),
        problems=(reason,),
        notes=("choose the tasks by other rollouts: tasks=corpus.bands(...).tasks('active')",),
        factors=compare_interfaces([]),
        bounds=None,
        smallest_visible=None,
        dropped=(),
        tasks=(),
    )


def _planned_cells(
    sides: tuple[Side, Side], reads: tuple[ReadSide, ReadSide], options: Options
) -> tuple[tuple[dict[str, Cell], dict[str, Cell]], list[str]]:
    """Return the cells of both runs, and notes on those of which only first rollouts count."""
    cells = []
    notes = []
    for name, read in zip("AB", reads, strict=True):
        of_side, note = apply_plan(make_cells(read.groups), planned_trials(read.interfaces))
        cells.append(of_side)
        if note is not None:
            notes.append(f"{name}: {note}, so only the first rollout of each task counts")
    if notes:
        # A first rollout is compared with first rollouts.
        for number, side in enumerate(sides):
            firsts = read_first_results(side.source, side.where, options.reading)
            cells[number] = {
                unit: cell.with_result(firsts.get(unit)) for unit, cell in cells[number].items()
            }
    return (cells[0], cells[1]), notes


def _runs_by_group(read: ReadSide) -> dict[str | None, str | None]:
    """Return the training run of each interface."""
    named = {str(key): value for key, value in read.interfaces.items() if key is not None}
    runs: dict[str | None, str | None] = dict(training_runs(named).items())
    if None in read.interfaces:
        runs[None] = None
    return runs


def _measure(
    reads: tuple[ReadSide, ReadSide],
    pairs: Sequence[Pair],
    runs: tuple[dict[str | None, str | None], dict[str | None, str | None]],
    factors: dict[str, Factor],
    options: Options,
    *,
    by_run: bool,
) -> Measured:
    """Return the difference over tasks; over training runs if each side has enough of them."""
    if not pairs:
        return Measured(difference=None, rate_a=None, rate_b=None, method="none: no shared task")
    measured = measure(
        pairs,
        over=options.over,
        value_range=options.result_range,
        confidence=options.confidence,
    )
    if by_run and _is_trained(factors):
        groups = (reads[0].groups, reads[1].groups)
        over_runs = measure_training_runs(
            groups, runs, pairs, options.result_range, confidence=options.confidence
        )
        if over_runs is not None:
            return over_runs
    return measured


def _is_trained(factors: dict[str, Factor]) -> bool:
    """Return whether a factor differs whose unit is the training run."""
    return any(factors[name].status == "differs" for name in TRAINED)


def _problems(
    reads: tuple[ReadSide, ReadSide],
    cells: tuple[dict[str, Cell], dict[str, Cell]],
    measured: Measured,
    bounds: tuple[float, float] | None,
    *,
    n_units: int,
) -> list[str]:
    """Return why the difference itself cannot be trusted, whatever the interfaces say."""
    graded = [{unit for unit, cell in of_side.items() if cell.n} for of_side in cells]
    shared = graded[0] & graded[1]
    problems = sharing_problems(len(shared), len(cells[0]), len(cells[1]), n_units=n_units)
    excluded = [count_excluded(read.groups) for read in reads]
    n_lost = sum(cell.n_excluded for of_side in cells for cell in of_side.values())
    n_homeless = sum(counts["no task"] for counts in excluded)
    if n_homeless:
        problems.append(f"{n_homeless} rollouts have no task: name it with record(task=...)")
    groups = (reads[0].groups, reads[1].groups)
    if n_divided := _divided(groups, shared):
        problems.append(f"{n_divided} tasks are in several families: a task belongs to one")
    problems += changed_tasks(*groups, shared)
    if measured.difference is None:
        problems.append(measured.method.removeprefix("none: "))
    else:
        interval = (measured.difference.ci_low, measured.difference.ci_high)
        problems += exclusion_problems(interval, bounds, n_excluded=n_lost)
    return problems


def _divided(groups: tuple[list[Group], list[Group]], units: set[str]) -> int:
    """Return how many tasks are in several families."""
    families: dict[str, set[str]] = {}
    for group in (*groups[0], *groups[1]):
        if group.unit in units and group.family is not None:
            families.setdefault(group.unit, set()).add(group.family)
    return sum(len(of_unit) > 1 for of_unit in families.values())


def _check_text(check: CheckName, reads: tuple[ReadSide, ReadSide]) -> str:
    """Return the check as it is printed, with the checks that the primary one stands for."""
    names = sorted(
        {name for read in reads for group in read.groups if (name := group.check_name) is not None}
    )
    if check.version is not None or not names:
        return str(check)
    if len(names) == 1:
        return names[0]
    return f"{check} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _arm(
    side: Side,
    read: ReadSide,
    cells: dict[str, Cell],
    rate: Estimate | None,
    *,
    n_graded: int,
) -> Arm:
    first, last = period_of(read.groups)
    ids = {group.interface_id for group in read.groups}
    excluded = count_excluded(read.groups)
    n_begun = sum(cell.n_excluded for cell in make_cells(read.groups).values())
    # Rollouts that eval_protocol.trials declares, and that nobody recorded.
    if n_absent := sum(cell.n_excluded for cell in cells.values()) - n_begun:
        excluded["not recorded"] = n_absent
    return Arm(
        where=str(side.source.path) if side.where == "true" else side.where,
        interface_ids=tuple(sorted(ids, key=str)),
        n_episodes=sum(group.n for group in read.groups),
        n_tasks=len(cells),
        n_graded=n_graded,
        n_truncated=sum(group.n_truncated for group in read.groups),
        excluded=dict(sorted(excluded.items())),
        first=None if first is None else first.date().isoformat(),
        last=None if last is None else last.date().isoformat(),
        rate=rate,
    )


def _notes(
    reads: tuple[ReadSide, ReadSide],
    cells: tuple[dict[str, Cell], dict[str, Cell]],
    options: Options,
) -> list[str]:
    """Return remarks that qualify the numbers."""
    notes = []
    if options.variants > 1:
        notes.append(
            f"{options.variants} variants were compared, so the interval is one of "
            f"{100 * options.confidence:.3g} % (Bonferroni): all hold together in 95 %"
        )
    if options.over == "these":
        notes.append("the interval is about these tasks alone, and says nothing about others")
    groups = [group for read in reads for group in read.groups]
    if any(group.is_derived and group.unit is not None for group in groups):
        notes.append("tasks without a name are told apart by environment and state after the reset")
    if all(group.facets["task_revision"] is None for group in groups):
        notes.append("no task has a revision, so equal names stand for equal tasks")
    if options.cluster is not None:
        members = [cell for of_side in cells for cell in of_side.values()]
        alone = {cell.unit for cell in members if cell.family is None}
        alone -= {cell.unit for cell in members if cell.family is not None}
        if alone:
            tasks = "1 task has" if len(alone) == 1 else f"{len(alone)} tasks have"
            notes.append(f"{tasks} no {options.cluster}; each counts as its own")
    return notes


def _visible(measured: Measured, options: Options) -> float | None:
    if measured.standard_error is None or measured.n_independent < 2:
        return None
    visible = visible_difference(
        measured.standard_error, measured.n_independent, options.confidence
    )
    low, high = options.result_range or (-math.inf, math.inf)
    return visible if visible <= high - low else math.inf


def _dropped(
    cells: tuple[dict[str, Cell], dict[str, Cell]], pairs: Sequence[Pair]
) -> tuple[str, ...]:
    counted = {cell.unit for pair in pairs for cell in pair.a}
    return tuple(sorted((cells[0].keys() | cells[1].keys()) - counted))


def _task_differences(pairs: Sequence[Pair], options: Options) -> tuple[TaskDifference, ...]:
    differences = [task_difference(pair, options.result_range) for pair in pairs]
    return tuple(sorted(differences, key=lambda task: (task.difference.value, task.task)))
