"""Credit by rollouts: equal numbers for every way of running them, costs, budgets and refusals."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, ClassVar

import broken
import gymnasium as gym
import numpy as np
import pytest
from tiers import deep, third_slow

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.errors import DivergenceError, SnapshotError
from trajrec.replay import credit
from trajrec.replay.credit.sampling.noise import EnvNoise, PolicyNoise, find_generators
from trajrec.replay.execute.factories import make_by_id


def wander(observation: Any, rng: np.random.Generator) -> int:
    """A policy for FrozenLake: mostly down and right."""
    return int(rng.choice([0, 1, 2, 3], p=[0.1, 0.4, 0.4, 0.1]))


def push(observation: Any, rng: np.random.Generator) -> int:
    """A policy for CartPole."""
    return int(rng.random() < 1 / (1 + np.exp(-20 * observation[2])))


def record(folder: Path, env: Any, policy: Any, seed: int = 0, **kwargs: Any) -> Episode:
    """Record an episode; return it."""
    wrapped = trajrec.record(env, folder, **kwargs)
    rng = np.random.default_rng(seed)
    observation, _ = wrapped.reset(seed=seed)
    is_over = False
    while not is_over:
        observation, _, terminated, truncated, _ = wrapped.step(policy(observation, rng))
        is_over = terminated or truncated
    wrapped.close()
    return next(trajrec.open(folder).episodes(order_by="started_at DESC"))


def numbers(table: credit.CreditTable) -> list[tuple[Any, ...]]:
    """Return the estimates without their costs."""
    return [
        (e.step, e.estimator, e.value, e.ci_low, e.ci_high, e.ci_method, e.n, e.n_discordant)
        for e in table
    ]


@pytest.fixture
def lake(tmp_path: Path) -> Episode:
    return record(tmp_path / "runs", gym.make("FrozenLake-v1"), wander, seed=3)


@pytest.mark.slow
def test_merged_rollouts_give_the_same_numbers_bit_for_bit(lake: Episode) -> None:
    merged = credit.estimate(lake, wander, n_rollouts=16)
    whole = credit.estimate(lake, wander, n_rollouts=16, merge_rollouts=False)
    assert numbers(merged) == numbers(whole)
    assert merged.env_steps < whole.env_steps / 2


@pytest.mark.slow
@third_slow("credit")
def test_the_numbers_do_not_depend_on_how_steps_are_reached(lake: Episode) -> None:
    expected = credit.estimate(lake, wander, n_rollouts=8, restore="snapshot")
    assert expected.restore == "snapshot"
    for restore in ("reexecute", "os_fork"):
        table = credit.estimate(lake, wander, n_rollouts=8, restore=restore)  # type: ignore[arg-type]
        assert table.restore == restore
        assert numbers(table) == numbers(expected)


@pytest.mark.slow
@third_slow("credit")
def test_the_numbers_do_not_depend_on_the_number_of_processes(lake: Episode) -> None:
    for noise in ("shared", "fresh", "recorded"):
        options: Any = {"n_rollouts": 8, "noise": noise}
        expected = credit.estimate(lake, wander, **options)
        table = credit.estimate(lake, wander, **options, jobs=2)
        assert numbers(table) == numbers(expected)


@pytest.mark.slow
@third_slow("credit")
@pytest.mark.parametrize(
    "options", [{}, {"jobs": 2}, pytest.param({"restore": "os_fork"}, marks=pytest.mark.slow)]
)
def test_progress_counts_the_rollouts_up_to_the_last(lake: Episode, options: Any) -> None:
    counts: list[tuple[int, int]] = []
    table = credit.estimate(
        lake,
        wander,
        n_rollouts=4,
        steps=range(3),
        progress=lambda *pair: counts.append(pair),
        **options,
    )
    # Four values of states, before and after three steps, and three values of actions.
    n = 4 * (2 * 3 + 1)
    assert counts == sorted(set(counts))
    assert counts[-1] == (n, n)
    silent = credit.estimate(lake, wander, n_rollouts=4, steps=range(3), **options)
    assert numbers(table) == numbers(silent)


@pytest.mark.slow
@third_slow("credit")
def test_a_pickled_environment_gives_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("minigrid")
    env = make_by_id("MiniGrid-Empty-5x5-v0", max_steps=12)

    def walk(observation: Any, rng: np.random.Generator) -> int:
        return int(rng.integers(3))

    episode = record(tmp_path / "runs", env, walk)
    tables = [
        credit.estimate(episode, walk, n_rollouts=4, restore=restore)
        for restore in ("reexecute", "pickle", "os_fork")
    ]  # type: ignore[arg-type]
    assert [table.restore for table in tables] == ["reexecute", "pickle", "os_fork"]
    assert numbers(tables[0]) == numbers(tables[1]) == numbers(tables[2])


@pytest.mark.slow
def test_an_action_in_cartpole_has_no_luck(tmp_path: Path) -> None:
    episode = record(tmp_path / "runs", gym.make("CartPole-v1", max_episode_steps=60), push)
    table = credit.estimate(episode, push, n_rollouts=8)
    assert table.split is not None
    assert table.split.error == pytest.approx(0, abs=1e-9)
    assert {e.ci_method for e in table.of("value")} == {"augmented-t"}
    # Its physics have no chance, so every outcome is the merit of the action.
    assert all(e.value == 0 for e in table.of("luck"))


def test_a_check_makes_estimates_probabilities_of_success(lake: Episode) -> None:
    by_return = credit.estimate(lake, wander, n_rollouts=16)
    by_check = credit.estimate(
        lake, wander, n_rollouts=16, success=lambda env: env.unwrapped.s == 15
    )
    assert [e.value for e in by_check.of("advantage")] == [
        e.value for e in by_return.of("advantage")
    ]
    assert by_check.split is not None
    assert by_check.split.episode_return == float(lake.total_reward)


@pytest.mark.slow
def test_a_note_says_how_shared_noise_changes_the_variance(lake: Episode, tmp_path: Path) -> None:
    assert "vary less" in "".join(credit.estimate(lake, wander, n_rollouts=16).notes)

    class Opposite(gym.Env[Any, Any]):
        """In each scenario one action wins and the other loses."""

        observation_space = gym.spaces.Discrete(1)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return 0, {}

        def step(self, action: Any) -> Any:
            return 0, float((self.np_random.random() < 0.5) == bool(action)), True, False, {}

    episode = record(tmp_path / "opposite", Opposite(), lambda observation, rng: 0)
    notes = credit.estimate(episode, lambda observation, rng: 1, n_rollouts=16, env=Opposite).notes
    assert "take noise='fresh'" in "".join(notes)


def test_a_budget_stops_an_estimate_after_a_round(lake: Episode) -> None:
    table = credit.estimate(lake, wander, n_rollouts=64, budget=credit.Budget(env_steps=20))
    assert {e.n for e in table.of("value")} == {2}
    assert any("stopped by its budget" in note for note in table.notes)
    assert "2 of 64 scenarios" in str(table)
    whole = credit.estimate(lake, wander, n_rollouts=2)
    assert numbers(table) == numbers(whole)


@pytest.mark.slow
def test_chosen_steps_have_the_values_of_a_whole_table(lake: Episode) -> None:
    whole = credit.estimate(lake, wander, n_rollouts=8)
    some = credit.estimate(lake, wander, n_rollouts=8, steps=[1, 3])
    assert [e.step for e in some.of("advantage")] == [1, 3]
    assert [e.value for e in some.of("advantage")] == [
        whole.of("advantage")[k].value for k in (1, 3)
    ]
    assert some.split is None


def test_a_diverging_prefix_is_an_error_and_no_credit(lake: Episode) -> None:
    def other() -> Any:
        return gym.make("FrozenLake-v1", map_name="8x8")

    with pytest.raises(DivergenceError, match="not in the recorded state"):
        credit.estimate(lake, wander, n_rollouts=4, env=other, steps=[lake.n_steps - 1])


@pytest.mark.slow
@third_slow("credit")
def test_sticky_actions_of_ale_follow_the_noise_of_their_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ale_py")

    def serve(observation: Any) -> int:
        return 2 + int(observation.sum()) // 3 % 2

    def is_even(env: Any) -> bool:
        return int(env.unwrapped.ale.getRAM().sum()) % 2 == 0

    def make() -> Any:
        return make_by_id("ALE/Breakout-v5", max_episode_steps=20, obs_type="ram")

    episode = record(tmp_path / "runs", make(), lambda observation, rng: int(rng.integers(4)))
    options: dict[str, Any] = {"steps": [9], "n_rollouts": 8, "success": is_even, "folder": None}
    expected = credit.estimate(episode, serve, **options)
    assert {e.noise for e in expected} == {"shared"}
    # Some rollouts succeed and some fail, so their noise differs.
    assert any(0 < e.value < 1 for e in expected.of("value"))
    for other in (
        {"restore": "reexecute"},
        {"restore": "os_fork"},
        {"merge_rollouts": False},
        {"jobs": 2},
    ):
        table = credit.estimate(episode, serve, **options, **other)
        assert [e.value for e in table] == [e.value for e in expected], other
    monkeypatch.setattr("trajrec.envstate.ale._HAS_RNG", b"\0" * 4)
    with pytest.raises(
        SnapshotError,
        match=r"this version of ALE .* record the game with repeat_action_probability=0",
    ):
        credit.estimate(episode, serve, **options)


def test_an_unseeded_policy_makes_the_noise_fresh(lake: Episode) -> None:
    outside = np.random.default_rng(0)

    def unseeded(observation: Any) -> int:
        return int(outside.integers(4))

    table = credit.estimate(lake, unseeded, n_rollouts=8, steps=[0, 1])
    assert {e.noise for e in table} == {"fresh"}
    assert "randomness that cannot be seeded" in table.notes[0]
    assert table.of("advantage")[0].ci_method == "newcombe"


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("restore", ["auto", "reexecute", "os_fork"])
def test_unseeded_randomness_makes_the_noise_fresh_for_every_restore(
    restore: Any, tmp_path: Path
) -> None:
    episode = record(tmp_path / "runs", broken.SystemReward(), lambda observation, rng: 0)
    table = credit.estimate(
        episode,
        lambda observation: 1,
        n_rollouts=8,
        steps=[9, 10],
        env=broken.SystemReward,
        restore=restore,
    )
    assert {e.noise for e in table} == {"fresh"}
    assert "randomness that cannot be seeded" in "".join(table.notes)
    assert {e.ci_method for e in table.of("advantage")} == {"welch"}


@pytest.mark.slow
@third_slow("credit")
@pytest.mark.parametrize("noise", ["shared", "fresh"])
def test_forked_rollouts_do_not_repeat_one_future(noise: Any, tmp_path: Path) -> None:
    hidden = np.random.default_rng(0)

    class Hides(broken.Sound):
        def step(self, action: Any) -> Any:
            observation, _, *ending = super().step(action)
            return observation, float(hidden.random()), *ending

    episode = record(tmp_path / "runs", Hides(), lambda observation, rng: 0)
    table = credit.estimate(
        episode,
        lambda observation: 1,
        n_rollouts=8,
        steps=[10],
        env=Hides,
        restore="os_fork",
        noise=noise,
    )
    for arm in table.arms:
        assert len({rollout.episode_return for rollout in arm.rollouts}) == 8


@pytest.mark.slow
@pytest.mark.parametrize("restore", ["snapshot", "os_fork"])
def test_an_unseeded_policy_is_noticed_by_its_actions(restore: Any, tmp_path: Path) -> None:
    episode = record(tmp_path / "runs", broken.Sound(), lambda observation, rng: 0)

    def unseeded(observation: Any) -> int:
        return broken.system_random.randrange(1 << 62) % 2

    # This environment pays for any action, so the two compared rollouts have the same return. From
    # the first step on they draw twelve actions each: fewer may be equal by chance.
    table = credit.estimate(
        episode,
        unseeded,
        n_rollouts=2,
        steps=[0],
        estimator="value",
        env=broken.Sound,
        restore=restore,
    )
    assert {e.noise for e in table} == {"fresh"}


@pytest.mark.slow
@third_slow("credit")
def test_an_environment_may_reuse_its_observation_buffer(tmp_path: Path) -> None:
    class Reuses(gym.ObservationWrapper[Any, Any, Any]):
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self.observation_space = gym.spaces.Box(0, 16, (1,), np.int64)
            self.buffer = np.zeros(1, np.int64)

        def observation(self, observation: Any) -> Any:
            self.buffer[0] = observation
            return self.buffer

    def by_cell(observation: Any, rng: np.random.Generator) -> int:
        return int((observation[0] + rng.integers(2)) % 4)

    def make() -> Any:
        return Reuses(gym.make("FrozenLake-v1"))

    episode = record(tmp_path / "runs", make(), by_cell, seed=2)
    tables = [
        credit.estimate(episode, by_cell, n_rollouts=8, env=make, restore=restore)
        for restore in ("snapshot", "reexecute", "os_fork")
    ]  # type: ignore[arg-type]
    assert numbers(tables[0]) == numbers(tables[1]) == numbers(tables[2])


def test_a_rollout_that_raises_is_invalid_and_no_failure(tmp_path: Path) -> None:
    class Brittle(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            if action == 3:
                raise OSError("broken")
            return super().step(action)

    episode = record(
        tmp_path / "runs", gym.make("FrozenLake-v1"), lambda obs, rng: int(rng.integers(3))
    )
    table = credit.estimate(
        episode, wander, n_rollouts=16, steps=[0], env=lambda: Brittle(gym.make("FrozenLake-v1"))
    )
    (value,) = table.of("value")
    assert value.n_invalid > 0
    assert value.n == 16 - value.n_invalid
    assert "OSError: broken" in "".join(table.notes)


def test_estimate_names_the_argument_that_it_refuses(lake: Episode) -> None:
    with pytest.raises(ValueError, match="n_rollouts must be at least 2"):
        credit.estimate(lake, wander, n_rollouts=1)
    with pytest.raises(ValueError, match="estimator must be"):
        credit.estimate(lake, wander, estimator="other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noise must be"):
        credit.estimate(lake, wander, noise="other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="restore must be one of auto, reexecute"):
        credit.estimate(lake, wander, restore="other")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"budget must be a credit\.Budget, .*, got 100"):
        credit.estimate(lake, wander, budget=100)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"estimate\(\) got an unexpected keyword argument 'root'"):
        credit.estimate(lake, wander, root=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="policy must be"):
        credit.estimate(lake, 3)
    with pytest.raises(IndexError, match=r"must be in \[0, 5\), got \[10000, 10000\]"):
        credit.estimate(lake, wander, steps=[10_000])


@pytest.mark.slow
def test_a_batched_policy_gives_the_same_numbers(tmp_path: Path) -> None:
    class Single:
        def act(self, observation: Any, rng: np.random.Generator) -> int:
            return int(rng.random() < 1 / (1 + np.exp(-20 * observation[2])))

    class Batched(Single):
        sizes: ClassVar[list[int]] = []

        def act_batch(self, observations: list[Any], rngs: list[np.random.Generator]) -> list[int]:
            self.sizes.append(len(observations))
            return [self.act(*pair) for pair in zip(observations, rngs, strict=True)]

    episode = record(tmp_path / "runs", gym.make("CartPole-v1", max_episode_steps=40), push)
    assert numbers(credit.estimate(episode, Batched(), n_rollouts=8)) == numbers(
        credit.estimate(episode, Single(), n_rollouts=8)
    )
    assert max(Batched.sizes) == 8


@deep("credit")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("algorithm", "env_id"),
    [("PPO", "CartPole-v1"), ("PPO", "Pendulum-v1"), ("DQN", "CartPole-v1")],
)
def test_a_model_of_stable_baselines3_is_a_policy(
    algorithm: str, env_id: str, tmp_path: Path
) -> None:
    sb3 = pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")
    model = getattr(sb3, algorithm)("MlpPolicy", gym.make(env_id), device="cpu", seed=0)
    env = gym.make(env_id, max_episode_steps=20)
    episode = record(tmp_path / "runs", env, lambda observation, rng: model.predict(observation)[0])
    table = credit.estimate(episode, model, n_rollouts=4, steps=[0, 3])
    assert table.policy_id.startswith(algorithm)
    assert numbers(
        credit.estimate(episode, model, n_rollouts=4, steps=[0, 3], merge_rollouts=False)
    ) == numbers(table)
    dist = credit.StableBaselines3Policy(model).dist(episode.observation_values[0])
    assert (dist is None) == ((algorithm, env_id) != ("PPO", "CartPole-v1"))
    assert dist is None or dist.sum() == pytest.approx(1.0)


class Counting:
    """A policy that remembers the number of steps."""

    n = 0

    def reset(self) -> None:
        self.n = 0

    def observe(self, observation: Any, action: Any) -> None:
        self.n += 1

    def snapshot(self) -> int:
        return self.n

    def restore(self, n: int) -> None:
        self.n = n


@pytest.mark.slow
@third_slow("credit")
def test_the_memory_of_a_policy_does_not_depend_on_the_run(lake: Episode) -> None:
    class Alternating(Counting):
        """Takes 1 and 2 in turn, by the number of steps."""

        def act(self, observation: Any, rng: np.random.Generator) -> int:
            self.n += 1
            return 1 + self.n % 2

    table = credit.estimate(lake, Alternating(), n_rollouts=8, merge_rollouts=False)
    assert numbers(credit.estimate(lake, Alternating(), n_rollouts=8)) == numbers(table)
    assert numbers(
        credit.estimate(lake, Alternating(), n_rollouts=8, restore="os_fork")
    ) == numbers(table)


@third_slow("credit")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"merge_rollouts": False},
        {"restore": "reexecute"},
        pytest.param({"restore": "os_fork"}, marks=pytest.mark.slow),
        {"jobs": 2},
    ],
)
def test_a_policy_remembers_only_its_own_branch(options: Any, tmp_path: Path) -> None:
    chances = 0.5, 0.0, 0.25, 1.0

    class Pays(gym.Env[Any, Any]):
        """Pays the action, for four steps; the observation tells nothing."""

        observation_space = gym.spaces.Discrete(1)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.n = 0
            return 0, {}

        def step(self, action: Any) -> Any:
            self.n += 1
            return 0, float(action), self.n == 4, False, {}

    class Counts(Counting):
        """Acts by its memory alone, which is the step; does nothing after the last step."""

        def act(self, observation: Any, rng: np.random.Generator) -> int:
            self.n += 1
            return int(self.n <= 4 and rng.random() < chances[self.n - 1])

    episode = record(tmp_path / "runs", Pays(), lambda observation, rng: 1)
    table = credit.estimate(episode, Counts(), n_rollouts=12, env=Pays, **options)
    for row in table.of("value"):
        assert row.ci_low <= sum(chances[row.step :]) <= row.ci_high
    assert [row.value for row in table.of("value")][3] == 1.0
    advantages = [row.value for row in table.of("advantage")]
    # The memory after a step does not depend on the action, so neither do the later actions.
    assert (advantages[1], advantages[3]) == (1.0, 0.0)
    assert len(advantages) == 4
    for row in table.of("advantage"):
        assert row.ci_low <= 1 - chances[row.step] <= row.ci_high


class Draws(gym.Env[Any, Any]):
    """Draws a number at each of six steps, and pays it if the action takes it."""

    observation_space = gym.spaces.Discrete(7)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n = 0
        return 0, {}

    def step(self, action: Any) -> Any:
        self.n += 1
        drawn = float(self.np_random.random())
        return self.n, drawn * action, self.n == 6, False, {"drawn": drawn}


@pytest.fixture
def drawn(tmp_path: Path) -> tuple[Episode, list[float]]:
    """An episode of four of six steps that takes nothing; and the drawn numbers."""
    env = trajrec.record(Draws(), tmp_path / "drawn")
    env.reset(seed=5)
    numbers = [env.step(0)[4]["drawn"] for _ in range(4)]
    env.close()
    return next(trajrec.open(tmp_path / "drawn").episodes()), numbers


@third_slow("credit")
@pytest.mark.parametrize(
    "restore", ["snapshot", "reexecute", pytest.param("os_fork", marks=pytest.mark.slow)]
)
def test_recorded_noise_repeats_the_draws_of_the_recording(
    restore: Any, drawn: tuple[Episode, list[float]]
) -> None:
    episode, numbers = drawn
    table = credit.estimate(
        episode, lambda observation: 1, n_rollouts=6, env=Draws, restore=restore, noise="recorded"
    )
    values = table.of("value")
    assert all(row.ci_low <= sum(numbers[row.step :]) + 1.0 <= row.ci_high for row in values)
    # In one scenario the draws after the recording are equal, so steps differ by recorded draws.
    assert [a.value - b.value for a, b in itertools.pairwise(values)] == pytest.approx(numbers[:3])
    assert [row.value for row in table.of("advantage")] == pytest.approx(
        [-number for number in numbers]
    )
    assert [row.value for row in table.of("luck")] == pytest.approx([0.0] * 4)
    assert {row.noise for row in table} == {"recorded"}


def test_the_policy_draws_again_in_recorded_noise(drawn: tuple[Episode, list[float]]) -> None:
    episode, numbers = drawn
    coin = credit.TabularPolicy([[0.5, 0.5]], state=lambda observation: 0)
    recorded = credit.estimate(
        episode, coin, n_rollouts=64, env=Draws, noise="recorded", seed=3
    ).of("advantage")
    assert all(row.ci_low <= -numbers[row.step] / 2 <= row.ci_high for row in recorded)
    shared = credit.estimate(episode, coin, n_rollouts=64, env=Draws).of("advantage")
    assert np.mean([row.value for row in shared]) == pytest.approx(-0.25, abs=0.05)


@pytest.mark.parametrize(
    "kind",
    [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64],
)
def test_generators_of_any_class_are_seeded_in_place(kind: Any) -> None:
    class Holds(gym.Env[Any, Any]):
        def __init__(self) -> None:
            self.rng = np.random.Generator(kind(1))
            self.inner = type("Inner", (), {})()
            self.inner.rng = self.rng
            self.inner.other = np.random.Generator(kind(2))

    env = Holds()
    noise = EnvNoise(env, 0)
    assert noise.n_generators == 2
    noise.seed(3, 5)
    first = env.rng.random(4).tolist(), env.inner.other.random(4).tolist()
    noise.seed(3, 6)
    assert env.rng.random(4).tolist() != first[0]
    noise.seed(3, 5)
    assert (env.rng.random(4).tolist(), env.inner.other.random(4).tolist()) == first
    assert first[0] != first[1]


def test_keyed_noise_is_uniform_and_its_steps_are_uncorrelated() -> None:
    class Holds(gym.Env[Any, Any]):
        def __init__(self) -> None:
            self.rng = np.random.default_rng(0)

    env = Holds()
    noise = EnvNoise(env, 0)
    policy = PolicyNoise(0)

    def draw(seed: Any, generator: Any) -> Any:
        numbers = []
        for scenario in range(40):
            for step in range(100):
                seed(scenario, step)
                numbers.append(generator.random())
        return np.array(numbers)

    for draws in (draw(noise.seed, env.rng), draw(policy.seed, policy.generator)):
        # Kolmogorov-Smirnov: 0.03 has a p of about 0.001 for 4,000 draws.
        assert abs(np.sort(draws) - np.linspace(0, 1, len(draws))).max() < 0.03
        assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.05


def test_generators_of_wrappers_are_found_but_not_of_spaces() -> None:
    env = gym.wrappers.TimeAwareObservation(gym.make("FrozenLake-v1"))
    env.reset(seed=0)
    env.action_space.seed(0)
    assert len(find_generators(env)) == 1


@pytest.mark.slow
@third_slow("credit")
@pytest.mark.sources
@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_the_share_of_differing_pairs_is_the_exact_one(epsilon: float) -> None:
    from benchmarks.credit.coupling import Coupled
    from benchmarks.credit.truths import record, states, toy

    make, truth = toy("FrozenLake-v1", epsilon)
    pairs = Coupled(make(), truth.policy, 100)
    assert np.allclose(pairs.first[:, :-1, -1], truth.values)
    episode = max(record(make, truth.policy, 4, seed=9), key=lambda episode: episode.n_steps)
    n = 1500
    steps = range(0, min(episode.n_steps, 24), 6)
    table = credit.estimate(episode, truth.policy, n_rollouts=n, steps=steps, seed=3, folder=None)
    for row in table.of("advantage"):
        state = states(episode)[row.step]
        action = int(episode.actions[row.step])
        fresh, shared = pairs.variances(row.step, state, action)
        # Returns are 0 or 1, so a differing pair differs by one: the share is the mean square.
        share = shared + truth.advantage(row.step, state, action) ** 2
        assert abs(row.n_discordant / n - share) <= 4 * (share * (1 - share) / n) ** 0.5 + 1e-9
        q = truth.actions[row.step, state, action]
        v = truth.values[row.step, state]
        assert fresh == pytest.approx(q * (1 - q) + v * (1 - v))


class Exhausted:
    """A policy that finds no action for some observations, by the usual `next` of a generator."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def act(self, observation: Any, rng: np.random.Generator) -> int:
        return next(action for action in (0, 1) if abs(observation[2]) < self.limit)


class ExhaustedOften(Exhausted):
    def act_batch(self, observations: list[Any], rngs: list[np.random.Generator]) -> list[int]:
        return [self.act(*pair) for pair in zip(observations, rngs, strict=True)]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("kind", [Exhausted, ExhaustedOften])
def test_a_policy_out_of_actions_loses_no_rollout(tmp_path: Path, kind: Any) -> None:
    episode = record(tmp_path / "runs", gym.make("CartPole-v1", max_episode_steps=20), push)
    with pytest.raises((RuntimeError, StopIteration)):
        credit.estimate(episode, kind(0.05), estimator="value", steps=[0], n_rollouts=4)
