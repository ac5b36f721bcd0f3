"""The pictures among an environment's observations: one as PNG, many as a stream that a page plays."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from trajrec.corpus.episode import Episode
from trajrec.errors import CorpusError, LogError
from trajrec.types import Value

Picture: TypeAlias = npt.NDArray[np.uint8]
"""Pixels of shape (height, width, 4): red, green, blue and how opaque."""

MIN_SIDE = 8
"""Smallest side of an array of bytes that is taken for a picture."""

MAX_PIXELS = 4_000_000

CHUNK_BYTES = 16_000_000
"""Pixels that a page gets at once, before they are packed."""

MAX_CHUNK = 64
"""Frames that it gets at once, at most."""


MAX_STRIP = 12
"""Pictures of a strip."""

SMALL_SIDE = 160
"""Pixels of the longer side of a picture in a strip."""


class Thumbnail(NamedTuple):
    """A small picture in a strip.

    Attributes:
        step: The step that it was observed after.
        source: Its address, or its bytes as one.
        address: The page of its step; None if it has none.
    """

    step: int
    source: str
    address: str | None


class Film(NamedTuple):
    """The size of an episode's pictures.

    Attributes:
        chunk: Frames in a chunk of the stream.
    """

    width: int
    height: int
    chunk: int


def film_of(episode: Episode) -> Film | None:
    """Return the size of the pictures that an environment observed; None if it observed none."""
    if episode.is_agent_episode or episode.n_steps < 1:
        return None
    picture = picture_at(episode, episode.first_step)
    if picture is None:
        return None
    height, width, _ = picture.shape
    chunk = max(1, min(MAX_CHUNK, CHUNK_BYTES // picture.nbytes))
    return Film(width, height, chunk)


def picture_at(episode: Episode, step: int) -> Picture | None:
    """Return the picture that was observed after a step; None if there is none."""
    try:
        found = episode.step_at(step)
        return None if found.failure is not None else picture_of(found.observation)
    except (CorpusError, LogError, IndexError):
        return None


def strip_steps(episode: Episode) -> list[int]:
    """Return up to 12 steps with a picture, spread over an episode from its first to its last."""
    first = episode.first_step
    last = episode.end_step - 1
    n = min(MAX_STRIP, episode.n_steps)
    places = [first + round((last - first) * k / max(1, n - 1)) for k in range(n)]
    return [step for step in places if picture_at(episode, step) is not None]


def small(picture: Picture) -> Picture:
    """Return a picture with every k-th pixel, so that its longer side has at most 160."""
    stride = -(-max(picture.shape[:2]) // SMALL_SIDE)
    return picture[::stride, ::stride]


def reset_picture(episode: Episode) -> Picture | None:
    """Return the picture that was observed at the reset; None if there is none."""
    try:
        return picture_of(episode.observation_at(0))
    except (CorpusError, LogError, IndexError):
        return None


def picture_of(observation: Value) -> Picture | None:
    """Return an observation as a picture, or the first value of a dict that is one.

    Bytes of shape (height, width), with a last axis of 1, 3 or 4 channels, or with a first axis of
    1 or 3 channels; a first axis of 4 is a stack, of which the last picture counts.

    >>> picture_of(np.zeros((84, 84), np.uint8)).shape
    (84, 84, 4)
    """
    if isinstance(observation, Mapping):
        pictures = map(picture_of, observation.values())
        return next((picture for picture in pictures if picture is not None), None)
    if not isinstance(observation, np.ndarray) or observation.dtype != np.uint8:
        return None
    pixels = _channels_last(observation)
    if pixels is None or min(pixels.shape[:2]) < MIN_SIDE:
        return None
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        return None
    picture = np.full((*pixels.shape[:2], 4), 255, np.uint8)
    n_channels = pixels.shape[2]
    picture[..., : max(3, n_channels)] = pixels
    return picture


def _channels_last(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8] | None:
    if array.ndim == 2:
        return array[..., None]
    if array.ndim != 3:
        return None
    if array.shape[2] in (1, 3, 4):
        return array
    if array.shape[0] in (1, 3):
        return np.moveaxis(array, 0, 2)
    return array[-1][..., None] if array.shape[0] == 4 else None


def png(picture: Picture) -> bytes:
    """Return a picture as a PNG file."""
    height, width, _ = picture.shape
    # Each line begins with the filter that was applied to it: none.
    lines = np.zeros((height, 1 + width * 4), np.uint8)
    lines[:, 1:] = picture.reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_part(name, data) for name, data in parts)


def _png_part(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def film_chunk(episode: Episode, film: Film, number: int) -> bytes:
    """Return some pictures for a page to play: each as what changed since the one before, packed.

    A step without a picture of this size is transparent.

    Args:
        episode: The episode.
        film: The size of its pictures.
        number: The chunk, from 0: its first picture is that after step `number * film.chunk`,
            counted from the first step of the episode.
    """
    first = episode.first_step + number * film.chunk
    steps = range(first, min(first + film.chunk, episode.end_step))
    frames = np.zeros((len(steps), film.height, film.width, 4), np.uint8)
    for place, step in enumerate(steps):
        picture: Any = picture_at(episode, step)
        if picture is not None and picture.shape == frames.shape[1:]:
            frames[place] = picture
    frames[1:] ^= frames[:-1].copy()
    return zlib.compress(frames.tobytes(), 1)
