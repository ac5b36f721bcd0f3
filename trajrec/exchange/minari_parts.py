"""The parts that a Minari dataset stores of an episode, and the images in them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trajrec.errors import MissingPackageError
from trajrec.exchange.minari_spaces import Columns, Space
from trajrec.exchange.reading import Place
from trajrec.types import Array, JsonObject, Value

STEP_ARRAYS = ("rewards", "terminations", "truncations")


class StoredEpisode(NamedTuple):
    """An episode as the dataset stores it.

    Attributes:
        number: Its number.
        facts: Its metadata: seed, options, and more.
        observations: With the reset's, one more row than there are steps.
        actions: A row for each step.
        arrays: The arrays of `STEP_ARRAYS`, a row for each step.
        infos: A row for each observation or for each step; {} if there are none.
        unread: The names of parts that no episode of Minari has.
    """

    number: int
    facts: JsonObject
    observations: Columns
    actions: Columns
    arrays: dict[str, Array]
    infos: Columns
    unread: Sequence[str] = ()


class Spaces(NamedTuple):
    """The spaces of a dataset."""

    observation: Space
    action: Space


def images_of(encoded: Sequence[bytes], space: Space, place: Place) -> Array:
    """Return images that are stored as JPEG.

    Raises:
        ImportFileError: One cannot be read, or has another shape than the space.
        MissingPackageError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as exc:
        raise MissingPackageError("pillow", "minari") from exc
    images = np.empty((len(encoded), *space.shape), np.uint8)
    for number, data in enumerate(encoded):
        at = place.at(f"image {number}")
        try:
            image = Image.open(io.BytesIO(data), formats=["JPEG"])
            # Before the pixels are decoded: a damaged size might be enormous.
            if (image.height, image.width) != space.shape[:2]:
                raise at.error(f"has {image.width} x {image.height} pixels")
            pixels = np.asarray(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
            raise at.error(f"is no JPEG: {exc}") from exc
        if pixels.shape != space.shape:
            raise at.error(f"has the shape {pixels.shape}, and not {space.shape}")
        images[number] = pixels
    return images


def texts_of(values: Sequence[Value], place: Place) -> list[str]:
    """Return texts, which may be stored as bytes.

    Raises:
        ImportFileError: One of them is none.
    """
    texts: list[str] = []
    for value in values:
        try:
            text = value.decode() if type(value) is bytes else value
        except ValueError as exc:
            raise place.error(f"holds a text that is no UTF-8: {exc}") from exc
        texts.append(place.expect(str, text, "a value"))
    return texts
