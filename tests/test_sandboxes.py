"""Environments whose state lies in another process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from outside import Forgetful, Full, Outside
from tiers import third_slow

import trajrec
from trajrec.envstate.keyframes import Keyframes
from trajrec.errors import SnapshotError
from trajrec.replay import check_determinism, credit, fork_many, replay_episode


@pytest.fixture
def episode(tmp_path: Path) -> Any:
    env = trajrec.record(Outside(), tmp_path)
    env.action_space.seed(0)
    env.reset(seed=1)
    while not env.step(env.action_space.sample())[2]:
        pass
    env.close()
    return next(trajrec.open(tmp_path).episodes())


@pytest.mark.slow
def test_sandbox_is_restored_by_its_own_snapshots_only() -> None:
    report = check_determinism(Outside, n_steps=60)
    assert report.grade == "exact"
    assert {name for name, restore in report.restore.items() if restore.is_granted} == {
        "reexecute",
        "env_snapshot",
    }
    assert "lies outside of the process" in report.restore["os_fork"].why


@pytest.mark.slow
def test_wrong_snapshots_are_not_granted() -> None:
    refused = check_determinism(Forgetful, n_steps=60)
    assert {name for name, restore in refused.restore.items() if restore.is_granted} == {
        "reexecute"
    }
    assert "it continued differently" in refused.restore["env_snapshot"].why


class Moving(Outside):
    """Continues in another container, as it were, after each restore."""

    container = 0

    def restore_snapshot(self, name: Any) -> None:
        super().restore_snapshot(name)
        self.container += 1


@pytest.mark.slow
def test_a_sandbox_may_go_on_in_another_container() -> None:
    report = check_determinism(Moving, n_steps=60)
    assert report.restore["env_snapshot"].is_granted, report.restore["env_snapshot"].why


@pytest.mark.slow
@third_slow("credit")
def test_branches_restore_the_sandbox_and_continue_as_recorded(episode: Any) -> None:
    branches = {
        restore: fork_many(
            episode,
            at=[3, 11],
            actions=episode.actions[20:22],
            n_branches=2,
            env=Outside,
            restore=restore,
            noise="recorded",
        )
        for restore in ("auto", "reexecute")
    }
    assert {branch.restore for branch in branches["auto"]} == {"env_snapshot"}
    outcomes = {
        restore: [(b.step, b.index, b.total_reward) for b in some]
        for restore, some in branches.items()
    }
    assert outcomes["auto"] == outcomes["reexecute"]
    with trajrec.open(episode.path.parent) as corpus:
        for branch in branches["auto"]:
            assert replay_episode(corpus.episode(branch.episode_id), env=Outside).grade == "exact"


@pytest.mark.slow
@third_slow("credit")
@pytest.mark.parametrize("restore", ["auto", pytest.param("env_snapshot", marks=pytest.mark.slow)])
def test_wrappers_are_restored_with_their_sandbox(episode: Any, restore: Any) -> None:
    make = lambda: gym.wrappers.TimeLimit(Outside(), 30)  # noqa: E731
    branches = fork_many(
        episode,
        at=[3, 11],
        actions=[0] * 60,
        n_branches=2,
        env=make,
        restore=restore,
        noise="recorded",
        folder=None,
        # The recorded environment had no time limit.
        control=False,
    )
    assert {
        (branch.restore, branch.truncated, branch.step + branch.n_steps) for branch in branches
    } == {("env_snapshot", True, 30)}
    report = check_determinism(make, n_steps=60)
    assert {name for name, way in report.restore.items() if way.is_granted} == {
        "reexecute",
        "env_snapshot",
    }


@pytest.mark.slow
def test_sandbox_is_not_forked_with_a_process(episode: Any) -> None:
    with pytest.raises(
        SnapshotError, match="outside the process, so forked processes would share it"
    ):
        fork_many(episode, at=[3], actions=[0], env=Outside, restore="os_fork", folder=None)


@pytest.mark.slow
def test_full_sandbox_is_reexecuted(episode: Any) -> None:
    branches = fork_many(
        episode, at=[3, 11, 20], actions=[0], env=Full, noise="recorded", folder=None
    )
    assert {branch.restore for branch in branches} <= {"env_snapshot", "reexecute"}
    assert branches[-1].restore == "reexecute"


@pytest.mark.slow
def test_snapshots_that_nobody_needs_are_dropped(episode: Any) -> None:
    made: list[Outside] = []
    left: list[int] = []

    class Watched(Outside):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def close(self) -> None:
            left.append(self.ask("count"))
            super().close()

    branches = fork_many(
        episode, at=range(20), actions=[0], env=Watched, noise="recorded", folder=None
    )
    assert {branch.restore for branch in branches} == {"env_snapshot"}
    assert made
    assert left == [0] * len(made)


@pytest.mark.slow
@third_slow("credit")
def test_rollouts_in_different_sandbox_states_are_not_merged(episode: Any) -> None:
    some = lambda observation, rng: int(rng.random() < 0.7)  # noqa: E731
    tables = [
        credit.estimate(
            episode,
            some,
            n_rollouts=8,
            steps=[36, 37],
            env=Outside,
            merge_rollouts=memo,
            folder=None,
        )
        for memo in (True, False)
    ]
    assert [row.value for row in tables[0]] == [row.value for row in tables[1]]
    assert "drawn in the environment's sandbox are the same in each rollout" in "".join(
        tables[0].notes
    )


def test_keyframe_of_a_sandbox_is_refused() -> None:
    env = Outside()
    env.reset(seed=0)
    with pytest.raises(SnapshotError, match="lies outside of this process"):
        Keyframes(env).take()
    env.close()


@pytest.mark.slow
@third_slow("credit")
def test_sandbox_that_restores_nothing_is_noticed(episode: Any) -> None:
    branches = fork_many(
        episode, at=[5, 9], actions=[0], n_branches=30, env=Forgetful, noise="recorded", folder=None
    )
    assert {branch.restore for branch in branches} == {"reexecute"}
    with pytest.raises(SnapshotError, match="continued differently"):
        fork_many(episode, at=[5], actions=[0], env=Forgetful, restore="env_snapshot", folder=None)
