"""Open a folder of logs for a command, and report the logs that could not be read."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.output import Progress, say
from trajrec.conditions import bracketed

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus
    from trajrec.corpus.prices import Prices


QUERY_S = 600.0
"""Longest time of a query of the command line, unless it says otherwise."""


def open_corpus(
    folder: Path,
    *,
    allow_files: bool = False,
    seconds: float = QUERY_S,
    memory: str = "50%",
    prices: Prices | None = None,
) -> Corpus:
    """Open a corpus, with a progress bar while its index is brought up to date.

    A query or condition on a command line often comes from somebody else's page, so it runs in a
    sandbox with these limits, unless `allow_files`.
    """
    from trajrec.corpus.corpus import open as open_folder
    from trajrec.corpus.sandbox import Sandbox

    sandbox = None if allow_files else Sandbox(seconds, memory)
    with Progress("indexing", " bytes") as progress:
        return open_folder(folder, progress=progress, sandbox=sandbox, prices=prices)


def _open(arguments: argparse.Namespace) -> Corpus:
    """Open the corpus of a command, with the limits that `trajrec sql` was given."""
    if not hasattr(arguments, "allow_files"):
        return open_corpus(arguments.dir, prices=getattr(arguments, "prices", None))
    return open_corpus(
        arguments.dir,
        allow_files=arguments.allow_files,
        seconds=arguments.timeout,
        memory=arguments.memory,
        prices=arguments.prices,
    )


def reads_folder(
    run: Callable[[argparse.Namespace, Corpus], int],
) -> Callable[[argparse.Namespace], int]:
    """Decorate a command that reads the corpus DIR: open it, and report its damaged logs.

    A result of a damaged folder is a result of a part of it. So the damage is printed even if
    the command fails, and a command that would otherwise say "done" or "nothing is selected"
    returns the status of damage instead.
    """

    @wraps(run)
    def command(arguments: argparse.Namespace) -> int:
        with _open(arguments) as corpus:
            # Of a corpus in an object storage, the folder that stands for it.
            arguments.dir = corpus.path
            try:
                status = run(arguments, corpus)
            finally:
                damage = report_problems(corpus)
        if damage and status in (ExitStatus.OK, ExitStatus.USAGE):
            return damage
        return status

    return command


def kind_condition(has_forks: bool) -> str:
    """Return the SQL condition on the kind of an episode, for --forks."""
    return "kind <> 'copy'" if has_forks else "kind = 'rollout'"


def require_selection(corpus: Corpus, where: str) -> None:
    """Refuse a --where that selects no episode: its empty result would be taken for an answer.

    Raises:
        ValueError: The condition selects nothing.
    """
    if not corpus.sql(f"SELECT 1 FROM all_episodes WHERE {bracketed(where)} LIMIT 1").fetchall():
        raise ValueError(f"--where selects no episode: {where}")


def report_problems(corpus: Corpus) -> ExitStatus:
    """Print the logs that could not be read whole; return the exit status."""
    problems = corpus.problems()
    for log, message, is_tail in problems:
        path = corpus.path / log
        remedy = f"; its writer was killed; `trajrec recover {path}` seals the log"
        say(f"trajrec: {path}: {message}{remedy if is_tail else ''}; the rest was read")
    # A log whose writer was killed has lost nothing that was promised: it is no damage.
    is_damaged = any(not problem.is_tail for problem in problems)
    return ExitStatus.LOG if is_damaged else ExitStatus.OK
