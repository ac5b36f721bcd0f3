"""Replay with resynchronization, and from a later step on."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.history import EpisodeTail
from trajrec.replay import fork_many, replay_episode
from trajrec.replay.execute.report import ReplayReport
from trajrec.values.diff import is_same


class Disturbed(gym.Wrapper[Any, Any, Any, Any]):
    """Changes the state before some of the steps."""

    def __init__(self, env: Any, at: Collection[int]) -> None:
        super().__init__(env)
        self.at = at
        self.n = 0

    def reset(self, **options: Any) -> Any:
        self.n = 0
        return self.env.reset(**options)

    def step(self, action: Any) -> Any:
        bare: Any = self.unwrapped
        if self.n in self.at:
            if hasattr(bare, "s"):
                bare.s = (bare.s + 1) % 16
            elif hasattr(bare, "data"):
                bare.data.qvel[0] += 0.1
            else:
                bare.state = np.array(bare.state) + 0.01
        self.n += 1
        return self.env.step(action)


ENVS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {},
    "Pendulum-v1": {},
    "MountainCar-v0": {},
    "MountainCarContinuous-v0": {},
    "Acrobot-v1": {},
    "FrozenLake-v1": {"is_slippery": False},
    "Taxi-v4": {},
    "Hopper-v5": {"terminate_when_unhealthy": False},
}


def record(folder: Path, env: Any, n_steps: int = 30, **options: Any) -> Any:
    env = trajrec.record(env, folder, **options)
    env.action_space.seed(0)
    env.reset(seed=1)
    for _ in range(n_steps):
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            break
    env.close()
    return next(trajrec.open(folder).episodes())


def forced(episode: Any, env_id: str, at: Collection[int]) -> ReplayReport:
    make = lambda: Disturbed(gym.make(env_id, **ENVS[env_id]), at)  # noqa: E731
    return replay_episode(episode, env=make, resync=True, explain=False)


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("env_id", ENVS)
def test_only_steps_that_differ_by_themselves_are_listed(tmp_path: Path, env_id: str) -> None:
    episode = record(tmp_path, gym.make(env_id, **ENVS[env_id]), keep_states="all")
    assert forced(episode, env_id, ()).grade == "exact"
    report = forced(episode, env_id, {2, 5})
    assert (report.grade, report.differing_steps) == ("diverged", (2, 5)), report
    assert report.n_steps == episode.n_steps
    assert report.divergence is not None
    assert report.divergence.step == 2
    unforced = replay_episode(
        episode, env=Disturbed(gym.make(env_id, **ENVS[env_id]), {2, 5}), explain=False
    )
    assert unforced.divergence == report.divergence


def test_restoring_a_state_leaves_wrappers_alone(tmp_path: Path) -> None:
    from trajrec.envs import KeyDoor

    class Lame(KeyDoor):
        """Does not move at the steps 3 and 4."""

        def step(self, action: Any) -> Any:
            if not hasattr(self, "n_taken"):
                self.n_taken = 0
            self.n_taken += 1
            before = self.get_state()
            result = super().step(action)
            if self.n_taken in (4, 5):
                self.set_state(before)
            return result

    episode = record(tmp_path, KeyDoor(), 12)
    report = replay_episode(episode, env=Lame, resync=True, explain=False)
    expected = [k for k in (3, 4) if not is_same(episode.state(k), episode.state(k + 1))]
    assert expected
    assert list(report.differing_steps) == expected


def test_reset_that_differs_is_resynchronized(tmp_path: Path) -> None:
    class Elsewhere(gym.Wrapper[Any, Any, Any, Any]):
        def reset(self, **options: Any) -> Any:
            _, info = self.env.reset(**options)
            bare: Any = self.unwrapped
            bare.state = np.array([1.0, 2.0])
            return bare._get_obs(), info

    episode = record(tmp_path, gym.make("Pendulum-v1"), keep_states="all")
    report = replay_episode(
        episode, env=Elsewhere(gym.make("Pendulum-v1")), resync=True, explain=False
    )
    assert report.differing_steps == (-1,)


@pytest.mark.slow
def test_report_says_why_resynchronization_stopped(tmp_path: Path) -> None:
    episode = record(tmp_path / "a", gym.make("CartPole-v1"))
    report = forced(episode, "CartPole-v1", {2})
    assert report.differing_steps == (2,)
    assert "stopped after step 2: the state there is not stored whole (keep_states='all'" in str(
        report
    )
    assert report.n_steps == 3
    episode = record(tmp_path / "b", gym.make("CartPole-v1"), state=False)
    assert "no recorded state can be restored" in str(forced(episode, "CartPole-v1", {2}))
    pytest.importorskip("minigrid")
    episode = record(tmp_path / "c", gym.make("MiniGrid-Empty-5x5-v0"))
    cut = gym.make("MiniGrid-Empty-5x5-v0", agent_start_pos=(2, 2))
    report = replay_episode(episode, env=cut, resync=True, explain=False)
    assert (
        "stopped after the reset: states of this environment (minigrid) cannot be restored"
        in str(report)
    )


class Raises(gym.Wrapper[Any, Any, Any, Any]):
    """Refuses actions of one kind."""

    refused = 1

    def step(self, action: Any) -> Any:
        if action == self.refused:
            raise ValueError("refused")
        return self.env.step(action)


@pytest.mark.slow
def test_exceptions_are_compared_step_by_step(tmp_path: Path) -> None:
    env = trajrec.record(Raises(gym.make("Taxi-v4")), tmp_path)
    env.reset(seed=3)
    for action in (0, 1, 0, 2, 1, 3):
        try:
            env.step(action)
        except ValueError:
            continue
    env.close()
    episode = next(trajrec.open(tmp_path).episodes())
    assert replay_episode(episode, env=Raises(gym.make("Taxi-v4")), resync=True).grade == "exact"

    class RaisesOther(Raises):
        refused = 2

    report = replay_episode(
        episode, env=RaisesOther(gym.make("Taxi-v4")), resync=True, explain=False
    )
    assert report.differing_steps[0] == 1
    assert report.divergence is not None
    assert (report.divergence.field, report.divergence.actual) == ("failure", "no exception")
    assert "stopped after step 1" in str(report)


def test_tail_of_an_episode_has_its_later_steps(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("Pendulum-v1", max_episode_steps=5000), tmp_path)
    env.action_space.seed(0)
    env.reset(seed=1)
    for k in range(300):
        env.step(env.action_space.sample())
        if k % 100 == 50:
            env.flush()  # spans of several chunks
    env.close()
    episode = next(trajrec.open(tmp_path).episodes())
    assert len(episode.rows.parts) > 2
    ends = [span.segment.first_step for _, span in episode.rows.parts]
    for step in sorted({0, 1, 149, 299, 300, *ends, *(end + 1 for end in ends)}):
        rest = EpisodeTail(episode, step)
        assert rest.step_numbers.tolist() == list(range(step, 300))
        assert is_same(rest.observations, episode.observations[step:])
        assert is_same(rest.actions, episode.actions[step:])
        assert is_same(rest.state_digests, episode.state_digests[step:])
        assert rest.missing_steps == []
        assert is_same(
            rest.states, {row - step: state for row, state in episode.states.items() if row >= step}
        )
        report = replay_episode(episode, first=step)
        assert report.grade == ("partial" if step else "exact")
        assert report.n_steps == 300 - step
        assert (f"compared from step {step} on" in str(report)) == bool(step)


def test_differences_before_and_after_the_first_step_are_reported(tmp_path: Path) -> None:
    episode = record(tmp_path, gym.make("Taxi-v4"), 60)
    make = lambda *at: lambda: Disturbed(gym.make("Taxi-v4"), at)  # noqa: E731
    later = replay_episode(episode, env=make(20), first=10, explain=False)
    assert later.divergence is not None
    assert later.divergence.step == 20
    before = replay_episode(episode, env=make(5), first=10, explain=False)
    assert before.grade == "diverged"
    assert before.divergence is not None
    assert before.divergence.step == 9
    beyond = replay_episode(episode, first=61)
    assert (beyond.grade, beyond.notes) == (
        "refused",
        (f"step must be in [0, 60] for episode {episode.id}, got 61",),
    )

    class Gone(Raises):
        refused = episode.actions[4]

    gone = replay_episode(episode, env=Gone(gym.make("Taxi-v4")), first=30, explain=False)
    assert gone.divergence is not None
    step = episode.actions.index(Gone.refused)
    assert (gone.divergence.step, gone.divergence.field) == (step, "failure")
    assert "ValueError: refused" in str(gone)


@pytest.mark.slow
def test_fork_is_replayed_from_its_own_step(tmp_path: Path) -> None:
    episode = record(tmp_path, gym.make("Taxi-v4"), 30)
    branch = fork_many(
        episode, at=[10], actions=[2], policy=lambda obs: int(obs) % 6, n_branches=1
    )[0]
    with trajrec.open(tmp_path) as corpus:
        child = corpus.episode(branch.episode_id)
        for first in (10, 15):
            report = replay_episode(child, first=first)
            assert report.grade == ("exact" if first == 10 else "partial")
            assert report.n_steps == child.end_step - first


@pytest.mark.slow
def test_command_line_resynchronizes_and_starts_at_a_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "trajrec.replay.explain.EXPLAINED_IN_SUBPROCESSES", 0
    )  # to find causes takes processes their time
    episode = record(tmp_path, gym.make("FrozenLake-v1", is_slippery=False))
    assert main(["replay", str(tmp_path), episode.id, "--from", "2"]) == 0
    assert "partial" in capsys.readouterr().out
    assert main(["replay", str(tmp_path), "--env", "FrozenLake8x8-v1", "--resync"]) == 1
    assert "differing by themselves" in capsys.readouterr().out
    assert main(["replay", str(tmp_path), "--from", "-1"]) == 2


def test_flags_of_a_terminated_episode_are_compared(tmp_path: Path) -> None:
    episode = record(tmp_path, gym.make("CartPole-v1"), 100)
    assert episode.ending == "terminated"
    report = replay_episode(episode, first=episode.n_steps)
    assert (report.grade, report.n_steps) == ("partial", 0)


class Ordered(gym.Wrapper[Any, Any, Any, Any]):
    """Gives observations that a log keeps as plain data."""

    def reset(self, **options: Any) -> Any:
        observation, info = self.env.reset(**options)
        return collections.OrderedDict(place=int(observation)), info

    def step(self, action: Any) -> Any:
        observation, *rest = self.env.step(action)
        return (collections.OrderedDict(place=int(observation)), *rest)


@pytest.mark.slow
def test_observations_of_any_class_replay_in_every_mode(tmp_path: Path) -> None:
    episode = record(tmp_path, Ordered(gym.make("Taxi-v4")), 20)
    make = lambda: Ordered(gym.make("Taxi-v4"))  # noqa: E731
    assert replay_episode(episode, env=make).grade == "exact"
    assert replay_episode(episode, env=make, resync=True).grade == "exact"
    assert replay_episode(episode, env=make, first=7).grade == "partial"
    branch = fork_many(episode, at=[7], actions=[0], env=make)[0]
    assert not branch.error


class Counter(gym.Env[Any, Any]):
    """Counts; raises at the steps that it is told, after it has counted."""

    observation_space = gym.spaces.Discrete(1000)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, raises: Mapping[int, type[Exception]] = {}) -> None:
        self.raises = raises
        self.n = 0
        self.n_tried = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n = self.n_tried = 0
        return 0, {}

    def step(self, action: Any) -> Any:
        self.n = self.n + 1
        self.n_tried = self.n_tried + 1
        if self.n_tried - 1 in self.raises:
            raise self.raises[self.n_tried - 1]("no")
        return self.n, 0.0, False, False, {}

    def get_state(self) -> Any:
        return self.n

    def set_state(self, state: Any) -> None:
        self.n = state


def counted(folder: Path, raises: Mapping[int, type[Exception]] = {}, n_steps: int = 30) -> Any:
    env = trajrec.record(Counter(raises), folder)
    env.reset(seed=1)
    for k in range(n_steps):
        with contextlib.suppress(ValueError):
            env.step(k % 2)
        if k % 10 == 9:
            env.flush()
    env.close()
    return next(trajrec.open(folder).episodes())


def test_steps_that_raised_are_counted(tmp_path: Path) -> None:
    episode = counted(tmp_path, {12: ValueError})
    make = lambda: Counter({12: ValueError, 20: KeyError})  # noqa: E731
    for first in (0, 5, 10):
        report = replay_episode(episode, env=make, first=first, explain=False)
        assert report.divergence is not None
        assert (report.divergence.step, report.divergence.field) == (20, "failure")
    for first in range(
        10, 16
    ):  # what a step changes before it raises is not recorded before the next
        assert (
            replay_episode(episode, env=lambda: Counter({12: ValueError}), first=first).grade
            == "partial"
        ), first


@pytest.mark.parametrize("resync", [False, True])
def test_nothing_behind_a_gap_is_compared(tmp_path: Path, resync: bool) -> None:
    episode = counted(tmp_path, {25: ValueError})
    episode.rows.parts = [part for part in episode.rows.parts if part.segment.first_step != 10]
    assert episode.missing_steps == [(10, 20)]
    report = replay_episode(episode, env=lambda: Counter({25: ValueError}), resync=resync)
    assert (report.grade, report.n_steps, report.divergence) == ("partial", 10, None), report


def test_exception_on_the_way_is_no_refusal(tmp_path: Path) -> None:
    episode = counted(tmp_path)
    report = replay_episode(episode, env=lambda: Counter({3: IndexError}), first=10, explain=False)
    assert report.divergence is not None
    assert (report.divergence.step, report.divergence.field) == (3, "failure")

    class NoReset(Counter):
        def reset(self, **_: Any) -> Any:
            raise IndexError("no reset")

    report = replay_episode(episode, env=NoReset, first=10, explain=False)
    assert report.divergence is not None
    assert report.divergence.step == -1


def test_ignored_paths_do_not_apply_to_states(tmp_path: Path) -> None:
    episode = record(tmp_path, gym.make("Pendulum-v1"), 10, keep_states="all")
    ignore = {"observation/0", "observation/1", "observation/2", "reward", "state/0", "state/1"}
    make = lambda: Disturbed(gym.make("Pendulum-v1"), {3})  # noqa: E731
    for resync in (False, True):
        report = replay_episode(episode, env=make, ignore=ignore, resync=resync, explain=False)
        assert report.grade == "diverged"


@pytest.mark.slow
def test_episodes_that_end_before_the_step_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counted(tmp_path, n_steps=5)
    counted(tmp_path, n_steps=15)
    command = [
        "replay",
        str(tmp_path),
        "--from",
        "10",
        "--allow",
        "test_resync",
        "--env",
        f"{__name__}:Counter",
    ]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "1 episode, 5 steps: 1 partial" in captured.out
    assert "1 episode ended before step 10" in captured.err


def test_exception_with_another_message_is_noted(tmp_path: Path) -> None:
    class Other(Counter):
        def step(self, action: Any) -> Any:
            try:
                return super().step(action)
            except ValueError as exc:
                raise ValueError("another") from exc

    episode = counted(tmp_path, {12: ValueError})
    for resync in (False, True):
        report = replay_episode(episode, env=lambda: Other({12: ValueError}), resync=resync)
        assert report.grade == "state"
        assert "the message of the exception at step 12" in str(report)


def test_pages_and_junit_name_steps_that_differ_by_themselves(tmp_path: Path) -> None:
    from trajrec.replay.html import write_html
    from trajrec.replay.regressions import write_junit

    episode = record(tmp_path / "runs", gym.make("Taxi-v4"), 20)
    reports = [forced(episode, "Taxi-v4", {2, 5}), replay_episode(episode, first=3)]
    write_html(tmp_path / "page.html", reports, "runs")
    write_junit(tmp_path / "junit.xml", reports, "runs")
    text = (tmp_path / "page.html").read_text()
    assert "differing by themselves: 2, 5" in text
    assert "compared from step 3 on" in text


class Grid(gym.Env[Any, Any]):
    """Holds its state in Fortran order, and changes what it was given as its state."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(-np.inf, np.inf, ())
    error = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        grid = np.exp(5 * self.np_random.normal(size=(37, 53)))
        self.state = {"n": 0, "parts": [np.asfortranarray(grid)]}
        return self.state["parts"][0].sum(), {}

    def step(self, action: Any) -> Any:
        grid = self.state["parts"][0]
        grid *= 1.01
        self.state["n"] += 1
        if self.state["n"] == 3:
            grid[0, 0] += self.error
        return grid.sum(), 0.0, False, False, {}

    def get_state(self) -> Any:
        return self.state

    def set_state(self, state: Any) -> None:
        self.state = state


class WrongGrid(Grid):
    error = 1.0


def test_restored_arrays_lie_in_memory_as_before(tmp_path: Path) -> None:
    episode = record(tmp_path, Grid(), keep_states="all")
    report = replay_episode(episode, env=WrongGrid, resync=True, explain=False)
    assert report.differing_steps == (2,)


def test_restored_environment_leaves_the_recorded_states_alone(tmp_path: Path) -> None:
    episode = record(tmp_path, Grid(), keep_states="all")
    for _ in range(2):
        replay_episode(episode, env=WrongGrid, resync=True, explain=False)
    assert replay_episode(episode, env=Grid).grade == "exact"
