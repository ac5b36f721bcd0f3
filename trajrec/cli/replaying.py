"""The command `trajrec replay`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

from trajrec.cli.commands import (
    kind_condition,
    load_function,
    make_env,
    open_corpus,
    tell_problems,
)
from trajrec.cli.output import Progress, print_json, say


def replay(arguments: argparse.Namespace) -> int:
    """Replay episodes; 0 all the same, 1 diverged, 2 refused."""
    from trajrec.replay import ReplaySummary, replay_episodes
    from trajrec.replay.html import write_html
    from trajrec.replay.regressions import (
        EpisodeResult,
        find_regression,
        recorded_result,
        write_junit,
    )

    against = None if arguments.against is None else load_env(arguments.against, "--against")
    with open_corpus(arguments.dir) as corpus:
        chosen, total = _chosen(corpus, arguments)
        then: dict[str, EpisodeResult] = {}
        seen: list[Any] = []

        def noted() -> Iterator[Any]:
            for episode in chosen:
                if against is not None:
                    then[episode.id] = recorded_result(episode)
                    if episode.header.env not in seen and not episode.is_agent_episode:
                        seen.append(episode.header.env)
                        _tell_arguments(against, seen[-1])
                yield episode

        summary, kept = ReplaySummary(), []
        reports = replay_episodes(
            noted(),
            env=against,
            world=against,
            allow=arguments.allow,
            ulps=arguments.tolerance,
            resync=arguments.resync,
            first=arguments.first,
            jobs=arguments.jobs,
            backend=arguments.backend,
        )
        with Progress("replaying", " episodes") as progress:
            for report in reports:
                summary.add(report)
                progress(summary.n_episodes, total)
                if arguments.junit is not None or arguments.html is not None:
                    kept.append(report)
                if arguments.json:
                    print_json(report.as_dict())
                elif report.grade != "exact" or total <= 20:
                    changed = (
                        None
                        if against is None
                        else find_regression(report, then[report.episode_id])
                    )
                    print(report if changed is None else changed)
        if arguments.junit is not None:
            write_junit(arguments.junit, kept, str(arguments.dir))
        if arguments.html is not None:
            write_html(arguments.html, kept, str(arguments.dir))
        if not arguments.json:
            print(summary)
        status = tell_problems(corpus)
    if summary.grades["diverged"]:
        return 1
    if not summary.n_episodes:
        return 2  # a gate that nothing went through is not open
    return 2 if summary.grades["refused"] else status


def _chosen(corpus: Any, arguments: argparse.Namespace) -> tuple[Iterator[Any], int]:
    """Return the episodes to replay, and how many."""
    if arguments.episodes and arguments.where:
        raise ValueError("give episodes or --where, not both")
    if arguments.episodes:
        return iter([corpus.episode(name) for name in arguments.episodes]), len(arguments.episodes)
    where = arguments.where or "ending <> 'running'"
    where = f"{kind_condition(arguments.forks)} AND ({where})"
    long = f"({where}) AND end_step >= {arguments.first}"
    counts = f"SELECT count(*) FILTER (end_step >= {arguments.first}), count(*) FROM all_episodes WHERE {where}"
    total, n_all = corpus.sql(counts).fetchall()[0]
    if total < n_all:
        n, have = n_all - total, "episode has" if n_all - total == 1 else "episodes have"
        print(f"trajrec: {n} {have} ended before step {arguments.first}: left out", file=sys.stderr)
    return corpus.episodes(long, kind="all"), total


def load_env(name: str, flag: str) -> Callable[[], Any]:
    """Return what makes the environment or world that is named: a Gymnasium id, or module:factory."""
    if ":" in name and "/" not in name:
        return load_function(name, flag, "a Gymnasium id or ")
    make_env(name, {}).close()  # says what is wrong before anything is replayed

    from trajrec.replay.execute.factories import EnvById

    return EnvById(name)


def _tell_arguments(against: Any, record: Any) -> None:
    """Say where an environment of an id does not take what another one was recorded with: it is no fault of the episode."""
    from trajrec.replay.execute.factories import EnvById

    kwargs = against.rejected_kwargs(record) if isinstance(against, EnvById) else {}
    if kwargs:
        say(
            f"trajrec: recorded with {kwargs}, which {against.env_id} does not take: replayed without"
        )


def tolerance(text: str) -> int:
    """Read ulp=N."""
    name, _, number = text.partition("=")
    if name != "ulp" or not number.isdigit():
        raise argparse.ArgumentTypeError(f"must be ulp=N, got {text!r}")
    return int(number)
