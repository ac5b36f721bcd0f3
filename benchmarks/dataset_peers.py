"""The same transitions in the formats of others, and how those read them; see `benchmarks.datasets`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets import BATCH, RANDOM_BATCH, Columns, Contestant, _size
from trajrec.types import Array

ROW_GROUP = 20_000
# An episode of Minari's HDF5 file takes a millisecond to read.
MINARI_EPISODES = 20


def _table(columns: Columns) -> Any:
    import pyarrow as pa

    arrays = []
    for column in columns.values():
        flat = pa.array(np.ravel(column))
        size = math.prod(column.shape[1:])
        is_flat = column.ndim == 1
        arrays.append(flat if is_flat else pa.FixedSizeListArray.from_arrays(flat, size))
    return pa.table(dict(zip(columns, arrays, strict=True)))


def _numpy(table: Any, columns: Columns) -> Columns:
    """Return the columns of a table or batch as arrays of their own."""
    found = {}
    for name, column in columns.items():
        values = table[name]
        values = values.combine_chunks() if hasattr(values, "combine_chunks") else values
        if column.ndim > 1:
            values = values.flatten()
        array = values.to_numpy(zero_copy_only=False)
        found[name] = np.array(array.reshape(-1, *column.shape[1:]))
    return found


def arrow(folder: Path, columns: Columns) -> Contestant:
    """Arrow's IPC file, mapped."""
    import pyarrow as pa

    path = folder / "steps.arrow"
    table = _table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    mapped = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    rng = np.random.default_rng(0)

    def sequential() -> Iterator[int]:
        for start in range(0, mapped.num_rows, BATCH):
            yield len(_numpy(mapped.slice(start, BATCH), columns)["reward"])

    def random(n: int) -> None:
        for _ in range(n // RANDOM_BATCH):
            rows = pa.array(rng.integers(0, mapped.num_rows, RANDOM_BATCH))
            _numpy(mapped.take(rows), columns)

    return Contestant("Arrow IPC, mapped", _size(path), sequential, random)


def parquet(folder: Path, columns: Columns) -> Contestant:
    """Parquet with zstd."""
    import pyarrow.parquet as pq

    path = folder / "steps.parquet"
    size = 500 if columns["obs"].ndim > 2 else ROW_GROUP
    pq.write_table(_table(columns), path, compression="zstd", row_group_size=size)
    file = pq.ParquetFile(path)
    rng = np.random.default_rng(0)

    def sequential() -> Iterator[int]:
        for batch in file.iter_batches(BATCH):
            yield len(_numpy(batch, columns)["reward"])

    def random(n: int) -> None:
        for row in rng.integers(0, file.metadata.num_rows, n).tolist():
            group = file.read_row_group(row // size)
            _numpy(group.slice(row % size, 1), columns)

    return Contestant("Parquet zstd, pyarrow", _size(path), sequential, random, n_random=16)


def hdf5(folder: Path, columns: Columns) -> Contestant:
    """Flat datasets of HDF5."""
    import h5py

    path = folder / "steps.h5"
    with h5py.File(path, "w") as writing:
        for name, column in columns.items():
            writing.create_dataset(name, data=column)
    file = h5py.File(path)
    data = {name: file[name] for name in columns}
    n_rows = len(columns["reward"])
    rng = np.random.default_rng(0)

    def sequential() -> Iterator[int]:
        for start in range(0, n_rows, BATCH):
            yield len([data[name][start : start + BATCH] for name in columns][2])

    def random(n: int) -> None:
        for _ in range(n // RANDOM_BATCH):
            # h5py takes ascending rows without repeats.
            rows = np.unique(rng.integers(0, n_rows, RANDOM_BATCH))
            for name in columns:
                data[name][rows]

    return Contestant("HDF5, flat", _size(path), sequential, random, n_random=4 * RANDOM_BATCH)


def torchrl(folder: Path, columns: Columns) -> Contestant:
    """TorchRL's replay buffer over mapped tensors."""
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer

    n_rows = len(columns["reward"])
    storage = LazyMemmapStorage(n_rows, scratch_dir=str(folder / "torchrl"))
    buffer = TensorDictReplayBuffer(storage=storage, batch_size=RANDOM_BATCH)
    for start in range(0, n_rows, BATCH):
        part = {
            name: torch.tensor(column[start : start + BATCH]) for name, column in columns.items()
        }
        buffer.extend(TensorDict(part, batch_size=[len(part["reward"])]))

    def sequential() -> Iterator[int]:
        for start in range(0, n_rows, BATCH):
            yield len(storage[start : start + BATCH].clone())

    def random(n: int) -> None:
        for _ in range(n // RANDOM_BATCH):
            buffer.sample()

    return Contestant("TorchRL replay buffer", _size(folder / "torchrl"), sequential, random)


def minari(folder: Path, columns: Columns, lengths: list[int]) -> Contestant:
    """Minari's HDF5 dataset."""
    import gymnasium as gym

    os.environ["MINARI_DATASETS_PATH"] = str(folder / "minari")
    import minari as minari_package
    from minari.data_collector import EpisodeBuffer

    buffers = []
    start = 0
    for number, length in enumerate(lengths[:MINARI_EPISODES]):
        rows = slice(start, start + length)
        start += length
        observations = np.concatenate([columns["obs"][rows], columns["next_obs"][rows][-1:]])
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations=list(observations),
                actions=list(columns["action"][rows]),
                rewards=columns["reward"][rows].tolist(),
                terminations=columns["terminated"][rows].tolist(),
                truncations=columns["truncated"][rows].tolist(),
            )
        )
    dataset = minari_package.create_dataset_from_buffers(
        dataset_id="bench/steps-v0",
        buffer=buffers,
        observation_space=_box(columns["obs"]),
        action_space=_box(columns["action"])
        if columns["action"].ndim > 1
        else gym.spaces.Discrete(64),
    )
    rng = np.random.default_rng(0)

    def sequential() -> Iterator[int]:
        for episode in dataset.iterate_episodes():
            observations = np.asarray(episode.observations)
            pair = (observations[:-1].copy(), observations[1:].copy())
            yield len(pair[0])

    def random(n: int) -> None:
        for number in rng.integers(0, len(buffers), n).tolist():
            observations = np.asarray(dataset[number].observations)
            row = rng.integers(0, len(observations) - 1)
            observations[row : row + 2].copy()

    # Of a part of the episodes: the bytes for each step are those of the part.
    size = _size(folder / "minari") * len(columns["reward"]) // start
    return Contestant("Minari, HDF5", size, sequential, random, n_random=64)


def _box(column: Array) -> Any:
    import gymnasium as gym

    if column.dtype.kind == "u":
        return gym.spaces.Box(0, 255, column.shape[1:], column.dtype.type)
    return gym.spaces.Box(-np.inf, np.inf, column.shape[1:], column.dtype.type)
