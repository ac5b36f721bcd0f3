"""The commands `trajrec view` and `trajrec report`."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from trajrec.cli.arguments import Commands, add_episode, add_folder, read_count
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import open_corpus, reads_folder
from trajrec.cli.interrupts import interrupted_by_signals
from trajrec.cli.output import say

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus

_REPORT_PACKAGES = ("jinja2", "markupsafe")
_VIEW_PACKAGES = (*_REPORT_PACKAGES, "starlette", "uvicorn")


def add_parser(commands: Commands) -> None:
    """Add the commands."""
    parser = commands.add(
        "view", run_view, "show the episodes of a folder in a browser", "trajrec view runs"
    )
    add_folder(parser)
    parser.add_argument(
        "--port",
        type=int,
        metavar="N",
        help="port on 127.0.0.1 (default: 7007, or a free one if that is taken)",
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser = commands.add(
        "report",
        run_report,
        "write an episode as one HTML file, which opens offline",
        "trajrec report runs 3f2a -o episode.html",
    )
    add_folder(parser)
    add_episode(parser)
    parser.add_argument(
        "-o", dest="out", type=Path, required=True, metavar="FILE", help="the file; overwritten"
    )
    parser.add_argument(
        "--max-mb",
        type=read_count,
        default=20,
        metavar="MB",
        help="largest size; steps far from the one that it opens at are left out (default: 20)",
    )


def run_view(arguments: argparse.Namespace) -> ExitStatus:
    """Serve the pages until Ctrl-C."""
    _require(_VIEW_PACKAGES)
    from trajrec.view.server import serve

    if arguments.port is not None and not 0 <= arguments.port < 65536:
        raise ValueError(f"--port must be in [0, 65535], got {arguments.port}")

    def announce(address: str) -> None:
        print(address, flush=True)
        say("the address is for you alone: it has the token; Ctrl-C ends the viewer")

    # All queries are the viewer's own.
    with interrupted_by_signals(), open_corpus(arguments.dir, allow_files=True) as corpus:
        serve(
            corpus, port=arguments.port, opens_browser=not arguments.no_browser, announce=announce
        )
    return ExitStatus.OK


@reads_folder
def run_report(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """Write an episode as one file."""
    _require(_REPORT_PACKAGES)
    from trajrec.view.report import make_report, write_report

    text = make_report(corpus, arguments.episode, max_bytes=arguments.max_mb * 1_000_000)
    write_report(arguments.out, text)
    size_kb = len(text.encode()) / 1000
    print(f"{arguments.out}: {size_kb:,.0f} kB")
    say("the file holds what was recorded: look before you send it to somebody")
    return ExitStatus.OK


def _require(packages: tuple[str, ...]) -> None:
    """Refuse to run without the packages of the extra.

    Raises:
        ValueError: A package is not installed.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        raise ValueError(f"this command needs {names}; pip install 'trajrec[view]'")
