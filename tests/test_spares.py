"""Arrays of batches that are used again: never while anybody holds them."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest

import trajrec.datasets.spares as spares_module
from trajrec.datasets.spares import LARGE_BYTES, MAX_SPARES, Spares
from trajrec.types import Array

ROWS = np.arange(300 * 4096, dtype=np.int32).reshape(300, 64, 64)
N = LARGE_BYTES // ROWS[0].nbytes + 1


def numbers_of(seed: int, n: int = N) -> Array:
    return np.random.default_rng(seed).integers(0, len(ROWS), n)


def owner(array: Array) -> Array:
    base = array.base
    assert isinstance(base, np.ndarray)
    return base


def test_an_array_that_nobody_holds_is_used_again() -> None:
    spares = Spares()
    first = spares.take(ROWS, numbers_of(0))
    place = owner(first).ctypes.data
    del first
    assert owner(spares.take(ROWS, numbers_of(1))).ctypes.data == place


def test_rows_that_somebody_holds_are_never_written_over() -> None:
    spares = Spares()
    held = []
    for seed in range(2 * MAX_SPARES):
        numbers = numbers_of(seed, N + seed)
        taken = spares.take(ROWS, numbers)
        # A part of a view of it is enough.
        held.append((taken.T[1:, :, ::2].T, ROWS[numbers].T[1:, :, ::2].T))
        del taken
    assert all(np.array_equal(one, other) for one, other in held)


def test_each_batch_of_a_loop_equals_its_rows() -> None:
    spares = Spares()
    for seed in range(8):
        numbers = numbers_of(seed, N - 3 + seed)
        batch = spares.take(ROWS, numbers)
        assert batch.flags.writeable
        assert batch.dtype == ROWS.dtype
        assert np.array_equal(batch, ROWS[numbers])
        batch[:] = -1


def test_a_tensor_keeps_the_array_that_it_shares() -> None:
    torch = pytest.importorskip("torch")
    spares = Spares()
    numbers = numbers_of(0)
    tensor = torch.from_numpy(spares.take(ROWS, numbers))
    for seed in range(1, 5):
        spares.take(ROWS, numbers_of(seed))
    assert np.array_equal(tensor.numpy(), ROWS[numbers])


@pytest.mark.slow
def test_threads_never_share_an_array() -> None:
    spares = Spares()
    wrong: list[int] = []

    def read(thread: int) -> None:
        for seed in range(20):
            numbers = numbers_of(100 * thread + seed)
            if not np.array_equal(spares.take(ROWS, numbers), ROWS[numbers]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_row_that_there_is_not_is_an_error() -> None:
    numbers = numbers_of(0)
    for wrong in (-1, len(ROWS)):
        numbers[5] = wrong
        with pytest.raises(IndexError, match=r"rows must be in \[0, 300\), got"):
            Spares().take(ROWS, numbers)


def test_spares_are_not_sent_to_other_processes() -> None:
    spares = Spares()
    spares.take(ROWS, numbers_of(0))
    assert len(pickle.dumps(spares)) < 200


def test_two_threads_never_take_the_same_array(monkeypatch: pytest.MonkeyPatch) -> None:
    spares = Spares()
    # The arrays are there, and nobody holds them.
    spares.take(ROWS, numbers_of(0))
    taken: dict[int, Array] = {}
    others: list[threading.Thread] = []
    count = spares_module._n_references

    def take(seed: int) -> None:
        taken[seed] = spares.take(ROWS, numbers_of(seed))

    def counted(arrays: list[Array], index: int) -> int:
        n = count(arrays, index)
        if not others:
            # Another thread asks between the look and the use.
            others.append(threading.Thread(target=take, args=(2,)))
            others[0].start()
            others[0].join(0.2)
        return n

    monkeypatch.setattr(spares_module, "_n_references", counted)
    take(1)
    others[0].join()
    assert all(np.array_equal(rows, ROWS[numbers_of(seed)]) for seed, rows in taken.items())
