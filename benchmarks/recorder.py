"""`python -m benchmarks.recorder`: what recording costs, ours and others', in one interleaved run.

CPU time of all threads beyond the bare environment (loop and finishing), medians over repetitions; the first is dropped.
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

import gymnasium as gym

import trajrec
from benchmarks.scenarios import ARMS, SCENARIOS, Arm, Scenario, loop


def measure(scenario: Scenario, arm_type: type[Arm]) -> tuple[float, float, float]:
    """Record once; return CPU us/step, bytes/step and steps/s of reading back."""
    arm = arm_type()
    try:
        env = arm.wrap(scenario.make())
        policy = scenario.policy(env)
        begin = time.process_time()
        n = loop(env, policy, scenario.n_steps)
        arm.finish(env)
        cpu = time.process_time() - begin
        size = arm.size_bytes()
        begin = time.process_time()
        read = arm.read_back()
        seconds = time.process_time() - begin
        return cpu / n * 1e6, size / n, read / seconds if read else 0.0
    finally:
        arm.clean()


def memory_mb(scenario: int, arm: int) -> float:
    """Return the peak memory of recording in a process of its own, in MB beyond what it had after a first unrecorded run."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.recorder",
        "--memory-of",
        str(scenario),
        str(arm),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else float("nan")


def _print_memory(scenario: Scenario, arm_type: type[Arm]) -> None:
    arm = arm_type()
    env = scenario.make()
    loop(env, scenario.policy(env), 300)
    assert trajrec.record  # its import, like those of the others, is not counted
    before = _peak_kb()
    env = arm.wrap(env)
    loop(env, scenario.policy(env), scenario.n_steps)
    arm.finish(env)
    print((_peak_kb() - before) / 1024)
    arm.clean()


def _peak_kb() -> int:
    # Not getrusage: its maximum outlives exec, so a child begins with its parent's.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise LookupError("/proc/self/status has no VmHWM")


def table(index: int, scenario: Scenario, arms: list[type[Arm]], repetitions: int) -> None:
    """Measure and print one scenario."""
    found: dict[str, list[tuple[float, float, float]]] = {arm.name: [] for arm in arms}
    broken: dict[str, str] = {}
    for repetition in range(repetitions + 1):
        for k in range(len(arms)):
            arm = arms[(k + repetition) % len(arms)]
            if arm.name in broken:
                continue
            try:
                result = measure(scenario, arm)
            except Exception as exc:
                broken[arm.name] = f"{type(exc).__name__}: {exc}"
                continue
            if repetition:
                found[arm.name].append(result)
    bare = statistics.median(r[0] for r in found["bare"])
    ours = statistics.median(r[0] for r in found["trajrec"]) - bare
    print(f"\n{scenario.name}: {scenario.n_steps} steps, bare {bare:.1f} us/step")
    print(
        f"{'':14} {'us/step':>9} {'x ours':>7} {'bytes/step':>11} {'read steps/s':>13} {'peak MB':>8}"
    )
    for arm in arms:
        if arm is Arm:
            continue
        if arm.name in broken:
            print(f"{arm.name:14} {broken[arm.name][:90]}")
            continue
        over = statistics.median(r[0] for r in found[arm.name]) - bare
        size, read = (statistics.median(r[i] for r in found[arm.name]) for i in (1, 2))
        memory = memory_mb(index, ARMS.index(arm)) - memory_mb(index, 0)
        print(
            f"{arm.name:14} {over:9.2f} {over / ours:7.1f} {size:11.1f} {read:13,.0f} {memory:8.1f}"
        )
    print(
        f"{'to reach':14} {scenario.target_us:9.2f} {'':7} {scenario.target_bytes:11.1f} {2e6:13,.0f} {8:8.1f}"
    )


def compacted() -> None:
    """Print the bytes a step of 500-step CartPole episodes after compaction."""
    from trajrec.log.compaction import compact

    with tempfile.TemporaryDirectory() as folder:
        env = trajrec.record(SCENARIOS[0].make(), folder)
        n = loop(env, SCENARIOS[0].policy(env), 20_000)
        env.close()
        result = compact(env.path)
        print(
            f"\ncompacted: {result.size_before / n:.1f} -> {result.size_after / n:.1f} bytes/step (to reach: 14)"
        )


def flat(n_episodes: int = 5_000) -> None:
    """Print the cost of recording short episodes as they go by: it must not grow."""
    print(
        f"\nflat over {n_episodes} episodes of random CartPole, us/step of bare and recorded by tenths"
    )
    with tempfile.TemporaryDirectory() as folder:
        arms: list[gym.Env] = [
            gym.make("CartPole-v1"),
            trajrec.record(gym.make("CartPole-v1"), Path(folder)),
        ]
        costs: list[list[float]] = [[], []]
        for tenth in range(10):
            for env, cost in zip(arms, costs, strict=True):
                env.action_space.seed(tenth)
                begin, n = time.process_time(), 0
                for k in range(n_episodes // 10):
                    env.reset(seed=0 if tenth == k == 0 else None)
                    over = False
                    while not over:
                        result = env.step(env.action_space.sample())
                        over = result[2] or result[3]
                        n += 1
                cost.append((time.process_time() - begin) / n * 1e6)
        arms[1].close()
    for name, cost in zip(("bare", "recorded"), costs, strict=True):
        print(f"{name:9}" + "".join(f"{us:7.2f}" for us in cost))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recorder", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--scenario", type=int, nargs="*", default=list(range(len(SCENARIOS))))
    parser.add_argument("--memory-of", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        _print_memory(SCENARIOS[arguments.memory_of[0]], ARMS[arguments.memory_of[1]])
        return
    arms = [arm for arm in ARMS if "Minari" not in arm.name or importlib.util.find_spec("minari")]
    if len(arms) < len(ARMS):
        print("Minari is not installed (pip install 'trajrec[bench]'): its arms are left out")
    for index in arguments.scenario:
        table(index, SCENARIOS[index], arms, arguments.repetitions)
    if 0 in arguments.scenario:
        compacted()
        flat()


if __name__ == "__main__":
    main()
