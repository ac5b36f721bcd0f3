"""A cache of decoded columns: a folder of flat files, which is mapped and never goes stale.

Its name is a digest of the logs' contents, the episodes and the columns, so that another selection
has another cache. A cache is written under another name first, and renamed when it is whole.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import uuid
from pathlib import Path

import msgspec
import numpy as np

from trajrec.datasets.decode import ChunkSource, TableBuilder
from trajrec.datasets.leaves import Leaf
from trajrec.datasets.plan import Plan
from trajrec.datasets.pools import all_places, row_bytes
from trajrec.datasets.stores import (
    FileWriter,
    RowStore,
    Store,
    is_framed,
    make_frame_store,
    map_column,
)
from trajrec.datasets.table import Table
from trajrec.errors import CorpusError
from trajrec.log.folder import INDEX_FOLDER
from trajrec.types import Array

CACHE_FOLDER = f"{INDEX_FOLDER}/cache"
"""The folder of caches in a corpus. It can be deleted at any time."""

CACHE_VERSION = 2
"""Raised whenever the files of a cache change."""

# Chunks that are decoded between two writes of the numbers of their rows.
_CHUNKS_AT_ONCE = 64

# Segment, step and flags; the episode and shift of a segment are shared by its rows.
_NUMBER_BYTES = 9

_META = "meta.json"


class _Column(msgspec.Struct, kw_only=True):
    """A file of a cache."""

    file: str
    dtype: str
    shape: list[int]
    n_rows: int


def open_cache(plan: Plan, folder: Path | None) -> Table:
    """Return the rows of a plan, mapped from its cache, which is made if it is not there.

    Args:
        plan: The rows.
        folder: The folder of caches; by default one in the corpus.

    Raises:
        CorpusError: The disk has too little space for it.
        LogError: A log cannot be read.
    """
    parent = plan.selection.folder / CACHE_FOLDER if folder is None else folder
    path = parent / _key(plan)
    if not (path / _META).exists():
        parent.mkdir(parents=True, exist_ok=True)
        _check_space(plan, parent)
        _build(plan, parent, path)
    return _map(plan, path)


def needed_bytes(plan: Plan) -> int:
    """Return about the bytes of the cache of a plan."""
    n_resets = sum(int(log.segments.has_reset.sum()) for log in plan.logs)
    n_rows = n_resets + sum(int(log.segments.n.sum()) for log in plan.logs)
    # A reset brings all frames of its stack.
    frames = [leaf for leaf in plan.leaves.leaves.values() if is_framed(leaf)]
    of_resets = sum(leaf.dtype.itemsize * math.prod(leaf.shape) for leaf in frames)
    return n_rows * (row_bytes(plan) + _NUMBER_BYTES) + n_resets * of_resets


def _key(plan: Plan) -> str:
    leaves = [
        f"{leaf.name} {leaf.dtype.str} {leaf.shape} {leaf.axis} {leaf.is_text}"
        for leaf in plan.leaves.leaves.values()
    ]
    text = "\n".join([str(CACHE_VERSION), plan.selection.digest(), *leaves])
    digest = hashlib.blake2b(text.encode(), digest_size=12)
    # A log that is still written may get more of them without another step.
    for column in plan.named.values():
        digest.update(column.keys.tobytes() + column.values.tobytes())
    return digest.hexdigest()


def _check_space(plan: Plan, parent: Path) -> None:
    needed = needed_bytes(plan)
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise CorpusError(
            f"{parent}: a cache of about {needed / 1e9:.1f} GB does not fit into {free / 1e9:.1f} "
            "GB; give another folder with cache=, or read a stream with cache=None"
        )


def _build(plan: Plan, parent: Path, path: Path) -> None:
    """Decode all rows into files."""
    building = parent / f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    building.mkdir()
    source = ChunkSource(plan)
    try:
        writers: dict[str, FileWriter] = {}
        files: dict[str, str] = {}

        def new_writer(name: str) -> FileWriter:
            files[name] = f"{len(files)}.bin"
            writers[name] = FileWriter(building / files[name])
            return writers[name]

        builder = TableBuilder(plan, source, new_writer)
        places = all_places(plan)
        for start in range(0, len(places), _CHUNKS_AT_ONCE):
            builder.add(places[start : start + _CHUNKS_AT_ONCE])
        builder.finish()
        columns = {
            name: _column(plan, name, files[name], writer.n_rows)
            for name, writer in writers.items()
        }
        (building / _META).write_bytes(msgspec.json.encode(columns))
        # Another process may have made the same cache in the meantime.
        if not path.exists():
            building.rename(path)
    except OSError as exc:
        if not (path / _META).exists():
            raise CorpusError(f"{parent}: the cache cannot be written: {exc}") from exc
    finally:
        source.close()
        shutil.rmtree(building, ignore_errors=True)


def _column(plan: Plan, name: str, file: str, n_rows: int) -> _Column:
    dtype, shape = column_form(plan.leaves.leaves, name)
    return _Column(file=file, dtype=dtype.str, shape=list(shape), n_rows=n_rows)


def column_form(leaves: dict[str, Leaf], name: str) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    """Return dtype and shape of a column of a table, by the name of its writer."""
    if name in _NUMBERS:
        return _NUMBERS[name], ()
    if name.endswith("/ends") and name not in leaves:
        return np.dtype(np.int64), ()
    leaf = leaves[name]
    if is_framed(leaf):
        axis = leaf.axis or 0
        return leaf.dtype, leaf.shape[:axis] + leaf.shape[axis + 1 :]
    return leaf.dtype, leaf.shape


_NUMBERS: dict[str, np.dtype[np.generic]] = {
    ".segment": np.dtype(np.int32),
    ".step": np.dtype(np.int32),
    ".flags": np.dtype(np.uint8),
    ".codes": np.dtype(np.int32),
    ".shifts": np.dtype(np.int64),
}


def _map(plan: Plan, path: Path) -> Table:
    """Return the table of a cache.

    Raises:
        CorpusError: Its files are not those that it states.
    """
    try:
        columns = msgspec.json.decode((path / _META).read_bytes(), type=dict[str, _Column])
        arrays = {name: _map_column(plan, path, name, column) for name, column in columns.items()}
        return _table(plan, arrays)
    except (OSError, ValueError, KeyError, msgspec.MsgspecError) as exc:
        raise CorpusError(f"{path}: the cache is damaged ({exc}); delete this folder") from exc


def _map_column(plan: Plan, path: Path, name: str, column: _Column) -> Array:
    """Map a column, after its size was compared with the plan's form of it."""
    dtype, shape = column_form(plan.leaves.leaves, name)
    # The name of a file comes from a file: it must not lead elsewhere.
    if Path(column.file).name != column.file:
        raise ValueError(f"{column.file!r} is no file of this folder")
    if (column.dtype, tuple(column.shape)) != (dtype.str, shape):
        raise ValueError(f"column {name!r} is another one")
    return map_column(path / column.file, dtype, shape, n_rows=column.n_rows)


def _table(plan: Plan, arrays: dict[str, Array]) -> Table:
    leaves = plan.leaves.leaves
    observations: dict[str, Store] = {}
    steps: dict[str, Array] = {}
    for name, leaf in leaves.items():
        if name.partition("/")[0] != "obs":
            steps[name] = np.asarray(arrays[name])
        elif is_framed(leaf):
            observations[name] = make_frame_store(leaf, arrays[name], arrays[f"{name}/ends"])
        else:
            observations[name] = RowStore(arrays[name])
    table = Table(
        observations=observations,
        steps=steps,
        segment=np.asarray(arrays[".segment"]),
        step=np.asarray(arrays[".step"]),
        flags=np.asarray(arrays[".flags"]),
        codes=np.asarray(arrays[".codes"]),
        shifts=np.asarray(arrays[".shifts"]),
    )
    _check_lengths(plan, table)
    return table


def _check_lengths(plan: Plan, table: Table) -> None:
    """Check that the columns have the rows of the plan.

    Raises:
        ValueError: They do not.
    """
    n = sum(int(log.segments.n.sum()) for log in plan.logs)
    columns = [table.segment, table.step, table.flags, *table.steps.values()]
    if any(len(column) != n for column in columns):
        raise ValueError(f"its columns do not have {n} rows")
