"""`python -m benchmarks.forks [PART ...]`: what forks cost: in place, by the fork server, by re-executing; medians, in one run.

Parts: snapshots, server, carracing, lunarlander, workers. All of them by default.
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
from trajrec.envstate.snapshots import Snapshots
from trajrec.replay import fork_many, replay_episodes
from trajrec.replay.execute.factories import make_by_id

REPEATS = 5


Policy = Callable[[Any, Any], Any]


def random_action(env: Any, observation: Any) -> Any:
    """Act at random."""
    return env.action_space.sample()


def hover(env: Any, observation: Any) -> Any:
    """Keep a lunar lander in the air: land, by Gymnasium's own heuristic, on what is not there."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    observation = observation.copy()
    observation[1] -= 0.6
    return heuristic(env.unwrapped, observation)


def record(
    folder: str,
    env_id: str,
    n_steps: int,
    episodes: int = 1,
    policy: Policy = random_action,
    **kwargs: Any,
) -> Any:
    """Record episodes; return the longest and its corpus."""
    env = trajrec.record(make_by_id(env_id, **kwargs), folder)
    env.action_space.seed(0)
    for k in range(episodes):
        observation, _ = env.reset(seed=k)
        for _ in range(n_steps):
            observation, _, terminated, truncated, _ = env.step(policy(env, observation))
            if terminated or truncated:
                break
    env.close()
    corpus = trajrec.open(folder)
    return next(corpus.episodes(order_by="n_steps DESC")), corpus


def median_s(work: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Return the median wall time of some work, in seconds."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def medians_s(works: dict[str, Callable[[], Any]], repeats: int = 7) -> dict[str, float]:
    """Return the median wall time of each of some works, done in turn, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(median_s(work, 1))
    return {name: statistics.median(found) for name, found in times.items()}


def snapshots() -> None:
    """Taking a snapshot and restoring it."""
    for env_id in (
        "CartPole-v1",
        "Taxi-v4",
        "Hopper-v5",
        "Humanoid-v5",
        "ALE/Breakout-v5",
        "MiniGrid-DoorKey-8x8-v0",
    ):
        env = make_by_id(env_id)
        env.reset(seed=0)
        for _ in range(5):
            env.step(env.action_space.sample())
        taker = Snapshots(env)
        kept = taker.take()
        take, restore = (
            median_s(taker.take, 200) * 1e6,
            median_s(lambda t=taker, k=kept: t.restore(k), 200) * 1e6,
        )
        print(
            f"{env_id}: {kept.restore_method}, take {take:.0f} us, restore {restore:.0f} us, together {take + restore:.0f} us"
        )
        env.close()
    print("to reach: 150 us, MuJoCo 1500 us")


def server() -> None:
    """A branch of CartPole by the fork server, beyond its own steps and beyond the server's start."""
    with tempfile.TemporaryDirectory() as folder:
        episode, _ = record(folder, "CartPole-v1", 200)
        branch = functools.partial(
            fork_many, episode, actions=[0], folder=None, restore="os_fork", noise="recorded"
        )
        few, many = (median_s(lambda n=n: branch(at=[5], n_branches=n)) for n in (1, 201))
        each, start = (many - few) / 200 * 1e3, few * 1e3
        print(
            f"fork server, CartPole: {each:.2f} ms a branch, start {start:.0f} ms (to reach: 6 ms a branch)"
        )


def carracing() -> None:
    """CarRacing, which cannot be copied: 4 branches at each of 50 steps, against re-executing each prefix."""
    with tempfile.TemporaryDirectory() as folder:
        episode, _ = record(folder, "CarRacing-v3", 500)
        steps = range(0, episode.n_steps, episode.n_steps // 50)
        ask = functools.partial(
            fork_many,
            episode,
            at=steps,
            actions=[episode.actions[0]],
            noise="recorded",
            folder=None,
        )
        begin = time.perf_counter()
        ask(restore="os_fork", n_branches=4, jobs=2)
        forked = time.perf_counter() - begin
        begin = time.perf_counter()
        ask(restore="reexecute", n_branches=1)
        prefix = 4 * (time.perf_counter() - begin)  # each of the four takes the whole prefix
        times = f"forked {forked:.1f} s, prefixes {prefix:.1f} s: {prefix / forked:.1f}x less"
        print(f"CarRacing, {episode.n_steps} steps: {times} (to reach: 20x)")


def lunarlander() -> None:
    """LunarLander: what auto takes, against the better of prefix and process."""
    for length in (50, 100, 200, 400):
        with tempfile.TemporaryDirectory() as folder:
            episode, _ = record(folder, "LunarLander-v3", length, policy=hover)
            steps = range(0, min(length, episode.n_steps), 5)
            ask = functools.partial(
                fork_many,
                episode,
                at=steps,
                actions=[0],
                n_branches=4,
                noise="recorded",
                folder=None,
            )
            found = medians_s(
                {
                    method: functools.partial(ask, restore=method)
                    for method in ("reexecute", "os_fork", "auto")
                }
            )
            best = min(found["reexecute"], found["os_fork"])
            times = ", ".join(
                f"{method} {seconds * 1e3:.0f} ms" for method, seconds in found.items()
            )
            print(
                f"LunarLander, T={episode.n_steps}: {times}: auto is {found['auto'] / best:.2f}x the better (to reach: 1.15x)"
            )


def workers() -> None:
    """2,000 MuJoCo episodes replayed by one process and by two, which take 0.35 s to begin: of some 23 steps, and of 100."""
    for n_steps, repeats, kwargs in ((400, 7, {}), (100, 3, {"terminate_when_unhealthy": False})):
        with tempfile.TemporaryDirectory() as folder:
            _, corpus = record(folder, "Hopper-v5", n_steps, episodes=2000, **kwargs)
            seconds: dict[int, list[float]] = {1: [], 2: []}
            for _ in range(repeats):
                for jobs, found in seconds.items():
                    begin = time.perf_counter()
                    reports = list(replay_episodes(corpus.episodes(), jobs=jobs))
                    found.append(time.perf_counter() - begin)
                    assert {report.grade for report in reports} == {"exact"}
            one, two = (statistics.median(found) for found in seconds.values())
            mean = sum(report.n_steps for report in reports) / len(reports)
            times = (
                f"{one:.2f} s by one process, {two:.2f} s by two: {one / two:.2f}x (to reach: 1.8x)"
            )
            print(f"2,000 Hopper episodes of {mean:.0f} steps: {times}")


PARTS = {part.__name__: part for part in (snapshots, server, carracing, lunarlander, workers)}


def main() -> None:
    """Run the parts that the command names."""
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
