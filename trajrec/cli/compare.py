"""The commands `trajrec compare`, `bands`, `support` and `plan`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trajrec.analysis.forest_plot import check_file
from trajrec.cli.arguments import Commands, add_folder, add_json, add_where, read_count
from trajrec.cli.comparison_text import print_comparison
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import open_corpus, reads_folder, report_problems
from trajrec.cli.output import print_json, print_table, say
from trajrec.statistics.spelling import spell
from trajrec.types import Value

if TYPE_CHECKING:
    from trajrec.analysis.bands import TaskBand
    from trajrec.analysis.comparison import Comparison
    from trajrec.corpus.corpus import Corpus

DEFAULT_TASKS = 20

KEYS = ("base", "sampling", "scaffold", "env", "budget")
"""Fields of the interface that a band is relative to."""


def add_parser(commands: Commands) -> None:
    """Add the commands."""
    _add_compare(commands)
    parser = commands.add(
        "bands", bands, "show how often each task is solved, with intervals", "trajrec bands runs"
    )
    add_folder(parser)
    add_where(parser)
    _add_check(parser)
    parser.add_argument(
        "--min-n",
        type=read_count,
        default=8,
        metavar="N",
        help="fewest graded rollouts of a band (default: 8)",
    )
    add_json(parser)
    parser = commands.add(
        "support",
        support,
        "show which claims the recorded fields allow, and which fields are missing",
        "trajrec support runs",
    )
    add_folder(parser)
    add_where(parser)
    add_json(parser)
    parser = commands.add(
        "plan",
        plan,
        "say how many tasks and rollouts would show a difference",
        "trajrec plan runs --effect 0.05",
    )
    add_folder(parser)
    add_where(parser, note="the pilot: ")
    _add_check(parser)
    parser.add_argument(
        "--effect", type=float, required=True, metavar="X", help="difference of rates, e.g. 0.05"
    )
    parser.add_argument(
        "--effect-spread",
        type=float,
        metavar="SD",
        help="standard deviation of the effect over tasks (default: as large as the effect)",
    )
    add_json(parser)


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check",
        metavar="CHECK",
        help="check that grades: reached@1 for version 1, reached for the verdict at the end of the"
        " episode (default: the primary check)",
    )


def _add_compare(commands: Commands) -> None:
    parser = commands.add(
        "compare",
        compare,
        "compare two runs: what changed, by how much, and which claim the data support",
        "trajrec compare runs/a runs/b --check reached@1 --require no-loss --margin 0.05",
        finding="--require does not hold",
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder of logs of the first run")
    parser.add_argument(
        "other", type=Path, nargs="?", metavar="DIR_B", help="that of the second run (default: DIR)"
    )
    for side, name in (("a", "first"), ("b", "second")):
        parser.add_argument(
            f"--{side}",
            default="true",
            metavar="SQL",
            help=f"episodes of the {name} run; columns that hold outcomes are refused",
        )
    _add_check(parser)
    parser.add_argument(
        "--cluster", metavar="KEY", help="key of the metadata that names families of tasks"
    )
    parser.add_argument(
        "--over",
        choices=("population", "these"),
        default="population",
        help="tasks like these, or these tasks alone (default: population)",
    )
    parser.add_argument("--score", action="store_true", help="compare scores and not verdicts")
    parser.add_argument(
        "--range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="least and greatest possible score",
    )
    parser.add_argument(
        "--variants",
        type=read_count,
        default=1,
        metavar="N",
        help="variants that you compared with this first run: the interval widens so that all N"
        " hold together (default: 1)",
    )
    _add_gate(parser)
    _add_output(parser)


def _add_gate(parser: argparse.ArgumentParser) -> None:
    """Add --require and --margin."""
    parser.add_argument(
        "--require",
        choices=("gain", "no-loss", "no-shown-loss"),
        help="exit with 1 unless a gain is shown, a loss beyond the margin is excluded, or no loss"
        " beyond the margin is shown",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=0.0,
        metavar="X",
        help="a difference that does not matter, e.g. 0.05 (default: 0)",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    """Add --tasks, --plot and --json."""
    parser.add_argument(
        "--tasks",
        type=read_count,
        default=DEFAULT_TASKS,
        metavar="N",
        help=f"tasks to list (default: {DEFAULT_TASKS})",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw the intervals of the tasks into FILE: .png, .svg or .pdf (trajrec[plot])",
    )
    add_json(parser)


def compare(arguments: argparse.Namespace) -> ExitStatus:
    """Compare two runs of one folder, or of two."""
    if arguments.plot is not None:
        check_file(arguments.plot)
    is_one = arguments.other is None or arguments.other.resolve() == arguments.dir.resolve()
    if is_one and arguments.a == arguments.b == "true":
        raise ValueError("give two folders, or the episodes of each run: --a SQL --b SQL")
    with open_corpus(arguments.dir) as corpus:
        if is_one:
            status = _compare(arguments, corpus, None)
            return report_problems(corpus) or status
        with open_corpus(arguments.other) as other:
            status = _compare(arguments, corpus, other)
            return report_problems(corpus) or report_problems(other) or status


def _compare(arguments: argparse.Namespace, corpus: Corpus, other: Corpus | None) -> ExitStatus:
    comparison = corpus.compare(
        other,
        a=arguments.a,
        b=arguments.b,
        check=arguments.check,
        cluster=arguments.cluster,
        over=arguments.over,
        score=arguments.score,
        range=None if arguments.range is None else tuple(arguments.range),
        variants=arguments.variants,
    )
    if arguments.json:
        record = comparison.as_dict()
        if comparison.claim == "verifier" and comparison.grade_both is not None:
            record["split"] = comparison.cross_grade().as_dict()
        print_json(record)
    else:
        print_comparison(comparison, n_tasks=arguments.tasks)
    if arguments.plot is not None:
        say(f"plotted: {comparison.plot(arguments.plot)}")
    if arguments.require is None:
        return ExitStatus.OK
    if comparison.holds(arguments.require, margin=arguments.margin):
        return ExitStatus.OK
    say(f"trajrec: {arguments.require} does not hold: {_why_not(comparison, arguments)}")
    return ExitStatus.FINDING


def _why_not(comparison: Comparison, arguments: argparse.Namespace) -> str:
    """Return why a gate does not hold, and how many tasks would do."""
    if arguments.require != "no-shown-loss":
        reasons = [*comparison.problems, *filter(None, [comparison.changed_measure])]
        if reasons:
            return "; ".join(reasons)
    difference = comparison.difference
    assert difference is not None
    margin = arguments.margin
    if arguments.require == "no-shown-loss":
        end, limit = spell(difference.ci_high, -margin, sign="+")
        return f"the interval ends at {end}, below {limit}"
    least = margin if arguments.require == "gain" else -margin
    begin, limit = spell(difference.ci_low, least, sign="+")
    text = f"the interval begins at {begin}, not above {limit}"
    needed = comparison.tasks_for(margin) if arguments.require == "no-loss" else None
    if needed is not None and needed > comparison.n_units:
        text += (
            f"; {needed} tasks like these would do with a chance of 80 %, if nothing has changed"
            f" (these are {comparison.n_units})"
        )
    return text


@reads_folder
def bands(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """Print the bands of tasks."""
    rows = corpus.bands(arguments.where, check=arguments.check, min_n=arguments.min_n)
    if arguments.json:
        for row in rows:
            print_json(row.as_dict())
        return ExitStatus.OK
    # Parts of the interface that all rows share tell no rows apart.
    keys = [key for key in KEYS if len({row.digests[key] for row in rows}) > 1]
    names = (*NAMES[:2], *keys, *NAMES[2:])
    print_table(names, [_band_row(row, keys) for row in rows], is_list=True)
    n_few = sum(row.n < arguments.min_n and not row.unknown for row in rows)
    if n_few:
        verb = "row has" if n_few == 1 else "rows have"
        print(
            f"note: {n_few} {verb} fewer than {arguments.min_n} graded rollouts, and so no band "
            "(--min-n)"
        )
    if rows.note:
        print(f"note: {rows.note}")
    return ExitStatus.OK


NAMES = (
    "task",
    "check",
    "n",
    "passed",
    "rate",
    "ci_low",
    "ci_high",
    "band",
    "sure",
    "excluded",
    "first",
    "last",
    "unknown",
)


def _band_row(row: TaskBand, keys: Sequence[str]) -> tuple[Value, ...]:
    excluded = ", ".join(f"{reason} {n}" for reason, n in sorted(row.excluded.items()))
    return (
        row.task,
        row.check,
        *((row.digests[key] or "unknown")[:8] for key in keys),
        row.n,
        row.n_passed,
        *(None if end is None else round(end, 3) for end in (row.rate, row.ci_low, row.ci_high)),
        row.band,
        row.band_sure,
        excluded,
        *(None if at is None else f"{at:%Y-%m-%d}" for at in (row.first_at, row.last_at)),
        ", ".join(row.unknown),
    )


@reads_folder
def support(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """Print the support matrix."""
    matrix = corpus.support(arguments.where)
    if arguments.json:
        print_json(matrix.as_dict())
        return ExitStatus.OK
    rows = []
    for claim in matrix.claims.values():
        gaps = sorted(claim.missing.items(), key=lambda item: (-item[1], item[0]))
        missing = ", ".join(f"{field} ({n})" for field, n in gaps)
        rows.append((claim.claim, claim.n, claim.n_episodes, missing))
    print_table(("claim", "supported", "of", "missing (episodes)"), rows)
    return ExitStatus.OK


@reads_folder
def plan(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """Print the tasks and rollouts that would show an effect."""
    made = corpus.plan(
        arguments.effect,
        arguments.where,
        check=arguments.check,
        effect_spread=arguments.effect_spread,
    )
    if arguments.json:
        print_json(made.as_dict())
        return ExitStatus.OK
    print(
        f"To show a difference of {made.effect:g} with a chance of 80 %, on tasks like the "
        f"{made.n_tasks} of this pilot (rate {made.rate}):\n"
    )
    names = ("rollouts of a task in each run", "tasks", "tasks, at most")
    print_table(names, [(row.n_rollouts, row.n_tasks, row.n_tasks_high) for row in made.rows])
    print(
        f"\nThe effect is taken to vary over tasks with a standard deviation of "
        f"{made.effect_spread:g} (--effect-spread).\n{made.note[0].upper()}{made.note[1:]}."
    )
    return ExitStatus.OK
