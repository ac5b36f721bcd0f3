"""Forks with fresh noise tell of noise that no seed sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from outer_envs import LENGTH
from test_unset_noise import (
    Coins,
    DrawsAtReset,
    HoldsKey,
    InIterator,
    MakesGenerators,
    OwnGenerator,
    SeedsEachStep,
    record,
)
from tiers import third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.replay import fork, fork_many


class DrawsLate(Coins):
    """Draws in its last steps alone."""

    def begin(self, seed: int | None) -> None:
        pass

    def pay(self, action: int) -> float:
        return float(self.np_random.integers(2)) if self.n >= LENGTH - 1 else 0.0


NONE_DREW = "no step drew from a generator that was seeded"


def branches_of(kind: Any, folder: Path, **options: Any) -> Any:
    episode = record(kind(), folder)
    options = {"at": [2, 4], "n_branches": 4, "policy": "random", "env": kind, **options}
    return fork_many(episode, **options)


@third_slow("credit")
@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize(
    ("kind", "note", "by_branch"),
    [
        (SeedsEachStep, "draws from generators that its own steps seed", {None}),
        (OwnGenerator, NONE_DREW, {""}),
        (DrawsAtReset, NONE_DREW, {""}),
        (MakesGenerators, NONE_DREW, {""}),
        (HoldsKey, "draws from a key of JAX in attribute inner of HoldsKey", None),
        (InIterator, "", {None}),
        (DrawsLate, "", {None}),
    ],
)
def test_branches_note_noise_that_no_seed_sets(
    kind: Any, note: str, by_branch: Any, tmp_path: Path
) -> None:
    branches = branches_of(kind, tmp_path)
    assert [note in one for one in branches.notes] == ([True] if note else [])
    with trajrec.open(tmp_path) as corpus:
        stored = {corpus.episode(branch.episode_id).unset_noise for branch in branches}
    assert stored == (by_branch or {"a key of JAX in attribute inner of HoldsKey"})


@pytest.mark.slow
@third_slow("credit")
@pytest.mark.parametrize("more", [{"restore": "os_fork"}, {"jobs": 2}], ids=str)
def test_branches_of_other_processes_note_it_too(more: Any, tmp_path: Path) -> None:
    (note,) = branches_of(SeedsEachStep, tmp_path, **more).notes
    assert "its own steps seed" in note


def test_recorded_noise_needs_no_note(tmp_path: Path) -> None:
    branches = branches_of(OwnGenerator, tmp_path, noise="recorded")
    assert branches.notes == ()
    with trajrec.open(tmp_path) as corpus:
        assert corpus.episode(branches[0].episode_id).unset_noise is None


def test_known_environments_need_no_note_in_forks(tmp_path: Path) -> None:
    episode = record(gym.make("CartPole-v1"), tmp_path)
    assert fork_many(episode, at=2, policy="random", n_branches=3).notes == ()


def test_a_single_fork_tells_whether_its_steps_drew(tmp_path: Path) -> None:
    for kind, note in ((OwnGenerator, NONE_DREW), (InIterator, "")):
        episode = record(kind(), tmp_path / kind.__name__)
        with fork(episode, at=3, env=kind, noise="fresh") as env:
            assert env.notes == ()  # no step was taken, so none could draw
            env.step(0)
            env.step(1)
            assert [note in one for one in env.notes] == ([True] if note else [])
        with fork(episode, at=3, env=kind, folder=None) as env:
            assert env.notes == ()


@pytest.mark.slow
def test_the_command_says_the_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    episode = record(OwnGenerator(), tmp_path)
    command = ["fork", str(tmp_path), episode.id, "--at", "2", "--policy", "random", "-n", "2"]
    assert main([*command, "--env", "test_unset_noise:OwnGenerator", "--json"]) == 0
    assert NONE_DREW in capsys.readouterr().err
