"""The options of a replay: one list of keywords, and one type for the differences to ignore."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import record

import trajrec
from trajrec.replay import ReplayOptions, replay_episode, replay_episodes, what_if
from trajrec.replay.execute.tolerance import Tolerance
from trajrec.replay.options import replay_config
from trajrec.values.diff import Change
from trajrec.values.projection import Projection


class Drifting(gym.Env[Any, Any]):
    """Counts its steps; its observation and info also contain a given error."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, error: float = 0.0) -> None:
        self.error = error
        self.n = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.n = 0
        return np.zeros(2), {}

    def step(self, action: Any) -> Any:
        self.n += 1
        observation = np.array([self.n, 0.5 + self.error])
        return observation, 1.0, self.n == 5, False, {"error": self.error}

    def get_state(self) -> Any:
        return {"n": self.n, "error": self.error}

    def set_state(self, state: Any) -> None:
        self.n = state["n"]


class Scale:
    """A world whose tool returns a weight that drifts."""

    def __init__(self, weight: float = 0.5) -> None:
        self.weight = weight

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        pass

    def tools(self) -> list[trajrec.Tool]:
        return [trajrec.Tool("weigh")]

    def call(self, name: str, arguments: dict[str, Any]) -> float:
        return self.weight


def only_episode(folder: Path) -> Any:
    (episode,) = trajrec.open(folder).episodes()
    return episode


def test_options_document_exactly_the_keywords_of_the_configuration() -> None:
    keywords = set(inspect.signature(replay_config).parameters)
    assert set(ReplayOptions.__annotations__) == keywords
    assert ReplayOptions.__doc__ is not None
    for keyword in keywords:
        assert f"    {keyword}: " in ReplayOptions.__doc__


def test_options_survive_being_read_twice() -> None:
    config = replay_config(allow=iter(["a", "b"]), ignore=["info/x"], ulps=2, explain=False)
    assert replay_config(**config.as_options()) == config
    assert config.allow == ("a", "b")


@pytest.mark.parametrize("name", ["first", "ulps"])
def test_negative_option_is_refused_by_name(name: str, tmp_path: Path) -> None:
    record(Drifting(), tmp_path, 1)
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
        replay_episode(only_episode(tmp_path), **{name: -1})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["allow", "ignore"])
def test_one_text_in_place_of_several_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a list of"):
        replay_config(**{name: "info/time"})  # type: ignore[arg-type]
    with trajrec.episode(tmp_path) as ep:
        ep.tool(lambda: 1, name="one", access="read")()
    episode = trajrec.open(tmp_path).episode(ep.id)
    with pytest.raises(TypeError, match=f"{name} must be a list of"):
        trajrec.rerun(episode, **{name: "2024.10"})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=f"{name} must be a list of"):
        what_if(episode, at=0, agent=lambda: None, **{name: "2024.10"})  # type: ignore[arg-type]


def test_unknown_option_is_refused_by_name(tmp_path: Path) -> None:
    record(Drifting(), tmp_path, 1)
    with pytest.raises(TypeError, match="tolerance"):
        replay_episode(only_episode(tmp_path), tolerance=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("tolerance", "label"),
    [
        (Tolerance(), None),
        (Tolerance(frozenset({"info/x"})), "info/x"),
        (Tolerance(frozenset({"info/y"})), None),
        (Tolerance(ulps=1), "floats within 1 ulp"),
        (Tolerance(projection=Projection("no-infos", "1", leave_out=("info",))), "info/x"),
        (Tolerance(projection=Projection("cents", "1", decimals={"info/x": 2})), "info/x"),
        (Tolerance(projection=Projection("others", "1", leave_out=("state",))), None),
    ],
)
def test_tolerance_labels_each_difference_that_it_ignores(
    tolerance: Tolerance, label: str | None
) -> None:
    assert tolerance.label(Change(("info", "x"), 1.0, 1.0 + 2**-52)) == label


@pytest.mark.parametrize("number", [float, np.float32, np.float64])
def test_decimals_count_for_each_type_of_float(number: Any) -> None:
    cents = Projection("cents", "1", decimals={"price": 2})
    assert cents.changes({"price": number(0.001)}, {"price": number(-0.001)}) == []
    assert cents.digest({"price": number(0.001)}) == cents.digest({"price": number(-0.001)})
    assert cents.changes({"price": number(0.001)}, {"price": number(0.01)})


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("resync", [False, True])
def test_projection_of_an_environment_ignores_only_its_own_paths(
    resync: bool, tmp_path: Path
) -> None:
    record(Drifting(), tmp_path, 1)
    episode = only_episode(tmp_path)
    drifting = lambda: Drifting(0.001)  # noqa: E731
    coarse = Projection("two-decimals", "1", decimals={"*": 2})
    report = replay_episode(episode, env=drifting, projection=coarse, resync=resync)
    assert report.grade == "state"
    assert "(under projection two-decimals v1)" in report.notes[-1]
    assert "observation/1" in report.notes[-1]
    infos = Projection("no-infos", "1", leave_out=("info", "state/error"))
    report = replay_episode(episode, env=drifting, projection=infos, resync=resync, explain=False)
    assert report.divergence is not None
    assert report.divergence.field == "observation/1"


def test_floats_of_a_world_may_lie_some_ulps_apart(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, world=Scale()) as ep:
        ep.call("weigh")
    episode = only_episode(tmp_path)
    drifted = Scale(0.5 + 2**-53)
    assert replay_episode(episode, world=drifted, explain=False).grade == "diverged"
    report = replay_episode(episode, world=drifted, ulps=1)
    assert report.grade == "state"
    assert "floats within 1 ulp" in report.notes[-1]


def test_world_is_given_as_object_or_factory(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, world=Scale()) as ep:
        ep.call("weigh")
    episode = only_episode(tmp_path)
    for world in (Scale(), Scale):
        assert replay_episode(episode, world=world).grade == "exact"
        assert [r.grade for r in replay_episodes([episode], world=world)] == ["exact"]
    with pytest.raises(TypeError, match="must be functions that make one"):
        next(replay_episodes([episode], world=Scale(), jobs=2))


def test_checks_of_an_environment_are_refused(tmp_path: Path) -> None:
    record(Drifting(), tmp_path, 1)
    with pytest.raises(ValueError, match="checks must be empty"):
        replay_episode(only_episode(tmp_path), env=Drifting, checks=[lambda env: True])
