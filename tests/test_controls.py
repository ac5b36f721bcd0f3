"""Controls: branches are right, or refused, wherever an environment keeps its state."""

from __future__ import annotations

import contextlib
import random
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import pytest
from hidden_state import (
    LENGTH,
    Hidden,
    InCallable,
    InChild,
    InFile,
    InLibrary,
    InMemory,
    InModule,
    InThread,
    after,
    truth,
)
from tiers import mostly_deep, spread, third_slow

import trajrec
from trajrec.corpus.episode_parts import EpisodeParts
from trajrec.errors import ControlError, DivergenceError, SnapshotError
from trajrec.log.schema import Fork
from trajrec.replay import credit, fork, fork_many
from trajrec.replay.forks.control import last_step_of
from trajrec.replay.forks.fallback import with_fallback
from trajrec.values import codec

SEED = 7


def record(env: Any, folder: Path) -> Any:
    env = trajrec.record(env, folder)
    env.reset(seed=SEED)
    for k in range(LENGTH):
        env.step(k % 5)
    env.close()
    return next(trajrec.open(folder).episodes())


@pytest.fixture(autouse=True)
def state_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InFile, "path", tmp_path / "state")
    monkeypatch.setenv("TRAJREC_TEST_FILE", str(tmp_path / "state"))


def wrong(branches: Any, folder: Path) -> list[str]:
    """Return the branches that are not what the game gives."""
    found = []
    with trajrec.open(folder) as corpus:
        for branch in branches:
            start = [k % 5 for k in range(branch.step)]
            expected = truth(SEED, [*start, *branch.actions])
            seen = corpus.episode(branch.episode_id).observation_values if branch.episode_id else []
            if list(seen) != expected[branch.step :]:
                found.append(str(branch))
    return found


def fork_often(episode: Any, kind: Any, **options: Any) -> Any:
    return fork_many(
        episode,
        at=[3, 20, 31],
        policy=lambda observation, rng: int(rng.integers(5)),
        n_branches=9,
        env=kind,
        **options,
    )


KINDS = [InChild, InFile, InThread, InLibrary, InMemory, InModule]


@mostly_deep("credit", drawn=3)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_branches_are_right_wherever_the_state_lies(kind: Any, jobs: int, tmp_path: Path) -> None:
    episode = record(kind(), tmp_path)
    branches = fork_often(episode, kind, jobs=jobs)
    assert len(branches) == 27
    assert not wrong(branches, tmp_path)
    assert branches.controls.n >= 2
    assert branches.controls.n_repeats == 2
    # What was run in vain before has left no branch.
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT count(*) FROM forks").fetchall() == [(27,)]
        assert all(child.has_control for child in corpus.episodes(kind="fork"))


@pytest.mark.parametrize(
    ("kind", "restore", "jobs"),
    spread(
        "environments",
        list(product(KINDS, ["reexecute", "os_fork", "snapshot", "pickle"], [1, 2])),
        drawn=10,
    ),
)
def test_branches_are_right_or_refused(kind: Any, restore: Any, jobs: int, tmp_path: Path) -> None:
    episode = record(kind(), tmp_path)
    try:
        branches = fork_often(episode, kind, jobs=jobs, restore=restore)
    except (ControlError, DivergenceError, SnapshotError):
        assert list(tmp_path.glob("*.trj")) == [episode.path]
    else:
        assert len(branches) == 27
        assert not wrong(branches, tmp_path)


@pytest.mark.slow
def test_void_branches_are_wrong_without_controls(tmp_path: Path) -> None:
    """The control arm of this test: without controls, most of the branches above are wrong."""
    episode = record(InModule(), tmp_path)
    branches = fork_often(episode, InModule, restore="snapshot", control=False)
    assert len(wrong(branches, tmp_path)) > 13
    with trajrec.open(tmp_path) as corpus:
        assert corpus.episode(branches[0].episode_id or "").has_control is False


class Worn(Hidden):
    """The game, in which every third environment of the process adds one to each action."""

    n_made = 0

    def __init__(self) -> None:
        super().__init__()
        Worn.n_made += 1
        self.is_odd = Worn.n_made % 3 == 0

    def put(self, x: int) -> None:
        self.x = x

    def push(self, action: int) -> int:
        self.x = after(self.x, action + self.is_odd)
        return self.x


class Tiring(Hidden):
    """The game, in which each action 4 of the process adds one more; the recording has none."""

    n_fours = 0

    def put(self, x: int) -> None:
        self.x = x

    def push(self, action: int) -> int:
        Tiring.n_fours += action == 4
        self.x = after(self.x, action + Tiring.n_fours * (action == 4))
        return self.x


@pytest.mark.slow
@pytest.mark.parametrize("restore", ["snapshot", "reexecute", "auto"])
def test_branches_that_depend_on_those_before_are_refused(restore: Any, tmp_path: Path) -> None:
    """No control sees it: the recorded actions always give the recorded results."""
    Tiring.n_fours = 0
    env = trajrec.record(Tiring(), tmp_path)
    env.reset(seed=SEED)
    for _ in range(LENGTH):
        env.step(0)
    env.close()
    episode = next(trajrec.open(tmp_path).episodes())
    options: Any = {"at": [20], "actions": [4] * 10, "n_branches": 3, "env": Tiring}
    with pytest.raises(
        ControlError,
        match=r"run twice with the same actions|variable test_controls\.Tiring\.n_fours",
    ):
        fork_many(episode, restore=restore, **options)
    assert list(tmp_path.glob("*.trj")) == [episode.path]
    # The control arm: branches with equal actions have other results, and nothing shows it.
    branches = fork_many(episode, restore="snapshot", control=False, folder=None, **options)
    assert len({branch.total_reward for branch in branches}) > 1


@pytest.mark.slow
def test_fork_into_another_environment_names_step_and_field(tmp_path: Path) -> None:
    Worn.n_made = 0
    episode = record(Worn(), tmp_path)
    with fork(episode, at=5, env=Worn) as env:
        assert env.observation == 0
    Worn.n_made = 2
    with pytest.raises(ControlError, match="after step 24, reward: recorded") as info:
        fork(episode, at=5, env=Worn, folder=None)
    assert (info.value.start, info.value.step, info.value.field) == (5, 24, "reward")
    Worn.n_made = 2
    with fork(episode, at=5, env=Worn, control=False) as env:
        env.step(0)
    with trajrec.open(tmp_path) as corpus:
        assert corpus.episode(env.episode_id or "").has_control is False
        assert corpus.episode(episode.id).has_control is None


@pytest.mark.slow
def test_a_tenth_of_the_branches_is_controls_and_repeats(tmp_path: Path) -> None:
    episode = record(InLibrary(), tmp_path)
    branches = fork_many(
        episode, at=range(50), policy="random", n_branches=6, env=InLibrary, folder=None
    )
    controls = branches.controls
    assert len(branches) == 300
    assert (controls.n, controls.n_repeats) == (15, 15)
    n_steps = sum(branch.n_steps for branch in branches)
    assert 0.05 * n_steps < controls.n_steps + controls.n_repeat_steps < 0.11 * n_steps
    assert str(controls).startswith("15 controls (")
    # Controls are longer than these branches, so there are as few as possible.
    short = fork_many(episode, at=range(50), actions=[1], n_branches=6, env=InLibrary, folder=None)
    assert (short.controls.n, short.controls.n_repeats) == (2, 15)


class Flaky(gym.Env[Any, Any]):
    """Counts its steps; the third one is refused, and then not counted, as long as it is busy."""

    observation_space = gym.spaces.Discrete(100)
    action_space = gym.spaces.Discrete(2)
    error: type[Exception] | None = None

    def __init__(self, error: type[Exception] | None = None) -> None:
        self.error = error

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n = self.n_tried = 0
        return 0, {}

    def step(self, action: Any) -> Any:
        self.n_tried += 1
        if self.n_tried == 3 and self.error is not None:
            raise self.error("busy")
        self.n += 1
        return self.n, 0.0, False, False, {}


@pytest.mark.slow
@pytest.mark.parametrize("error", [None, KeyError])
def test_a_step_that_does_not_raise_again_is_no_fork_point(
    error: type[Exception] | None, tmp_path: Path
) -> None:
    with trajrec.record(Flaky(TimeoutError), tmp_path) as env:
        env.reset(seed=SEED)
        for _ in range(3):
            with contextlib.suppress(TimeoutError):
                env.step(0)
    episode = next(trajrec.open(tmp_path).episodes())
    with fork(episode, at=3, env=lambda: Flaky(TimeoutError), folder=None) as same:
        assert same.step(0)[0] == 3
    for at in (1, 3):
        expected = ControlError if at == 1 else DivergenceError
        with pytest.raises(expected, match=r"after step 2, failure: recorded 'builtins.Timeout"):
            fork(episode, at=at, env=lambda: Flaky(error), folder=None)
        with pytest.raises(expected, match="after step 2, failure"):
            fork_many(episode, at=at, actions=[0], env=lambda: Flaky(error), folder=None)


class Late(gym.Env[Any, Any]):
    """Adds its actions up in a setting of the interpreter, from step 20 on: no probe sees it."""

    observation_space = gym.spaces.Discrete(1000)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        sys.setswitchinterval(0.005)
        return self.sum, {}

    @property
    def sum(self) -> int:
        return round(sys.getswitchinterval() * 1e5) - 500

    def step(self, action: Any) -> Any:
        self.t += 1
        if self.t > 20:
            sys.setswitchinterval(sys.getswitchinterval() + int(action) * 1e-5)
        return self.sum, 0.0, False, False, {}


@pytest.mark.slow
@third_slow("credit")
@pytest.mark.parametrize("state", [None, lambda env: env.unwrapped.sum])
def test_a_wrong_snapshot_on_the_way_is_another_ways_chance(state: Any, tmp_path: Path) -> None:
    interval = sys.getswitchinterval()
    with trajrec.record(Late(), tmp_path, state=state or False) as env:
        env.reset(seed=SEED)
        for k in range(50):
            env.step(k % 3)
    episode = next(trajrec.open(tmp_path).episodes())
    options: Any = {"at": [2, 30], "actions": [1], "env": Late, "folder": None, "state": state}
    try:
        branches = fork_many(episode, **options)
        assert {branch.restore for branch in branches} == {"os_fork"}
        # Without controls a branch may be wrong, but not one that is verified.
        assert len(fork_many(episode, control=False, **options)) == 2
        with pytest.raises(ControlError, match="does not reproduce the recording"):
            fork_many(episode, restore="snapshot", **options)
    finally:
        sys.setswitchinterval(interval)


def test_a_control_ends_at_lost_and_redacted_steps(tmp_path: Path) -> None:
    episode = record(InLibrary(), tmp_path)
    assert last_step_of(episode, 10) == LENGTH
    assert last_step_of(episode, LENGTH) == LENGTH
    lost = SimpleNamespace(end_step=500, missing_steps=[(90, 3)], redacted_step=None)
    assert last_step_of(lost, 10) == 90
    assert last_step_of(lost, 91) == 291
    redacted = SimpleNamespace(end_step=500, missing_steps=[], redacted_step=40)
    assert last_step_of(redacted, 10) == 40


def value(step: int) -> float:
    """Return the return of the policy that always takes action 2, from a step on."""
    actions = [k % 5 for k in range(step)] + [2] * (LENGTH - step)
    return float(sum(x % 7 for x in truth(SEED, actions)[step + 1 :]))


@mostly_deep("credit", drawn=4)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [*KINDS, InCallable])
def test_credit_is_right_wherever_the_state_lies(kind: Any, jobs: int, tmp_path: Path) -> None:
    episode = record(kind(), tmp_path)
    steps = [0, 10, 30]
    table = credit.estimate(
        episode,
        lambda observation: 2,
        estimator="value",
        steps=steps,
        n_rollouts=4,
        env=kind,
        jobs=jobs,
    )
    assert [row.value for row in table] == [value(step) for step in steps]
    assert table.controls.n >= 2
    assert table.controls.n_repeats >= 2


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("kind", [InMemory, InModule, InCallable])
def test_wrongly_merged_rollouts_are_run_alone(kind: Any, tmp_path: Path) -> None:
    episode = record(kind(), tmp_path)
    policy = lambda observation, rng: int(rng.integers(5))  # noqa: E731
    options: Any = {
        "estimator": "value",
        "steps": [0, 5, 10],
        "n_rollouts": 8,
        "env": kind,
        "folder": None,
        # No snapshot sees memory at an address.
        "restore": "reexecute",
    }
    alone = credit.estimate(episode, policy, merge_rollouts=False, **options)
    table = credit.estimate(episode, policy, **options)
    assert [row.value for row in table] == [row.value for row in alone]
    if kind is not InMemory:
        # The state is part of the key, or a control has seen that the variable changes.
        assert not any("not merged" in note for note in table.notes)
        return
    assert any("rollouts were not merged" in note for note in table.notes)
    # The control arm: what merging gives without repeats.
    merged = credit.estimate(episode, policy, control=False, **options)
    assert [row.value for row in merged] != [row.value for row in alone]


@pytest.mark.slow
def test_credit_for_another_environment_needs_control_false(tmp_path: Path) -> None:
    Worn.n_made = 0
    episode = record(Worn(), tmp_path)

    def make() -> Worn:
        env = Worn()
        env.is_odd = True
        return env

    options: Any = {"estimator": "value", "steps": [3], "n_rollouts": 2, "env": make}
    with pytest.raises(ControlError, match="no way of reaching its steps is right"):
        credit.estimate(episode, lambda observation: 2, **options)
    table = credit.estimate(episode, lambda observation: 2, control=False, **options)
    assert "no controls ran among the rollouts" in table.notes
    with trajrec.open(tmp_path) as corpus:
        # The run that was void has left nothing.
        assert corpus.sql("SELECT count(DISTINCT run_id) FROM credit").fetchall() == [(1,)]


@pytest.mark.parametrize(
    "data", [None, b"", b"\xc1", codec.encode([1]), codec.encode({"control": 1})]
)
def test_a_fork_that_says_nothing_of_controls_is_unknown(data: bytes | None) -> None:
    fork_record = Fork(episode=0, parent_id="0" * 16, step=1, kind="actions", extra_data=data)
    read = EpisodeParts.has_control.fget
    assert read is not None
    assert read(SimpleNamespace(fork=fork_record)) is None


@dataclass(frozen=True)
class Work:
    restore: Any = "auto"
    jobs: int = 2
    backend: Any = "local"
    control: bool = True


@pytest.mark.parametrize("jobs", [1, 2])
def test_snapshots_that_fail_later_are_given_up(jobs: int) -> None:
    tried = []

    def run(attempt: Work) -> Any:
        tried.append((attempt.restore, attempt.jobs))
        if attempt.restore == "auto":
            raise SnapshotError("restore='snapshot' does not work for this environment: it differs")
        return attempt.restore

    assert with_fallback(Work(jobs=jobs), run) in ("os_fork", "reexecute")
    assert len(tried) == 2
    with pytest.raises(SnapshotError):
        with_fallback(Work(jobs=jobs, control=False), run)


class Paid(gym.RewardWrapper[Any, Any]):
    """Pays another reward than the recorded environment."""

    def reward(self, reward: Any) -> float:
        return float(reward) * 3


class PaidByChance(gym.RewardWrapper[Any, Any]):
    """Pays a reward that no run repeats."""

    def reward(self, reward: Any) -> float:
        return float(reward) + random.SystemRandom().random()


@pytest.mark.slow
def test_rewards_of_a_changed_environment_are_refused(tmp_path: Path) -> None:
    episode = record(gym.make("Taxi-v4"), tmp_path)

    def changed() -> Any:
        return Paid(gym.make("Taxi-v4"))

    options: Any = {"env": changed, "folder": None}
    recorded = "after step 0, reward: recorded -1, now -3.0"
    with pytest.raises(DivergenceError, match=recorded), fork(episode, at=5, **options):
        pass
    with pytest.raises(DivergenceError, match=recorded):
        fork_many(episode, at=[5], policy="random", n_branches=2, **options)
    with pytest.raises(DivergenceError, match=recorded):
        credit.estimate(episode, "random", n_rollouts=2, steps=[5], **options)


def test_rewards_that_no_run_repeats_hinder_no_fork(tmp_path: Path) -> None:
    def make() -> Any:
        return PaidByChance(gym.make("Taxi-v4"))

    episode = record(make(), tmp_path)
    with fork(episode, at=5, env=make, folder=None) as env:
        env.step(0)
