"""Datasets of PyTorch: the same batches with any number of workers, and the scripts of the docs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import record, run

import trajrec

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow


def digests(batches: Any) -> list[bytes]:
    return [b"".join(tensor.numpy().tobytes() for tensor in batch.values()) for batch in batches]


@pytest.mark.parametrize("cache", [None, True])
@pytest.mark.parametrize("length", [None, 8])
def test_workers_make_the_same_batches(
    cartpole: trajrec.Corpus, cache: bool | None, length: int | None
) -> None:
    options: dict[str, Any] = {"batch_size": 16, "seed": 3, "cache": cache, "length": length}
    dataset = cartpole.to_torch(**options)
    alone = digests(dataset.loader())
    assert len(alone) == len(dataset) > 2
    assert digests(dataset[k] for k in range(len(dataset))) == alone
    for num_workers in (1, 2):
        assert digests(dataset.loader(num_workers=num_workers)) == alone
        several = cartpole.to_torch(fetch=3, **options)
        assert digests(several.loader(num_workers=num_workers)) == alone
    dataset.set_epoch(1)
    later = digests(dataset.loader(num_workers=1))
    assert later != alone
    assert later == digests(dataset.loader())


def test_workers_that_live_on_see_a_new_epoch(cartpole: trajrec.Corpus) -> None:
    from torch.utils.data import DataLoader

    dataset = cartpole.to_torch(batch_size=16)
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context="spawn",
    )
    first = digests(loader)
    dataset.set_epoch(1)
    assert digests(loader) != first
    dataset.set_epoch(0)
    assert digests(loader) == first


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_yields_each_epoch_anew(cartpole: trajrec.Corpus, num_workers: int) -> None:
    dataset = cartpole.to_torch(batch_size=16, fetch=3)
    options = {"persistent_workers": True} if num_workers else {}
    loader = dataset.loader(num_workers=num_workers, **options)
    first = digests(loader)
    assert len(first) == len(loader) == dataset.source.n_batches
    assert digests(loader) == first
    dataset.set_epoch(1)
    assert digests(loader) == digests(dataset.loader()) != first


@pytest.mark.parametrize("option", [{"batch_size": 8}, {"drop_last": True}])
def test_a_loader_refuses_to_batch_again(cartpole: trajrec.Corpus, option: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"give .* to corpus.to_torch"):
        cartpole.to_torch(batch_size=16).loader(**option)


def test_tensors_share_no_memory(cartpole: trajrec.Corpus) -> None:
    dataset = cartpole.to_torch(batch_size=8, cache=True)
    batch = dataset[0]
    before = batch["next_obs"].clone()
    batch["obs"].fill_(7)
    assert torch.equal(batch["next_obs"], before)
    assert not torch.equal(dataset[0]["obs"], batch["obs"])
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    with pytest.raises(ValueError, match="fetch must be"):
        cartpole.to_torch(fetch=0)


SCRIPTS = Path(__file__).parent.parent / "docs" / "how-to"


def script(name: str) -> dict[str, Any]:
    """Return the names of a script of the docs."""
    code = (SCRIPTS / name).read_text()
    assert len(code.splitlines()) <= 40
    names: dict[str, Any] = {"__name__": name}
    exec(compile(code, name, "exec"), names)
    return names


@pytest.mark.sources
def test_a_clone_is_better_than_its_corpus(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1", max_episode_steps=200), tmp_path)
    rng = np.random.default_rng(0)
    run(
        env,
        150,
        # A controller that acts at random in every third step.
        policy=lambda obs: int(rng.integers(2) if rng.random() < 0.3 else obs[2] + obs[3] / 2 > 0),
    )
    env.close()
    names = script("behaviour_cloning.py")
    with trajrec.open(tmp_path) as corpus:
        ((mean,),) = corpus.sql("SELECT avg(total_reward) FROM episodes").fetchall()
    assert names["mean_return"](names["train"](tmp_path)) > max(mean, 150)


@pytest.mark.sources
def test_a_policy_is_learned_from_recorded_steps(tmp_path: Path) -> None:
    record(gym.make("FrozenLake-v1"), tmp_path, 2500)
    names = script("offline_q_learning.py")
    with trajrec.open(tmp_path) as corpus:
        ((mean,),) = corpus.sql("SELECT avg(total_reward) FROM episodes").fetchall()
    assert mean < 0.05
    assert names["success_rate"](names["train"](tmp_path)) > 0.6
