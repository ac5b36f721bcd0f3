"""Reads the episodes of a Minari dataset that are stored as Arrow files or as Parquet.

Each episode has a folder. Its table has a row for each observation: those of the steps end with a
row that pads them.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from trajrec.exchange.reading import Place, read_json
from trajrec.types import Array, JsonObject, Value

FACTS = "metadata.json"

_COLUMNS = frozenset(("observations", "actions", "infos", *STEP_ARRAYS))

_SHAPE = b"shape"
"""The key in the metadata of a field of infos that has the shape of its rows."""


def episode_folders(data: Path) -> list[Path]:
    """Return the folders of the episodes, in the order of their numbers."""
    folders = [entry for entry in data.iterdir() if entry.is_dir() and not entry.is_symlink()]
    return sorted(
        (folder for folder in folders if folder.name.isascii() and folder.name.isdigit()),
        key=lambda folder: int(folder.name),
    )


def tables_in(folder: Path, suffix: str) -> list[Path]:
    """Return the files with the table of an episode."""
    return sorted(path for path in folder.glob(f"*.{suffix}") if path.is_file())


def read_tables(data: Path, suffix: str, spaces: Spaces) -> Iterator[StoredEpisode]:
    """Yield the episodes of a folder, in the order of their numbers.

    Args:
        data: The folder.
        suffix: "arrow" or "parquet".
        spaces: The spaces.

    Raises:
        MissingPackageError: pyarrow is not installed.
        ImportFileError: A file is damaged.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as exc:
        raise MissingPackageError("pyarrow", "minari") from exc
    folders = episode_folders(data)
    if [folder.name for folder in folders] != [str(n) for n in range(len(folders))]:
        raise Place(data).error("its episodes are not numbered from 0 on")
    for number, folder in enumerate(folders):
        place = Place(folder)
        paths = tables_in(folder, suffix)
        if not paths:
            raise place.error(f"has no .{suffix} file")
        if suffix == "parquet":
            tables = [pq.read_table(path, partitioning=None) for path in paths]
        else:
            tables = [_read_arrow(pa, path) for path in paths]
        table = pa.concat_tables(tables)
        # A damaged file may name bytes outside of its buffers.
        table.validate(full=True)
        facts = place.expect(dict, read_json(folder / FACTS), FACTS)
        yield _episode(pa, table.combine_chunks(), number, facts, spaces, place)


def _read_arrow(pa: Value, path: Path) -> Value:
    with pa.OSFile(str(path), "rb") as source, pa.ipc.open_file(source) as reader:
        return reader.read_all()


def _episode(
    pa: Value, table: Value, number: int, facts: JsonObject, spaces: Spaces, place: Place
) -> StoredEpisode:
    """Return the episode of a table."""
    n_steps = table.num_rows - 1
    if n_steps < 0:
        raise place.error("has no rows")

    def column(name: str) -> Value:
        if table.column_names.count(name) != 1:
            raise place.error(f"the column {name} is missing")
        # With no chunk, there is no row.
        return table[name].chunk(0)

    arrays = {name: _numbers(column(name), place.at(name))[:n_steps] for name in STEP_ARRAYS}
    names = table.column_names
    return StoredEpisode(
        number=number,
        facts=facts,
        observations=_columns(
            pa, column("observations"), spaces.observation, n_steps + 1, place.at("observations")
        ),
        actions=_columns(
            pa, column("actions").slice(0, n_steps), spaces.action, n_steps, place.at("actions")
        ),
        arrays=arrays,
        infos=_infos(pa, column("infos"), place.at("infos")) if "infos" in names else {},
        unread=sorted(set(names) - _COLUMNS),
    )


def _columns(pa: Value, array: Value, space: Space, n_rows: int, place: Place) -> Columns:
    """Return the columns of a space."""
    if space.is_composed:
        if not pa.types.is_struct(array.type):
            raise place.error("is no struct")
        names = [field.name for field in array.type]
        columns: dict[str, Columns] = {}
        for name, part in space.parts.items():
            if names.count(name) != 1:
                raise place.error(f"{name} is missing")
            inner = array.field(name)
            columns[name] = _columns(pa, inner, part, n_rows, place.at(name))
        return columns
    if space.kind == "Text":
        return texts_of(array.to_pylist(), place)
    if space.is_image and pa.types.is_binary(array.type):
        return check_column(space, images_of(array.to_pylist(), space, place), n_rows, place)
    if space.kind == "Discrete":
        return check_column(space, _numbers(array, place), n_rows, place)
    return check_column(space, _lists(pa, array, space.shape, place), n_rows, place)


def _numbers(array: Value, place: Place) -> Array:
    """Return a column of numbers."""
    if array.null_count:
        raise place.error("has a row without a value")
    numbers: Array = array.to_numpy(zero_copy_only=False)
    return numbers


def _lists(pa: Value, array: Value, shape: tuple[int, ...], place: Place) -> Array:
    """Return a column of lists as an array with rows of a shape."""
    if not (pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type)):
        raise place.error("is no list of numbers")
    if array.null_count:
        raise place.error("has a row without a value")
    numbers = _numbers(array.flatten(), place)
    if pa.types.is_list(array.type) and len(set(np.diff(array.offsets.to_numpy()).tolist())) > 1:
        raise place.error("has rows of different lengths")
    return numbers.reshape(len(array), *shape)


def _infos(pa: Value, array: Value, place: Place) -> Columns:
    """Return the columns of the infos."""
    if not pa.types.is_struct(array.type):
        raise place.error("is no struct")
    columns: dict[str, Columns] = {}
    for number, field in enumerate(array.type):
        inner = array.field(number)
        at = place.at(field.name)
        if field.name in columns:
            raise at.error("stands twice")
        if pa.types.is_struct(field.type):
            columns[field.name] = _infos(pa, inner, at)
        elif pa.types.is_fixed_size_list(field.type) or pa.types.is_list(field.type):
            columns[field.name] = _lists(pa, inner, _shape_of(field), at)
        elif pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            columns[field.name] = texts_of(inner.to_pylist(), at)
        else:
            columns[field.name] = _numbers(inner, at)
    return columns


def _shape_of(field: Value) -> tuple[int, ...]:
    """Return the shape of the rows of a field; (-1,) if the field does not say it."""
    text = (field.metadata or {}).get(_SHAPE)
    return tuple(map(int, text.split(b","))) if text else (-1,)
