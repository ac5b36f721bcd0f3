"""A comparison as a picture: the interval of each task, and of their mean below."""

from __future__ import annotations

import importlib.util
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trajrec.analysis.arms import TaskDifference
from trajrec.analysis.estimate import Estimate
from trajrec.errors import MissingPackageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")

# Colours that stay distinct in greyscale and for people who see red and green alike.
_BLUE = "#2b6cb0"
_GREY = "#a0aec0"

# By default a line is drawn half its width beyond its ends: an interval near 0 would reach it.
_EXACT: dict[str, Any] = {"solid_capstyle": "butt"}

# Inches, at 120 dots each.
_WIDTH = 8.0
_HEAD_HEIGHT = 1.4
_ROW_HEIGHT = 0.22
_DPI = 120

MOST_TASKS = 100
"""Tasks that a picture shows; of more, those with the largest losses and gains."""


def draw_differences(
    tasks: Sequence[TaskDifference],
    mean: Estimate,
    file: str | Path,
    *,
    title: str,
    check: str,
) -> Path:
    """Draw the differences of tasks, and their mean below.

    Args:
        tasks: The tasks, sorted by difference.
        mean: The mean over them.
        file: Ends in .png, .svg or .pdf.
        title: Stands above.
        check: The check that grades.

    Returns:
        The path of the file.

    Raises:
        MissingPackageError: matplotlib is not installed.
        ValueError: The file has another ending, or its folder does not exist.
    """
    path = check_file(file)
    # An extra, whose import takes half a second.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    shown = shown_tasks(tasks)
    height = _HEAD_HEIGHT + _ROW_HEIGHT * (len(shown) + 2)
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    # A dollar sign would begin a formula.
    figure.suptitle(textwrap.fill(title, 100).replace("$", r"\$"), fontsize=9)
    _draw(axes, shown, mean, n_tasks=len(tasks))
    axes.set_xlabel(f"{check}: b - a, with intervals (rollouts of a, of b)".replace("$", r"\$"))
    # Without a date and drawn ids, the same comparison gives the same picture.
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
    with rc_context({"svg.hashsalt": "trajrec"}):
        figure.savefig(path, dpi=_DPI, metadata=metadata)
    return path


def check_file(file: str | Path) -> Path:
    """Return the path of a file that a picture can be written to.

    Raises:
        MissingPackageError: matplotlib is not installed.
        ValueError: The file has another ending, or its folder does not exist.
    """
    path = Path(file)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"the file must end in .png, .svg or .pdf, got {str(file)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such folder for the plot")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPackageError("matplotlib", "plot")
    return path


def shown_tasks(
    tasks: Sequence[TaskDifference], most: int = MOST_TASKS
) -> tuple[TaskDifference, ...]:
    """Return the tasks that are shown: of too many, those with the largest losses and gains.

    Args:
        tasks: Sorted by difference.
        most: How many are shown.
    """
    if len(tasks) <= most:
        return tuple(tasks)
    return (*tasks[: (most + 1) // 2], *tasks[len(tasks) - most // 2 :])


def _draw(axes: Axes, tasks: Sequence[TaskDifference], mean: Estimate, *, n_tasks: int) -> None:
    names = []
    for row, task in enumerate(tasks):
        own = task.difference
        if math.isfinite(own.ci_low) and math.isfinite(own.ci_high):
            axes.plot([own.ci_low, own.ci_high], [row, row], color=_GREY, linewidth=1.5, **_EXACT)
        axes.plot([own.value], [row], "o", color=_BLUE, markersize=4)
        names.append(f"{task.task[:40]} ({task.n_a}, {task.n_b})".replace("$", r"\$"))
    last = len(tasks) + 0.5
    axes.plot([mean.ci_low, mean.ci_high], [last, last], color=_BLUE, linewidth=4, **_EXACT)
    axes.plot([mean.value], [last], "D", color="white", markeredgecolor=_BLUE, markersize=7)
    axes.set_yticks([*range(len(tasks)), last], [*names, f"mean of {n_tasks}"])
    axes.tick_params(axis="y", labelsize=7)
    axes.invert_yaxis()
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
