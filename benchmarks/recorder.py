"""`python -m benchmarks.recorder`: the cost of recording, beside Minari and JSON lines.

CPU time of all threads beyond the bare environment, for the loop and the end of the recording;
bytes a step; steps a second of reading back; peak memory. All arms are interleaved, and the medians
are printed with the ratio to trajrec.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym

import trajrec
from benchmarks.scenarios import ARMS, SCENARIOS, Arm, Scenario, loop
from trajrec.types import AnyEnv

# Goals that are the same in each scenario.
GOAL_READ = 2e6
GOAL_MB = 8
GOAL_COMPACTED_BYTES = 14

# Steps that are run before the memory is read for the first time, so that modules are imported.
WARM_UP_STEPS = 300


class Measurement(NamedTuple):
    """A recording: CPU time and bytes a step, and steps a second of reading back."""

    us: float
    size_bytes: float
    read_steps_s: float


def measure(scenario: Scenario, arm_type: type[Arm]) -> Measurement:
    """Record a scenario once and read it back."""
    arm = arm_type()
    try:
        env = arm.wrap(scenario.make())
        policy = scenario.policy(env)
        begin = time.process_time()
        n_steps = loop(env, policy, scenario.n_steps)
        arm.finish(env)
        record_s = time.process_time() - begin
        size = arm.size_bytes()
        begin = time.process_time()
        n_read = arm.read_back()
        read_s = time.process_time() - begin
        return Measurement(
            record_s / n_steps * 1e6, size / n_steps, n_read / read_s if n_read else 0.0
        )
    finally:
        arm.clean()


def measure_memory_mb(scenario: int, arm: int) -> float:
    """Return the peak memory of a recording in a process of its own, in MB.

    The memory that the process had after a first unrecorded run is subtracted.
    """
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.recorder"]
    command += ["--memory-of", str(scenario), str(arm)]
    completed = subprocess.run(command, capture_output=True, text=True)
    return float(completed.stdout.split()[-1]) if completed.returncode == 0 else float("nan")


def _print_memory(scenario: Scenario, arm_type: type[Arm]) -> None:
    arm = arm_type()
    env = scenario.make()
    loop(env, scenario.policy(env), WARM_UP_STEPS)
    # Imports the recorder: the memory of imports is counted for no arm.
    assert callable(trajrec.record)
    first_kb = _peak_kb()
    env = arm.wrap(env)
    loop(env, scenario.policy(env), scenario.n_steps)
    arm.finish(env)
    print((_peak_kb() - first_kb) / 1024)
    arm.clean()


def _peak_kb() -> int:
    # Not getrusage: its maximum outlives exec, so a child would begin with its parent's.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise LookupError("/proc/self/status has no VmHWM")


def print_scenario(index: int, arms: list[type[Arm]], n_repetitions: int) -> None:
    """Measure a scenario with each arm, and print a table."""
    scenario = SCENARIOS[index]
    measurements: dict[str, list[Measurement]] = {arm.name: [] for arm in arms}
    errors: dict[str, str] = {}
    for repetition in range(n_repetitions + 1):
        for k in range(len(arms)):
            # Another arm is first each time, so that none always follows the same one.
            arm = arms[(k + repetition) % len(arms)]
            if arm.name in errors:
                continue
            try:
                measurement = measure(scenario, arm)
            except Exception as exc:
                errors[arm.name] = f"{type(exc).__name__}: {exc}"
                continue
            # The first repetition imports modules and fills caches.
            if repetition:
                measurements[arm.name].append(measurement)
    bare_us = statistics.median(one.us for one in measurements["bare"])
    trajrec_us = statistics.median(one.us for one in measurements["trajrec"]) - bare_us
    print(f"\n{scenario.name}: {scenario.n_steps} steps, bare {bare_us:.1f} us/step")
    print(
        f"{'':14} {'us/step':>9} {'x ours':>7} {'bytes/step':>11} "
        f"{'read steps/s':>13} {'peak MB':>8}"
    )
    for arm in arms:
        if arm is Arm:
            continue
        if arm.name in errors:
            print(f"{arm.name:14} {errors[arm.name][:90]}")
            continue
        us = statistics.median(one.us for one in measurements[arm.name]) - bare_us
        size = statistics.median(one.size_bytes for one in measurements[arm.name])
        read = statistics.median(one.read_steps_s for one in measurements[arm.name])
        memory = measure_memory_mb(index, ARMS.index(arm)) - measure_memory_mb(index, 0)
        print(
            f"{arm.name:14} {us:9.2f} {us / trajrec_us:7.1f} {size:11.1f} "
            f"{read:13,.0f} {memory:8.1f}"
        )
    print(
        f"{'goal':14} {scenario.goal_us:9.2f} {'':7} {scenario.goal_bytes:11.1f} "
        f"{GOAL_READ:13,.0f} {GOAL_MB:8.1f}"
    )


def print_compacted() -> None:
    """Print the bytes a step of 500-step CartPole episodes before and after compaction."""
    from trajrec.log.compaction import compact

    scenario = SCENARIOS[0]
    with tempfile.TemporaryDirectory() as folder:
        env = trajrec.record(scenario.make(), folder)
        n_steps = loop(env, scenario.policy(env), 20_000)
        env.close()
        result = compact(env.path)
    before = result.size_before / n_steps
    after = result.size_after / n_steps
    print(
        f"\ncompacted: {before:.1f} -> {after:.1f} bytes/step (goal: {GOAL_COMPACTED_BYTES}), "
        f"{after / before:.2f}x"
    )


def print_trend(n_episodes: int = 5_000) -> None:
    """Print the cost of short episodes, early and late ones: it must not grow with their number."""
    print(
        f"\nus/step of bare and recorded random CartPole, tenth by tenth of {n_episodes} episodes"
    )
    with tempfile.TemporaryDirectory() as folder:
        recording = trajrec.record(gym.make("CartPole-v1"), Path(folder))
        envs: dict[str, AnyEnv] = {"bare": gym.make("CartPole-v1"), "recorded": recording}
        costs: dict[str, list[float]] = {name: [] for name in envs}
        for tenth in range(10):
            for name, env in envs.items():
                env.action_space.seed(tenth)
                costs[name].append(_measure_episodes(env, n_episodes // 10, is_first=tenth == 0))
        recording.close()
    for name, cost in costs.items():
        print(f"{name:9}" + "".join(f"{us:7.2f}" for us in cost))


def _measure_episodes(env: AnyEnv, n_episodes: int, *, is_first: bool) -> float:
    """Return the CPU time a step of random episodes, in us."""
    n_steps = 0
    begin = time.process_time()
    for k in range(n_episodes):
        env.reset(seed=0 if is_first and k == 0 else None)
        is_over = False
        while not is_over:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            is_over = terminated or truncated
            n_steps += 1
    return (time.process_time() - begin) / n_steps * 1e6


def main() -> None:
    """Measure the scenarios that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recorder", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--scenario", type=int, nargs="*", default=list(range(len(SCENARIOS))))
    parser.add_argument("--memory-of", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        scenario, arm = arguments.memory_of
        _print_memory(SCENARIOS[scenario], ARMS[arm])
        return
    arms = [arm for arm in ARMS if "Minari" not in arm.name or importlib.util.find_spec("minari")]
    if len(arms) < len(ARMS):
        print("Minari is not installed (pip install 'trajrec[bench]'): its arms are left out")
    for index in arguments.scenario:
        print_scenario(index, arms, arguments.repetitions)
    if 0 in arguments.scenario:
        print_compacted()
        print_trend()


if __name__ == "__main__":
    main()
