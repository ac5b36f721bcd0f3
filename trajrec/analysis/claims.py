"""The claim that a comparison may make, from the two interfaces and from the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trajrec.analysis.comparison import Claim
from trajrec.analysis.interface_difference import Factor
from trajrec.statistics.spelling import spell
from trajrec.values.shown import counted

FEWEST_TASKS = 3
FEWEST_TRAINING_RUNS = 3
LEAST_SHARED = 0.8
"""Least share of the tasks of each run that the other run must have too."""

TRAINED = frozenset(("base", "lineage", "optimizer"))
"""Factors whose unit is the training run: two checkpoints say nothing about their recipes."""


def decide_claim(
    factors: Mapping[str, Factor], problems: Sequence[str], *, fewest_training_runs: int
) -> tuple[Claim, tuple[str, ...]]:
    """Return the claim, and the reasons why it is no stronger.

    Args:
        factors: The nine factors, compared.
        problems: Reasons why the difference itself cannot be trusted.
        fewest_training_runs: Training runs of the run that has fewer; 0 if they are not known.
    """
    reasons = [*problems, *find_gaps(factors)]
    if reasons:
        return "unlicensed", tuple(reasons)
    changed = [name for name, factor in factors.items() if factor.status == "differs"]
    if not changed:
        return "noise floor", ()
    if len(changed) > 1:
        return "confounded", (f"{len(changed)} factors differ: {', '.join(changed)}",)
    if changed == ["verifier"]:
        return "verifier", ("the verifier differs, so the results are not of one measure",)
    if changed[0] in TRAINED and fewest_training_runs < FEWEST_TRAINING_RUNS:
        return "attributable (artefacts)", (
            f"{changed[0]} comes out of training, and there are fewer than "
            f"{FEWEST_TRAINING_RUNS} training runs a side (lineage.training_run)",
        )
    return "attributable", ()


def find_gaps(factors: Mapping[str, Factor]) -> list[str]:
    """Return the factors that are not known well enough to attribute anything."""
    gaps = []
    for name, factor in factors.items():
        if factor.status == "unknown":
            paths = "" if factor.unknown == (name,) else f" ({', '.join(factor.unknown)})"
            gaps.append(f"{name} is unknown{paths}")
        elif factor.status == "mixed":
            gaps.append(f"{name} varies within a run ({', '.join(factor.mixed)})")
    return gaps


def sharing_problems(n_shared: int, n_a: int, n_b: int, *, n_units: int) -> list[str]:
    """Return why two runs share too few tasks; [] if they share enough.

    Args:
        n_shared: Tasks that both have graded rollouts of.
        n_units: Tasks, or families of tasks, that the interval rests on.
        n_a: Tasks of the first run.
        n_b: Tasks of the second run.
    """
    if n_shared < FEWEST_TASKS:
        tasks = counted(n_shared, "task")
        return [f"{tasks} with graded rollouts in both runs (at least {FEWEST_TASKS} are needed)"]
    if n_units < FEWEST_TASKS:
        families = "1 family" if n_units == 1 else f"{n_units} families"
        return [f"{families} of tasks (at least {FEWEST_TASKS} are needed)"]
    share = n_shared / max(n_a, n_b)
    if share < LEAST_SHARED:
        return [
            f"the {n_shared} shared tasks are {100 * share:.0f} % of one run's tasks (at least "
            f"{100 * LEAST_SHARED:.0f} % are needed)"
        ]
    return []


def exclusion_problems(
    interval: tuple[float, float], bounds: tuple[float, float] | None, *, n_excluded: int
) -> list[str]:
    """Return why excluded rollouts may reverse a difference; [] if they cannot.

    Args:
        interval: Ends of the interval of the difference.
        bounds: Least and greatest difference that the excluded rollouts allow; None if the results
            have no range.
        n_excluded: Rollouts without a result.
    """
    if not n_excluded:
        return []
    is_gain = interval[0] > 0
    is_loss = interval[1] < 0
    if not (is_gain or is_loss):
        return []
    if bounds is None:
        return [f"exclusions: {n_excluded} rollouts have no result, and scores have no range"]
    if (is_gain and bounds[0] <= 0) or (is_loss and bounds[1] >= 0):
        return [
            f"exclusions: {n_excluded} rollouts without a result can reverse the difference "
            f"[{', '.join(spell(*bounds, sign='+'))}]"
        ]
    return []
