"""check_determinism: each fault of an environment is named, and a sound one passes."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from pathlib import Path
from typing import Any

import broken
import gymnasium as gym
import numpy as np
import pytest
from tiers import mostly_deep, spread, third_slow

import trajrec
from trajrec.envstate.pettingzoo import as_gymnasium
from trajrec.errors import EnvContractError
from trajrec.replay import check_determinism, fork_many
from trajrec.replay.diagnose.interface_checks import InterfaceChecker, check_state_methods
from trajrec.replay.diagnose.probes import RolloutPlan, probe_determinism
from trajrec.replay.diagnose.restore_probes import probe_restore
from trajrec.replay.diagnose.rollouts import rollout


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


class KeepsPlace(broken.Sound):
    """Begins where the last episode ended, which is always the same place after the first one."""

    place = 0

    def reset(self, **options: Any) -> Any:
        obs, info = super().reset(**options)
        return obs, {**info, "place": self.place}

    def step(self, action: Any) -> Any:
        self.place = 3
        return super().step(action)


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


class OnceSeeded(broken.Sound):
    """Draws from a generator that its constructor seeds, and no reset."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = np.random.default_rng(2024)

    def extra(self) -> float:
        return float(self.noise.random())


@mostly_deep("environments", drawn=4)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "cause"),
    [
        (broken.Clock, "clock"),
        (broken.GlobalRandom, "global random"),
        pytest.param(NumpyRandom, "global random", marks=pytest.mark.slow),
        pytest.param(broken.HashOrder, "hash order", marks=pytest.mark.slow),
        (broken.UnseededGenerator, "unseeded generator"),
        pytest.param(broken.Address, "id()", marks=pytest.mark.slow),
        pytest.param(broken.StateLeak, "state that reset does not clear", marks=pytest.mark.slow),
        (OnceSeeded, "a generator that only the constructor seeds"),
        pytest.param(SharedLeak, "a second object|state of the class", marks=pytest.mark.slow),
        pytest.param(TimeZone, "environment variable TZ", marks=pytest.mark.slow),
        pytest.param(Jitter, "unknown", marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_fault_is_named_with_its_cause(factory: Any, cause: str) -> None:
    report = check_determinism(factory, n_steps=60)
    assert report.grade == "none"
    assert report.restore["reexecute"].is_granted == (factory in (broken.StateLeak, OnceSeeded))
    assert any(part in str(finding) for finding in report.findings for part in cause.split("|")), (
        report.findings
    )


@pytest.mark.slow
def test_carried_state_is_no_other_cause() -> None:
    report = check_determinism(KeepsPlace, n_steps=20)
    assert report.grade == "none"
    probes = {finding.probe for finding in report.findings}
    assert "the same object again" in probes
    assert not probes & {"other global generators", "another time"}


@pytest.mark.slow
@third_slow("replay")
@pytest.mark.parametrize("env", [broken.StateLeak, "BipedalWalker-v3"])
def test_reexecution_in_new_environments_is_granted_with_its_condition(env: Any) -> None:
    report = check_determinism(env, n_steps=60)
    assert report.grade == "none"
    assert str(report.restore["reexecute"]) == "yes, in a new environment each time"


SOUND = [
    "CartPole-v1",
    "Hopper-v5",
    "Taxi-v4",
    "MiniGrid-DoorKey-8x8-v0",
    "trajrec/KeyDoor-v0",
    broken.Sound,
]


@pytest.mark.slow
@pytest.mark.parametrize("env", spread("environments", SOUND, fixed=["CartPole-v1"], drawn=2))
def test_sound_environment_is_exact_and_can_be_restored(env: Any) -> None:
    report = check_determinism(env, n_steps=120)
    assert (report.grade, report.findings) == ("exact", ())
    granted = {name for name, restore in report.restore.items() if restore.is_granted}
    assert granted == {"reexecute", "os_fork", "pickle" if "MiniGrid" in str(env) else "snapshot"}
    assert (report.violations, report.reuses_buffers, report.has_passed) == ((), False, True)
    assert report.as_dict()["restore"]["os_fork"]["take_us"] > 0
    assert "exact, 120 steps compared" in str(report)


@pytest.mark.slow
def test_difference_after_unseeded_resets_is_graded_seeded() -> None:
    class OnlySeeded(broken.Sound):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.drawn = 0.0 if seed is not None else float(np.random.default_rng().random())
            return super().reset(seed=seed)

        def extra(self) -> float:
            return self.drawn

    report = check_determinism(OnlySeeded, n_steps=60)
    assert report.grade == "seeded"
    assert report.restore["reexecute"].is_granted
    assert min(finding.step for finding in report.findings) == 17


class Faulty(gym.Env[Any, Any]):
    """Counts its steps, and has one fault."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(2)
    made = 0

    def __init__(self, fault: str = "none") -> None:
        self.fault = fault
        self.k = 0
        self.resets = 0
        self.buffer = np.zeros(2)
        Faulty.made += 1
        self.number = Faulty.made

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.k = 0
        self.resets += 1
        return np.zeros(2), {}

    def step(self, action: Any) -> Any:
        self.k += 1
        extra = {
            "global random": lambda: random.random(),
            "numpy's global random": lambda: np.random.random(),
            "clock": lambda: time.time() % 1000,
            "milliseconds": lambda: time.clock_gettime_ns(time.CLOCK_REALTIME) // 1_000_000 % 1000,
            "leak over reset": lambda: self.resets,
            "object": lambda: self.number,
        }.get(self.fault, lambda: 0.0)()
        observation = np.array([self.k, extra])
        if self.fault == "buffer":
            self.buffer[:] = observation
            observation = self.buffer
        if self.fault == "type":
            return observation, "much", False, False, {}
        return observation, 1.0, False, self.k == 50, {}


@mostly_deep("environments", drawn=2)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "probe"),
    [
        ("global random", "the same object again"),
        ("numpy's global random", "the same object again"),
        ("clock", "the same object again"),
        # Its clock is not frozen by the probe of another time, and a fast rollout may end within
        # one tick of that clock: the pause between two rollouts shows it.
        ("milliseconds", "the same object again"),
        ("leak over reset", "the same object again"),
        ("object", "a second object"),
    ],
)
def test_unrepeatable_environment_fails_with_step_and_field(fault: str, probe: str) -> None:
    report = check_determinism(lambda: Faulty(fault), n_steps=200)
    assert not report.has_passed
    message = rf"not deterministic: {probe}: step \d+ differs in observation/1 \(.*, then .*cause: "
    with pytest.raises(EnvContractError, match=message):
        report.raise_if_failed()


@pytest.mark.slow
@third_slow("replay")
def test_reused_buffer_is_reported_and_passes() -> None:
    report = check_determinism(lambda: Faulty("buffer"), n_steps=20)
    report.raise_if_failed()
    assert report.reuses_buffers
    assert "copy those that you keep" in str(report)


class Returns(Faulty):
    """Returns one wrong value at its third step, or at its reset."""

    def __init__(self, **wrong: Any) -> None:
        super().__init__()
        self.wrong = wrong

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.wrong.get("reset", super().reset(seed=seed))

    def step(self, action: Any) -> Any:
        names = ("observation", "reward", "terminated", "truncated", "info")
        returned = dict(zip(names, super().step(action), strict=True))
        if self.k == 3:
            if "step" in self.wrong:
                return self.wrong["step"]
            returned |= {name: self.wrong[name] for name in names if name in self.wrong}
        return tuple(returned.values())


def violations(env: Any) -> list[str]:
    checker = InterfaceChecker(env)
    rollout(env, 10, 0, checker=checker)
    return [violation.message for violation in checker.violations]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("observation", np.zeros(3), "the observation must be in Box"),
        ("observation", np.zeros(2, np.complex128), "the observation must be in Box"),
        ("reward", None, "the reward must be a number, got None (NoneType)"),
        ("reward", "1", "the reward must be a number, got '1' (str)"),
        ("terminated", 0, "terminated must be a bool, got 0 (int)"),
        ("truncated", None, "truncated must be a bool, got None (NoneType)"),
        ("info", None, "info must be a dict, got None (NoneType)"),
    ],
)
def test_wrong_type_is_reported_with_its_step(field: str, value: Any, message: str) -> None:
    (reported,) = violations(Returns(**{field: value}))
    assert reported.startswith(f"step 2: {message}")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.zeros(3), "got array([0., 0., 0.]), of shape (3,): correct the space"),
        (np.zeros(2, np.complex128), "of dtype complex128: correct the space"),
        (np.array([0.5, 99]), ", of which item [1] is 99.0, not in [-50.0, 50.0]: correct"),
    ],
)
def test_a_box_says_what_is_outside_of_it(value: Any, reason: str) -> None:
    env = Returns(observation=value)
    env.observation_space = gym.spaces.Box(-50, 50, (2,), np.float64)
    (message,) = violations(env)
    assert reason in message


def test_sound_environment_has_no_violation() -> None:
    assert violations(Returns()) == []
    assert violations(Returns(reward=np.float32(1), terminated=np.bool_(False))) == []


def test_values_of_a_reset_are_checked() -> None:
    assert violations(Returns(reset=(np.zeros(3), {})))[0].startswith("reset: the observation")
    assert violations(Returns(reset=(np.zeros(2), None))) == [
        "reset: info must be a dict, got None (NoneType)"
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reset": np.zeros(2)}, r"reset: reset must return \(observation, info\)"),
        (
            {"step": (np.zeros(2), 1.0, False, {})},
            r"step 2: step must return \(observation, reward",
        ),
    ],
)
def test_return_value_of_wrong_length_ends_the_check(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvContractError, match=message):
        violations(Returns(**wrong))


class WithState(Faulty):
    """Has get_state and set_state, which may forget or change a part of the state."""

    def __init__(self, fault: str = "none") -> None:
        super().__init__(fault)
        self.total = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.total = 0.0
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        self.total += self.np_random.random()
        return np.array([observation[0], self.total]), *rest

    def get_state(self) -> Any:
        return (
            {"k": self.k}
            if self.fault in ("forgets", "clears")
            else {"k": self.k, "total": self.total}
        )

    def set_state(self, state: Any) -> None:
        self.k = state["k"] + (self.fault == "changes")
        self.total = state.get("total", self.total)
        if self.fault == "clears":
            self.total = 0.0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("forgets", "step 5: a restored state must lead to the same steps, but observation/1 is"),
        # Both restored states lead to the same steps, which are not the original ones.
        ("clears", "step 5: a restored state must lead to the same steps, but observation/1 is"),
        ("changes", r"step 4: set_state\(get_state\(\)\) must change nothing, but state/k is 6"),
        ("none", None),
    ],
)
def test_set_state_must_restore_the_whole_state(fault: str, message: str | None) -> None:
    has_state, reported = check_state_methods(WithState(fault), n_steps=20, seed=0)
    assert has_state
    if message is None:
        assert reported == ()
    else:
        assert re.match(message, reported[0].message)


class Continuous(WithState):
    """Takes an array, changes it in place, and returns an info that cannot be copied."""

    action_space: gym.Space[Any] = gym.spaces.Box(-1, 1, (1,), np.float64)

    def step(self, action: Any) -> Any:
        self.total += action[0]
        action *= 2
        *rest, info = super().step(action)
        return *rest, {**info, "lock": LOCK}


LOCK = threading.Lock()


class Buttons(gym.ActionWrapper[Any, Any, Any]):
    """Has another action space than the environment in it."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.action_space = gym.spaces.Discrete(3)

    def action(self, action: Any) -> Any:
        return np.array([action - 1.0])


def test_state_methods_are_checked_with_actions_of_their_own_space() -> None:
    assert check_state_methods(Buttons(Continuous()), n_steps=20, seed=0) == (True, ())
    forgets = check_state_methods(Buttons(Continuous("forgets")), n_steps=20, seed=0)
    assert "a restored state must lead to the same steps" in forgets[1][0].message


class Stuck(broken.Sound):
    """Waits for ever in a forked process, as for a lock that a lost thread holds."""

    def __init__(self) -> None:
        super().__init__()
        self.process_id = os.getpid()

    def extra(self) -> float:
        while os.getpid() != self.process_id:
            time.sleep(1)
        return 0.0


@pytest.mark.slow
def test_a_forked_process_that_waits_for_ever_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trajrec.replay.diagnose.restore_probes.FORK_TIMEOUT_S", 1)
    env = Stuck()
    report = probe_restore(env, Stuck, seed=0, n_steps=20)["os_fork"]
    assert str(report) == "no: RuntimeError: a forked process took longer than 1 s"


@pytest.mark.slow
@third_slow("replay")
def test_violations_fail_a_deterministic_environment() -> None:
    report = check_determinism(
        lambda: gym.wrappers.TransformReward(WithState("forgets"), lambda r: [r]), n_steps=20
    )
    assert (report.grade, report.has_state, report.has_passed) == ("exact", True, False)
    assert [row["field"] for row in report.as_dict()["violations"]] == ["reward", "state"]
    assert "step 0: the reward must be a number, got [1.0] (list)" in str(report)
    with pytest.raises(EnvContractError, match="step 0: the reward must be a number"):
        report.raise_if_failed()


def test_fewer_than_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
        check_determinism("CartPole-v1", n_steps=0)


class Spaceless(gym.Env[Any, Any]):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return 0, {}

    def step(self, action: Any) -> Any:
        return 0, 0.0, False, False, {}


@pytest.mark.parametrize("name", ["action_space", "observation_space"])
def test_environment_without_its_spaces_is_refused(name: str) -> None:
    space = gym.spaces.Discrete(2)
    for held, what in ((None, "none"), (7, "7")):
        spaces = {"action_space": space, "observation_space": space, name: held}
        env = type("Odd", (Spaceless,), {key: one for key, one in spaces.items() if one})
        message = f"Odd.{name} must be a space of Gymnasium, got {what}: set self.{name} in its"
        with pytest.raises(EnvContractError, match=message):
            check_determinism(env)


def test_environment_without_spaces_is_recorded_and_forked(tmp_path: Path) -> None:
    with trajrec.record(Spaceless(), tmp_path, factory=Spaceless) as env:
        env.reset()
        env.step(1)
    with trajrec.open(tmp_path) as corpus:
        episode = next(corpus.episodes())
        assert fork_many(episode, at=0, actions=[0], env=Spaceless)[0].n_steps == 1
        with pytest.raises(EnvContractError, match=r"Spaceless\.action_space must be a space"):
            fork_many(episode, at=0, policy="random", max_steps=2, env=Spaceless)


@pytest.mark.slow
def test_large_value_that_differs_is_not_shown() -> None:
    class Image(broken.Sound):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = gym.spaces.Box(0, 1, (1000,), np.float64)

        def see(self) -> Any:
            return np.full(1000, random.random())

    report = check_determinism(Image, n_steps=20)
    assert report.findings[0].field == "observation"
    assert (report.findings[0].first, report.findings[0].second) == ("", "")


class Backwards(broken.Sound):
    """A second reset without a step in between shows another observation."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        was_reset = self.n == 0
        observation, info = super().reset(seed=seed)
        return observation + was_reset, info


def test_second_reset_in_a_row_must_be_the_same() -> None:
    plan = RolloutPlan(Backwards, n_steps=20, seed=0)
    finding = next(probe_determinism(plan.run(Backwards()), Backwards(), Backwards(), plan))
    assert (finding.probe, finding.step) == ("a reset after a reset", -1)
    assert finding.field == "observation/0"
    # NumPy 1 writes "0.0", and NumPy 2 "np.float64(0.0)".
    assert "0.0" in finding.first
    assert "1.0" in finding.second


def pair(**wrong: Any) -> Any:
    """Return a PettingZoo environment of two players, one of whom gets wrong values."""
    pettingzoo = pytest.importorskip("pettingzoo")

    class Pair(pettingzoo.ParallelEnv):  # type: ignore[misc]
        metadata = {"name": "pair_v0"}  # noqa: RUF012
        render_mode = None
        possible_agents = ["a", "b"]  # noqa: RUF012

        def observation_space(self, agent: str) -> Any:
            return gym.spaces.Box(0, 1, (1 if agent == "a" else 2,), np.float64)

        def action_space(self, agent: str) -> Any:
            return gym.spaces.Discrete(2)

        def reset(self, seed: Any = None, options: Any = None) -> Any:
            self.agents = list(self.possible_agents)
            return {"a": np.zeros(1), "b": np.zeros(2)}, {"a": {}, "b": {}}

        def step(self, actions: Any) -> Any:
            observations = {"a": np.zeros(1), "b": wrong.get("observation", np.zeros(2))}
            rewards = {"a": 1.0, "b": wrong.get("reward", 1.0)}
            flags = {"a": False, "b": False}
            return observations, rewards, flags, dict(flags), {"a": {}, "b": {}}

    return Pair()


@pytest.mark.parametrize("api", ["parallel", "aec"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, None),
        ({"observation": np.zeros(1)}, "the observation must be in Box(0.0, 1.0, (2,), float64)"),
        ({"reward": "much"}, "the reward must be a number, got 'much' (str)"),
    ],
)
def test_each_players_values_are_checked_in_its_own_space(
    api: str, wrong: dict[str, Any], message: str | None
) -> None:
    env = pair(**wrong)
    if api == "aec":
        from pettingzoo.utils.conversions import parallel_to_aec

        env = parallel_to_aec(env)
    reported = violations(as_gymnasium(env))
    if message is None:
        assert reported == []
    else:
        assert any(message in text for text in reported), reported


def test_player_that_is_not_listed_is_checked_too() -> None:
    env = pair(observation=np.zeros(1))
    env.possible_agents = ["a"]
    reported = violations(as_gymnasium(env))
    assert any("must be in Box(0.0, 1.0, (2,), float64)" in text for text in reported), reported


class ClassSpaces(broken.Sound):
    """Declares its spaces in the class, and draws from one of them."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def __init__(self) -> None:
        self.n = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.action_space.seed(seed)
        return super().reset(seed=seed)

    def see(self) -> Any:
        return np.array([self.n, float(self.action_space.sample())], np.float64)


@pytest.mark.slow
@third_slow("replay")
def test_spaces_of_the_class_are_restored_too() -> None:
    report = check_determinism(ClassSpaces, n_steps=60)
    assert report.restore["snapshot"].is_granted, report.restore
