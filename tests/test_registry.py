"""Environments that this process registered are known to the processes that replay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import broken
import gymnasium as gym
import pytest
from conftest import record

import trajrec
from trajrec.replay import check_determinism, fork_many, replay_episodes


@pytest.fixture
def env_id() -> Iterator[str]:
    gym.register("tests/Sound-v0", entry_point="broken:Sound")
    gym.register("tests/Unsendable-v0", entry_point=lambda: (_ for _ in ()))
    yield "tests/Sound-v0"
    del gym.registry["tests/Sound-v0"], gym.registry["tests/Unsendable-v0"]


@pytest.mark.slow
def test_other_processes_know_environments_registered_here(env_id: str, tmp_path: Path) -> None:
    assert broken.Sound
    record(gym.make(env_id), tmp_path, 3)
    with trajrec.open(tmp_path) as corpus:
        reports = list(replay_episodes(corpus.episodes(), jobs=2))
        assert [report.grade for report in reports] == ["exact"] * 3
        episode = next(corpus.episodes())
        branches: Any = fork_many(
            episode, at=[1], policy="random", n_branches=2, restore="os_fork", jobs=2, folder=None
        )
        assert [branch.error for branch in branches] == ["", ""]


@pytest.mark.slow
def test_a_module_that_registers_again_elsewhere_warns_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "registers_itself.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv as Lake\n"
        "gymnasium.register('Self-v0', entry_point='registers_itself:Lake')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    record(gym.make("registers_itself:Self-v0"), tmp_path / "runs", 2)
    try:
        with trajrec.open(tmp_path / "runs") as corpus:
            reports = list(replay_episodes(corpus.episodes(), jobs=2))
        assert [report.grade for report in reports] == ["exact"] * 2
        assert "Overriding" not in capfd.readouterr().err
    finally:
        del gym.registry["Self-v0"]


@pytest.mark.slow
def test_environment_registered_here_is_probed_elsewhere(env_id: str) -> None:
    assert check_determinism(env_id, n_steps=60).grade == "exact"
