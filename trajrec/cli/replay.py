"""The command `trajrec replay`."""

from __future__ import annotations

import argparse
import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trajrec.cli.arguments import (
    Commands,
    add_execution,
    add_folder,
    add_forks,
    add_json,
    read_distance,
)
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import kind_condition, reads_folder
from trajrec.cli.load import load_env, load_function
from trajrec.cli.output import Progress, print_json, say
from trajrec.cli.safe_stream import one_line
from trajrec.errors import LogWriteError
from trajrec.paths import fixed_path
from trajrec.types import Value

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus
    from trajrec.corpus.episode import Episode
    from trajrec.log.schema import EnvRecord
    from trajrec.replay.execute.report import ReplayReport
    from trajrec.replay.regressions import EpisodeResult
    from trajrec.replay.verdicts import VerdictLog

# So many reports fit on a screen; of more episodes only those that are not exact are printed.
ALL_PRINTED = 20

ENDED = "ending <> 'running'"


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "replay",
        run,
        "re-execute recorded episodes and compare every step",
        "trajrec replay runs 3f2a",
        finding="an episode diverged",
    )
    add_folder(parser)
    parser.add_argument(
        "episodes",
        nargs="*",
        metavar="EPISODE",
        help="ids or unique prefixes (default: all rollouts that ended)",
    )
    parser.add_argument("--where", metavar="SQL", help="only episodes that satisfy this condition")
    add_forks(parser)
    parser.add_argument(
        "--ulps",
        type=read_distance,
        default=0,
        metavar="N",
        help="accept floats that are N units in the last place apart (default: 0)",
    )
    parser.add_argument(
        "--from",
        dest="first",
        type=int,
        default=0,
        metavar="STEP",
        help="first step to compare (default: 0)",
    )
    parser.add_argument(
        "--resync",
        action="store_true",
        help="restore the recorded state after each step that differs",
    )
    parser.add_argument(
        "--verifier",
        dest="checks",
        action="append",
        default=[],
        metavar="MODULE:FUNCTION",
        help="run this verifier at the end of each agent's episode, and compare its verdict with "
        "the recorded one; repeatable",
    )
    parser.add_argument(
        "--no-keep",
        dest="keep",
        action="store_false",
        help="append no verdicts to the table replays (nor in CI, or if DIR is read-only)",
    )
    parser.add_argument("--junit", type=fixed_path, metavar="FILE", help="write a JUnit XML report")
    parser.add_argument("--html", type=fixed_path, metavar="FILE", help="write an HTML report")
    add_execution(parser)
    add_json(parser)


@reads_folder
def run(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """Replay episodes, print the reports and a summary."""
    from trajrec.replay import ReplaySummary, replay_episodes
    from trajrec.replay.html import write_html
    from trajrec.replay.regressions import find_regression, write_junit

    for file in (arguments.junit, arguments.html):
        if file is not None and not file.parent.is_dir():
            # An error now, and not after hours of replays whose reports would be lost.
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    factory = None if arguments.env is None else load_env(arguments.env)
    checks = [load_function(name, "--verifier") for name in arguments.checks]
    summary = ReplaySummary()
    reports: list[ReplayReport] = []
    chosen, total = _choose(corpus, arguments)
    recorded: dict[str, EpisodeResult] = {}
    if factory is not None:
        chosen = _note_recorded(chosen, factory, recorded)
    refused = _Refusals()
    keeper = _VerdictKeeper(corpus.path, arguments)
    with Progress("replaying", " episodes") as progress, keeper as kept:
        for report in replay_episodes(
            chosen,
            env=factory,
            world=factory,
            checks=checks,
            allow=arguments.allow,
            ulps=arguments.ulps,
            resync=arguments.resync,
            first=arguments.first,
            jobs=arguments.jobs,
            backend=arguments.backend,
        ):
            summary.add(report)
            kept.add(report)
            progress(summary.n_episodes, total)
            if arguments.junit is not None or arguments.html is not None:
                reports.append(report)
            if arguments.json:
                print_json(report.as_dict())
            elif report.grade == "refused" and refused.has_seen(report.notes):
                continue
            elif report.grade != "exact" or total <= ALL_PRINTED:
                change = None
                if factory is not None:
                    change = find_regression(report, recorded[report.episode_id])
                print(one_line(report if change is None else change))
    if arguments.junit is not None:
        write_junit(arguments.junit, reports, str(arguments.dir))
    if arguments.html is not None:
        write_html(arguments.html, reports, str(arguments.dir))
    if not arguments.json:
        refused.print_rest()
        print(summary)
    if summary.grades["diverged"]:
        return ExitStatus.FINDING
    if not summary.n_episodes:
        # A check in CI that replayed nothing must not pass.
        return ExitStatus.USAGE
    return ExitStatus.REFUSED if summary.grades["refused"] else ExitStatus.OK


class _Refusals:
    """Counts the refusals of each reason: one environment's episodes are refused for one reason."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, ...]] = Counter()

    def has_seen(self, reason: tuple[str, ...]) -> bool:
        """Count a refusal; return whether it is not the first one of its reason."""
        self._counts[reason] += 1
        return self._counts[reason] > 1

    def print_rest(self) -> None:
        """Print the number of the refusals that were not printed."""
        for reason, n in self._counts.items():
            if n > 1:
                episodes = "1 more episode" if n == 2 else f"{n - 1} more episodes"
                print(one_line(f"{episodes} refused; {'; '.join(reason)}"))


class _VerdictKeeper:
    """Appends verdicts to the corpus, if they are wanted and the folder takes them."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        from trajrec.replay.verdicts import RECORDED, VerdictLog, may_keep

        self._log: VerdictLog | None = None
        if arguments.keep and may_keep(folder):
            self._log = VerdictLog(folder, arguments.env or RECORDED)

    def add(self, report: ReplayReport) -> None:
        """Append a verdict."""
        self._try(lambda log: log.add(report))

    def __enter__(self) -> _VerdictKeeper:
        return self

    def __exit__(self, *exc: object) -> None:
        self._try(lambda log: log.close())

    def _try(self, write: Callable[[VerdictLog], None]) -> None:
        """Write, or say that a full disk keeps no verdicts: the replays themselves go on."""
        if self._log is None:
            return
        try:
            write(self._log)
        except LogWriteError as exc:
            self._log = None
            say(f"trajrec: the verdicts are not kept: {exc}")


def _choose(corpus: Corpus, arguments: argparse.Namespace) -> tuple[Iterator[Episode], int]:
    """Return the episodes to replay and their number."""
    if arguments.episodes and arguments.where:
        raise ValueError("give either episodes or --where, not both")
    if arguments.episodes:
        named = [corpus.episode(name) for name in arguments.episodes]
        return iter(named), len(named)
    where = f"{kind_condition(arguments.forks)} AND ({arguments.where or ENDED}\n)"
    is_long = f"end_step >= {arguments.first}"
    counts = f"SELECT count(*) FILTER ({is_long}), count(*) FROM all_episodes WHERE {where}"
    total, n_all = corpus.sql(counts).fetchall()[0]
    if total < n_all:
        n_short = n_all - total
        subject = "1 episode" if n_short == 1 else f"{n_short} episodes"
        say(f"trajrec: {subject} ended before step {arguments.first}: left out")
    return corpus.episodes(f"{where} AND {is_long}", kind="all"), total


def _note_recorded(
    episodes: Iterator[Episode], factory: Callable[[], Value], recorded: dict[str, EpisodeResult]
) -> Iterator[Episode]:
    """Yield episodes, and note their recorded outcomes to compare the replays with."""
    from trajrec.replay.regressions import recorded_result

    seen: list[EnvRecord] = []
    for episode in episodes:
        recorded[episode.id] = recorded_result(episode)
        if not episode.is_agent_episode and episode.header.env not in seen:
            seen.append(episode.header.env)
            _report_refused_arguments(factory, episode.header.env)
        yield episode


def _report_refused_arguments(factory: Callable[[], Value], record: EnvRecord) -> None:
    """Say which recorded arguments the named environment does not take."""
    from trajrec.replay.execute.factories import EnvById

    if not isinstance(factory, EnvById):
        return
    kwargs = factory.rejected_kwargs(record)
    if kwargs:
        say(
            f"trajrec: recorded with {kwargs}, which {factory.env_id} does not take: "
            "replayed without these arguments"
        )
