"""The command `trajrec demo`: record, replay, fork, credit and SQL on real environments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import trajrec
from trajrec.cli.arguments import Commands
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.load import load_policy, make_env
from trajrec.cli.output import print_table
from trajrec.cli.record import run_episode
from trajrec.types import AnyEnv, Value

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus
    from trajrec.corpus.episode import Episode
    from trajrec.replay import Branch

# Enough branches for a share of successes above zero, few enough for a minute in all.
N_BRANCHES = 200
N_EPISODES = 20
MAX_ENV_STEPS = 200_000


@trajrec.verifier(id="balanced", version="1", family="environmental")
def balanced(env: AnyEnv) -> bool:
    """Return whether the pole still stands at the end."""
    x, _, angle, _ = env.unwrapped.state  # type: ignore[attr-defined]
    # The limits at which CartPole itself ends an episode: 2.4 units and 12 degrees.
    return bool(abs(x) < 2.4 and abs(angle) < 0.2095)


@trajrec.verifier(id="at-goal", version="1", family="environmental")
def at_goal(env: AnyEnv) -> bool:
    """Return whether the walker stands on the goal."""
    lake: Value = env.unwrapped
    return bool(lake.desc.ravel()[lake.s] == b"G")


@trajrec.verifier(id="delivered", version="1", family="environmental")
def delivered(env: AnyEnv) -> bool:
    """Return whether the passenger stands at the destination and not in the taxi."""
    taxi: Value = env.unwrapped
    _, _, passenger, destination = taxi.decode(taxi.s)
    return bool(passenger == destination)


ENVIRONMENTS = (("CartPole-v1", balanced), ("FrozenLake-v1", at_goal), ("Taxi-v4", delivered))

PLAN = (0, 3, 3, 3, 0, 0, 0, 0, 3, 1, 0, 0, 0, 2, 1, 0)
"""The action in each cell of the lake: on ice, walk so that no slip leads into a hole."""

BY_ENVIRONMENT = """SELECT env_id, count(*) AS episodes,
       count(*) FILTER (outcome = 'failure') AS failed, avg(total_reward) AS mean_reward, avg(n_steps) AS mean_steps
FROM episodes GROUP BY env_id ORDER BY env_id"""
CHANGES = """SELECT step, action, before, after
FROM steps JOIN state_changes USING (episode_id, step)
WHERE episode_id = '{}' ORDER BY step LIMIT 5"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "demo",
        run,
        "show the whole tool on real environments, in a minute",
        "trajrec demo",
        finding="the replay diverged",
    )
    parser.add_argument(
        "dir",
        nargs="?",
        type=Path,
        default=Path("trajrec-demo"),
        metavar="DIR",
        help="folder to record into (default: trajrec-demo)",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Run the demo and say where to look next."""
    folder: Path = arguments.dir
    if folder.exists():
        print(f"{folder}/ already exists; its episodes are included in the counts below\n")
    _record(folder)
    with trajrec.open(folder) as corpus:
        failed = next(
            corpus.episodes(
                "outcome = 'failure' AND env_id = 'FrozenLake-v1'",
                order_by="n_steps DESC, started_at DESC",
            )
        )
        grade = _replay(failed)
        _fork(failed)
        _find_decisive_step(failed)
        _query(corpus, failed)
    _print_next(folder, failed)
    return ExitStatus.OK if grade == "exact" else ExitStatus.FINDING


def planner(cell: int) -> int:
    """Return the planned action in a cell of the lake."""
    return PLAN[cell]


def _record(folder: Path) -> None:
    print(
        f"1. Recording {N_EPISODES} random episodes of each of {len(ENVIRONMENTS)} environments "
        f"into {folder}/"
    )
    for env_id, check in ENVIRONMENTS:
        env = trajrec.record(make_env(env_id, {}), folder, checks=[check])
        policy = load_policy("random", env, 0)
        n_steps = 0
        try:
            for k in range(N_EPISODES):
                n_steps += run_episode(env, policy, 0 if k == 0 else None).n_steps
        finally:
            env.close()
        size = env.path.stat().st_size
        print(f"   {env_id:<14} {n_steps:>5} steps, {size:>6} bytes ({size / n_steps:.1f} a step)")


def _replay(failed: Episode) -> str:
    print(
        f"\n2. Replaying a failed episode, {failed.id} ({failed.env_id}, {failed.n_steps} steps), "
        "in the real environment"
    )
    report = trajrec.replay.replay_episode(failed)
    print(
        f"   {report.grade}: every {', '.join(report.compared)} of {report.n_steps} steps "
        "is as recorded"
    )
    return report.grade


def _fork(failed: Episode) -> None:
    steps = sorted({0, failed.n_steps // 3, 2 * failed.n_steps // 3, failed.n_steps - 1})
    print(
        f"\n3. Forking it at {len(steps)} of its steps, "
        f"{N_BRANCHES} random continuations from each\n"
    )
    branches = trajrec.replay.fork_many(
        failed,
        at=steps,
        policy="random",
        n_branches=N_BRANCHES,
        checks=[at_goal],
        folder=None,
    )
    print_table(
        ("step", "branches", "at the goal", "mean steps"),
        [_summarize(branches, step) for step in steps],
    )
    print(f"\n   {branches.controls}")


def _summarize(branches: Sequence[Branch], step: int) -> tuple[Value, ...]:
    """Return a step's row of the table of branches."""
    of_step = [branch for branch in branches if branch.step == step]
    n_successes = sum(branch.outcome == "success" for branch in of_step)
    mean_steps = sum(branch.n_steps for branch in of_step) / len(of_step)
    return step, len(of_step), n_successes, mean_steps


def _find_decisive_step(failed: Episode) -> None:
    print("\n4. Finding the step that lost it: each action against the action of a planner\n")
    credit = trajrec.replay.credit
    decision = credit.decisive_step(
        failed,
        planner,
        success=at_goal,
        budget=credit.Budget(env_steps=MAX_ENV_STEPS),
        folder=None,
    )
    print(_indent(str(decision)))


def _query(corpus: Corpus, failed: Episode) -> None:
    print("\n5. Querying with SQL\n")
    print(_indent(BY_ENVIRONMENT))
    print()
    result = corpus.sql(BY_ENVIRONMENT)
    print_table(result.columns, result.fetchall())
    print(f"\n   State changes in {failed.id}, and the actions that made them:\n")
    result = corpus.sql(CHANGES.format(failed.id))
    print_table(result.columns, result.fetchall())


def _print_next(folder: Path, failed: Episode) -> None:
    name = failed.id[:6]
    print(f"""
Next:
   trajrec ls {folder} --where "outcome = 'failure'"
   trajrec show {folder} {name} --step {failed.n_steps - 1}
   trajrec replay {folder}
   trajrec fork {folder} {name} --at {failed.n_steps // 2} --policy random -n 5
   trajrec bisect {folder} {name} --policy trajrec.cli.demo:planner
   trajrec schema {folder}""")


def _indent(text: str) -> str:
    return "\n".join("   " + line for line in text.splitlines())
