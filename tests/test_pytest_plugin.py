"""The fixtures of the pytest plugin, in a project that uses them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

import trajrec
from trajrec import pytest_plugin
from trajrec.recording.event_log import close_logs

SUITE = """
import datetime, uuid, trajrec

def agent(ep, word="lamp"):
    with trajrec.deterministic():
        stamp = f"{datetime.datetime.now().isoformat()} {uuid.uuid4()}"
    ep.tool(lambda query: [query], name="search")
    return ep.call("search", query=f"{word} {stamp}")

def record(folder):
    with trajrec.episode(folder) as ep:
        agent(ep)

def test_same(trajrec_rerun):
    agent(trajrec_rerun("recordings/agent.trj"))

def test_other_word(trajrec_rerun):
    agent(trajrec_rerun("recordings/agent.trj"), word="chair")

def test_nothing(trajrec_rerun):
    trajrec_rerun("recordings/agent.trj")

def test_env(trajrec_replay):
    assert [report.grade for report in trajrec_replay("worlds")] == ["exact"]

def test_broken(trajrec_replay, monkeypatch):
    from gymnasium.envs.classic_control import CartPoleEnv
    monkeypatch.setattr(CartPoleEnv, "step", lambda self, action, step=CartPoleEnv.step: step(self, 1 - action))
    trajrec_replay("worlds")

def test_empty(trajrec_replay):
    trajrec_replay("worlds", where="false")
"""


@pytest.mark.slow
def test_fixtures_fail_tests_that_differ_from_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("test_suite").record(tmp_path / "recordings")
    close_logs()
    (log,) = (tmp_path / "recordings").glob("*.trj")
    log.rename(log.with_name("agent.trj"))
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path / "worlds")
    env.reset(seed=3)
    for action in (0, 1, 1):
        env.step(action)
    env.close()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert "3 failed, 3 passed, 1 error" in done.stdout, done.stdout
    assert "arguments/query: recorded" in done.stdout
    assert "the agent ended before" in done.stdout
    assert "DivergenceError" in done.stdout
    assert "no episodes to replay" in done.stdout


def test_a_rerun_test_forgets_its_earlier_failure(request: pytest.FixtureRequest) -> None:
    item = request.node
    was_stashed = pytest_plugin._FAILED in item.stash
    item.stash[pytest_plugin._FAILED] = ValueError("of the first run")
    call = pytest_plugin.pytest_runtest_call(item)
    next(call)
    assert not was_stashed
    assert pytest_plugin._FAILED not in item.stash
    with pytest.raises(StopIteration):
        call.send(None)
