"""Plot an episode's credit: the value of each state, and the gain or loss of each step."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trajrec.corpus.scratch import replacing
from trajrec.errors import MissingPackageError
from trajrec.replay.credit.results.estimates import Estimate
from trajrec.replay.credit.results.table import CreditTable
from trajrec.replay.html import page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".html")

# Colours that stay distinct in greyscale and for people who see red and green alike.
_BLUE = "#2b6cb0"
_RED = "#c53030"
_GREEN = "#2f855a"
_GREY = "#a0aec0"

# Inches, at 120 dots each: a plot that fits a page and a screen.
_WIDTH = 9
_HEAD_HEIGHT = 1.2
_PANEL_HEIGHT = 2.6
_DPI = 120

# Markers of more points would touch each other.
_MAX_MARKERS = 80

LABELS = {
    "advantage": "skill",
    "luck": "luck",
    "delta": "delta",
    "shapley": "share",
    "pooled": "advantage",
    "action": "kept",
}
"""Estimator -> its label in the lower panel. Other estimators are not drawn as bars."""

_TABLE_COLUMNS = (
    "step",
    "estimator",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "ci_method",
    "action",
    "estimand",
)


def plot(
    table: CreditTable, file: str | Path, *, marked: int | None = None, title: str = ""
) -> Path:
    """Plot a table of credit.

    Args:
        table: From `estimate`, `decisive_step(...).table`, `shapley_values`, ...
        file: Ends in .png, .svg or .html. An HTML page has the numbers beside the plot and loads
            nothing from other places.
        marked: A step to highlight.
        title: Title of the plot; by default the episode and the policy.

    Returns:
        The path of the file.

    Raises:
        MissingPackageError: matplotlib is not installed.
        ValueError: The file has another ending, or the table has nothing to plot.
        CorpusError: The file cannot be written.
    """
    path = check_file(file)
    default_title = f"episode {table.episode_id}, policy {table.policy_id}"
    figure = _figure(table, marked, title or default_title)
    if path.suffix != ".html":
        with replacing(path) as partial:
            figure.savefig(partial, dpi=_DPI, format=path.suffix[1:])
        return path
    picture = io.StringIO()
    figure.savefig(picture, format="svg")
    svg = picture.getvalue()
    # The XML declaration in front of the element is not allowed inside HTML.
    with replacing(path) as partial:
        partial.write_text(_page(table, svg[svg.index("<svg") :], title), "utf-8")
    return path


def check_file(file: str | Path) -> Path:
    """Return the path of a file that a plot can be written to; call it before long rollouts.

    Raises:
        MissingPackageError: matplotlib is not installed.
        ValueError: The file does not end in .png, .svg or .html, or its folder does not exist.
    """
    path = Path(file)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"the file must end in .png, .svg or .html, got {str(file)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such folder for the plot")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPackageError("matplotlib", "plot")
    return path


def _figure(table: CreditTable, marked: int | None, title: str) -> Figure:
    # An extra, whose import takes half a second.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    values = table.of("value")
    estimators = dict.fromkeys(estimate.estimator for estimate in table)
    names = [name for name in estimators if name in LABELS]
    n_panels = bool(values) + bool(names)
    if not n_panels:
        raise ValueError("there is nothing to plot: the table has no estimates by step")
    size = (_WIDTH, _HEAD_HEIGHT + _PANEL_HEIGHT * n_panels)
    figure = Figure(figsize=size, layout="constrained")
    # A dollar sign would begin a formula.
    figure.suptitle(title.replace("$", r"\$"), fontsize=10)
    panels: list[Axes] = list(figure.subplots(n_panels, 1, sharex=True, squeeze=False)[:, 0])
    if values:
        _draw_values(panels[0], values)
    if names:
        _draw_bars(panels[-1], table, names)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    if marked is not None:
        _mark(panels, marked)
    panels[-1].set_xlabel("step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _mark(panels: Sequence[Axes], step: int) -> None:
    """Highlight a step in all panels and name it above the first."""
    for panel in panels:
        panel.axvspan(step - 0.5, step + 0.5, color=_GREY, alpha=0.35, linewidth=0)
    panels[0].annotate(
        f"step {step}",
        (step, 1.0),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="bottom",
        fontsize=9,
    )


def _draw_values(panel: Axes, rows: Sequence[Estimate]) -> None:
    steps = [row.step for row in rows]
    low = [row.ci_low for row in rows]
    high = [row.ci_high for row in rows]
    panel.fill_between(steps, low, high, color=_BLUE, alpha=0.18, linewidth=0)
    panel.plot(
        steps,
        [row.value for row in rows],
        color=_BLUE,
        linewidth=1.4,
        marker="o",
        markersize=3 if len(rows) < _MAX_MARKERS else 0,
    )
    panel.set_ylabel("value of the state")


def _draw_bars(panel: Axes, table: CreditTable, names: Sequence[str]) -> None:
    """Draw a bar for each estimate: the first estimator coloured by sign, the others grey."""
    panel.axhline(0, color="black", linewidth=0.6)
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        rows = table.of(name)
        centres = np.array([row.step for row in rows]) + (k - (len(names) - 1) / 2) * width
        value = np.array([row.value for row in rows])
        low = np.array([row.ci_low for row in rows])
        high = np.array([row.ci_high for row in rows])
        colours = [_GREY] * len(rows)
        if k == 0:
            colours = [_GREEN if v > 0 else _RED for v in value]
            # A band shows intervals around zero; an error bar for each would hide the others.
            panel.fill_between(centres, low, high, color=_GREY, alpha=0.2, linewidth=0)
        panel.bar(centres, value, width, color=colours, label=LABELS[name])
        has_bar = np.isfinite(low) & np.isfinite(high) & (value != 0)
        # From end to end, not from the value: it may lie outside, if only by its last bit.
        panel.vlines(
            centres[has_bar],
            low[has_bar],
            high[has_bar],
            color="black",
            linewidth=0.6,
            alpha=0.5,
        )
    panel.set_ylabel(" and ".join(LABELS[name] for name in names))
    if len(names) > 1:
        _draw_legend(panel, [LABELS[name] for name in names])


def _draw_legend(panel: Axes, labels: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    keys = [
        Patch(color=_GREEN, label=f"{labels[0]}, earned"),
        Patch(color=_RED, label=f"{labels[0]}, lost"),
        *[Patch(color=_GREY, label=label) for label in labels[1:]],
        Patch(color=_GREY, alpha=0.2, label=f"95 % interval of {labels[0]}"),
    ]
    panel.legend(handles=keys, fontsize=8, frameon=False, ncols=len(keys), loc="best")


def _page(table: CreditTable, svg: str, title: str) -> str:
    """Return a page with the plot and every number in it."""
    remarks = [
        f"policy {table.policy_id}, {table.noise} noise, {table.env_steps} steps of the environment"
    ]
    if table.split is not None:
        remarks.append(str(table.split))
    rows = [[getattr(row, name) for name in _TABLE_COLUMNS] for row in table]
    return page(
        title or f"Credit of episode {table.episode_id}",
        [*remarks, *table.notes],
        svg,
        _TABLE_COLUMNS,
        rows,
    )
