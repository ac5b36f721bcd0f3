"""Films and sheets of pictures as files: GIF and MP4 play, a PNG has some pictures side by side.

Pillow writes GIF and PNG, and imageio-ffmpeg MP4: both are in the extra `film`.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trajrec.corpus.scratch import replacing
from trajrec.errors import MissingPackageError
from trajrec.view.film import Picture

SUFFIXES = (".gif", ".mp4", ".png")

SHEET_PICTURES = 24
"""Pictures of a sheet: more are too small to be told apart on a page."""

MIN_SHOWN = 256
"""Smaller pictures are shown larger, each pixel as a square, up to this side."""

_LABEL_HEIGHT = 16
_GAP = 4
_PAPER = 255


class Frame(NamedTuple):
    """A picture of a film.

    Attributes:
        step: The step after which it was seen; -1 for the reset.
        picture: The picture.
    """

    step: int
    picture: Picture


class Reel:
    """The pictures of a film, packed in memory until it is known that they may be shown."""

    def __init__(self) -> None:
        self._packed: dict[int, tuple[bytes, tuple[int, ...]]] = {}

    def __len__(self) -> int:
        return len(self._packed)

    @property
    def steps(self) -> list[int]:
        """The steps of the pictures, in order."""
        return sorted(self._packed)

    def add(self, step: int, picture: Picture) -> None:
        """Add the picture after a step; a second one of the same step replaces the first."""
        self._packed[step] = zlib.compress(picture.tobytes(), 1), picture.shape

    def cut(self, step: int) -> None:
        """Remove the pictures from a step on."""
        self._packed = {own: data for own, data in self._packed.items() if own < step}

    def frames(self, steps: list[int]) -> Iterator[Frame]:
        """Yield the pictures of some steps."""
        for step in steps:
            data, shape = self._packed[step]
            yield Frame(step, np.frombuffer(zlib.decompress(data), np.uint8).reshape(shape))


def write_film(path: Path, reel: Reel, *, fps: float = 25.0, scale: int | None = None) -> list[int]:
    """Write pictures as a film, or some of them as a sheet; replaces the file at once.

    Args:
        path: A name that ends with .gif, .mp4 or .png.
        reel: The pictures, at least one.
        fps: Pictures per second. A GIF counts in hundredths of a second, and shows at most 50.
        scale: How often each pixel is repeated in both directions; by default so that the larger
            side is about `MIN_SHOWN`.

    Returns:
        The steps that the file shows.

    Raises:
        MissingPackageError: The extra `film` is not installed.
        ValueError: The name ends otherwise, or the pictures differ in size.
        CorpusError: The file cannot be written.
    """
    suffix = check_suffix(path)
    steps = reel.steps
    if suffix == ".png":
        places = np.linspace(0, len(steps) - 1, min(SHEET_PICTURES, len(steps)))
        steps = [steps[place] for place in places.round().astype(int)]
    frames = _of_one_size(reel.frames(steps), scale)
    write = {".gif": _write_gif, ".mp4": _write_mp4, ".png": _write_sheet}[suffix]
    with replacing(path) as partial:
        write(partial, frames, fps)
    return steps


def check_suffix(path: Path) -> str:
    """Return the suffix of a film's name in lower case.

    Raises:
        MissingPackageError: What writes such files is not installed.
        ValueError: It is none of `SUFFIXES`.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"a film is a file named *{', *'.join(SUFFIXES)}, got {path.name!r}")
    _needed("imageio_ffmpeg" if suffix == ".mp4" else "PIL.Image")
    return suffix


def _of_one_size(frames: Iterator[Frame], scale: int | None) -> Iterator[Frame]:
    """Yield pictures without transparency, larger by `scale`."""
    size: tuple[int, ...] | None = None
    for step, picture in frames:
        if size is None:
            size = picture.shape
        if picture.shape != size:
            raise ValueError(
                f"the picture after step {step} has {picture.shape[1]} x {picture.shape[0]} pixels, "
                f"those before have {size[1]} x {size[0]}: choose --steps of one size"
            )
        times = scale or max(1, MIN_SHOWN // max(size[:2]))
        opaque = picture[..., 3:].astype(np.uint16)
        pixels = (picture[..., :3] * opaque + _PAPER * (255 - opaque)) // 255
        larger = pixels.astype(np.uint8).repeat(times, axis=0).repeat(times, axis=1)
        yield Frame(step, larger)


def _write_gif(path: Path, frames: Iterator[Frame], fps: float) -> None:
    image = _needed("PIL.Image")
    images = (image.fromarray(frame.picture) for frame in frames)
    first = next(images)
    duration_ms = max(20, round(100 / fps) * 10)
    first.save(
        path, format="GIF", save_all=True, append_images=images, duration=duration_ms, loop=0
    )


def _write_mp4(path: Path, frames: Iterator[Frame], fps: float) -> None:
    ffmpeg = _needed("imageio_ffmpeg")
    writer: Any = None
    try:
        for frame in frames:
            # The codec takes even sides alone.
            height, width = frame.picture.shape[:2]
            pixels = np.pad(frame.picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if writer is None:
                size = (pixels.shape[1], pixels.shape[0])
                writer = ffmpeg.write_frames(
                    str(path),
                    size,
                    fps=fps,
                    codec="libx264",
                    quality=8,
                    macro_block_size=2,
                    output_params=["-f", "mp4"],
                )
                writer.send(None)
            writer.send(np.ascontiguousarray(pixels))
    finally:
        if writer is not None:
            writer.close()


def _write_sheet(path: Path, frames: Iterator[Frame], fps: float) -> None:
    image = _needed("PIL.Image")
    draw_module = _needed("PIL.ImageDraw")
    shown = list(frames)
    height, width = shown[0].picture.shape[:2]
    n_columns = max(1, round((len(shown) * (height + _LABEL_HEIGHT) / width) ** 0.5))
    n_columns = min(len(shown), n_columns)
    n_rows = -(-len(shown) // n_columns)
    cell = (width + _GAP, height + _LABEL_HEIGHT + _GAP)
    sheet: npt.NDArray[np.uint8] = np.full(
        (n_rows * cell[1] + _GAP, n_columns * cell[0] + _GAP, 3), _PAPER, np.uint8
    )
    places = []
    for number, frame in enumerate(shown):
        row, column = divmod(number, n_columns)
        top, left = _GAP + row * cell[1], _GAP + column * cell[0]
        sheet[top : top + height, left : left + width] = frame.picture
        places.append((left, top + height + 1))
    picture = image.fromarray(sheet)
    draw = draw_module.Draw(picture)
    for frame, place in zip(shown, places, strict=True):
        draw.text(place, "reset" if frame.step < 0 else f"step {frame.step}", fill=(60, 60, 60))
    picture.save(path, format="PNG")


def _needed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        package = "Pillow" if module.startswith("PIL") else module
        raise MissingPackageError(package, "film") from exc
