"""The commands around forks: fork, diff, check-env."""

from __future__ import annotations

import argparse
import traceback
from typing import Any

from trajrec.cli.commands import load_acting, load_function, make_env, open_corpus
from trajrec.cli.output import print_json, print_table
from trajrec.cli.replaying import load_env
from trajrec.errors import TrajrecError

RESTORE_CHOICES = ("auto", "reexecute", "snapshot", "pickle", "env_snapshot", "os_fork")
SHOWN = (
    "episode_id",
    "index",
    "n_steps",
    "total_reward",
    "ending",
    "rejoined_at",
    "restore",
    "error",
)


def fork(arguments: argparse.Namespace) -> int:
    """Run branches from a step; 1 where one failed."""
    from trajrec.replay import fork_many

    if arguments.until != "done" and not arguments.until.isdigit():
        raise ValueError(f"--until must be 'done' or a number of steps, got {arguments.until!r}")
    policy: Any = arguments.policy
    if policy not in (None, "random"):
        policy = load_acting(policy)
    with open_corpus(arguments.dir) as corpus:
        episode = corpus.episode(arguments.episode)
        branches = fork_many(
            episode,
            at=[arguments.at],
            actions=[_like(action, episode) for action in arguments.action],
            policy=policy,
            n_branches=arguments.n,
            seed=arguments.seed,
            max_steps=None if arguments.until == "done" else int(arguments.until),
            jobs=arguments.jobs,
            backend=arguments.backend,
            restore=arguments.restore,
            allow=arguments.allow,
            env=None if arguments.env is None else load_env(arguments.env, "--env"),
            timeout_s=arguments.timeout,
        )
    rows = [_row(branch) for branch in branches]
    if arguments.json:
        for row in rows:
            print_json(dict(zip(SHOWN, row, strict=True)))
    else:
        print_table(SHOWN, rows)
    return 1 if any(branch.error for branch in branches) else 0


def diff(arguments: argparse.Namespace) -> int:
    """Find the first difference; 1 where there is one."""
    from trajrec.replay import first_difference

    with open_corpus(arguments.dir) as corpus:
        a, b = corpus.episode(arguments.a), corpus.episode(arguments.b)
        found = list(first_difference(a, b))
    if arguments.json:
        for difference in found:
            print_json(difference.as_dict())
    elif not found:
        print(f"{a.id} and {b.id} are the same, {a.end_step} steps")
    for difference in found if not arguments.json else ():
        print(difference)
    return 1 if found else 0


def check_env(arguments: argparse.Namespace) -> int:
    """Probe an environment; 1 if it is not deterministic or breaks its interface."""
    from trajrec.replay import check_determinism

    factory: Any = arguments.env
    if ":" in factory and "/" not in factory:
        factory = load_function(factory, "ENV", "a Gymnasium id or ")
    else:
        make_env(
            factory, {}
        ).close()  # registers it, and says what is wrong where it cannot be made
    try:
        report = check_determinism(factory, n_steps=arguments.steps)
    except TrajrecError:
        raise
    except Exception as exc:
        where = traceback.extract_tb(exc.__traceback__)[-1]
        raise ValueError(
            f"{arguments.env} raised while it was probed: {type(exc).__name__}: {exc} ({where.filename}, line {where.lineno})"
        ) from exc
    print_json(report.as_dict()) if arguments.json else print(report)
    return 0 if report.has_passed else 1


def _row(branch: Any) -> tuple[Any, ...]:
    ending = (
        "failed"
        if branch.error
        else "terminated"
        if branch.terminated
        else "truncated"
        if branch.truncated
        else "cut off"
    )
    return (
        branch.episode_id,
        branch.index,
        branch.n_steps,
        branch.total_reward,
        ending,
        branch.rejoined_at,
        branch.restore,
        branch.error or None,
    )


def _like(action: Any, episode: Any) -> Any:
    """Return an action from JSON as the type that the episode's actions are of."""
    import numpy as np

    example = next(iter(episode.actions), None)
    if isinstance(example, np.ndarray):
        return np.array(action, example.dtype)
    return type(example)(action) if isinstance(example, np.generic) else action
