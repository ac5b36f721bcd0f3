"""Lanes of a timeline as paths of SVG: pure functions of numbers, some nodes for any length.

A lane is as wide as the episode has steps and one unit high; the page stretches it. Its paths hold
numbers and letters of SVG alone, so that no recorded text can stand in them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

MAX_MARKS = 1_000
"""Positions that a lane tells apart; a longer episode has several steps in one."""


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A lane of the timeline.

    Attributes:
        label: Its name, a recorded text in case of a place of the state.
        summary: Its content in words, for people who do not see it.
        width: Steps of the episode.
        paths: Class of the style sheet -> path.
        is_line: Whether its paths are drawn as lines, else they are filled.
        meanings: Class -> what its colour stands for, in words; empty if the label says it.
    """

    label: str
    summary: str
    width: int
    paths: Mapping[str, str] = field(default_factory=dict)
    is_line: bool = False
    meanings: Mapping[str, str] = field(default_factory=dict)

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Class and meaning of each colour that the lane shows."""
        return [(name, words) for name, words in self.meanings.items() if self.paths.get(name)]


def bin_size(width: int) -> int:
    """Return how many steps share a position.

    >>> bin_size(960), bin_size(100_000)
    (1, 100)
    """
    return max(1, math.ceil(width / MAX_MARKS))


def marks(positions: Iterable[int], width: int, *, top: float = 0.0) -> str:
    """Return a path of full-height marks; neighbours become one.

    Args:
        positions: Steps, from 0.
        width: Steps of the episode.
        top: The upper end, from 0 (the top of the lane) to 1.

    >>> marks([0, 1, 5], 8)
    'M0 0h2v1h-2zM5 0h1v1h-1z'
    """
    size = bin_size(width)
    bins = sorted({position // size for position in positions if 0 <= position < width})
    pieces = []
    start = 0
    while start < len(bins):
        end = start
        while end + 1 < len(bins) and bins[end + 1] == bins[end] + 1:
            end += 1
        left = bins[start] * size
        length = min((bins[end] + 1) * size, width) - left
        pieces.append(f"M{left} {_number(top)}h{length}v{_number(1 - top)}h-{length}z")
        start = end + 1
    return "".join(pieces)


def one_of_each(first: int, stop: int, width: int) -> Iterable[int]:
    """Return one step for each position that the steps from one to another cover.

    A forged log may have lost billions of steps, so not each of them is looked at.

    >>> list(one_of_each(3, 3_000, 100_000))
    [3, 103, ..., 2903, 2999]
    """
    return itertools.chain(range(first, stop, bin_size(width)), range(max(first, stop - 1), stop))


def bars(heights: Mapping[int, float], width: int) -> str:
    """Return a path of bars from the bottom, the highest as high as the lane.

    Of several steps in one position, the highest counts. Heights that are no finite numbers above 0
    are left out.

    >>> bars({0: 1, 2: 4}, 3)
    'M0 1v-0.25h1v0.25zM2 1v-1h1v1z'
    """
    size = bin_size(width)
    binned: dict[int, float] = {}
    for step, height in heights.items():
        if 0 <= step < width and math.isfinite(height) and height > 0:
            binned[step // size] = max(height, binned.get(step // size, 0.0))
    highest = max(binned.values(), default=1.0)
    pieces = []
    for position, height in sorted(binned.items()):
        share = _number(height / highest)
        length = min(size, width - position * size)
        pieces.append(f"M{position * size} 1v-{share}h{length}v{share}z")
    return "".join(pieces)


def step_line(points: Sequence[tuple[int, float | None]], width: int) -> str:
    """Return a line of steps: each value holds from its step to the next one, None is a gap.

    Of several steps in one position, the lowest and the highest value are drawn.

    Args:
        points: Steps in ascending order, with the value from there on.
        width: Steps of the episode, the end of the line.

    >>> step_line([(0, 5.0), (2, 7.0)], 4)
    'M0 0.9H2V0.1H4'
    """
    known = [value for _, value in points if value is not None and math.isfinite(value)]
    if not known:
        return ""
    # Halves, because the span of two large numbers may be beyond all floats.
    low = min(known) / 2
    span = (max(known) / 2 - low) or 1.0
    points = _thinned(points, bin_size(width))
    pieces: list[str] = []
    is_down = False
    for index, (step, value) in enumerate(points):
        end = points[index + 1][0] if index + 1 < len(points) else width
        if value is None or not math.isfinite(value):
            is_down = False
            continue
        height = _number(0.9 - 0.8 * (value / 2 - low) / span)
        if not is_down:
            pieces.append(f"M{step} {height}")
        elif pieces[-1] != f"V{height}":
            pieces.append(f"V{height}")
        is_down = True
        pieces.append(f"H{end}")
    return "".join(pieces)


def _thinned(
    points: Sequence[tuple[int, float | None]], size: int
) -> Sequence[tuple[int, float | None]]:
    """Return of the points in each position the first, the lowest, the highest and the last."""
    if size == 1:
        return points
    kept = []
    for _, group in itertools.groupby(points, lambda point: point[0] // size):
        inside = list(group)
        known = [p for p in inside if p[1] is not None and math.isfinite(p[1])]
        ends = {inside[0], inside[-1]}
        if known:
            ends |= {min(known, key=_height), max(known, key=_height)}
        kept += [point for point in inside if point in ends]
    return kept


def _height(point: tuple[int, float | None]) -> float:
    return point[1] or 0.0


def ticks(width: int, first: int = 0) -> list[tuple[int, str]]:
    """Return about eight round numbers of steps, each with its place in per cent.

    >>> ticks(1000)[:3]
    [(0, '0.00'), (200, '20.00'), (400, '40.00')]
    """
    if width < 1:
        return []
    raw = width / 6
    power = 10 ** math.floor(math.log10(raw)) if raw >= 1 else 1
    size = next(int(power * factor) for factor in (1, 2, 5, 10) if power * factor >= raw)
    start = -(-first // size) * size
    return [
        (step, f"{100 * (step - first) / width:.2f}")
        for step in range(start, first + width, max(1, size))
    ]


def share_path(start: float, end: float, whole: float) -> str:
    """Return a path of a bar from one number to another, of a line of 100 that stands for a whole.

    A bar that is not empty is wide enough to be seen.

    >>> share_path(0, 3, 12)
    'M0 0h25v1h-25z'
    """
    if end <= start or whole <= 0:
        return ""
    left = 100 * start / whole
    width = max(1.0, 100 * (end - start) / whole)
    return f"M{_number(left)} 0h{_number(width)}v1h-{_number(width)}z"


def _number(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".") or "0"
