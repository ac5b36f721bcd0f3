"""Forked processes lack threads, and send back values of classes that only the caller's script has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hidden_state import LENGTH, Hidden, after
from tiers import deep, third_slow

import trajrec
from trajrec.errors import ControlError
from trajrec.replay import fork_many
from trajrec.replay.diagnose.restore_probes import probe_restore


class OnJax(Hidden):
    """The game, with its number as an array of JAX."""

    def put(self, x: int) -> None:
        import jax

        self.array = jax.numpy.asarray(x)

    def push(self, action: int) -> int:
        x = after(int(self.array), action)
        self.put(x)
        return x


@deep("environments")
def test_environments_with_threads_of_jax_are_not_forked_as_processes(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    recorder = trajrec.record(OnJax(), tmp_path)
    recorder.reset(seed=1)
    for _ in range(LENGTH):
        recorder.step(1)
    recorder.close()
    episode = next(trajrec.open(tmp_path).episodes())
    options: Any = {"at": [3], "policy": "random", "n_branches": 4, "env": OnJax}
    with pytest.raises(ControlError, match=r"it runs threads \(those of JAX\)"):
        fork_many(episode, restore="os_fork", **options)
    assert {branch.error for branch in fork_many(episode, **options)} == {""}
    # What `check_determinism` asks.
    report = probe_restore(OnJax(), OnJax, seed=1, n_steps=40)["os_fork"]
    assert not report.is_granted
    assert "those of JAX" in report.why


SCRIPT = """
import enum, sys
import gymnasium as gym
import trajrec
from trajrec.replay import fork_many

class Light(enum.Enum):
    RED = 1
    GREEN = 2

class Crossing(gym.Env):
    observation_space = action_space = gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n = 0
        return Light.RED, {}
    def step(self, action):
        self.n += 1
        light = Light.GREEN if self.np_random.integers(2) else Light.RED
        return light, float(action), self.n > 9, False, {"light": light}

recorder = trajrec.record(Crossing(), sys.argv[1])
recorder.reset(seed=1)
for k in range(10):
    recorder.step(k % 2)
recorder.close()
episode = next(trajrec.open(sys.argv[1]).episodes())
for options in ({"jobs": 2}, {"restore": "os_fork"}, {"jobs": 2, "restore": "os_fork"}):
    branches = fork_many(
        episode, at=[2, 5], policy="random", n_branches=2, env=Crossing, folder=None, **options
    )
    print({branch.error for branch in branches}, branches.controls.n_repeats)
"""


@pytest.mark.slow
@third_slow("credit")
def test_branches_return_values_of_classes_of_the_callers_script(tmp_path: Path) -> None:
    script = tmp_path / "crossing.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "runs")],
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["{''} 2"] * 3, done.stderr


HOOK = """
import os
from trajrec.replay.processes.child import call_in_subprocess

def address():
    return id(object())

os.register_at_fork(before=lambda: print("forked"))
print(call_in_subprocess(address, fixed_addresses=True) == call_in_subprocess(address, fixed_addresses=True))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="addresses are fixed on Linux only")
def test_processes_with_fixed_addresses_fork_no_python_code() -> None:
    # JAX warns of such forks, and a thread may hold a lock in them.
    done = subprocess.run([sys.executable, "-c", HOOK], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
