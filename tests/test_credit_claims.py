"""Credit claims no more than it knows: intervals, lost rollouts, budgets, policies with memory.

The environments here have exact answers.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tiers import third_slow

import trajrec
import trajrec.envs
from trajrec.corpus.episode import Episode
from trajrec.errors import ReplayError
from trajrec.replay import credit
from trajrec.replay.credit.sampling.options import RolloutConfig
from trajrec.replay.credit.sampling.request import SampleRequest
from trajrec.replay.credit.sampling.sampler import Sampler
from trajrec.replay.processes.workers import Worker
from trajrec.statistics import intervals
from trajrec.statistics.intervals import PairSpread

LENGTH = 6


class Steps(gym.Env[Any, Any]):
    """Six steps; each pays 1 for action 1, less 100 with a chance, and may raise."""

    observation_space = gym.spaces.Discrete(LENGTH + 1)
    action_space = gym.spaces.Discrete(2)
    loss = 0.0
    breaks = 0.0
    walk = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return 0, {}

    def step(self, action: Any) -> Any:
        drawn = self.np_random.random()
        self.t += 1
        if action == 1 and drawn < self.breaks:
            raise OSError("broken")
        reward = float(action) - 100.0 * float(drawn > 1 - self.loss)
        if self.walk:
            reward += float(drawn)
        return self.t, reward, self.t == LENGTH, False, {}


class Losing(Steps):
    loss = 0.004


class Walking(Steps):
    walk = True


class Endless(Steps):
    """Never ends."""

    def step(self, action: Any) -> Any:
        self.t = (self.t + 1) % LENGTH
        return self.t, 0.5, False, False, {}


class Fragile(gym.Env[Any, Any]):
    """Ten steps, each of which may raise; the last pays 1. The truth is 0.75 ** 10 = 0.056."""

    observation_space = gym.spaces.Discrete(11)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return 0, {}

    def step(self, action: Any) -> Any:
        if action == 1 and self.np_random.random() < 0.25:
            raise OSError("broken")
        self.t += 1
        return self.t, float(self.t == 10), self.t == 10, False, {}


def record(folder: Path, env: Any, actions: list[int]) -> Episode:
    recorded = trajrec.record(env, folder)
    recorded.reset(seed=0)
    for action in actions:
        try:
            if any(recorded.step(action)[2:4]):
                break
        except OSError:
            break
    recorded.close()
    return next(trajrec.open(folder).episodes())


def take(action: int) -> Callable[..., int]:
    return lambda observation: action


def tossed(observation: Any, rng: np.random.Generator) -> int:
    return int(rng.integers(2))


# --- intervals ---


def test_the_run_gives_equal_arms_a_width() -> None:
    a, b = np.full(8, 3.0), np.full(8, 1.0)
    assert intervals.welch(a, b, scale=2.0).ci_low < 2.0 < intervals.welch(a, b, 2.0).ci_high
    nothing = intervals.welch(a, b)
    assert (nothing.value, nothing.ci_low, nothing.ci_high) == (2.0, -math.inf, math.inf)
    assert intervals.mean(a, 0.0).method == intervals.NO_SPREAD
    assert intervals.paired(a, b, 0.0).method == intervals.NO_SPREAD
    assert intervals.paired(a, b, 1.0).ci_low < 2.0 < intervals.paired(a, b, 1.0).ci_high


def test_differences_with_rare_losses_are_covered() -> None:
    rng = np.random.default_rng(7)
    n_covered = 0
    for _ in range(400):
        # 40 arms as of an episode of 20 steps, each with a loss of 100 in one of ten rollouts.
        arms = -100.0 * (rng.random((40, 8)) < 0.1)
        scale = intervals.spread_within(list(arms))
        interval = intervals.welch(arms[0], arms[1], scale)
        n_covered += interval.ci_low <= 0.0 <= interval.ci_high
    assert n_covered / 400 >= 0.93


def test_pairs_that_rarely_differ_and_in_one_way_are_covered() -> None:
    rng = np.random.default_rng(3)
    n_covered = 0
    for _ in range(500):
        # 8 steps at which the policy does worse than the recorded action once in 12 rollouts.
        differs = rng.random((8, 16)) < 1 / 12
        differences = np.where(differs, rng.normal(5.5, 2.0, size=(8, 16)), 0.0)
        spread = PairSpread.of(list(differences))
        interval = intervals.pooled_pairs(differences[0], 6.0, spread)
        n_covered += interval.ci_low <= 5.5 / 12 <= interval.ci_high
    assert n_covered / 500 >= 0.95


@pytest.mark.parametrize(
    "options", [{}, {"noise": "fresh"}, pytest.param({"jobs": 2}, marks=pytest.mark.slow)]
)
def test_a_certain_value_is_printed_without_an_interval(options: Any, tmp_path: Path) -> None:
    episode = record(tmp_path, Steps(), [0, 1, 1, 1, 1, 1])
    table = credit.estimate(episode, take(1), n_rollouts=8, env=Steps, **options)
    assert [row.value for row in table.of("value")] == [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert {(row.ci_low, row.ci_high) for row in table} == {(-math.inf, math.inf)}
    assert "+6.000 (no interval)" in str(table)
    assert "all rollouts of a step are equal in every scenario" in "".join(table.notes)
    decision = credit.decisive_step(episode, take(1), n_rollouts=8, env=Steps, folder=None)
    assert decision.step == 0


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("noise", ["shared", "fresh"])
def test_policy_that_takes_every_recorded_action_ends_the_search(
    noise: Any, tmp_path: Path
) -> None:
    episode = record(tmp_path, Walking(), [1] * 6)
    options: Any = {"env": Walking, "noise": noise, "folder": None}
    decision = credit.decisive_step(episode, take(1), **options)
    assert decision.step is None
    assert "takes every recorded action itself" in decision.reason
    assert max(row.n for row in decision.table) == 32

    def seldom(observation: Any, rng: np.random.Generator) -> int:
        return int(rng.random() > 0.001)

    # It takes the recorded actions too, but it draws: other rollouts may differ.
    searched = credit.decisive_step(episode, seldom, max_rollouts=64, **options)
    assert "takes every recorded action itself" not in searched.reason


def test_a_step_behind_the_cut_is_refused_with_the_cut(tmp_path: Path) -> None:
    episode = record(tmp_path, Walking(), [1] * 6)
    with pytest.raises(IndexError, match="rollouts are cut at step 2 of the episode"):
        credit.estimate(episode, take(1), env=Walking, steps=[4], max_steps=2, folder=None)


def test_a_spread_that_rests_on_one_rollout_is_reported(tmp_path: Path) -> None:
    episode = record(tmp_path, Losing(), [1] * 6)
    table = credit.estimate(episode, tossed, n_rollouts=16, env=Losing, noise="fresh")
    assert "heavy tails" in "".join(table.notes)
    calm = credit.estimate(
        episode, tossed, n_rollouts=16, env=Walking, noise="fresh", steps=[0], control=False
    )
    assert "heavy tails" not in "".join(calm.notes)


def test_heavy_tails_in_shared_noise_widen_the_values() -> None:
    rng = np.random.default_rng(5)
    n_covered = 0
    n_seen = 0
    while n_seen < 400:
        # A loss of 100 in one of 20 scenarios, which half of the steps see; the others are past it.
        loss = -100.0 * (rng.random(16) < 0.05)
        if not loss.any():
            continue
        n_seen += 1
        arms = [rng.normal(size=16) + (loss if k < 10 else 0.0) for k in range(20)]
        scale = intervals.spread_within(arms)
        interval = intervals.widen(intervals.mean(arms[0], scale), scale, 16)
        n_covered += interval.ci_low <= -5.0 <= interval.ci_high
    assert n_covered / 400 >= 0.93


class Risky(Walking):
    loss = 0.02


@pytest.mark.slow
def test_scouts_show_losses_that_eight_scenarios_miss(tmp_path: Path) -> None:
    episode = record(tmp_path, Risky(), [0] * 6)
    options: Any = {"env": Risky, "n_rollouts": 8, "folder": None}
    n_covered = 0
    for seed in range(40):
        table = credit.estimate(episode, take(0), seed=seed, **options)
        value = table.of("value")[0]
        n_covered += value.ci_low <= 6 * (0.5 - 2.0) <= value.ci_high
    assert n_covered >= 36, "eight scenarios see no loss in 38 % of the runs"
    assert len(table.scouts) >= 8
    assert table.env_steps > sum(r.env_steps for arm in table.arms for r in arm.rollouts)
    assert not credit.estimate(episode, take(0), noise="fresh", **options).scouts


def test_returns_that_are_all_zero_are_no_shares(tmp_path: Path) -> None:
    episode = record(tmp_path, Losing(), [0] * 4)
    table = credit.estimate(episode, take(0), n_rollouts=2, env=Losing, max_steps=5, steps=[3])
    assert {row.value for row in table} == {0.0}
    assert {row.ci_method for row in table} == {intervals.NO_SPREAD}
    decision = credit.decisive_step(
        episode, take(0), n_rollouts=2, max_rollouts=4, env=Losing, max_steps=5
    )
    assert {row.ci_method for row in decision.table} == {intervals.NO_SPREAD}
    assert not any(row.estimand.startswith("P(") for row in decision.table)


# --- rollouts without a result ---


@third_slow("credit")
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_bounds_hold_the_truth_of_lost_rollouts(jobs: int, tmp_path: Path) -> None:
    episode = record(tmp_path, Fragile(), [0] * 10)
    options: Any = {"env": Fragile, "n_rollouts": 16, "jobs": jobs, "folder": None}
    for success in ({}, {"success": "terminated"}):
        table = credit.estimate(episode, take(1), **options, **success)
        value = table.of("value")[0]
        assert value.n_invalid > 8
        assert value.ci_low <= 0.75**10 <= value.ci_high
        assert "have none and may be 0 or 1" in value.estimand
        advantage = table.of("advantage")[0]
        assert advantage.ci_low <= 0.75**9 - 0.75**10 <= advantage.ci_high
        assert table.split is None
        counted = credit.estimate(episode, take(1), on_error="lost", **options, **success)
        value = counted.of("value")[0]
        assert value.ci_low <= 0.75**10 <= value.ci_high < 0.4
        assert "count as failures" in value.estimand
        assert counted.split is not None
    point = credit.point_of_no_return(
        record(tmp_path / "lost", Fragile(), [0] * 5),
        take(1),
        success="terminated",
        env=Fragile,
        n_rollouts=8,
        folder=None,
    )
    assert "without a result" in str(point)


def test_returns_of_lost_rollouts_have_no_bounds(tmp_path: Path) -> None:
    class Breaking(Walking):
        breaks = 0.1

    episode = record(tmp_path, Breaking(), [0] * 6)
    table = credit.estimate(episode, tossed, n_rollouts=16, env=Breaking)
    value = table.of("value")[0]
    assert value.n_invalid > 0
    assert (value.ci_low, value.ci_high) == (-math.inf, math.inf)
    shapley = credit.shapley_values(episode, tossed, n_permutations=4, env=Breaking)
    assert math.inf in {row.ci_high for row in shapley}
    whole = credit.estimate(episode, tossed, n_rollouts=16, env=Breaking, on_error="lost")
    assert all(math.isfinite(row.ci_low) for row in whole)


@pytest.mark.slow
def test_the_step_that_raised_can_be_decisive(tmp_path: Path) -> None:
    class Trapped(Fragile):
        """Raises at step 4 if the action is 1."""

        def step(self, action: Any) -> Any:
            if action == 1 and self.t == 4:
                raise OSError("trap")
            self.t += 1
            return self.t, float(self.t == 10), self.t == 10, False, {}

    episode = record(tmp_path, Trapped(), [0, 0, 1, 0, 1])
    assert episode.ending == "error"

    def careful(observation: Any, rng: np.random.Generator) -> int:
        return int(rng.random() < 0.1)

    decision = credit.decisive_step(
        episode, careful, env=Trapped, success="terminated", n_rollouts=16
    )
    assert decision.step == 4
    assert decision.kept.value == 0.0
    assert "count as failures" in decision.kept.estimand
    point = credit.point_of_no_return(
        episode, careful, env=Trapped, success="terminated", n_rollouts=8
    )
    assert point.step == 5


# --- budgets ---


@pytest.mark.slow
def test_no_run_takes_more_than_its_budget(tmp_path: Path) -> None:
    # At an address, not in a variable: snapshots are not used if steps change one.
    buffer = ctypes.create_string_buffer(8)
    address = ctypes.addressof(buffer)

    class Counted(Walking):
        def step(self, action: Any) -> Any:
            ctypes.c_uint64.from_address(address).value += 1
            return super().step(action)

    episode = record(tmp_path, Walking(), [1] * 6)
    budget = credit.Budget(env_steps=1500)
    options: Any = {"env": Counted, "budget": budget, "merge_rollouts": False, "folder": None}
    runs: list[Callable[[], Any]] = [
        lambda: credit.estimate(episode, tossed, n_rollouts=500, **options),
        lambda: credit.counterfactual(episode, tossed, 0, n_rollouts=500, **options),
        lambda: credit.shapley_values(episode, tossed, n_permutations=500, **options),
        lambda: credit.pooled_advantages([episode], tossed, n_rollouts=500, **options),
        lambda: credit.decisive_step(episode, tossed, n_rollouts=64, **options),
    ]
    for run in runs:
        ctypes.c_uint64.from_address(address).value = 0
        result = run()
        result = result[0] if isinstance(result, list) else result
        assert 600 < result.env_steps <= 1500
        # Steps that lead to a fork are not counted.
        assert ctypes.c_uint64.from_address(address).value < 1500 * 1.2
        assert "budget" in str(result)


@pytest.mark.slow
@third_slow("credit")
@pytest.mark.parametrize("options", [{"jobs": 2}, {"restore": "os_fork"}])
def test_a_budget_holds_in_other_processes(options: Any, tmp_path: Path) -> None:
    episode = record(tmp_path, Walking(), [1] * 6)
    budget = credit.Budget(env_steps=700)
    table = credit.estimate(
        episode, tossed, n_rollouts=500, env=Walking, budget=budget, folder=None, **options
    )
    assert 280 < table.env_steps <= 700


@pytest.mark.slow
@third_slow("credit")
def test_a_budget_starts_its_workers_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Worker] = []

    class Counted(Worker):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            started.append(self)

    monkeypatch.setattr("trajrec.replay.processes.workers.Worker", Counted)
    episode = record(tmp_path, Walking(), [1] * 6)
    options: Any = {"n_rollouts": 64, "env": Walking, "folder": None}
    table = credit.estimate(
        episode, tossed, jobs=2, budget=credit.Budget(env_steps=50_000), **options
    )
    assert len(started) == 2
    alone = credit.estimate(episode, tossed, **options)
    assert [row.value for row in table] == [row.value for row in alone]


def test_a_budget_too_small_for_any_result_is_refused(tmp_path: Path) -> None:
    episode = record(tmp_path, Walking(), [1] * 6)
    budget = credit.Budget(policy_calls=10)
    for run in (credit.estimate, credit.decisive_step):
        with pytest.raises(
            ValueError, match=r"the budget is too small for 2 scenarios.*policy calls"
        ):
            run(episode, tossed, env=Walking, budget=budget, folder=None)


@pytest.mark.slow
def test_an_environment_without_end_needs_max_steps(tmp_path: Path) -> None:
    episode = record(tmp_path, Endless(), [1] * 20)
    with pytest.raises(ReplayError, match="no time limit: give max_steps"):
        credit.estimate(episode, take(1), n_rollouts=2, steps=[0], env=Endless)
    cut = credit.estimate(episode, take(1), n_rollouts=2, steps=[0], env=Endless, max_steps=30)
    assert cut.of("value")[0].value == 15.0


# --- the decisive step ---


def test_the_probability_is_the_one_after_confirmation(tmp_path: Path) -> None:
    episode = record(tmp_path, gym.make("trajrec/FaultChain-v0", size=8), [0, 0, 1, 0, 0, 0, 0, 0])

    def careful(observation: Any, rng: np.random.Generator) -> int:
        return 0

    before = []
    from trajrec.replay.credit.estimators.decisive import Search

    search = Search.by_change_point

    def spied(self: Search) -> Any:
        finding = search(self)
        assert finding.probabilities is not None
        before.append(finding.probabilities.max())
        return finding

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Search, "by_change_point", spied)
        decision = credit.decisive_step(episode, careful, method="bayes", folder=None)
    assert decision.step == 2
    assert decision.confidence is not None
    assert decision.confidence > before[0] >= 0.95


# --- noise ---


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("options", [{}, {"noise": "fresh"}, {"restore": "reexecute"}])
def test_noise_is_keyed_below_the_first_probed_step(options: Any, tmp_path: Path) -> None:
    episode = record(tmp_path, Walking(), [1] * 6)
    config = RolloutConfig.from_options(take(1), {"env": Walking, **options}, caller="test")

    def returns(steps: list[int]) -> list[float]:
        with Sampler(episode, config) as sampler:
            for step in steps:
                request = SampleRequest(step, config.noise.scenarios(6, str(step)))
                (rollouts,) = sampler.run([request])
        return [rollout.episode_return for rollout in rollouts]

    direct = returns([1])
    assert len(set(direct)) == 6
    assert returns([4, 1]) == direct


class OwnGenerator:
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(3)

    def act(self, observation: Any, rng: np.random.Generator) -> int:
        return int(self.rng.integers(2))


outer_rng = np.random.default_rng(4)


def toss_outer(observation: Any) -> int:
    return int(outer_rng.integers(2))


def test_a_policys_own_generator_follows_the_noise(tmp_path: Path) -> None:
    episode = record(tmp_path, Steps(), [1] * 6)
    options: Any = {"env": Steps, "n_rollouts": 32, "steps": [0], "folder": None}
    alone = credit.estimate(episode, OwnGenerator(), **options)
    again = credit.estimate(episode, OwnGenerator(), **options)
    assert alone.noise == "shared"
    assert [row.value for row in again] == [row.value for row in alone]


@pytest.mark.slow
@third_slow("credit")
def test_two_processes_do_not_draw_the_same_numbers(tmp_path: Path) -> None:
    episode = record(tmp_path, Steps(), [1] * 6)
    options: Any = {"env": Steps, "n_rollouts": 32, "steps": [0], "folder": None}
    alone = credit.estimate(episode, OwnGenerator(), **options)
    both = credit.estimate(episode, OwnGenerator(), **options, jobs=2)
    assert both.noise == "shared"
    assert [row.value for row in both] == [row.value for row in alone]
    # A generator of a module is seeded anew in each process.
    table = credit.estimate(episode, toss_outer, **options, jobs=2)
    assert table.noise == "fresh"
    (arm,) = [arm for arm in table.arms if arm.arm == "value" and arm.step == 0]
    returns = [rollout.episode_return for rollout in arm.rollouts]
    halves = returns[0::2], returns[1::2]
    assert halves[0] != halves[1]


# --- policies with memory ---


class Alternating:
    """Takes 0 and 1 in turn, and says nothing of its memory."""

    def __init__(self) -> None:
        self.n = 0

    def act(self, observation: Any, rng: np.random.Generator) -> int:
        self.n += 1
        return self.n % 2


def test_a_memory_that_nobody_can_restore_is_refused(tmp_path: Path) -> None:
    episode = record(tmp_path, Steps(), [1] * 6)

    class Resets(Alternating):
        def reset(self) -> None:
            self.n = 0

    class Counts:
        """Counts its calls, which changes nothing that it does."""

        n = 0

        def act(self, observation: Any, rng: np.random.Generator) -> int:
            self.n += 1
            return tossed(observation, rng)

    class Network:
        """Stands for a network of gigabytes."""

        def parameters(self) -> list[Any]:
            return []

        def __deepcopy__(self, memo: Any) -> Any:
            raise MemoryError

    class Deep(Alternating):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

    for policy in (Alternating(), Resets(), Deep(), Alternating().act):
        for options in ({}, {"noise": "fresh"}, {"restore": "reexecute"}):
            with pytest.raises(ValueError, match="has a memory that cannot be restored"):
                credit.estimate(episode, policy, n_rollouts=4, env=Steps, **options)  # type: ignore[arg-type]
    assert credit.estimate(episode, Counts(), n_rollouts=4, env=Steps).noise == "shared"


@pytest.mark.slow
def test_a_memory_is_refused_in_other_processes_too(tmp_path: Path) -> None:
    episode = record(tmp_path, Steps(), [1] * 6)
    with pytest.raises(ValueError, match="has a memory that cannot be restored"):
        credit.estimate(episode, Alternating(), n_rollouts=4, env=Steps, jobs=2)


def test_a_memory_is_built_again_from_the_start(tmp_path: Path) -> None:
    episode = record(tmp_path, Steps(), [1, 1, 0, 1, 1, 1])

    class Observes(Alternating):
        """Takes the other action than the last one."""

        def reset(self) -> None:
            self.n = 0

        def observe(self, observation: Any, action: Any) -> None:
            self.n = int(action)

        def act(self, observation: Any, rng: np.random.Generator) -> int:
            self.n = 1 - self.n
            return self.n

    table = credit.estimate(episode, Observes(), n_rollouts=4, env=Steps)
    # From step 3 on, after the action 0: 1, 0, 1.
    assert [row.value for row in table.of("value")] == [3.0, 2.0, 2.0, 2.0, 1.0, 0.0]


# --- estimates without intervals ---


@pytest.mark.slow
def test_numbers_without_a_proven_interval_have_none(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("FrozenLake-v1"), tmp_path)
    rng = np.random.default_rng(0)
    for seed in range(6):
        env.reset(seed=seed)
        while not any(env.step(int(rng.integers(4)))[2:4]):
            pass
    env.close()
    policy = credit.TabularPolicy(np.full((16, 4), 0.25))
    with trajrec.open(tmp_path) as corpus:
        episodes = list(corpus.episodes())
        tables = [
            *(
                table
                for method in ("grpo", "rloo", "gigpo", "rtmc")
                for table in credit.group_advantages(corpus, method)  # type: ignore[arg-type]
            ),
            *credit.hindsight_credit(episodes, policy),
            *credit.pooled_advantages(episodes[:2], policy, by="state", n_rollouts=4, folder=None),
        ]
        assert {(row.ci_low, row.ci_high) for table in tables for row in table} == {
            (-math.inf, math.inf)
        }
        pooled = credit.pooled_advantages(episodes[:2], policy, n_rollouts=4, folder=None)
        assert any(math.isfinite(row.ci_low) for table in pooled for row in table)
    for function in (credit.group_advantages, credit.hindsight_credit):
        assert re.search("[Ee]xperimental", function.__doc__ or "")


def test_unseeded_randomness_is_no_failed_repeat_in_fresh_noise(tmp_path: Path) -> None:
    hidden = np.random.default_rng(0)

    class Hides(Steps):
        def step(self, action: Any) -> Any:
            observation, _, *ending = super().step(action)
            return observation, float(self.t > 1) * float(hidden.random()), *ending

    episode = record(tmp_path, Hides(), [0])
    table = credit.estimate(
        episode, take(0), n_rollouts=8, env=Hides, noise="fresh", restore="reexecute"
    )
    assert len({rollout.episode_return for rollout in table.arms[0].rollouts}) == 8
