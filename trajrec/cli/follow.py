"""Print the steps of an episode while it is being recorded."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from trajrec.cli import agent_lines, show_agent, show_environment
from trajrec.cli.colors import HEADING, color_of, has_colors, print_colored
from trajrec.cli.output import DEFAULT_SIZE, print_findings, print_json, say, widths_that_fit
from trajrec.cli.safe_stream import one_line
from trajrec.corpus.corpus import Corpus
from trajrec.corpus.episode import Episode
from trajrec.types import JsonObject, Value
from trajrec.view.live import recording_of

POLL_S = 0.5

# Lines are printed before the later ones are known, so the widths of the columns are fixed.
_AGENT_WIDTHS = [5, 9, 24, 40, 14, 60, 7]
_ENVIRONMENT_WIDTHS = [7, 16, 12, 60, 40]


class _Line(NamedTuple):
    """A call or step: what tells it from others, whether it goes on, and how it is shown."""

    key: Hashable
    is_open: bool
    cells: tuple[Value, ...]
    row: JsonObject


def follow(corpus: Corpus, episode_id: str, *, as_json: bool) -> None:
    """Print an episode's steps as they are recorded, until it ends or its recorder is gone.

    A call is printed when it ends; one that never ends, at the end of the episode.

    Args:
        corpus: The corpus; it is looked at twice a second.
        episode_id: The whole id.
        as_json: Whether to print a JSON object for each.
    """
    printed: set[Hashable] = set()
    has_heading = as_json
    first_step = 0
    while True:
        corpus.refresh()
        episode = corpus.episode(episode_id)
        recording = recording_of(episode)
        is_over = recording is None or recording.state == "interrupted"
        if not has_heading:
            _print_heading(episode)
            has_heading = True
        for line in _lines(episode, first_step):
            if line.key in printed or (line.is_open and not is_over):
                continue
            printed.add(line.key)
            if as_json:
                print_json(line.row)
            else:
                _print_cells(episode, line.cells)
        sys.stdout.flush()
        if not episode.is_agent_episode:
            # Its steps never change, and may be many.
            first_step = episode.end_step
        if is_over:
            break
        time.sleep(POLL_S)
    if not as_json:
        print_findings(episode)
    outcome = "" if episode.outcome is None else f", {episode.outcome}"
    say(f"the episode has ended: {episode.ending}{outcome}")


def _lines(episode: Episode, first_step: int) -> Iterator[_Line]:
    if episode.is_agent_episode:
        yield from _agent_lines(episode)
        return
    for number in range(max(first_step, episode.first_step), episode.end_step):
        step = episode.step_at(number)
        yield _Line(
            number, False, show_environment.step_cells(step), show_environment.json_row(step)
        )


def _agent_lines(episode: Episode) -> Iterator[_Line]:
    rows = {_key(row): row for row in show_agent.json_rows(episode, None) if "actor" not in row}
    for line in agent_lines.agent_lines(episode):
        yield _Line(line.key, line.is_open, line.cells, rows[line.key])


def _key(row: JsonObject) -> tuple[str, int, int, int]:
    if "model_call" in row:
        return ("model", row["model_call"], 0, 0)
    return ("call", row["step"], row["call"], row["attempt"])


def _print_heading(episode: Episode) -> None:
    columns = agent_lines.COLUMNS if episode.is_agent_episode else show_environment.COLUMNS
    _print_cells(episode, columns, is_heading=True)


def _print_cells(episode: Episode, cells: Sequence[Value], *, is_heading: bool = False) -> None:
    is_agent = episode.is_agent_episode
    columns = agent_lines.COLUMNS if is_agent else show_environment.COLUMNS
    widths = _AGENT_WIDTHS if is_agent else _ENVIRONMENT_WIDTHS
    if sys.stdout.isatty():
        limit = shutil.get_terminal_size(DEFAULT_SIZE).columns
        widths = widths_that_fit(widths, [False] * len(widths), limit)
    shown = []
    # `widths` is shorter if the terminal is too narrow for all columns.
    for column, cell, width in zip(columns, cells, widths, strict=False):
        text = one_line("" if cell is None else cell)
        text = text if len(text) <= width else text[: width - 1] + "…"
        shown.append((text.ljust(width), HEADING if is_heading else color_of(column, text)))
    if has_colors():
        print_colored(shown)
    else:
        print("  ".join(text for text, _ in shown).rstrip())
