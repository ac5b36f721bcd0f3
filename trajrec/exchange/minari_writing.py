"""Writes an episode into the HDF5 file of a Minari dataset."""

from __future__ import annotations

import numpy as np

from trajrec.exchange.minari_columns import Composed, Leaf, Node
from trajrec.exchange.minari_episode import DatasetEpisode
from trajrec.exchange.minari_hdf5 import PREFIX
from trajrec.types import Array, Value

# Columns of more bytes are compressed: without JPEG, images would take their whole size.
_LARGE_BYTES = 1 << 16


def write_episode(h5py: Value, file: Value, number: int, episode: DatasetEpisode) -> None:
    """Write an episode.

    Args:
        h5py: The package.
        file: The file.
        number: The number of the episode.
        episode: The episode.
    """
    group = file.create_group(f"{PREFIX}{number}")
    for name, value in episode.facts.items():
        # HDF5 holds a whole number as int64 unless it is told of a larger one.
        is_large = type(value) is int and value >= 1 << 63
        group.attrs[name] = np.uint64(value) if is_large else value
    group.attrs["id"] = number
    group.attrs["total_steps"] = episode.n_steps
    _write(h5py, group, "observations", episode.observations)
    _write(h5py, group, "actions", episode.actions)
    _write(h5py, group, "rewards", episode.rewards)
    _write_array(group, "terminations", episode.terminations)
    _write_array(group, "truncations", episode.truncations)
    _write(h5py, group, "infos", episode.infos or Composed("Dict", {}))


def _write(h5py: Value, parent: Value, name: str, node: Node) -> None:
    """Write columns."""
    if isinstance(node, Leaf):
        if isinstance(node.values, list):
            parent.create_dataset(
                name,
                data=node.values,
                dtype=h5py.string_dtype(encoding="utf-8"),
                chunks=True,
                maxshape=(None,),
            )
        else:
            _write_array(parent, name, node.values)
        return
    group = parent.create_group(name)
    prefix = "_index_" if node.kind == "Tuple" else ""
    for key, part in node.parts.items():
        _write(h5py, group, f"{prefix}{key}", part)


def _write_array(parent: Value, name: str, array: Array) -> None:
    if not array.size:
        parent.create_dataset(name, data=array)
        return
    is_large = array.nbytes > _LARGE_BYTES
    # With chunks and no limit, so that Minari can add steps.
    parent.create_dataset(
        name,
        data=array,
        chunks=True,
        maxshape=(None, *array.shape[1:]),
        compression="gzip" if is_large else None,
        compression_opts=1 if is_large else None,
    )
