"""The command `trajrec record`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from trajrec.cli.arguments import POLICY_HELP, Commands, add_json, read_count, read_json_object
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.load import load_policy, make_env
from trajrec.cli.output import Progress, print_json, say
from trajrec.errors import TrajrecError
from trajrec.types import Action, AnyEnv, Observation
from trajrec.values.shown import counted


class Outcome(NamedTuple):
    """The result of one episode.

    Attributes:
        n_steps: Number of steps.
        failure: The exception that the environment raised, in one line; "" if it raised none.
    """

    n_steps: int
    failure: str


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "record",
        run,
        "record episodes of an environment",
        "trajrec record Taxi-v4 -o runs -n 10 --seed 1",
        finding="the environment raised",
    )
    parser.add_argument("env_id", metavar="ENV_ID", help="Gymnasium id, or module:id")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder to record into"
    )
    parser.add_argument(
        "-n",
        "--episodes",
        type=read_count,
        default=1,
        metavar="EPISODES",
        help="number of episodes (default: 1)",
    )
    parser.add_argument(
        "--seed", type=int, metavar="S", help="seed of the first reset and of the random policy"
    )
    parser.add_argument("--policy", default="random", metavar="POLICY", help=POLICY_HELP)
    parser.add_argument(
        "--env-kwargs",
        type=read_json_object,
        default={},
        metavar="JSON",
        help="arguments of the environment",
    )
    parser.add_argument(
        "--keep-states",
        choices=("auto", "keys", "all", "digests"),
        default="auto",
        help="what to store of each state: the state, a check, or a key (default: auto)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Record episodes. An exception of the environment is recorded, and the next episode begins."""
    import trajrec

    bare = make_env(arguments.env_id, arguments.env_kwargs)
    policy = load_policy(arguments.policy, bare, arguments.seed)
    env = trajrec.record(bare, arguments.output, keep_states=arguments.keep_states)
    outcomes: list[Outcome] = []
    try:
        with Progress("recording", " episodes") as progress:
            for k in range(arguments.episodes):
                outcomes.append(run_episode(env, policy, arguments.seed if k == 0 else None))
                if arguments.json:
                    print_json({"episode_id": env.episode_id, **outcomes[-1]._asdict()})
                progress(k + 1, arguments.episodes)
    finally:
        env.close()
        for k, outcome in enumerate(outcomes):
            if outcome.failure:
                say(f"episode {k + 1}: {outcome.failure} (it is recorded)")
    n_steps = sum(outcome.n_steps for outcome in outcomes)
    say(
        f"{counted(arguments.episodes, 'episode')}, {counted(n_steps, 'step')} in {env.path}; "
        f"list them: trajrec ls {arguments.output}"
    )
    has_failed = any(outcome.failure for outcome in outcomes)
    return ExitStatus.FINDING if has_failed else ExitStatus.OK


def run_episode(env: AnyEnv, policy: Callable[[Observation], Action], seed: int | None) -> Outcome:
    """Run one episode to its end, or until the environment raises.

    An error of the recorder or of the policy is raised; only the environment's own are an outcome.
    """
    try:
        observation, _ = env.reset(seed=seed)
    except TrajrecError:
        raise
    except Exception as exc:
        return Outcome(0, f"the reset raised {_one_line(exc)}")
    n_steps = 0
    while True:
        action = policy(observation)
        try:
            observation, _, terminated, truncated, _ = env.step(action)
        except TrajrecError:
            raise
        except Exception as exc:
            return Outcome(n_steps, f"step {n_steps} raised {_one_line(exc)}")
        n_steps += 1
        if terminated or truncated:
            return Outcome(n_steps, "")


def _one_line(exc: BaseException) -> str:
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
