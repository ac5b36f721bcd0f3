"""A script has one name in all of its processes, also in those that multiprocessing spawns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import multiprocessing
import sys

import gymnasium as gym

import trajrec
from trajrec.replay import check_determinism, credit, fork_many, replay_episodes


class Broken(Exception):
    pass


class Counter(gym.Env):
    observation_space = gym.spaces.Discrete(9)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n_steps = 0
        return 0, {}

    def step(self, action):
        self.n_steps += 1
        if action == 2:
            raise Broken("out")
        return self.n_steps, float(action), self.n_steps == 4, False, {}


class Whole(Counter):
    def step(self, action):
        return super().step(min(action, 1))


def make():
    return Counter()


def always(env):
    return True


def one(observation):
    return 1


def record(folder):
    env = trajrec.record(make(), folder, checks=[always], interface=trajrec.interface(scaffold=one))
    for last in (1, 2):
        env.reset(seed=0)
        try:
            for action in (0, 1, 0, last):
                env.step(action)
        except Broken:
            pass
    env.close()


def record_with_factory(folder):
    try:
        trajrec.record(make(), folder, factory=make)
    except ValueError as exc:
        print("refused:", "move it out of the script" in str(exc))


def replay(folder):
    with trajrec.open(folder) as corpus:
        whole, _ = corpus.episodes(order_by="n_failures, log", kind="all")
        for report in replay_episodes(corpus.episodes(), env=make, jobs=2):
            print(report.grade)
        branches = fork_many(whole, at=1, policy=one, n_branches=2, jobs=2, env=make, folder=None)
        print([branch.total_reward for branch in branches])
        table = credit.estimate(
            whole, one, n_rollouts=2, steps=[0], jobs=2, env=make, folder=None, estimator="value"
        )
        print([float(row.value) for row in table])
    print(check_determinism(Whole, n_steps=8).grade)


def run(function, *arguments):
    process = multiprocessing.get_context(sys.argv[1]).Process(target=function, args=arguments)
    process.start()
    process.join()
"""


def run(folder: Path, rest: str, method: str = "spawn") -> list[str]:
    """Run the script with more statements under its main guard; return the lines it printed."""
    path = folder / "script.py"
    body = "".join(f"    {line}\n" for line in rest.strip().splitlines())
    path.write_text(f"{SCRIPT}\n\nif __name__ == '__main__':\n{body}")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(path), method],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_spawned_processes_record_the_names_of_their_script(tmp_path: Path) -> None:
    lines = run(
        tmp_path,
        """
record("runs")
run(record, "runs")
with trajrec.open("runs") as corpus:
    for query in (
        "SELECT DISTINCT env_id FROM episodes",
        "SELECT DISTINCT error_types->>0 FROM episodes WHERE n_failures > 0",
        "SELECT DISTINCT check_id FROM checks",
        "SELECT DISTINCT count(DISTINCT interface_id)::VARCHAR FROM episodes",
    ):
        print(*(value for (value,) in corpus.sql(query).fetchall()))
""",
    )
    assert lines == ["__main__.Counter", "__main__.Broken", "__main__:always", "1"]


def test_recordings_of_spawned_processes_replay_in_the_script(tmp_path: Path) -> None:
    lines = run(
        tmp_path,
        """
run(record, "runs")
with trajrec.open("runs") as corpus:
    for report in replay_episodes(corpus.episodes(), env=make):
        print(report.grade, report.divergence)
""",
    )
    assert lines == ["exact None", "exact None"]


def test_factories_of_a_spawned_script_are_refused(tmp_path: Path) -> None:
    assert run(tmp_path, 'run(record_with_factory, "runs")') == ["refused: True"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_spawned_processes_replay_in_processes_of_theirs(tmp_path: Path, method: str) -> None:
    lines = run(tmp_path, 'record("runs")\nrun(replay, "runs")', method)
    assert lines == ["exact", "exact", "[3.0, 3.0]", "[4.0]", "exact"]
