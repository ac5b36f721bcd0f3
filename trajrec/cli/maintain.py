"""The commands `trajrec index`, `trajrec recover` and `trajrec compact`."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from trajrec.cli.arguments import Commands, add_folder, add_jobs, add_json
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import open_corpus, report_problems
from trajrec.cli.output import Progress, print_json, say
from trajrec.cli.safe_stream import one_line
from trajrec.errors import CorpusError, LogError
from trajrec.types import JsonObject

if TYPE_CHECKING:
    from trajrec.corpus.index.parts import RunTasks

COUNTED = ("logs", "all_episodes", "steps")


class Repair(Protocol):
    """The result of repairing one log."""

    def as_dict(self) -> JsonObject:
        """Return the result as plain data."""
        ...


def add_parser(commands: Commands) -> None:
    """Add the commands."""
    parser = commands.add(
        "index", index, "bring the index of a folder up to date", "trajrec index runs --rebuild"
    )
    add_folder(parser, is_local=True)
    parser.add_argument("--rebuild", action="store_true", help="build the index from nothing")
    add_jobs(parser)
    add_json(parser)

    parser = commands.add(
        "recover",
        recover,
        "seal logs whose writer was killed, and report the loss",
        "trajrec recover runs",
    )
    _add_path(parser)
    parser = commands.add(
        "compact", compact, "merge small chunks of sealed logs", "trajrec compact runs"
    )
    _add_path(parser)


def _add_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help="a log or a folder of logs")
    add_json(parser)


def index(arguments: argparse.Namespace) -> ExitStatus:
    """Bring the index up to date and print the number of rows."""
    from trajrec.corpus.index.file import update_index
    from trajrec.corpus.location import require_logs

    # A folder that is missing or holds no logs is an error before an index is written into it.
    require_logs(arguments.dir)
    with Progress("indexing", " bytes") as progress:
        is_written = update_index(
            arguments.dir, rebuild=arguments.rebuild, progress=progress, run=_runner(arguments)
        )
    if not is_written:
        say(
            f"trajrec: {arguments.dir}: the index is in use or cannot be written; "
            "queries read the missing rows from the logs"
        )
    with open_corpus(arguments.dir) as corpus:
        counts = {
            name: corpus.sql(f"SELECT count(*) FROM {name}").fetchall()[0][0] for name in COUNTED
        }
        if arguments.json:
            print_json({"is_written": is_written, **counts})
        else:
            for name, n in counts.items():
                print(f"{name:<13}{n}")
        return report_problems(corpus)


def _runner(arguments: argparse.Namespace) -> RunTasks | None:
    """Return the function that runs tasks in other processes, None if there are to be none."""
    if arguments.backend == "ray":
        from trajrec.replay.processes.ray import map_on_ray

        return functools.partial(map_on_ray, jobs=arguments.jobs)
    if arguments.jobs == 1:
        return None
    from trajrec.replay.processes.workers import map_ordered

    return functools.partial(map_ordered, jobs=arguments.jobs)


def recover(arguments: argparse.Namespace) -> ExitStatus:
    """Seal every log whose writer was killed."""
    from trajrec.log.repair import recover as recover_log

    return _each_log(arguments, recover_log)


def compact(arguments: argparse.Namespace) -> ExitStatus:
    """Merge the small chunks of every sealed log."""
    from trajrec.log.compaction import compact as compact_log

    return _each_log(arguments, compact_log)


def _each_log(arguments: argparse.Namespace, repair: Callable[[Path], Repair]) -> ExitStatus:
    from trajrec.corpus.location import refuse_address
    from trajrec.log.locks import is_being_written

    path: Path = arguments.path
    refuse_address(path)
    logs, problems = _logs(path)
    status = ExitStatus.OK
    for log, problem in problems.items():
        say(f"trajrec: {log}: {problem}")
        status = ExitStatus.LOG
    with Progress("working", " logs") as progress:
        for n_done, log in enumerate(logs, 1):
            try:
                # A folder that is recorded into all day can be cared for all the same.
                if path.is_dir() and is_being_written(log):
                    say(f"trajrec: {log}: left as it is, since a living process is writing it")
                    continue
                result = repair(log)
            except LogError as exc:
                # One damaged log does not stop the others.
                say(f"trajrec: {exc}")
                status = ExitStatus.LOG
                continue
            finally:
                progress(n_done, len(logs))
            if arguments.json:
                print_json({"log": str(log), **result.as_dict()})
            else:
                print(one_line(result))
    return status


def _logs(path: Path) -> tuple[list[Path], dict[Path, str]]:
    """Return the logs that a path names, and those that cannot be opened, with their problems.

    Raises:
        CorpusError: There are none.
    """
    from trajrec.log.folder import find_logs

    if not path.is_dir():
        # A link that leads nowhere is a log that cannot be read.
        if not path.exists() and not path.is_symlink():
            raise CorpusError(f"{path}: no such file or folder")
        return [path], {}
    try:
        files = find_logs(path)
    except OSError as exc:
        raise CorpusError(f"{path}: cannot be searched: {exc.strerror or exc}") from exc
    if not files:
        raise CorpusError(f"{path}: no logs (*.trj) in this folder")
    problems = {path / name: file.problem for name, file in files.items() if file.problem}
    return [path / name for name, file in files.items() if not file.problem], problems
