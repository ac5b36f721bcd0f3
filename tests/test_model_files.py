"""The command line takes models of Stable-Baselines3, as objects and as files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from conftest import record

import trajrec
from trajrec.cli.load import load_acting
from trajrec.cli.main import main


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_commands_take_models_and_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: str
) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    model = sb3.PPO("MlpPolicy", gym.make("CartPole-v1"), device="cpu", seed=0)
    file = tmp_path / "model.zip"
    model.save(file)
    (tmp_path / "my_models.py").write_text(
        f"import stable_baselines3\nppo = stable_baselines3.PPO.load({str(file)!r}, device='cpu')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    runs = tmp_path / "runs"
    record(gym.make("CartPole-v1"), runs, 1)
    (episode,) = trajrec.open(runs).episodes()
    policies = [f"PPO:{file}", f"stable_baselines3.PPO:{file}", "my_models:ppo"]
    if jobs == "2":
        # Each worker imports torch: one way with a file and one with an object will do.
        del policies[1]
    for policy in policies:
        common = ["--policy", policy, "--jobs", jobs]
        fork = ["fork", str(runs), episode.id, "--at", "2", "-n", "2", *common]
        assert main(fork) == 0, policy
        credit = ["credit", str(runs), episode.id, "--steps", "0:2", "-n", "2", *common]
        assert main(credit) == 0, policy
        assert main(["record", "CartPole-v1", "-o", str(tmp_path), "--policy", policy]) == 0
    rows = trajrec.open(runs).sql("SELECT DISTINCT policy_id FROM credit").fetchall()
    assert rows == [("PPO-sampled-0",)]


def test_a_file_without_its_algorithm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="PPO:model"):
        load_acting("model.zip")
    package: Any = type(sys)("fake_models")
    sys.modules["fake_models"] = package
    with pytest.raises(ValueError, match="no algorithm TQC"):
        load_acting("fake_models.TQC:model.zip")
    package.TQC = type("TQC", (), {"load": lambda file, device: (file, device)})
    with pytest.raises(FileNotFoundError):
        load_acting(f"fake_models.TQC:{tmp_path}/model.zip")
    (tmp_path / "model.zip").touch()
    assert load_acting(f"fake_models.TQC:{tmp_path}/model.zip")[1] == "cpu"
    del sys.modules["fake_models"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_model_is_loaded_as_its_own_algorithm_alone(tmp_path: Path) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    line = "MountainCarContinuous-v0"
    made = {
        "A2C": sb3.A2C("MlpPolicy", "CartPole-v1"),
        "PPO": sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=64),
        "DQN": sb3.DQN("MlpPolicy", "CartPole-v1", buffer_size=8),
        "SAC": sb3.SAC("MlpPolicy", line, buffer_size=8),
        "TD3": sb3.TD3("MlpPolicy", line, buffer_size=8),
        "DDPG": sb3.DDPG("MlpPolicy", line, buffer_size=8),
    }
    for name, model in made.items():
        model.save(tmp_path / name)
        assert type(load_acting(f"{name}:{tmp_path / name}.zip")) is type(model)
    for name, other in (("A2C", "PPO"), ("DQN", "PPO"), ("TD3", "SAC"), ("PPO", "DQN")):
        with pytest.raises(ValueError, match=f"--policy {name}:.* which {name} does not take"):
            load_acting(f"{name}:{tmp_path / other}.zip")
