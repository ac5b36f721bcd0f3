"""Batches as a dataset of PyTorch. This module imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from trajrec.datasets.sequences import Sequences
from trajrec.datasets.table import Batch
from trajrec.datasets.transitions import Transitions
from trajrec.types import Array

TensorBatch = dict[str, torch.Tensor]
"""Columns by name: a tensor (B, *shape) each."""


class TorchBatches(Dataset[TensorBatch]):  # type: ignore[misc]
    """Batches of transitions or windows; item k is batch k, as tensors that share no memory.

    The batches of a seed and an epoch are the same with any number of worker processes, which open
    the logs, or the cache, themselves. For rows of numbers no worker is the fastest: a message from
    a worker costs more than the batch in it. For frames, give workers several batches a message.

    Attributes:
        source: The transitions or windows.
        fetch: The batches of an item.

    >>> dataset = corpus.to_torch(batch_size=256, seed=0)
    >>> for batch in dataset.loader(num_workers=2):
    ...     train(batch["obs"], batch["action"])
    """

    def __init__(self, source: Transitions | Sequences, *, fetch: int = 1) -> None:
        if fetch < 1:
            raise ValueError(f"fetch must be at least 1 batch, got {fetch}")
        self.source = source
        self.fetch = fetch
        # Shared, so that workers that live on see a new epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        """Return the number of items of an epoch."""
        return -(-self.source.n_batches // self.fetch)

    def __getitem__(self, number: int) -> TensorBatch:
        """Return an item: `fetch` batches, joined.

        Raises:
            IndexError: There is no such item.
        """
        self.source.epoch = int(self._epoch)
        first = number * self.fetch
        if not 0 <= number < len(self):
            raise IndexError(f"item must be in [0, {len(self)}), got {number}")
        stop = min(first + self.fetch, self.source.n_batches)
        batches = [self.source.batch(k) for k in range(first, stop)]
        names = batches[0]
        return {
            name: torch.from_numpy(_own_array([batch[name] for batch in batches])) for name in names
        }

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, and with it the order of shuffled batches."""
        self._epoch.fill_(epoch)

    def loader(self, *, num_workers: int = 0, **options: Any) -> TorchLoader:
        """Return an iterable of batches: each `for` loop over it is one epoch.

        Args:
            num_workers: Worker processes, which are spawned: they import the script that calls this,
                so its own code must stand under `if __name__ == "__main__":`.
            **options: More arguments of `torch.utils.data.DataLoader`.

        Raises:
            TypeError: An option would make other batches.
        """
        for name in ("batch_size", "drop_last"):
            if name in options:
                raise TypeError(f"the batches are made already: give {name}= to corpus.to_torch")
        if num_workers:
            options.setdefault("multiprocessing_context", "spawn")
        items = DataLoader(self, batch_size=None, num_workers=num_workers, **options)
        return TorchLoader(self, items)


class TorchLoader:
    """The batches of a dataset, from the first one each time that it is iterated over.

    They are those of the dataset's epoch (`TorchBatches.set_epoch`).
    """

    def __init__(self, dataset: TorchBatches, items: DataLoader[TensorBatch]) -> None:
        self._dataset = dataset
        self._items = items

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self._dataset.source.n_batches

    def __iter__(self) -> Iterator[TensorBatch]:
        size = self._dataset.source.batch_size
        for item in self._items:
            n = len(next(iter(item.values())))
            for start in range(0, n, size):
                yield {name: tensor[start : start + size] for name, tensor in item.items()}


def _own_array(arrays: list[Array]) -> Array:
    """Return arrays as one that torch can take: its own memory, in the machine's byte order."""
    array = np.ascontiguousarray(arrays[0]) if len(arrays) == 1 else np.concatenate(arrays)
    if not array.flags.writeable or not array.flags.owndata:
        array = array.copy()
    if array.dtype.kind in "mM":
        raise TypeError("torch has no dates: leave their columns out of columns=")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


__all__ = ["Batch", "TensorBatch", "TorchBatches", "TorchLoader"]
