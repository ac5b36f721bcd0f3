"""Credit given the agent's knowledge: facts that it has not seen are drawn again."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from tiers import third_slow

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.envs import Bank
from trajrec.errors import ReplayError
from trajrec.recording.event_log import close_logs
from trajrec.replay import credit, fork_many

WAIT = 0
LOOK = 1


class Cups(gym.Env[Any, Any]):
    """The reset hides a coin under one of two cups. Wait, look or not, name the cup: right pays 1."""

    observation_space = gym.spaces.Discrete(3)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n = 0
        self.coin = int(self.np_random.integers(2))
        self.is_seen = False
        return 2, {}

    def step(self, action: Any) -> Any:
        self.n += 1
        self.is_seen = self.is_seen or (self.n == 2 and action == LOOK)
        is_over = self.n == 3
        return (
            self.coin if self.is_seen else 2,
            float(is_over and action == self.coin),
            is_over,
            False,
            {},
        )


class Sealed(Cups):
    """Cups that leave the coin out of their state."""

    def get_state(self) -> Any:
        return self.n, self.is_seen

    def set_state(self, state: Any) -> None:
        self.n, self.is_seen = state


def under_any(env: Any, rng: np.random.Generator) -> None:
    """Move the coin at random, unless it was seen."""
    rng.random(env.unwrapped.n)  # each step draws from another place of the stream
    coin = int(rng.integers(2))
    if not env.unwrapped.is_seen:
        env.unwrapped.coin = coin


def careless(observation: Any, rng: np.random.Generator) -> int:
    """Look with probability 1/4; name the seen cup, or else the second one with probability 1/4."""
    return int(observation) if observation < 2 else int(rng.random() < 0.25)


def naming(observation: Any, rng: np.random.Generator) -> int:
    """Never look; name the cup that was seen, or else the first one."""
    return int(observation) if observation < 2 else WAIT


def record(folder: Path, make: Any, actions: list[int], coin: int) -> Episode:
    """Record an episode with the coin under the given cup."""
    seed = next(seed for seed in range(99) if int(np.random.default_rng(seed).integers(2)) == coin)
    env = trajrec.record(make(), folder)
    env.reset(seed=seed)
    for action in actions:
        env.step(action)
    env.close()
    return next(trajrec.open(folder).episodes())


def numbers(table: credit.CreditTable) -> list[Any]:
    return [(e.step, e.estimator, e.value, e.ci_low, e.ci_high, e.n) for e in table]


@pytest.mark.slow
def test_estimates_are_given_the_agents_knowledge(tmp_path: Path) -> None:
    episode = record(tmp_path, Cups, [WAIT, LOOK, 1], coin=0)
    knowing = credit.estimate(episode, naming, n_rollouts=64, env=Cups)
    # The agent names the first cup, which has the coin: given the full state, looking is worth 0.
    assert [row.value for row in knowing.of("value")] == [1.0, 1.0, 1.0]
    assert [row.value for row in knowing.of("advantage")] == [0.0, 0.0, -1.0]
    seen = credit.estimate(episode, naming, n_rollouts=64, env=Cups, resample_hidden=under_any)
    value, advantage, luck = (seen.of(name) for name in ("value", "advantage", "luck"))
    assert all(row.ci_low <= 0.5 <= row.ci_high for row in value[:2])
    assert value[2].value == 1.0  # the coin was seen by then
    assert advantage[1].ci_low <= 0.5 <= advantage[1].ci_high
    assert advantage[1].ci_low > 0
    assert luck[1].value == 0.0
    assert advantage[2].value == -1.0
    assert seen.split is not None
    assert seen.split.error == pytest.approx(0, abs=1e-9)
    assert all(row.estimand.endswith("; given what had been seen") for row in seen)
    assert "had not seen were redrawn" in "".join(seen.notes)
    # The two estimates measure different quantities, so the later one does not hide the first.
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.sql(
            "SELECT value FROM latest_credit WHERE estimator = 'advantage' AND step = 1 ORDER BY 1"
        ).fetchall()
    assert rows == [(0.0,), (advantage[1].value,)]


@pytest.mark.slow
@third_slow("credit")
@pytest.mark.parametrize("make", [Cups, Sealed])
def test_the_numbers_depend_only_on_the_seed(make: Any, tmp_path: Path) -> None:
    episode = record(tmp_path, make, [WAIT, WAIT, 1], coin=0)

    def scan(**how: Any) -> list[Any]:
        return numbers(
            credit.estimate(
                episode,
                careless,
                n_rollouts=16,
                env=make,
                resample_hidden=under_any,
                folder=None,
                **how,
            )
        )

    whole = scan(merge_rollouts=False)
    for how in (
        {},
        {"restore": "reexecute"},
        {"restore": "snapshot"},
        {"restore": "os_fork"},
        {"jobs": 2},
    ):
        assert scan(**how) == whole
    assert scan(seed=1) != whole


@pytest.mark.slow
def test_every_rollout_estimator_takes_resample_hidden(tmp_path: Path) -> None:
    how: Any = {"env": Cups, "resample_hidden": under_any, "folder": None}
    episode = record(tmp_path, Cups, [WAIT, LOOK, 1], coin=0)
    assert credit.decisive_step(episode, naming, **how).step == 2
    blind = record(tmp_path / "blind", Cups, [WAIT, WAIT, 1], coin=0)
    effect = credit.counterfactual(blind, naming, 1, action=LOOK, **how).of("effect")[0]
    assert effect.ci_low <= 0.5 <= effect.ci_high
    assert effect.estimand.endswith("; given what had been seen")
    lost = credit.point_of_no_return(episode, naming, **how)
    assert lost.step == 3
    assert lost.before.estimand.endswith("; given what had been seen")
    shares = credit.shapley_values(episode, naming, n_permutations=32, **how)
    assert shares[0].value == 0.0


def test_resample_hidden_is_refused_if_it_has_no_meaning(tmp_path: Path) -> None:
    episode = record(tmp_path, Cups, [WAIT, LOOK, 1], coin=0)
    with pytest.raises(TypeError, match="must be a function"):
        credit.estimate(episode, naming, env=Cups, resample_hidden=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="recorded noise repeats the hidden facts"):
        credit.estimate(episode, naming, env=Cups, resample_hidden=under_any, noise="recorded")
    with pytest.raises(ValueError, match=r"use estimate\(\)"):
        credit.pooled_advantages([episode], naming, env=Cups, resample_hidden=under_any)


def test_unseeded_draws_of_resample_hidden_are_noticed(tmp_path: Path) -> None:
    elsewhere = itertools.cycle([0, 1])

    def draw(env: Any, rng: np.random.Generator) -> None:
        env.unwrapped.coin = next(elsewhere)

    episode = record(tmp_path, Cups, [WAIT, WAIT, 1], coin=0)
    table = credit.estimate(episode, naming, n_rollouts=8, env=Cups, resample_hidden=draw)
    assert {row.noise for row in table} == {"fresh"}


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("restore", ["snapshot", "reexecute"])
def test_a_tool_world_may_have_hidden_facts(restore: Any, tmp_path: Path) -> None:
    class Locked(Bank):
        """Pays out only in one of two towns."""

        towns: ClassVar[list[str]] = ["north", "south"]
        where = "north"

        def get_state(self) -> Any:
            return {"where": self.where, **super().get_state()}

        def set_state(self, state: Any) -> None:
            self.where = state["where"]
            super().set_state({name: value for name, value in state.items() if name != "where"})

        def task_solved(self) -> bool:
            return self.where == "south" and super().task_solved()

    def move(world: Any, rng: np.random.Generator) -> None:
        world.where = Locked.towns[int(rng.integers(2))]

    def pay(context: Any, rng: np.random.Generator) -> Any:
        plan = [("deposit", {"amount": 100}), ("choose", {"amount": 50}), ("withdraw", {})]
        return plan[context.step] if context.step < len(plan) else None

    with trajrec.episode(tmp_path, task="t", world=Locked()) as ep:
        for name, arguments in (
            ("deposit", {"amount": 100}),
            ("choose", {"amount": 50}),
            ("withdraw", {}),
        ):
            ep.call(name, **arguments)
        ep.stop("done", claimed_done=True)
    close_logs()
    episode = trajrec.open(tmp_path).episode(ep.id)
    assert {
        row.value for row in credit.estimate(episode, pay, n_rollouts=4, env=Locked).of("value")
    } == {0.0}
    table = credit.estimate(
        episode, pay, n_rollouts=32, env=Locked, resample_hidden=move, restore=restore
    )
    assert all(row.ci_low <= 0.5 <= row.ci_high for row in table.of("value"))
    assert {row.value for row in table.of("advantage")} == {0.0}
    whole = credit.estimate(
        episode, pay, n_rollouts=32, env=Locked, resample_hidden=move, merge_rollouts=False
    )
    assert numbers(table) == numbers(whole)


@pytest.mark.slow
@third_slow("credit")
def test_constants_may_be_changed_only_in_forked_processes(
    tmp_path: Path,
) -> None:
    env = trajrec.record(gym.make("FrozenLake-v1", is_slippery=False), tmp_path)
    env.reset(seed=0)
    for action in (1, 1, 2, 1, 2, 2):
        env.step(action)
    env.close()
    episode = next(trajrec.open(tmp_path).episodes())

    def freeze(env: Any, rng: np.random.Generator) -> None:
        row = env.unwrapped.P[14][2]
        env.unwrapped.P[14][2] = [(1.0, 14, float(rng.random() < 0.5), True) for _ in row]

    def go_right(observation: Any, rng: np.random.Generator) -> int:
        return 2

    for restore in ("snapshot", "reexecute"):
        with pytest.raises(ReplayError, match=r"tables or MuJoCo's model.*restore='os_fork'"):
            credit.estimate(
                episode,
                go_right,
                n_rollouts=4,
                steps=[5],
                estimator="value",
                resample_hidden=freeze,
                restore=restore,
                folder=None,
            )  # type: ignore[arg-type]
    how: Any = {"resample_hidden": freeze, "restore": "os_fork", "folder": None}
    (row,) = credit.estimate(episode, go_right, n_rollouts=32, steps=[5], estimator="value", **how)
    assert row.ci_low < 0.5 < row.ci_high


def test_lost_steps_of_a_log_are_not_shifted(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("Taxi-v4"), tmp_path)
    env.reset(seed=0)
    for k in range(30):
        env.step(k % 4)
        if k % 10 == 9:
            env.flush()
    env.close()
    episode = next(trajrec.open(tmp_path).episodes())
    episode.rows.parts = [part for part in episode.rows.parts if part.segment.first_step != 10]
    with pytest.raises(ReplayError, match="the log has lost step 10"):
        credit.counterfactual(episode, "random", 2, action=0, rest="recorded", n_rollouts=2)
    with pytest.raises(ReplayError, match="the log has lost step 10"):
        credit.estimate(episode, "random", n_rollouts=2, steps=[0], noise="recorded")


class Walk(gym.Env[int, int]):
    """Twenty steps up or down."""

    n_taken = 0

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Discrete(100)
        self.action_space = gym.spaces.Discrete(2)
        self.x = 0
        self.n = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x = 50
        self.n = 0
        return self.x, {}

    def step(self, action: int) -> Any:
        self.n += 1
        self.x += 1 if self.np_random.random() < 0.4 + 0.2 * action else -1
        is_over = self.n == 20
        return self.x, float(is_over and self.x > 50), is_over, False, {}


def test_a_small_budget_ends_after_two_scenarios(tmp_path: Path) -> None:
    episode = record(tmp_path, Walk, [k % 2 for k in range(20)], coin=0)
    policy = lambda observation, rng: int(rng.random() < 0.5)  # noqa: E731
    options: Any = {"env": Walk, "folder": None, "n_rollouts": 32, "merge_rollouts": False}
    options["budget"] = credit.Budget(env_steps=500)
    table = credit.estimate(episode, policy, estimator="value", steps=[0, 5], **options)
    assert table.env_steps <= 500
    # Two scenarios of 20 steps take 840 env steps.
    table = credit.estimate(episode, policy, **options)
    assert table.env_steps <= 1000
    assert {row.n for row in table} == {2}
    assert "2 of 32 scenarios" in table.notes[0]


def test_a_policy_that_cannot_be_told_the_steps_is_refused(tmp_path: Path) -> None:
    class Remembering:
        n = 0

        def act(self, observation: Any, rng: Any) -> int:
            self.n += 1
            return self.n % 2

        def snapshot(self) -> int:
            return self.n

        def restore(self, n: int) -> None:
            self.n = n

    episode = record(tmp_path, Walk, [0, 1, 0], coin=0)
    with pytest.raises(ValueError, match=r"has snapshot\(\), but no reset\(\) and observe\(\)"):
        credit.estimate(episode, Remembering(), env=Walk, folder=None)


class Several(Walk):
    """Gives a reward to each of two goals."""

    def __init__(self, reward: Any) -> None:
        super().__init__()
        self.reward = reward

    def step(self, action: int) -> Any:
        observation, _, *rest = super().step(action)
        return observation, self.reward, *rest


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("reward", [[1.0, 2.0], np.array([1.0, 2.0]), (1.0, 2.0)], ids=str)
def test_several_rewards_a_step_are_refused_by_name(reward: Any, tmp_path: Path) -> None:
    make: Any = lambda: Several(reward)  # noqa: E731
    env = trajrec.record(make(), tmp_path)
    env.reset(seed=1)
    for _ in range(4):
        env.step(0)
    env.close()
    episode = next(trajrec.open(tmp_path).episodes())
    options: Any = {"env": make, "folder": None, "n_rollouts": 4}
    for run in (
        lambda: credit.estimate(episode, "random", **options),
        lambda: credit.decisive_step(episode, "random", **options),
        lambda: credit.pooled_advantages([episode], "random", **options),
    ):
        with pytest.raises(ValueError, match=r"success must be given .* several rewards"):
            run()
    table = credit.estimate(episode, "random", success="terminated", steps=[0], **options)
    assert [value.value for value in table.of("value")] == [1.0]


class Tensor:
    """What is seen of an array of JAX that holds one number."""

    __module__ = "jaxlib._jax"

    def __init__(self, value: float) -> None:
        self.value = value

    def __array__(self, *_: Any, **__: Any) -> Any:
        return np.array(self.value, np.float32)

    def __float__(self) -> float:
        return self.value


def test_a_tensor_of_one_number_is_a_reward(tmp_path: Path) -> None:
    make: Any = lambda: Several(Tensor(0.5))  # noqa: E731
    env = trajrec.record(make(), tmp_path)
    env.reset(seed=1)
    for _ in range(4):
        env.step(0)
    env.close()
    episode = next(trajrec.open(tmp_path).episodes())
    options: Any = {"env": make, "folder": None}
    assert episode.total_reward == 2.0
    (branch,) = fork_many(episode, at=[1], actions=[0, 1], **options)
    assert branch.total_reward == 1.0
    table = credit.estimate(episode, "random", steps=[0, 3], n_rollouts=4, **options)
    assert [value.value for value in table.of("value")] == [10.0, 8.5]


class Stateless(Walk):
    def get_state(self) -> Any:
        raise RuntimeError("the state is not at hand")

    def set_state(self, state: Any) -> None:
        raise RuntimeError("the state is not at hand")


def test_a_get_state_that_raises_gives_no_key(tmp_path: Path) -> None:
    env = trajrec.record(Stateless(), tmp_path)
    with pytest.warns(RuntimeWarning, match="the state of the environment is not recorded"):
        env.reset(seed=1)
    for _ in range(4):
        env.step(0)
    env.close()
    episode = next(trajrec.open(tmp_path).episodes())
    options: Any = {"steps": [0], "n_rollouts": 8, "env": Stateless, "folder": None}
    table = credit.estimate(episode, "random", **options)
    alone = credit.estimate(episode, "random", merge_rollouts=False, **options)
    assert [row.value for row in table] == [row.value for row in alone]
