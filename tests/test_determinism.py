"""Environments broken in one way each: the probes name the way, and a sound one is never accused."""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from trajrec.replay import check_determinism


class Base(gym.Env[Any, Any]):
    """Sound by itself: counts up to 17 and begins again."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gym.spaces.Discrete(3)
        self.n = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n = 0
        return self.see(), {}

    def step(self, action: Any) -> Any:
        self.n += 1
        return self.see(), 0.0, self.n >= 17, False, {}

    def see(self) -> Any:
        return np.array([self.n, self.broken()], np.float64)

    def broken(self) -> float:
        return 0.0


class Clock(Base):
    def broken(self) -> float:
        return time.time()


class GlobalRandom(Base):
    def broken(self) -> float:
        return random.random()


class NumpyRandom(Base):
    def broken(self) -> float:
        return float(np.random.random())


class SetOrder(Base):
    def broken(self) -> float:
        return float("".join(sorted({"red", "green", "blue", "grey"}, key=hash)) == "redgreenbluegrey") + hash("red") % 7


class Unseeded(Base):
    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng()

    def broken(self) -> float:
        return float(self.generator.random())


class Address(Base):
    kept: list[Any] = []  # noqa: RUF012

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.kept.append(object())
        return super().reset(seed=seed)

    def broken(self) -> float:
        return float(id(self.kept[-1]) % 100_003)


class Leak(Base):
    """The number of episodes shows."""

    def __init__(self) -> None:
        super().__init__()
        self.episodes = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.episodes += 1
        return super().reset(seed=seed)

    def broken(self) -> float:
        return float(self.episodes)


class SharedLeak(Base):
    made = 0

    def __init__(self) -> None:
        super().__init__()
        SharedLeak.made += 1
        self.number = SharedLeak.made

    def broken(self) -> float:
        return float(self.number)


class TimeZone(Base):
    def broken(self) -> float:
        return float(len(os.environ.get("TZ", "")))


class Jitter(Base):
    """Threads race for who is first."""

    def broken(self) -> float:
        first: list[int] = []
        threads = [
            threading.Thread(target=lambda k=k: (time.sleep(random.SystemRandom().random() / 2000), first.append(k)))
            for k in (0, 1, 2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return float(first[0])


@pytest.mark.parametrize(
    ("factory", "cause"),
    [
        (Clock, "clock"),
        (GlobalRandom, "global random"),
        pytest.param(NumpyRandom, "global random", marks=pytest.mark.slow),
        (SetOrder, "hash order"),
        (Unseeded, "hidden randomness"),
        pytest.param(Address, "hidden randomness", marks=pytest.mark.slow),
        pytest.param(Leak, "hidden randomness|state that", marks=pytest.mark.slow),
        (SharedLeak, "a second object|state of the class"),
        pytest.param(TimeZone, "environment variable TZ", marks=pytest.mark.slow),
        pytest.param(Jitter, "hidden randomness", marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_way_of_being_broken_is_named(factory: Any, cause: str) -> None:
    report = check_determinism(factory, n_steps=60)
    assert report.grade == "none"
    assert any(part in str(finding) for finding in report.findings for part in cause.split("|")), report.findings


SLOW = [
    pytest.param(env, marks=pytest.mark.slow)
    for env in ("Hopper-v5", "Taxi-v4", "MiniGrid-DoorKey-8x8-v0", "trajrec/KeyDoor-v0", Base)
]


@pytest.mark.parametrize("env", ["CartPole-v1", *SLOW])
def test_a_sound_environment_is_exact_and_its_levels_are_granted(env: Any) -> None:
    report = check_determinism(env, n_steps=120)
    assert (report.grade, report.findings) == ("exact", ())
    granted = {name for name, level in report.levels.items() if level.is_granted}
    assert granted == {"prefix", "process", "pickle" if "MiniGrid" in str(env) else "native"}
    assert report.as_dict()["levels"]["process"]["take_us"] > 0
    assert "exact, 120 steps compared" in str(report)


def test_what_only_a_seeded_reset_makes_the_same_is_graded_so() -> None:
    class OnlySeeded(Base):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.extra = 0.0 if seed is not None else float(np.random.default_rng().random())
            return super().reset(seed=seed)

        def broken(self) -> float:
            return getattr(self, "extra", 0.0)

    report = check_determinism(OnlySeeded, n_steps=60)
    assert report.grade == "seeded"
    assert min(finding.step for finding in report.findings) == 17
