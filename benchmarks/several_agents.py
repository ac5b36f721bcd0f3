"""`python -m benchmarks.several_agents [OUT.md] [--only TEXT]`: the environments of PettingZoo.

Each is played bare and recorded, replayed in another process, and forked with each method of
restoring. Prints a Markdown table: whether the recorded loop gets the same values as the bare loop,
grades of the replay, forks that reproduce the recording out of all forks, the CPU time of the bare
loop and of the recording beyond it, and bytes a step.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Literal, NamedTuple

# Before pygame is imported: there is no display on a server.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import numpy as np
import pettingzoo

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.errors import ControlError, SnapshotError
from trajrec.replay import fork_many
from trajrec.replay.forks.options import RestoreChoice
from trajrec.types import Action, JsonObject, Observation, Value
from trajrec.values import codec
from trajrec.values.diff import is_same

Kind = Literal["aec", "parallel"]


class Case(NamedTuple):
    """An environment, its arguments, and a number of steps: fewer where a step is slow."""

    kind: Kind
    name: str
    kwargs: JsonObject
    n_steps: int


class Played(NamedTuple):
    """The values that a loop got, encoded, and its CPU time a step."""

    values: list[bytes]
    us: float


# Without it, all pixels of the environment's observations are black.
DRAWN = {"render_mode": "rgb_array"}

CASES = (
    Case("aec", "classic/tictactoe_v3", {}, 400),
    Case("aec", "classic/connect_four_v3", {}, 400),
    Case("aec", "classic/rps_v2", {}, 400),
    Case("parallel", "classic/rps_v2", {}, 400),
    Case("aec", "classic/chess_v6", {}, 300),
    Case("aec", "classic/go_v5", {"board_size": 5}, 300),
    Case("aec", "classic/leduc_holdem_v4", {}, 400),
    Case("aec", "classic/texas_holdem_v4", {}, 400),
    Case("aec", "classic/texas_holdem_no_limit_v6", {}, 400),
    Case("parallel", "butterfly/knights_archers_zombies_v11", {}, 700),
    Case("aec", "butterfly/knights_archers_zombies_v11", {}, 1500),
    Case("parallel", "butterfly/knights_archers_zombies_v11", {"obs_method": "image"}, 160),
    Case("parallel", "butterfly/cooperative_pong_v6", DRAWN, 200),
    Case("aec", "butterfly/cooperative_pong_v6", DRAWN, 200),
    Case("parallel", "butterfly/pistonball_v6", {}, 60),
    Case("aec", "butterfly/pistonball_v6", {"n_pistons": 5}, 200),
    Case("parallel", "sisl/multiwalker_v9", {}, 400),
    Case("aec", "sisl/multiwalker_v9", {"terminate_on_fall": False}, 600),
    Case("parallel", "sisl/pursuit_v5", {"max_cycles": 60}, 150),
    Case("aec", "sisl/pursuit_v5", {"max_cycles": 30}, 400),
)

N_FORKS = 5
# A fork is compared with the recording for so many steps.
COMPARED_STEPS = 30
SEED = 5
METHODS: tuple[RestoreChoice, ...] = ("reexecute", "snapshot", "pickle", "os_fork")


def main() -> None:
    """Print the table, and write it to the file that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.several_agents", description=__doc__
    )
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--only", default="", help="only environments with this text in their name")
    arguments = parser.parse_args()
    # PettingZoo warns of its own deprecated parts at each step.
    warnings.simplefilter("ignore")
    costs = ("loop, µs", "recording, µs", "bytes a step")
    head = ("environment", "", "loop", "replayed", *METHODS, *costs)
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    print(*lines, sep="\n", flush=True)
    for case in CASES:
        if arguments.only not in case.name:
            continue
        try:
            pettingzoo.make(case.kind, case.name, **case.kwargs).close()
        except Exception as exc:
            print(f"{case.name} cannot be made here: {exc}", file=sys.stderr)
            continue
        lines.append(_line(case))
        print(lines[-1], flush=True)
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n")


def _line(case: Case) -> str:
    """Return an environment's line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        bare = _play(pettingzoo.make(case.kind, case.name, **case.kwargs), case)
        recording = trajrec.record(pettingzoo.make(case.kind, case.name, **case.kwargs), folder)
        recorded = _play(recording, case)
        size = recording.path.stat().st_size / case.n_steps
        command = [sys.executable, "-W", "ignore", "-m", "trajrec", "replay", folder]
        completed = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "7"}
        )
        replayed = completed.stdout.strip().splitlines()[-1].partition(" steps: ")[2]
        forks = _forks(Path(folder))
    name = ", ".join([case.name, *(f"{key}={value}" for key, value in case.kwargs.items())])
    is_unchanged = "same" if recorded.values == bare.values else "other"
    costs = (f"{bare.us:.0f}", f"{recorded.us - bare.us:.0f}", f"{size:.0f}")
    return "| " + " | ".join([name, case.kind, is_unchanged, replayed, *forks, *costs]) + " |"


def _play(env: Value, case: Case) -> Played:
    """Play episodes of random legal actions, seeded once."""
    values: list[bytes] = []
    n_steps = 0
    begin = time.process_time()
    while n_steps < case.n_steps:
        result = env.reset(seed=SEED) if n_steps == 0 else env.reset()
        if n_steps == 0:
            for k, agent in enumerate(env.possible_agents):
                env.action_space(agent).seed(k)
        play_episode = _play_aec_episode if case.kind == "aec" else _play_parallel_episode
        n_steps += play_episode(env, result, case.n_steps - n_steps, values)
    env.close()
    return Played(values, (time.process_time() - begin) / n_steps * 1e6)


def _play_aec_episode(env: Value, _: None, n_steps: int, values: list[bytes]) -> int:
    """Play an episode in which agents act in turn; return the number of steps."""
    n_done = 0
    while env.agents and n_done < n_steps:
        agent = env.agent_selection
        observation, reward, terminated, truncated, info = env.last()
        last = [agent, observation, reward, terminated, truncated, info]
        values.append(codec.encode(last, opaque=True))
        is_over = terminated or truncated
        env.step(None if is_over else _sample(env, agent, observation, info))
        n_done += 1
        after = [dict(env.rewards), dict(env.terminations), dict(env.truncations)]
        values.append(codec.encode(after))
    return n_done


def _play_parallel_episode(
    env: Value, reset_result: tuple[Value, Value], n_steps: int, values: list[bytes]
) -> int:
    """Play an episode in which all agents act at once; return the number of steps."""
    observations, infos = reset_result
    n_done = 0
    while env.agents and n_done < n_steps:
        values.append(codec.encode([observations, infos], opaque=True))
        actions = {
            agent: _sample(env, agent, observations[agent], infos[agent]) for agent in env.agents
        }
        observations, rewards, terminations, truncations, infos = env.step(actions)
        n_done += 1
        after = [dict(rewards), dict(terminations), dict(truncations)]
        values.append(codec.encode(after))
    return n_done


def _sample(env: Value, agent: Value, observation: Observation, info: JsonObject) -> Action:
    """Return a random legal action: the mask is in the observation, or else in the info."""
    source = observation if isinstance(observation, dict) else info
    return env.action_space(agent).sample(source.get("action_mask"))


def _forks(folder: Path) -> list[str]:
    """Return for each method how many forks of the longest episode are as recorded."""
    results = []
    with trajrec.open(folder) as corpus:
        episode = next(corpus.episodes(order_by="n_steps DESC"))
        rng = np.random.default_rng(1)
        steps = sorted({0, *rng.integers(0, episode.n_steps, N_FORKS - 1).tolist()})
        for method in METHODS:
            try:
                n_same = sum(_is_fork_as_recorded(corpus, episode, step, method) for step in steps)
                results.append(f"{n_same}/{len(steps)}")
            except (ControlError, SnapshotError):
                results.append("no")
    return results


def _is_fork_as_recorded(
    corpus: trajrec.Corpus, episode: Episode, step: int, method: RestoreChoice
) -> bool:
    n = min(COMPARED_STEPS, episode.n_steps - step)
    actions = episode.actions[step : step + n]
    (branch,) = fork_many(episode, at=[step], actions=actions, restore=method)
    if branch.restore != method:
        # A state that an episode hands to the next is not in a snapshot, so the fork re-executed.
        raise SnapshotError(f"reached by {branch.restore}")
    child = corpus.episode(branch.episode_id or "")
    return (
        is_same(child.observation_values, episode.observation_values[step : step + n + 1])
        and is_same(child.reward_values, episode.reward_values[step : step + n])
        and is_same(child.infos, episode.infos[step : step + n])
    )


if __name__ == "__main__":
    main()
