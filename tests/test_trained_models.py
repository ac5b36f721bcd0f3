"""Models of Stable-Baselines3 are policies: sampled, deterministic, or refused with a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import only, run
from tiers import deep

import trajrec
from trajrec.replay import credit, fork_many

sb3 = pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")

# torch warns of its own parts, and Stable-Baselines3 of networks on a GPU.
pytestmark = [deep("credit"), pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def model(algorithm: str, env: Any, policy: str = "MlpPolicy", package: Any = sb3) -> Any:
    return getattr(package, algorithm)(policy, env, device="cpu", seed=0)


@pytest.mark.parametrize(
    ("algorithm", "env_id"),
    [
        ("PPO", "CartPole-v1"),
        ("PPO", "Pendulum-v1"),
        ("DQN", "CartPole-v1"),
        ("SAC", "Pendulum-v1"),
    ],
)
def test_deterministic_models_act_as_their_own_prediction(algorithm: str, env_id: str) -> None:
    trained = model(algorithm, gym.make(env_id))
    policy = credit.StableBaselines3Policy(trained, deterministic=True)
    assert policy.id == f"{algorithm}-deterministic-0"
    space = gym.make(env_id).observation_space
    observations = [space.sample() for _ in range(50)]
    rngs = [np.random.default_rng(k) for k in range(50)]
    predicted = [trained.predict(o, deterministic=True)[0] for o in observations]
    batch = policy.act_batch(observations, rngs)
    for observation, action, in_batch in zip(observations, predicted, batch, strict=True):
        np.testing.assert_array_equal(policy.act(observation, rngs[0]), action)
        # A batch is one product of matrices, whose sums are taken in another order.
        np.testing.assert_allclose(in_batch, action, rtol=1e-4, atol=1e-5)
    assert policy.dist(observations[0]) is None


def test_sampled_models_draw_from_the_given_generator_alone() -> None:
    import torch

    policy = credit.StableBaselines3Policy(model("PPO", gym.make("CartPole-v1")))
    observation = np.zeros(4, np.float32)
    actions = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        rng = np.random.default_rng(0)
        actions.append([int(policy.act(observation, rng)) for _ in range(40)])
    assert actions[0] == actions[1]
    assert set(actions[0]) == {0, 1}


def test_deterministic_branches_repeat_and_sampled_ones_differ(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path / "runs")
    run(env)
    env.close()
    episode = only(tmp_path / "runs")
    trained = model("PPO", gym.make("CartPole-v1"))
    actions: dict[bool, set[bytes]] = {}
    for deterministic in (True, False):
        policy = credit.StableBaselines3Policy(trained, deterministic=deterministic)
        branches = fork_many(episode, at=[3], policy=policy, n_branches=6, max_steps=30, jobs=2)
        actions[deterministic] = {np.asarray(b.actions).tobytes() for b in branches}
    assert len(actions[True]) == 1
    assert len(actions[False]) > 1


def test_models_behind_normalized_observations_are_refused() -> None:
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    normalize = VecNormalize(make_vec_env("CartPole-v1", 1))
    with pytest.raises(ValueError, match="observations that VecNormalize normalizes"):
        credit.StableBaselines3Policy(model("PPO", normalize))
    rewards_only = VecNormalize(make_vec_env("CartPole-v1", 1), norm_obs=False)
    credit.StableBaselines3Policy(model("PPO", rewards_only))


def test_models_with_memory_or_masks_are_refused() -> None:
    contrib = pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed")
    env = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match=r"RecurrentPPO needs more .* it has a memory"):
        credit.StableBaselines3Policy(model("RecurrentPPO", env, "MlpLstmPolicy", contrib))
    with pytest.raises(ValueError, match=r"MaskablePPO needs more .* it takes masks"):
        credit.StableBaselines3Policy(model("MaskablePPO", env, package=contrib))
    credit.StableBaselines3Policy(model("TRPO", env, package=contrib))
    credit.StableBaselines3Policy(model("QRDQN", env, package=contrib))
