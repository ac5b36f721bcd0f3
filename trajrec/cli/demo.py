"""`trajrec demo`: the whole loop on real environments, in a minute."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import trajrec
from trajrec.cli.commands import load_policy, make_env, run_episode
from trajrec.cli.output import print_table

N_BRANCHES = 200
N_EPISODES = 20


@trajrec.verifier(id="balanced", version="1", family="environmental")
def balanced(env: Any) -> bool:
    """The pole still stands at the end."""
    x, _, theta, _ = env.unwrapped.state
    return bool(abs(x) < 2.4 and abs(theta) < 0.2095)


@trajrec.verifier(id="at-goal", version="1", family="environmental")
def at_goal(env: Any) -> bool:
    """The walker stands on the goal."""
    lake = env.unwrapped
    return bool(lake.desc.ravel()[lake.s] == b"G")


@trajrec.verifier(id="delivered", version="1", family="environmental")
def delivered(env: Any) -> bool:
    """The passenger stands at the destination, not in the taxi."""
    taxi = env.unwrapped
    _, _, passenger, destination = taxi.decode(taxi.s)
    return bool(passenger == destination)


ENVIRONMENTS = (("CartPole-v1", balanced), ("FrozenLake-v1", at_goal), ("Taxi-v4", delivered))

PLAN = (0, 3, 3, 3, 0, 0, 0, 0, 3, 1, 0, 0, 0, 2, 1, 0)
"""What to do in each cell of the lake: on ice, to go where no hole can be slipped into."""

WORST = """SELECT env_id, count(*) AS episodes, count(*) FILTER (outcome = 'failure') AS failed,
       avg(total_reward) AS mean_reward, avg(n_steps) AS mean_steps
FROM episodes GROUP BY env_id ORDER BY env_id"""
CHANGES = """SELECT step, action, before, after FROM steps JOIN state_changes USING (episode_id, step)
WHERE episode_id = '{}' ORDER BY step LIMIT 5"""


def run(arguments: argparse.Namespace) -> int:
    """Record, replay a failed episode, ask SQL; say what was done and where to look next."""
    folder: Path = arguments.dir
    if folder.exists():
        print(f"{folder}/ is there: what it holds is counted below as well\n")
    print(
        f"1. Recording {N_EPISODES} random episodes of each of {len(ENVIRONMENTS)} environments into {folder}/"
    )
    for env_id, check in ENVIRONMENTS:
        env = trajrec.record(make_env(env_id, {}), folder, checks=[check])
        policy = load_policy("random", env, 0)
        try:
            n_steps = sum(
                run_episode(env, policy, 0 if k == 0 else None)[0] for k in range(N_EPISODES)
            )
        finally:
            env.close()
        size = env.path.stat().st_size
        print(f"   {env_id:<14} {n_steps:>5} steps, {size:>6} bytes ({size / n_steps:.1f} a step)")

    corpus = trajrec.open(folder)
    failed = next(
        corpus.episodes(
            "outcome = 'failure' AND env_id = 'FrozenLake-v1'",
            order_by="n_steps DESC, started_at DESC",
        )
    )
    print(
        f"\n2. Replaying a failed episode, {failed.id} ({failed.env_id}, {failed.n_steps} steps), in the real environment"
    )
    report = trajrec.replay.replay_episode(failed)
    print(
        f"   {report.grade}: every {', '.join(report.compared)} of {report.n_steps} steps came out as recorded"
    )

    steps = sorted({0, failed.n_steps // 3, 2 * failed.n_steps // 3, failed.n_steps - 1})
    print(
        f"\n3. Going on otherwise from {len(steps)} of its steps, {N_BRANCHES} times each, at random\n"
    )
    branches = trajrec.replay.fork_many(
        failed, at=steps, policy="random", n_branches=N_BRANCHES, checks=[at_goal], folder=None
    )
    print_table(
        ("step", "branches", "at the goal", "mean steps"), [_went(branches, step) for step in steps]
    )

    print(
        "\n4. Which of its steps lost it? Each action against that of a planner, which goes on from there\n"
    )
    credit = trajrec.replay.credit
    budget = credit.Budget(env_steps=200_000)
    found = credit.decisive_step(failed, planner, success=at_goal, budget=budget, folder=None)
    print(_indent(str(found)))

    print("\n5. Asking SQL\n")
    print(_indent(WORST))
    answer = corpus.sql(WORST)
    print()
    print_table(answer.columns, answer.fetchall())
    print(f"\n   What changed in {failed.id}, and by which action:\n")
    answer = corpus.sql(CHANGES.format(failed.id))
    print_table(answer.columns, answer.fetchall())
    corpus.close()
    print(f"""
Where to look next:
   trajrec ls {folder} --where "outcome = 'failure'"
   trajrec show {folder} {failed.id[:6]} --step {failed.n_steps - 1}
   trajrec replay {folder}
   trajrec fork {folder} {failed.id[:6]} --at {failed.n_steps // 2} --policy random -n 5
   trajrec bisect {folder} {failed.id[:6]} --policy trajrec.cli.demo:planner
   trajrec schema {folder}""")
    return 0 if report.grade == "exact" else 1


def planner(cell: int) -> int:
    """Choose what to do in a cell of the lake."""
    return PLAN[cell]


def _went(branches: list[Any], step: int) -> tuple[Any, ...]:
    """Return a row of what became of the branches at a step."""
    here = [branch for branch in branches if branch.step == step]
    won = sum(branch.outcome == "success" for branch in here)
    return step, len(here), won, sum(branch.n_steps for branch in here) / len(here)


def _indent(text: str) -> str:
    return "\n".join("   " + line for line in text.splitlines())
