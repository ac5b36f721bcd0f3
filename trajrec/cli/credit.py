"""The commands around credit: credit, bisect, export."""

from __future__ import annotations

import argparse
import textwrap
from collections import Counter
from typing import Any

from trajrec.cli.commands import load_acting, load_object, open_corpus
from trajrec.cli.output import Progress, print_json, print_table, say
from trajrec.cli.replaying import load_env

ESTIMATORS = ("value", "delta", "advantage", "shapley", "pooled")
SHOWN = (
    "step",
    "estimator",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "n_discordant",
    "ci_method",
    "noise",
    "estimand",
    "action",
)


def credit(arguments: argparse.Namespace) -> int:
    """Estimate the credit of an episode's steps, or of all episodes by their groups."""
    if arguments.group is not None:
        return _group(arguments)
    if arguments.episode is None or arguments.policy is None:
        raise ValueError("give an episode and --policy; or --group, which needs neither")
    from trajrec.replay import credit as credits_

    if arguments.plot is not None:
        from trajrec.replay.credit.results.plot import check_file

        check_file(arguments.plot)
    policy, how = _policy(arguments.policy), _how(arguments)
    budget = None if arguments.budget is None else credits_.Budget(env_steps=arguments.budget)
    with open_corpus(arguments.dir) as corpus, Progress("rolling out", " rollouts") as progress:
        how["progress"] = progress
        episode = corpus.episode(arguments.episode)
        if arguments.estimator == "shapley":
            table = credits_.shapley_values(
                episode, policy, n_permutations=arguments.n, budget=budget, **how
            )
        elif arguments.estimator == "pooled":
            (table,) = credits_.pooled_advantages(
                [episode], policy, n_rollouts=arguments.n, budget=budget, **how
            )
        else:
            some = (
                {}
                if arguments.steps is None
                else {"steps": range(episode.end_step)[arguments.steps]}
            )
            kind = arguments.estimator
            table = credits_.estimate(
                episode,
                policy,
                estimator=kind,
                n_rollouts=arguments.n,
                budget=budget,
                **some,
                **how,
            )
    if arguments.json:
        _print_rows(table)
    else:
        print(table)
    if arguments.plot is not None:
        say(f"drawn: {credits_.plot(table, arguments.plot)}")
    return 0


def bisect(arguments: argparse.Namespace) -> int:
    """Say in one sentence from where an episode could no longer be won, with the evidence; 1 where it never could be."""
    from trajrec.replay import credit as credits_

    if arguments.plot is not None:
        from trajrec.replay.credit.results.plot import check_file

        check_file(arguments.plot)
    policy, how = _policy(arguments.policy), _how(arguments)
    with open_corpus(arguments.dir) as corpus, Progress("rolling out", " rollouts") as progress:
        how["progress"] = progress
        episode = corpus.episode(arguments.episode)
        found = credits_.point_of_no_return(episode, policy, n_rollouts=arguments.n, **how)
    if arguments.json:
        _print_rows(found.table)
    else:
        rows = [
            (e.step, round(e.value, 2), round(e.ci_low, 2), round(e.ci_high, 2), e.n)
            for e in found.table.of("value")
        ]
        print_table(("from step", "won", "ci_low", "ci_high", "of"), rows)
        print(found)
    if arguments.plot is not None:
        title = textwrap.fill(str(found), 110)
        marked = None if found.step is None else found.step - 1
        say(f"drawn: {credits_.plot(found.table, arguments.plot, marked=marked, title=title)}")
    return 0 if found.step is not None else 1


NEEDS = {
    "prm": "labels of steps are made of rollouts: run `trajrec credit` or `trajrec bisect` on episodes first",
    "dpo": "pairs are of substitutions and of forks that came out otherwise: run `trajrec fork`, or credit.substitute",
    "grpo": "no episode that has ended is in a group",
}
"""What each kind of training data is made of, for those who have none of it."""


def export(arguments: argparse.Namespace) -> int:
    """Write training data."""
    from trajrec.replay import credit as credits_

    told: list[str] = []
    how = {"where": arguments.where, "method": arguments.method, "tell": told.append}
    with open_corpus(arguments.dir) as corpus:
        n = credits_.export(corpus, arguments.kind, arguments.output, **how)
    say(
        f"{arguments.output}: {n} rows"
        if n
        else f"{arguments.output}: no rows: {'; '.join(told) or NEEDS[arguments.kind]}"
    )
    for remark in told if n else ():
        say(remark)
    return 0


def _group(arguments: argparse.Namespace) -> int:
    from trajrec.replay import credit as credits_

    with open_corpus(arguments.dir) as corpus:
        tables = credits_.group_advantages(corpus, arguments.group, where=arguments.where)
    names = ("episode_id", "step", "value", "ci_low", "ci_high", "n", "action")
    rows = [
        (t.episode_id, e.step, e.value, e.ci_low, e.ci_high, e.n, e.action)
        for t in tables
        for e in t
    ]
    if arguments.json:
        for row in rows:
            print_json(dict(zip(names, row, strict=True)))
    else:
        print_table(names, rows)
    for note, n in Counter(note for table in tables for note in table.notes).items():
        say(f"{n} episodes: {note}")
    return 0


def span(text: str) -> slice:
    """Read FIRST:LAST or FIRST:LAST:EVERY, as Python slices."""
    try:
        first, last, *every = (int(part) if part else None for part in text.split(":"))
        return slice(first, last, *every)
    except (ValueError, TypeError) as exc:
        raise argparse.ArgumentTypeError(
            f"must be FIRST:LAST or FIRST:LAST:EVERY, got {text!r}"
        ) from exc


def _policy(name: str) -> Any:
    return name if name == "random" else load_acting(name)


def _how(arguments: argparse.Namespace) -> Any:
    success, hidden = arguments.success, arguments.resample_hidden
    return {
        **({} if arguments.noise is None else {"noise": arguments.noise}),
        "seed": arguments.seed,
        "success": success
        if success in (None, "terminated", "truncated")
        else load_object(success, "--success", "terminated or "),
        "max_steps": arguments.max_steps,
        "resample_hidden": None if hidden is None else load_object(hidden, "--resample-hidden"),
        "allow": arguments.allow,
        **({} if arguments.env is None else {"env": load_env(arguments.env, "--env")}),
        "jobs": arguments.jobs,
        "backend": arguments.backend,
        "restore": arguments.restore,
    }


def _print_rows(table: Any) -> None:
    for row in table:
        print_json(
            {
                "episode_id": table.episode_id,
                "run_id": table.run_id,
                **{name: getattr(row, name) for name in SHOWN},
            }
        )
