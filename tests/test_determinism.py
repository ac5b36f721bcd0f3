"""Environments broken in one way each: the probes name the way, and a sound one is never accused."""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Any

import broken
import numpy as np
import pytest

from trajrec.replay import check_determinism


class NumpyRandom(broken.Sound):
    def extra(self) -> float:
        return float(np.random.random())


class SharedLeak(broken.Sound):
    made = 0

    def __init__(self) -> None:
        super().__init__()
        SharedLeak.made += 1
        self.number = SharedLeak.made

    def extra(self) -> float:
        return float(self.number)


class TimeZone(broken.Sound):
    def extra(self) -> float:
        return float(len(os.environ.get("TZ", "")))


class Jitter(broken.Sound):
    """Threads race for who is first, at every step."""

    def see(self) -> Any:
        return np.array([self.n, self.extra()], np.float64)

    def extra(self) -> float:
        first: list[int] = []

        def run(number: int) -> None:
            time.sleep(random.SystemRandom().random() / 2000)
            first.append(number)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return float(first[0])


@pytest.mark.parametrize(
    ("factory", "cause"),
    [
        (broken.Clock, "clock"),
        (broken.GlobalRandom, "global random"),
        pytest.param(NumpyRandom, "global random", marks=pytest.mark.slow),
        pytest.param(broken.HashOrder, "hash order", marks=pytest.mark.slow),
        (broken.UnseededGenerator, "hidden randomness"),
        pytest.param(broken.Address, "id()", marks=pytest.mark.slow),
        pytest.param(broken.StateLeak, "hidden randomness|state that", marks=pytest.mark.slow),
        pytest.param(SharedLeak, "a second object|state of the class", marks=pytest.mark.slow),
        pytest.param(TimeZone, "environment variable TZ", marks=pytest.mark.slow),
        pytest.param(Jitter, "hidden randomness", marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_way_of_being_broken_is_named(factory: Any, cause: str) -> None:
    report = check_determinism(factory, n_steps=60)
    assert report.grade == "none"
    assert any(part in str(finding) for finding in report.findings for part in cause.split("|")), (
        report.findings
    )


SLOW = [
    pytest.param(env, marks=pytest.mark.slow)
    for env in (
        "Hopper-v5",
        "Taxi-v4",
        "MiniGrid-DoorKey-8x8-v0",
        "trajrec/KeyDoor-v0",
        broken.Sound,
    )
]


@pytest.mark.parametrize("env", ["CartPole-v1", *SLOW])
def test_a_sound_environment_is_exact_and_its_levels_are_granted(env: Any) -> None:
    report = check_determinism(env, n_steps=120)
    assert (report.grade, report.findings) == ("exact", ())
    granted = {name for name, restore in report.restore.items() if restore.is_granted}
    assert granted == {"reexecute", "os_fork", "pickle" if "MiniGrid" in str(env) else "snapshot"}
    assert report.as_dict()["restore"]["os_fork"]["take_us"] > 0
    assert "exact, 120 steps compared" in str(report)


def test_what_only_a_seeded_reset_makes_the_same_is_graded_so() -> None:
    class OnlySeeded(broken.Sound):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.drawn = 0.0 if seed is not None else float(np.random.default_rng().random())
            return super().reset(seed=seed)

        def extra(self) -> float:
            return self.drawn

    report = check_determinism(OnlySeeded, n_steps=60)
    assert report.grade == "seeded"
    assert min(finding.step for finding in report.findings) == 17
