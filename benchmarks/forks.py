"""`python -m benchmarks.forks [PART ...]`: the cost of forks.

Parts, all by default:
    snapshots: take and restore a snapshot of six environments.
    server: a branch of the fork server beyond its own steps.
    carracing: the fork server, compared with re-executing the steps before each fork.
    lunarlander: restore="auto", compared with the better of "reexecute" and "os_fork".
    workers: a replay by two processes, compared with one.
Prints medians of wall time, ratios and goals.
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.envstate.snapshots import Snapshots
from trajrec.replay import fork_many, replay_episodes
from trajrec.replay.execute.factories import make_by_id
from trajrec.types import Action, AnyEnv, Observation, Value

N_REPEATS = 5

EnvPolicy = Callable[[AnyEnv, Observation], Action]
Work = Callable[[], object]


def random_action(env: AnyEnv, observation: Observation) -> Action:
    """Return a random action."""
    return env.action_space.sample()


def hover(env: AnyEnv, observation: Observation) -> Action:
    """Return an action that keeps a lunar lander in the air, so that its episode is long.

    Gymnasium's own heuristic lands; here it is told that the ground is higher than it is.
    """
    from gymnasium.envs.box2d.lunar_lander import heuristic

    observation = observation.copy()
    observation[1] -= 0.6
    return heuristic(env.unwrapped, observation)  # type: ignore[no-untyped-call]


def record(
    folder: str,
    env_id: str,
    n_steps: int,
    *,
    n_episodes: int = 1,
    policy: EnvPolicy = random_action,
    **kwargs: Value,
) -> tuple[Episode, trajrec.Corpus]:
    """Record episodes; return the longest, and the corpus."""
    env = trajrec.record(make_by_id(env_id, **kwargs), folder)
    env.action_space.seed(0)
    for k in range(n_episodes):
        observation, _ = env.reset(seed=k)
        for _ in range(n_steps):
            observation, _, terminated, truncated, _ = env.step(policy(env, observation))
            if terminated or truncated:
                break
    env.close()
    corpus = trajrec.open(folder)
    return next(corpus.episodes(order_by="n_steps DESC")), corpus


def time_s(work: Work) -> float:
    """Return the wall time of some work, in seconds."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def median_s(work: Work, n_repeats: int = N_REPEATS) -> float:
    """Return the median wall time of some work, in seconds."""
    return statistics.median(time_s(work) for _ in range(n_repeats))


def medians_s(works: dict[str, Work], n_repeats: int = 7) -> dict[str, float]:
    """Return the median wall time of each work, in seconds; the works are done in turn."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(n_repeats):
        for name, work in works.items():
            times[name].append(time_s(work))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def snapshots() -> None:
    """Print the time to take and to restore a snapshot."""
    env_ids = (
        "CartPole-v1",
        "Taxi-v4",
        "Hopper-v5",
        "Humanoid-v5",
        "ALE/Breakout-v5",
        "MiniGrid-DoorKey-8x8-v0",
    )
    for env_id in env_ids:
        env = make_by_id(env_id)
        env.reset(seed=0)
        for _ in range(5):
            env.step(env.action_space.sample())
        taker = Snapshots(env)
        snapshot = taker.take()
        take_us = median_s(taker.take, 200) * 1e6
        restore_us = median_s(functools.partial(taker.restore, snapshot), 200) * 1e6
        print(
            f"{env_id}: {snapshot.restore_method}, take {take_us:.0f} us, restore "
            f"{restore_us:.0f} us, together {take_us + restore_us:.0f} us"
        )
        env.close()
    print("goal: 150 us together, MuJoCo 1500 us")


def server() -> None:
    """Print the cost of a CartPole branch by the fork server, and of the server's start."""
    with tempfile.TemporaryDirectory() as folder:
        episode, _ = record(folder, "CartPole-v1", 200)
        fork_at_5 = functools.partial(
            fork_many,
            episode,
            at=[5],
            actions=[0],
            folder=None,
            restore="os_fork",
            noise="recorded",
        )
        # The difference of the two is 200 branches without the start.
        one_s = median_s(functools.partial(fork_at_5, n_branches=1))
        many_s = median_s(functools.partial(fork_at_5, n_branches=201))
        branch_ms = (many_s - one_s) / 200 * 1e3
        print(
            f"fork server, CartPole: {branch_ms:.2f} ms a branch (goal: 6), "
            f"start {one_s * 1e3:.0f} ms"
        )


def carracing() -> None:
    """Print the time of 4 branches at each of 50 steps, by the fork server and re-executed.

    CarRacing has no snapshots: Box2D's world cannot be copied.
    """
    with tempfile.TemporaryDirectory() as folder:
        episode, _ = record(folder, "CarRacing-v3", 500)
        fork_all = functools.partial(
            fork_many,
            episode,
            at=range(0, episode.n_steps, episode.n_steps // 50),
            actions=[episode.actions[0]],
            noise="recorded",
            folder=None,
        )
        forked_s = time_s(lambda: fork_all(restore="os_fork", n_branches=4, jobs=2))
        # Each of four branches re-executes all steps before it, so one is measured, and counted
        # four times.
        reexecuted_s = 4 * time_s(lambda: fork_all(restore="reexecute", n_branches=1))
        print(
            f"CarRacing, {episode.n_steps} steps: forked {forked_s:.1f} s, re-executed "
            f"{reexecuted_s:.1f} s: {reexecuted_s / forked_s:.1f}x less (goal: 20x)"
        )


def lunarlander() -> None:
    """Print the time of restore="auto", and its ratio to the better of its two choices."""
    for length in (50, 100, 200, 400):
        with tempfile.TemporaryDirectory() as folder:
            episode, _ = record(folder, "LunarLander-v3", length, policy=hover)
            fork_all = functools.partial(
                fork_many,
                episode,
                at=range(0, min(length, episode.n_steps), 5),
                actions=[0],
                n_branches=4,
                noise="recorded",
                folder=None,
            )
            methods = ("reexecute", "os_fork", "auto")
            seconds = medians_s(
                {method: functools.partial(fork_all, restore=method) for method in methods}
            )
            best_s = min(seconds["reexecute"], seconds["os_fork"])
            times = ", ".join(f"{method} {seconds[method] * 1e3:.0f} ms" for method in methods)
            print(
                f"LunarLander, T={episode.n_steps}: {times}: auto is "
                f"{seconds['auto'] / best_s:.2f}x the better (goal: 1.15x)"
            )


def workers() -> None:
    """Print the time of replaying 2,000 MuJoCo episodes with one process and with two.

    The second process takes 0.35 s to start, so the episodes are some 23 steps long, and then 100.
    """
    cases: tuple[tuple[int, int, dict[str, Any]], ...] = (
        (400, 7, {}),
        (100, 3, {"terminate_when_unhealthy": False}),
    )
    for n_steps, n_repeats, kwargs in cases:
        with tempfile.TemporaryDirectory() as folder:
            _, corpus = record(folder, "Hopper-v5", n_steps, n_episodes=2000, **kwargs)
            seconds: dict[int, list[float]] = {1: [], 2: []}
            for _ in range(n_repeats):
                for jobs, times in seconds.items():
                    begin = time.perf_counter()
                    reports = list(replay_episodes(corpus.episodes(), jobs=jobs))
                    times.append(time.perf_counter() - begin)
                    assert {report.grade for report in reports} == {"exact"}
            one_s = statistics.median(seconds[1])
            two_s = statistics.median(seconds[2])
            mean = sum(report.n_steps for report in reports) / len(reports)
            print(
                f"2,000 Hopper episodes of {mean:.0f} steps: {one_s:.2f} s with one process, "
                f"{two_s:.2f} s with two: {one_s / two_s:.2f}x (goal: 1.8x)"
            )


PARTS: dict[str, Callable[[], None]] = {
    part.__name__: part for part in (snapshots, server, carracing, lunarlander, workers)
}


def main() -> None:
    """Run the parts that the command line names."""
    names = sys.argv[1:] or list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise SystemExit(f"no part {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    for name in names:
        PARTS[name]()


if __name__ == "__main__":
    main()
