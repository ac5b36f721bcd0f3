"""`python -m benchmarks.several_agents [OUT.md]`: PettingZoo's environments, each recorded beside its bare loop, replayed in
another process, and forked at each method that it grants; a table of what holds and what it costs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import numpy as np
import pettingzoo

import trajrec
from trajrec.errors import SnapshotError
from trajrec.replay import fork_many
from trajrec.values import codec
from trajrec.values.diff import is_same

ENVIRONMENTS: tuple[tuple[str, str, dict[str, Any], int], ...] = (
    ("aec", "classic/tictactoe_v3", {}, 400),
    ("aec", "classic/connect_four_v3", {}, 400),
    ("aec", "classic/rps_v2", {}, 400),
    ("parallel", "classic/rps_v2", {}, 400),
    ("aec", "classic/chess_v6", {}, 300),
    ("aec", "classic/go_v5", {"board_size": 5}, 300),
    ("aec", "classic/leduc_holdem_v4", {}, 400),
    ("aec", "classic/texas_holdem_v4", {}, 400),
    ("aec", "classic/texas_holdem_no_limit_v6", {}, 400),
    ("parallel", "butterfly/knights_archers_zombies_v11", {}, 700),
    ("aec", "butterfly/knights_archers_zombies_v11", {}, 1500),
    ("parallel", "butterfly/knights_archers_zombies_v11", {"obs_method": "image"}, 160),
    ("parallel", "butterfly/cooperative_pong_v6", {}, 200),
    ("aec", "butterfly/cooperative_pong_v6", {}, 200),
    ("parallel", "butterfly/pistonball_v6", {}, 60),
    ("aec", "butterfly/pistonball_v6", {"n_pistons": 5}, 200),
    ("parallel", "sisl/multiwalker_v9", {}, 400),
    ("aec", "sisl/multiwalker_v9", {"terminate_on_fall": False}, 600),
    ("parallel", "sisl/pursuit_v5", {"max_cycles": 60}, 150),
    ("aec", "sisl/pursuit_v5", {"max_cycles": 30}, 400),
)
FORKS, CONTINUED, SEED = 5, 30, 5
METHODS = ("reexecute", "snapshot", "pickle", "os_fork")


def main() -> None:
    """Print the table, and write it where the command says."""
    warnings.simplefilter("ignore")
    head = (
        "environment",
        "",
        "loop",
        "replayed",
        *METHODS,
        "loop, µs",
        "recording, µs",
        "bytes a step",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    print(*lines, sep="\n", flush=True)
    for kind, name, kwargs, n_steps in ENVIRONMENTS:
        try:
            pettingzoo.make(kind, name, **kwargs).close()
        except Exception as exc:
            print(f"{name} cannot be made here: {exc}", file=sys.stderr)
            continue
        lines.append(_line(kind, name, kwargs, n_steps))
        print(lines[-1], flush=True)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text("\n".join(lines) + "\n")


def _line(kind: str, name: str, kwargs: dict[str, Any], n_steps: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        bare, bare_us = _play(pettingzoo.make(kind, name, **kwargs), kind, n_steps)
        recording = trajrec.record(pettingzoo.make(kind, name, **kwargs), folder)
        seen, recorded_us = _play(recording, kind, n_steps)
        size = recording.path.stat().st_size / n_steps
        command = [sys.executable, "-W", "ignore", "-m", "trajrec", "replay", folder]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "7"}
        )
        replayed = done.stdout.strip().splitlines()[-1].partition(" steps: ")[2]
        forks = _forks(Path(folder))
    what = ", ".join([name, *(f"{key}={value}" for key, value in kwargs.items())])
    cells = (what, kind, "same" if seen == bare else "other", replayed, *forks)
    return (
        "| " + " | ".join(cells) + f" | {bare_us:.0f} | {recorded_us - bare_us:.0f} | {size:.0f} |"
    )


def _play(env: Any, kind: str, n_steps: int) -> tuple[list[bytes], float]:
    """Run episodes of random legal actions, seeded once; return what the loop saw, and CPU time of all threads by step, µs."""
    seen: list[bytes] = []
    n, seed, start = 0, SEED, time.process_time()
    while n < n_steps:
        got = env.reset(seed=seed) if not n else env.reset()
        if not n:
            for k, agent in enumerate(env.possible_agents):
                env.action_space(agent).seed(k)
        observations, infos = (None, None) if kind == "aec" else got
        while env.agents and n < n_steps:
            if kind == "aec":
                observation, reward, terminated, truncated, info = env.last()
                seen.append(
                    codec.encode(
                        [env.agent_selection, observation, reward, terminated, truncated, info],
                        opaque=True,
                    )
                )
                action = (
                    None
                    if terminated or truncated
                    else _sample(env, env.agent_selection, observation, info)
                )
            else:
                seen.append(codec.encode([observations, infos], opaque=True))
                action = {
                    agent: _sample(env, agent, observations[agent], infos[agent])
                    for agent in env.agents
                }
            got = env.step(action)
            n += 1
            if kind == "aec":
                seen.append(
                    codec.encode([dict(env.rewards), dict(env.terminations), dict(env.truncations)])
                )
            else:
                observations, *flags, infos = got
                seen.append(codec.encode([dict(flag) for flag in flags]))
    env.close()
    return seen, (time.process_time() - start) / n * 1e6


def _sample(env: Any, agent: Any, observation: Any, info: Any) -> Any:
    mask = (
        observation.get("action_mask") if isinstance(observation, dict) else info.get("action_mask")
    )
    return env.action_space(agent).sample(mask)


def _forks(folder: Path) -> list[str]:
    """Return of each method at how many steps of the longest episode a branch went on as it did."""
    found = []
    with trajrec.open(folder) as corpus:
        episode = next(corpus.episodes(order_by="n_steps DESC"))
        steps = sorted(
            {0, *np.random.default_rng(1).integers(0, episode.n_steps, FORKS - 1).tolist()}
        )
        for method in METHODS:
            try:
                same = sum(_goes_on_alike(corpus, episode, step, method) for step in steps)
                found.append(f"{same}/{len(steps)}")
            except SnapshotError:
                found.append("no")
    return found


def _goes_on_alike(corpus: trajrec.Corpus, episode: Any, step: int, method: Any) -> bool:
    n = min(CONTINUED, episode.n_steps - step)
    (branch,) = fork_many(
        episode, at=[step], actions=episode.actions[step : step + n], restore=method
    )
    if branch.restore != method:  # what is carried over is out of the sight of snapshots
        raise SnapshotError(f"reached by {branch.restore}")
    child = corpus.episode(branch.episode_id or "")
    return all(
        is_same(a, b)
        for a, b in (
            (child.observation_values, episode.observation_values[step : step + n + 1]),
            (child.reward_values, episode.reward_values[step : step + n]),
            (child.infos, episode.infos[step : step + n]),
        )
    )


if __name__ == "__main__":
    main()
