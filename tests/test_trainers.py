"""Under trainers, a log has the transitions that reached its environment, and no others."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from test_docs import TRAINERS, run_page
from tiers import deep, third_slow
from trainer_envs import check_recording, recorded_env

import trajrec

# The trainers warn of their own parts.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch take one thread, also in other processes: small networks are slower with more."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


CARTPOLE = "CartPole-v1"
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


@third_slow("replay")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vector", [SyncVectorEnv, AsyncVectorEnv])
def test_vectors_of_gymnasium_are_recorded_as_they_ran(
    tmp_path: Path, vector: Any, mode: AutoresetMode
) -> None:
    make = functools.partial(recorded_env, CARTPOLE, tmp_path)
    envs = vector([make] * 3, autoreset_mode=mode)
    envs.action_space.seed(0)
    envs.reset(seed=0)
    for _ in range(150):
        *_, terminated, truncated, _ = envs.step(envs.action_space.sample())
        done = terminated | truncated
        if mode is AutoresetMode.DISABLED and done.any():
            envs.reset(options={"reset_mask": done})
    envs.close()
    n_steps = check_recording(tmp_path, CARTPOLE)
    # With NEXT_STEP, the call after an end is the reset.
    assert n_steps == 450 if mode is not AutoresetMode.NEXT_STEP else 400 < n_steps < 450


@deep("trainers")
@pytest.mark.parametrize(
    ("algorithm", "env_id", "is_in_processes"),
    [
        ("PPO", CARTPOLE, False),
        ("PPO", CARTPOLE, True),
        ("DQN", CARTPOLE, False),
        ("SAC", "Pendulum-v1", False),
    ],
)
def test_stable_baselines3_is_recorded_as_it_ran(
    tmp_path: Path, algorithm: str, env_id: str, is_in_processes: bool
) -> None:
    sb3 = pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    torch.set_num_threads(1)
    options = {"max_episode_steps": 60}
    make = functools.partial(recorded_env, env_id, tmp_path, **options)
    cls = SubprocVecEnv if is_in_processes else DummyVecEnv
    envs = make_vec_env(make, 2, seed=0, vec_env_cls=cls)
    settings = {"n_steps": 64, "n_epochs": 1} if algorithm == "PPO" else {"learning_starts": 192}
    model = getattr(sb3, algorithm)("MlpPolicy", envs, seed=0, device="cpu", **settings)
    model.learn(256)
    evaluate_policy(model, envs, n_eval_episodes=3)
    envs.close()
    assert check_recording(tmp_path, env_id, **options) >= 256


def make_statistics(folder: Path) -> gym.Env[Any, Any]:
    return gym.wrappers.RecordEpisodeStatistics(recorded_env(CARTPOLE, folder))


@pytest.mark.parametrize("mode", MODES[:2])
def test_loops_like_those_of_cleanrl_are_recorded_as_they_ran(
    tmp_path: Path, mode: AutoresetMode
) -> None:
    envs = SyncVectorEnv([functools.partial(make_statistics, tmp_path)] * 4, autoreset_mode=mode)
    envs.action_space.seed(0)
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(4)
    seen, _ = envs.reset(seed=1)
    returns = []
    for step in range(256):
        actions = (seen @ weights + rng.standard_normal(4) > 0).astype(np.int64)
        seen, _, _, _, infos = envs.step(actions)
        if "_episode" in infos.get("final_info", infos):
            finals = infos.get("final_info", infos)
            returns += finals["episode"]["r"][finals["_episode"]].tolist()
        if step % 64 == 63:
            weights += 0.1 * rng.standard_normal(4)
    envs.close()
    n_steps = check_recording(tmp_path, CARTPOLE)
    assert returns
    assert sum(returns) <= n_steps <= 4 * 256


@deep("trainers")
@pytest.mark.parametrize("env_id", [CARTPOLE, "Pendulum-v1"])
def test_torchrl_is_recorded_as_it_ran(tmp_path: Path, env_id: str) -> None:
    pytest.importorskip("torchrl", reason="torchrl is not installed")
    import torch
    from torchrl.collectors import Collector
    from torchrl.envs import GymWrapper, SerialEnv

    options = {"max_episode_steps": 37}

    def make() -> Any:
        return GymWrapper(recorded_env(env_id, tmp_path, **options), device="cpu")

    torch.set_num_threads(1)
    env = make()
    env.set_seed(0)
    env.rollout(90, break_when_any_done=False)
    env.rollout(90)
    env.close()
    collector = Collector(SerialEnv(2, make), None, frames_per_batch=64, total_frames=256)
    n_frames = sum(data.numel() for data in collector)
    collector.shutdown()
    assert check_recording(tmp_path, env_id, **options) >= n_frames + 90


def wrapped_env(folder: Path) -> Any:
    from torchrl.envs import GymWrapper

    return GymWrapper(recorded_env(CARTPOLE, folder), device="cpu")


@deep("trainers")
@pytest.mark.parametrize("collector", ["MultiSyncCollector", "MultiAsyncCollector"])
def test_collectors_of_torchrl_in_processes_are_recorded_as_they_ran(
    tmp_path: Path, collector: str
) -> None:
    collectors = pytest.importorskip("torchrl.collectors", reason="torchrl is not installed")
    make = functools.partial(wrapped_env, tmp_path)
    running = getattr(collectors, collector)(
        [make] * 2, None, frames_per_batch=64, total_frames=256
    )
    n_frames = sum(data.numel() for data in running)
    running.shutdown()
    assert check_recording(tmp_path, CARTPOLE) >= n_frames


@deep("trainers")
@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("vector", [SyncVectorEnv, AsyncVectorEnv])
def test_vectors_in_torchrl_are_recorded_as_they_ran(
    tmp_path: Path, vector: Any, mode: AutoresetMode
) -> None:
    pytest.importorskip("torchrl", reason="torchrl is not installed")
    from torchrl.collectors import Collector
    from torchrl.envs import GymWrapper

    make = functools.partial(recorded_env, CARTPOLE, tmp_path)
    env = GymWrapper(vector([make] * 2, autoreset_mode=mode), device="cpu")
    collector = Collector(env, None, frames_per_batch=64, total_frames=256)
    n_frames = sum(data.numel() for data in collector)
    collector.shutdown()
    assert check_recording(tmp_path, CARTPOLE) >= n_frames


RLLIB = """
import sys
from pathlib import Path
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env
from test_docs import TRAINERS, run_page
from tiers import deep
from trainer_envs import recorded_env

folder, n_runners, n_envs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
register_env("recorded", lambda config: recorded_env("CartPole-v1", config["folder"]))
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
config = (
    PPOConfig()
    .environment("recorded", env_config={"folder": folder})
    .env_runners(
        num_env_runners=n_runners, num_envs_per_env_runner=n_envs, rollout_fragment_length=64
    )
    .training(train_batch_size=256, minibatch_size=64, num_epochs=1)
)
algorithm = config.build_algo()
algorithm.train()
algorithm.stop()
ray.shutdown()
"""


@deep("trainers")
@pytest.mark.parametrize(("n_runners", "n_envs"), [(0, 2), (1, 2)])
def test_rllib_is_recorded_as_it_ran(tmp_path: Path, n_runners: int, n_envs: int) -> None:
    pytest.importorskip("ray.rllib", reason="ray[rllib] is not installed")
    # In a process of its own: Ray's threads would stay.
    done = subprocess.run(
        [sys.executable, "-c", RLLIB, str(tmp_path), str(n_runners), str(n_envs)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert check_recording(tmp_path, CARTPOLE) >= 256


@deep("trainers")
@pytest.mark.parametrize("page", sorted(TRAINERS))
def test_the_page_of_a_trainer_runs_as_written(page: str, tmp_path: Path) -> None:
    package = TRAINERS[page]
    pytest.importorskip(package, reason=f"{package} is not installed")
    run_page(page, tmp_path)


@deep("trainers")
def test_environments_of_trainers_are_refused_with_a_remedy(tmp_path: Path) -> None:
    sb3 = pytest.importorskip("stable_baselines3.common.vec_env", reason="it is not installed")
    envs = sb3.DummyVecEnv([functools.partial(gym.make, CARTPOLE)])
    with pytest.raises(TypeError, match=r"DummyVecEnv: .*make_vec_env\(lambda: trajrec\.record"):
        trajrec.record(envs, tmp_path)
    torchrl = pytest.importorskip("torchrl.envs", reason="torchrl is not installed")
    with pytest.raises(TypeError, match=r"GymEnv: .*GymWrapper\(trajrec\.record"):
        trajrec.record(torchrl.GymEnv(CARTPOLE), tmp_path)
    assert not list(tmp_path.iterdir())
