"""Credit given what the agent had seen: what was hidden from it is drawn anew."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.envs import Bank
from trajrec.errors import ReplayError
from trajrec.recording.event_log import close_logs
from trajrec.replay import credit

WAIT, LOOK = 0, 1


class Cups(gym.Env[Any, Any]):
    """A coin is under one of two cups since the reset. Wait, then look or not, then name the cup: being right pays 1."""

    observation_space = gym.spaces.Discrete(3)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n, self.coin, self.is_seen = 0, int(self.np_random.integers(2)), False
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
    """The coin is no part of the state that it tells."""

    def get_state(self) -> Any:
        return self.n, self.is_seen

    def set_state(self, state: Any) -> None:
        self.n, self.is_seen = state


def under_any(env: Any, rng: np.random.Generator) -> None:
    """Put the coin anywhere, unless it was seen."""
    rng.random(env.unwrapped.n)  # another draw at each step
    coin = int(rng.integers(2))
    if not env.unwrapped.is_seen:
        env.unwrapped.coin = coin


def careless(observation: Any, rng: np.random.Generator) -> int:
    """Look at one time in four; name what was seen, and else the second cup."""
    return int(observation) if observation < 2 else int(rng.random() < 0.25)


def naming(observation: Any, rng: np.random.Generator) -> int:
    """Never look; name what was seen, and else the second cup."""
    return int(observation) if observation < 2 else WAIT


def record(folder: Path, make: Any, actions: list[int], coin: int) -> Episode:
    """Record an episode in which the coin is where it is wanted."""
    seed = next(seed for seed in range(99) if int(np.random.default_rng(seed).integers(2)) == coin)
    env = trajrec.record(make(), folder)
    env.reset(seed=seed)
    for action in actions:
        env.step(action)
    env.close()
    return next(trajrec.open(folder).episodes())


def numbers(table: credit.CreditTable) -> list[Any]:
    return [(e.step, e.estimator, e.value, e.ci_low, e.ci_high, e.n) for e in table]


def test_values_are_of_what_had_been_seen(tmp_path: Path) -> None:
    episode = record(tmp_path, Cups, [WAIT, LOOK, 1], coin=0)
    knowing = credit.estimate(episode, naming, n_rollouts=64, env=Cups)
    # It names the first cup, and the coin is there: looking is worth nothing to who knows.
    assert [row.value for row in knowing.of("value")] == [1.0, 1.0, 1.0]
    assert [row.value for row in knowing.of("advantage")] == [0.0, 0.0, -1.0]
    seen = credit.estimate(episode, naming, n_rollouts=64, env=Cups, resample_hidden=under_any)
    value, advantage, luck = (seen.of(name) for name in ("value", "advantage", "luck"))
    assert all(row.ci_low <= 0.5 <= row.ci_high for row in value[:2])
    assert value[2].value == 1.0  # it was seen by then
    assert advantage[1].ci_low <= 0.5 <= advantage[1].ci_high
    assert advantage[1].ci_low > 0
    assert luck[1].value == 0.0
    assert advantage[2].value == -1.0
    assert seen.split is not None
    assert seen.split.error == pytest.approx(0, abs=1e-9)
    assert all(row.estimand.endswith("; given what had been seen") for row in seen)
    assert "had not seen were redrawn" in "".join(seen.notes)
    with trajrec.open(
        tmp_path
    ) as corpus:  # of another quantity, it does not take the place of the other
        rows = corpus.sql(
            "SELECT value FROM latest_credit WHERE estimator = 'advantage' AND step = 1 ORDER BY 1"
        ).fetchall()
    assert rows == [(0.0,), (advantage[1].value,)]


@pytest.mark.slow
@pytest.mark.parametrize("make", [Cups, Sealed])
def test_the_numbers_depend_on_nothing_but_the_root(make: Any, tmp_path: Path) -> None:
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


def test_every_estimator_of_forks_takes_it(tmp_path: Path) -> None:
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


def test_where_it_has_no_meaning_it_is_refused(tmp_path: Path) -> None:
    episode = record(tmp_path, Cups, [WAIT, LOOK, 1], coin=0)
    with pytest.raises(TypeError, match="must be a function"):
        credit.estimate(episode, naming, env=Cups, resample_hidden=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="recorded noise repeats the hidden facts"):
        credit.estimate(episode, naming, env=Cups, resample_hidden=under_any, noise="recorded")
    with pytest.raises(ValueError, match=r"use estimate\(\)"):
        credit.pooled_advantages([episode], naming, env=Cups, resample_hidden=under_any)


def test_what_it_draws_elsewhere_is_noticed(tmp_path: Path) -> None:
    elsewhere = itertools.cycle([0, 1])

    def draw(env: Any, rng: np.random.Generator) -> None:
        env.unwrapped.coin = next(elsewhere)

    episode = record(tmp_path, Cups, [WAIT, WAIT, 1], coin=0)
    table = credit.estimate(episode, naming, n_rollouts=8, env=Cups, resample_hidden=draw)
    assert {row.noise for row in table} == {"fresh"}


@pytest.mark.parametrize("restore", ["snapshot", "reexecute"])
def test_an_agents_world_may_hide_something_too(restore: Any, tmp_path: Path) -> None:
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
def test_what_is_not_put_back_between_rollouts_may_not_be_changed_but_in_processes(
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

    go = lambda observation, rng: 2  # noqa: E731
    for restore in ("snapshot", "reexecute"):
        with pytest.raises(ReplayError, match=r"tables or MuJoCo's model.*restore='os_fork'"):
            credit.estimate(
                episode,
                go,
                n_rollouts=4,
                steps=[5],
                estimator="value",
                resample_hidden=freeze,
                restore=restore,
                folder=None,
            )  # type: ignore[arg-type]
    how: Any = {"resample_hidden": freeze, "restore": "os_fork", "folder": None}
    (row,) = credit.estimate(episode, go, n_rollouts=32, steps=[5], estimator="value", **how)
    assert row.ci_low < 0.5 < row.ci_high


def test_steps_that_the_log_has_lost_are_not_shifted(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("Taxi-v4"), tmp_path)
    env.reset(seed=0)
    for k in range(30):
        env.step(k % 4)
        if k % 10 == 9:
            env.flush()
    env.close()
    episode = next(trajrec.open(tmp_path).episodes())
    episode.parts = [
        (chunk, span) for chunk, span in episode.parts if span.segment.first_step != 10
    ]
    with pytest.raises(ReplayError, match="the log has lost step 10"):
        credit.counterfactual(episode, "random", 2, action=0, rest="recorded", n_rollouts=2)
    with pytest.raises(ReplayError, match="the log has lost step 10"):
        credit.estimate(episode, "random", n_rollouts=2, steps=[0], noise="recorded")
