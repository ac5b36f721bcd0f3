"""A picture of an episode's credit: the value of each state and what each step earned or lost, with their intervals."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trajrec.errors import MissingPackageError
from trajrec.replay.credit.results.estimates import CreditTable, Estimate
from trajrec.replay.html import page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLUE, _RED, _GREEN, _GREY = "#2b6cb0", "#c53030", "#2f855a", "#a0aec0"


def plot(
    credit: CreditTable, file: str | Path, *, marked: int | None = None, title: str = ""
) -> Path:
    """Draw a table of credit.

    Args:
        credit: From `scan`, `decisive_step(...).table`, `shapley`, ...
        file: Ends in .png, .svg or .html; the last has the table beside the picture and needs nothing from elsewhere.
        marked: A step to point out.
        title: What is written above; by default what the table is of.

    Returns:
        The file's path.

    Raises:
        MissingPackageError: matplotlib is not installed.
        ValueError: The file has another ending, or there is nothing to draw.
    """
    path = check_file(file)
    figure = _figure(
        credit, marked, title or f"episode {credit.episode_id}, policy {credit.policy_id}"
    )
    if path.suffix != ".html":
        figure.savefig(path, dpi=120)
        return path
    picture = io.StringIO()
    figure.savefig(picture, format="svg")
    svg = picture.getvalue()
    path.write_text(_page(credit, svg[svg.index("<svg") :], title), "utf-8")
    return path


def check_file(file: str | Path) -> Path:
    """Return the path of a file that a plot can be written to; call it before long rollouts.

    Raises:
        MissingPackageError: matplotlib is not installed.
        ValueError: The file does not end in .png, .svg or .html, or its folder does not exist.
    """
    path = Path(file)
    if path.suffix not in (".png", ".svg", ".html"):
        raise ValueError(f"the file must end in .png, .svg or .html, got {str(file)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such folder for the plot")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPackageError("matplotlib", "plot")
    return path


def _figure(credit: CreditTable, marked: int | None, title: str) -> Figure:
    from matplotlib.figure import Figure  # an extra, and half a second

    values = credit.of("value")
    names = [name for name in dict.fromkeys(e.estimator for e in credit) if name in _PARTS]
    n_panels = bool(values) + bool(names)
    if not n_panels:
        raise ValueError("there is nothing to draw: the table has no estimates by step")
    figure = Figure(figsize=(9, 1.2 + 2.6 * n_panels), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(n_panels, 1, sharex=True, squeeze=False)[:, 0]
    if values:
        _draw_values(panels[0], values)
    if names:
        _draw_parts(panels[-1], credit, names)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        if marked is not None:
            panel.axvspan(marked - 0.5, marked + 0.5, color=_GREY, alpha=0.35, linewidth=0)
    if marked is not None:
        panels[0].annotate(
            f"step {marked}",
            (marked, 1.0),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=9,
        )
    panels[-1].set_xlabel("step")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    return figure


_PARTS = {
    "advantage": "skill",
    "luck": "luck",
    "delta": "delta",
    "shapley": "share",
    "pooled": "advantage",
    "action": "kept",
}


def _draw_values(panel: Any, rows: list[Estimate]) -> None:
    steps = [row.step for row in rows]
    value, ci_low, ci_high = (
        np.array([getattr(row, name) for row in rows]) for name in ("value", "ci_low", "ci_high")
    )
    panel.fill_between(steps, ci_low, ci_high, color=_BLUE, alpha=0.18, linewidth=0)
    panel.plot(
        steps, value, color=_BLUE, linewidth=1.4, marker="o", markersize=3 if len(rows) < 80 else 0
    )
    panel.set_ylabel("value of the state")


def _draw_parts(panel: Any, credit: CreditTable, names: list[str]) -> None:
    """Draw bars: of skill by its sign, of luck beside it."""
    panel.axhline(0, color="black", linewidth=0.6)
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        rows = credit.of(name)
        at = np.array([row.step for row in rows]) + (k - (len(names) - 1) / 2) * width
        value, ci_low, ci_high = (
            np.array([getattr(row, part) for row in rows])
            for part in ("value", "ci_low", "ci_high")
        )
        is_main = k == 0
        colours = [(_GREEN if v > 0 else _RED) if is_main else _GREY for v in value]
        panel.bar(at, value, width, color=colours, label=_PARTS[name])
        if (
            is_main
        ):  # where an interval is about zero, a band says so; a bar for each would hide what is not
            panel.fill_between(at, ci_low, ci_high, color=_GREY, alpha=0.2, linewidth=0)
        known = np.isfinite(ci_low) & np.isfinite(ci_high) & (value != 0)
        error = np.array([value - ci_low, ci_high - value])[:, known]
        panel.errorbar(
            at[known], value[known], error, fmt="none", ecolor="black", elinewidth=0.6, alpha=0.5
        )
    panel.set_ylabel(" and ".join(_PARTS[name] for name in names))
    if len(names) > 1:
        from matplotlib.patches import Patch

        keys = [
            Patch(color=_GREEN, label=f"{_PARTS[names[0]]}, earned"),
            Patch(color=_RED, label=f"{_PARTS[names[0]]}, lost"),
        ]
        keys += [Patch(color=_GREY, label=_PARTS[name]) for name in names[1:]]
        keys.append(Patch(color=_GREY, alpha=0.2, label=f"95 % interval of {_PARTS[names[0]]}"))
        panel.legend(handles=keys, fontsize=8, frameon=False, ncols=len(keys), loc="best")


def _page(credit: CreditTable, svg: str, title: str) -> str:
    """Return a page with the picture and every number in it."""
    said = [
        f"policy {credit.policy_id}, {credit.noise} noise, {credit.env_steps} steps of the environment"
    ]
    said += [str(credit.split)] if credit.split is not None else []
    names = (
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
    rows = [[getattr(row, name) for name in names] for row in credit]
    return page(
        title or f"Credit of episode {credit.episode_id}", [*said, *credit.notes], svg, names, rows
    )
