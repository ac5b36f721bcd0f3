"""Rollouts and forks give the same numbers for the same seed, in every version of trajrec.

The expected values were computed before the rooms were rebuilt, at commit eb2ffcb.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.envs import Bank
from trajrec.envs.solved import RepairingPolicy
from trajrec.recording.event_log import close_logs
from trajrec.recording.opening import open_recorder
from trajrec.recording.options import LogOrigin
from trajrec.replay import credit, fork_many

PLAN = [("deposit", {"amount": 100}), ("choose", {"amount": 150}), ("withdraw", {})]


def wander(observation: Any, rng: np.random.Generator) -> int:
    return int(rng.choice([0, 1, 2, 3], p=[0.1, 0.4, 0.4, 0.1]))


def gamble(context: Any, rng: np.random.Generator) -> Any:
    amount = 50 if rng.random() < 0.5 else 150
    plan = [PLAN[0], ("choose", {"amount": amount}), PLAN[2]]
    return plan[context.step] if context.step < len(plan) else None


def draw_card(env: Any, rng: np.random.Generator) -> None:
    env.unwrapped.dealer[1] = int(rng.integers(1, 11))


def record(folder: Path, env_id: str, policy: Callable[..., int], seed: int) -> Episode:
    """Record one episode; its id does not depend on the run."""
    env = open_recorder(gym.make(env_id), folder, LogOrigin(name="parent"))
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    is_over = False
    while not is_over:
        observation, _, terminated, truncated, _ = env.step(policy(observation, rng))
        is_over = terminated or truncated
    env.close()
    return next(trajrec.open(folder).episodes())


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Episode]:
    folder = tmp_path_factory.mktemp("corpus")
    with trajrec.episode(folder / "bank", task="t", world=Bank()) as ep:
        for tool, arguments in PLAN:
            ep.call(tool, **arguments)
        ep.stop("done", claimed_done=True)
    close_logs()
    return {
        "lake": record(folder / "lake", "FrozenLake-v1", wander, seed=3),
        "jack": record(
            folder / "jack", "Blackjack-v1", lambda observation, _: int(observation[0] < 15), seed=1
        ),
        "bank": trajrec.open(folder / "bank").episode(ep.id),
    }


def digest(rows: list[Any]) -> str:
    return hashlib.blake2b(repr(rows).encode(), digest_size=8).hexdigest()


def rollouts_of(table: credit.CreditTable) -> list[Any]:
    return [
        (
            step,
            arm,
            int(rollout.scenario),
            float(rollout.episode_return),
            rollout.score,
            rollout.length,
            rollout.status,
            rollout.coalesced_at,
            rollout.env_steps,
            rollout.policy_calls,
        )
        for step, arm, rollouts in table.arms
        for rollout in rollouts
    ]


def at_goal(env: Any) -> bool:
    return bool(env.unwrapped.s == 15)


CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "lake-shared": ("lake", wander, {"n_rollouts": 8, "noise": "shared", "seed": 7}),
    "lake-fresh": ("lake", wander, {"n_rollouts": 8, "noise": "fresh", "seed": 7}),
    "lake-recorded": ("lake", wander, {"n_rollouts": 8, "noise": "recorded", "seed": 7}),
    "lake-success": ("lake", wander, {"n_rollouts": 4, "success": at_goal, "steps": [0, 1, 2]}),
    "jack": ("jack", "random", {"n_rollouts": 16, "seed": 1}),
    "jack-drawn": ("jack", "random", {"n_rollouts": 16, "seed": 1, "resample_hidden": draw_card}),
    "lake-discounted": (
        "lake",
        wander,
        {"n_rollouts": 16, "gamma": 0.9, "steps": [2, 3, 4], "seed": 2},
    ),
    "lake-fresh-discounted": (
        "lake",
        "random",
        {"n_rollouts": 16, "gamma": 0.5, "steps": [3, 4], "noise": "fresh", "seed": 11},
    ),
    "bank": ("bank", gamble, {"n_rollouts": 8, "seed": 5}),
}

EXPECTED = {
    "lake-shared": (
        [0.0, 0.0, 0.0, 0.0, 0.125, 0.0, 0.125, 0.0, 0.0, 0.125, -0.125, 0.125, 0.125, 0.0, -0.125],
        "fa8eddcbc72546c7",
    ),
    "lake-fresh": (
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.125, 0.125, -0.125, 0.0, 0.0, 0.25, -0.25],
        "836fefa7a9b8419d",
    ),
    "lake-recorded": (
        [0.0, 0.0, 0.0, 0.0, 0.125, 0.0, 0.125, 0.125, 0.0, 0.25, 0.125, 0.0, 0.375, -0.375, 0.0],
        "17cdc02e42cb5fe7",
    ),
    "lake-success": ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], "3597468b0f36d852"),
    "jack": ([0.375, 0.5, 0.125], "e2b7f1a3f509607b"),
    "jack-drawn": ([0.4375, 0.5, 0.0625], "931bebebedd3ee22"),
    "lake-discounted": (
        [
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.03690562500000001,
            0.04100625000000001,
            0.009618749999999995,
            -0.050625,
        ],
        "e51c2cae1077d2de",
    ),
    "lake-fresh-discounted": (
        [0.0, 3.814697265625e-06, 0.000240325927734375, 0.00048828125, 0.01513671875, -0.015625],
        "a50858296f6d779e",
    ),
    "bank": ([0.5, 0.0, 0.0, 0.5, -0.5, 0.0, 0.0, 0.0, 0.0], "540593d85e06f3ea"),
}


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("case", CASES)
def test_estimates_are_those_of_the_first_version(case: str, episodes: dict[str, Episode]) -> None:
    name, policy, options = CASES[case]
    table = credit.estimate(episodes[name], policy, folder=None, **options)
    assert ([estimate.value for estimate in table], digest(rollouts_of(table))) == EXPECTED[case]


def test_shapley_rollouts_are_those_of_the_first_version(episodes: dict[str, Episode]) -> None:
    table = credit.shapley_values(episodes["lake"], wander, n_permutations=4, folder=None, seed=1)
    assert digest(rollouts_of(table)) == "61ebfb23e9c4541a"


@pytest.mark.parametrize(
    ("policy", "expected"), [("random", "4d7a3a7021f66463"), (wander, "43e874c1240a7a47")]
)
def test_branches_are_those_of_the_first_version(
    policy: Any, expected: str, episodes: dict[str, Episode]
) -> None:
    branches = fork_many(
        episodes["lake"], at=[0, 2, 4], policy=policy, n_branches=3, seed=5, folder=None
    )
    rows = [
        (
            branch.step,
            branch.index,
            tuple(int(action) for action in branch.actions),
            branch.n_steps,
            float(branch.total_reward),
            branch.terminated,
            branch.truncated,
            branch.rejoined_at,
        )
        for branch in branches
    ]
    assert digest(rows) == expected


def numbers_of(table: credit.CreditTable) -> list[Any]:
    """Return all numbers but the ends of intervals, which another method may change."""
    return [
        (
            row.step,
            row.estimator,
            row.value,
            row.n,
            row.n_discordant,
            row.n_invalid,
            row.env_steps,
            row.policy_calls,
        )
        for row in table
    ]


class Wanderer:
    """The policy `wander`, with its probabilities."""

    def dist(self, observation: Any) -> Any:
        return np.array([0.1, 0.4, 0.4, 0.1])

    def act(self, observation: Any, rng: np.random.Generator) -> int:
        return wander(observation, rng)


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve episodes on ice in one log, and an episode of ten steps with a fault at step 5."""
    folder = tmp_path_factory.mktemp("walks")
    env = open_recorder(gym.make("FrozenLake-v1"), folder / "lake", LogOrigin(name="parent"))
    rng = np.random.default_rng(3)
    for k in range(12):
        observation, _ = env.reset(seed=3 + k)
        is_over = False
        while not is_over:
            observation, _, terminated, truncated, _ = env.step(wander(observation, rng))
            is_over = terminated or truncated
    env.close()
    chain = gym.make("trajrec/FaultChain-v0", size=10)
    env = open_recorder(chain, folder / "chain", LogOrigin(name="parent"))
    observation, _ = env.reset(seed=0)
    for _ in range(10):
        observation, *_ = env.step(1 if observation[0] == 5 else 0)
    env.close()
    return folder


def test_other_estimators_give_the_numbers_of_the_first_version(walks: Path) -> None:
    with trajrec.open(walks / "lake") as corpus:
        lakes = list(corpus.episodes())
        lake = lakes[0]
        options: dict[str, Any] = {"seed": 1, "folder": None}
        shapley = credit.shapley_values(lake, wander, n_permutations=4, **options)
        assert digest(numbers_of(shapley)) == "2368e70235e79ba7"
        pooled = credit.pooled_advantages(lakes[:3], wander, n_rollouts=8, by="state", **options)
        assert digest([numbers_of(table) for table in pooled]) == "54af1fd035d99465"
        redrawn = credit.counterfactual(lake, wander, 2, action=1, n_rollouts=16, **options)
        assert digest(numbers_of(redrawn)) == "8bb4d1909adac8d6"
        left_out = credit.counterfactual(lake, wander, 1, rest="recorded", n_rollouts=16, **options)
        assert digest(numbers_of(left_out)) == "caa605ebbdd8fb84"


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("grpo", "727e0f10fefc53af"),
        ("rloo", "d5ed81517d473671"),
        ("gigpo", "90f55180d30ff1e7"),
        ("rtmc", "3fa0ac3d5986a466"),
        ("hca", "25c996a9c5e560e1"),
        ("cocoa", "1f99d71ab5ca726c"),
        ("rudder", "4f53fef745ccc8f4"),
    ],
)
def test_credit_without_rollouts_is_that_of_the_first_version(
    method: Any, expected: str, walks: Path
) -> None:
    with trajrec.open(walks / "lake") as corpus:
        if method in ("grpo", "rloo", "gigpo", "rtmc"):
            tables = credit.group_advantages(corpus, method)
        else:
            episodes = list(corpus.episodes())
            tables = credit.hindsight_credit(episodes, Wanderer(), method)
    assert digest([numbers_of(table) for table in tables]) == expected


@pytest.mark.slow
def test_decisions_are_those_of_the_first_version(walks: Path) -> None:
    with trajrec.open(walks / "chain") as corpus:
        (episode,) = corpus.episodes()
        options: dict[str, Any] = {"n_rollouts": 8, "seed": 1, "folder": None}
        policy = RepairingPolicy(0.05)
        dropped = credit.decisive_step(episode, policy, max_rollouts=64, **options)
        assert (dropped.step, dropped.confidence) == (5, 0.99825)
        assert digest(numbers_of(dropped.table)) == "4d921dbc8e40d42e"
        changed = credit.decisive_step(episode, policy, method="bayes", max_rollouts=64, **options)
        assert (changed.step, changed.confidence) == (5, 0.9959575749237924)
        assert digest(numbers_of(changed.table)) == "4f25b4b58e1c2959"
        point = credit.point_of_no_return(episode, lambda _: 0, **options)
        assert (point.step, digest(numbers_of(point.table))) == (6, "6d53115264e31e61")
