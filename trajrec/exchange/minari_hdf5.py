"""Reads the episodes of a Minari dataset that are stored as HDF5.

A file is data: links to other files, and data that lie in them, are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from trajrec.errors import MissingPackageError
from trajrec.exchange.minari_parts import (
    STEP_ARRAYS,
    Spaces,
    StoredEpisode,
    images_of,
    texts_of,
)
from trajrec.exchange.minari_spaces import Columns, Space, check_column
from trajrec.exchange.reading import Place
from trajrec.types import Array, JsonObject, Value

FILE = "main_data.hdf5"

PREFIX = "episode_"

_PARTS = frozenset(("observations", "actions", "infos", *STEP_ARRAYS))

# Deflate packs at most 1,032 bytes into one. An array that is larger than its file allows has rows
# that were never written.
_MAX_PACKED = 1100
_SMALL_BYTES = 1 << 24


def read_hdf5(path: Path, spaces: Spaces) -> Iterator[StoredEpisode]:
    """Yield the episodes of a file, in the order of their numbers.

    Raises:
        MissingPackageError: h5py is not installed.
        ImportFileError: The file is damaged.
    """
    try:
        import h5py
    except ImportError as exc:
        raise MissingPackageError("h5py", "minari") from exc
    place = Place(path)
    with h5py.File(path, "r") as file:
        reader = _Reader(h5py, path.stat().st_size)
        numbers = sorted(_number(name, place) for name in file)
        if numbers != list(range(len(numbers))):
            raise place.error("its episodes are not numbered from 0 on")
        for number in numbers:
            name = f"{PREFIX}{number}"
            yield reader.episode(reader.group(file, name, place), number, spaces, place.at(name))


def _number(name: str, place: Place) -> int:
    number = name.removeprefix(PREFIX)
    if number == name or not (number.isascii() and number.isdigit()) or len(number) > 12:
        raise place.error(f"holds {name!r:.60}, which is no episode")
    return int(number)


class _Reader:
    """Reads the groups and arrays of one file.

    Args:
        h5py: The package.
        file_bytes: The size of the file.
    """

    def __init__(self, h5py: Value, file_bytes: int) -> None:
        self._h5py = h5py
        self._max_bytes = max(_SMALL_BYTES, _MAX_PACKED * file_bytes)

    def episode(self, group: Value, number: int, spaces: Spaces, place: Place) -> StoredEpisode:
        """Return an episode."""
        arrays = {name: self._array(group, name, place) for name in STEP_ARRAYS}
        n_steps = len(arrays["rewards"])
        observations = self._columns(group, "observations", spaces.observation, n_steps + 1, place)
        infos: Columns = {}
        if "infos" in group:
            infos = self._infos(self.group(group, "infos", place), place.at("infos"))
        return StoredEpisode(
            number=number,
            facts=_facts(self._attributes(group), place),
            observations=observations,
            actions=self._columns(group, "actions", spaces.action, n_steps, place),
            arrays=arrays,
            infos=infos,
            unread=sorted(set(group) - _PARTS),
        )

    def group(self, parent: Value, name: str, place: Place) -> Value:
        """Return a group."""
        node = self._node(parent, name, place)
        if not isinstance(node, self._h5py.Group):
            raise place.error(f"{name} is no group")
        return node

    def _attributes(self, group: Value) -> Iterator[tuple[str, Value]]:
        for name, value in group.attrs.items():
            yield name, None if isinstance(value, self._h5py.Empty) else value

    def _node(self, parent: Value, name: str, place: Place) -> Value:
        link = parent.get(name, getlink=True)
        if link is None:
            raise place.error(f"{name} is missing")
        if not isinstance(link, self._h5py.HardLink):
            raise place.error(f"{name} is a link, which is not followed")
        return parent[name]

    def _dataset(self, parent: Value, name: str, place: Place) -> Value:
        node = self._node(parent, name, place)
        if not isinstance(node, self._h5py.Dataset):
            raise place.error(f"{name} is no array")
        if node.external or node.is_virtual:
            raise place.error(f"{name} lies in another file, which is not read")
        if math.prod(node.shape or (0,)) * node.dtype.itemsize > self._max_bytes:
            raise place.error(f"{name} has the shape {node.shape}, more than the file can hold")
        if node.shape is None or node.ndim == 0:
            raise place.error(f"{name} has no rows")
        return node

    def _array(self, parent: Value, name: str, place: Place) -> Array:
        array: Array = self._dataset(parent, name, place)[()]
        return array

    def _columns(
        self, parent: Value, name: str, space: Space, n_rows: int, place: Place
    ) -> Columns:
        """Return the columns of a space."""
        if space.is_composed:
            group = self.group(parent, name, place)
            at = place.at(name)
            prefix = "_index_" if space.kind == "Tuple" else ""
            return {
                key: self._columns(group, f"{prefix}{key}", part, n_rows, at)
                for key, part in space.parts.items()
            }
        at = place.at(name)
        node = self._dataset(parent, name, place)
        if space.kind == "Text":
            texts = texts_of(node[()].ravel().tolist(), at)
            if len(texts) != n_rows:
                raise at.error(f"has {len(texts)} rows, and not {n_rows}")
            return texts
        if space.is_image and node.ndim != len(space.shape) + 1:
            encoded = [np.asarray(row, np.uint8).tobytes() for row in node[()]]
            return check_column(space, images_of(encoded, space, at), n_rows, at)
        return check_column(space, node[()], n_rows, at)

    def _infos(self, group: Value, place: Place) -> Columns:
        """Return the columns of the infos."""
        columns: dict[str, Columns] = {}
        for name in group:
            if isinstance(self._node(group, name, place), self._h5py.Group):
                columns[name] = self._infos(group[name], place.at(name))
                continue
            values = self._array(group, name, place)
            if values.dtype.kind in "OS":
                columns[name] = texts_of(values.ravel().tolist(), place.at(name))
            else:
                columns[name] = values
        return columns


def _facts(attributes: Iterable[tuple[str, Value]], place: Place) -> JsonObject:
    """Return the metadata of an episode, as Minari nests them: "options/x" is in "options"."""
    facts: JsonObject = {}
    for name, value in attributes:
        *path, last = name.split("/")
        inner = facts
        for key in path:
            inner = inner.setdefault(key, {})
            if type(inner) is not dict:
                raise place.error(f"the attribute {name!r:.60} stands in one that is no group")
        inner[last] = _plain(value, is_option=bool(path))
    return facts


def _plain(value: Value, *, is_option: bool) -> Value:
    """Return the value of an attribute: HDF5 makes a number of NumPy of each one of Python.

    An array in the options of a reset stays one, as the environment takes it.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and not is_option:
        return value.tolist()
    return value
