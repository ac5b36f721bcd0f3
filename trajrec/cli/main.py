"""Parse a command line, run the command, and turn its result or error into an exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TextIO, cast

from trajrec.cli import (
    ask,
    bisect,
    capture,
    card,
    check_determinism,
    compare,
    credit,
    demo,
    diff,
    doctor,
    export,
    film,
    fork,
    imports,
    maintain,
    mcp,
    merge,
    push,
    recheck,
    record,
    replay,
    rerun,
    rm,
    show,
    tag,
    view,
    whatif,
)
from trajrec.cli.arguments import CommandParser, Commands
from trajrec.cli.exit_status import MEANINGS, CannotMakeError, ExitStatus
from trajrec.cli.safe_stream import SafeStream, one_line
from trajrec.errors import (
    LogError,
    ReplayError,
    RestoreError,
    SnapshotError,
    TrajrecError,
    is_of_user_code,
)
from trajrec.values.memory import is_out_of_memory
from trajrec.version import __version__

GROUPS: tuple[tuple[str, tuple[ModuleType, ...]], ...] = (
    ("Record", (demo, record, capture, mcp, imports)),
    ("Query", (ask, show, diff, view, film)),
    ("Compare and publish", (compare, card)),
    ("Replay and fork", (replay, rerun, fork, whatif, check_determinism, recheck)),
    ("Credit and labels", (credit, bisect, tag, export)),
    ("Maintain logs", (doctor, maintain, merge, push, rm)),
)
"""Title of each group of commands, and the modules of its commands in the order of the help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    # All output passes here, so no recorded text can steer the terminal.
    out = cast("TextIO", SafeStream(sys.stdout))
    errors = cast("TextIO", SafeStream(sys.stderr))
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
        _short_memory_told_once(),
    ):
        return _run(argv)


@contextlib.contextmanager
def _short_memory_told_once() -> Iterator[None]:
    """Keep Python from printing that an object found no memory for its own end.

    The command's own error tells it, in one line.
    """
    hook = sys.unraisablehook

    def tell(unraisable: sys.UnraisableHookArgs) -> None:
        exc = unraisable.exc_value
        if exc is None or not is_out_of_memory(exc):
            hook(unraisable)

    sys.unraisablehook = tell
    try:
        yield
    finally:
        sys.unraisablehook = hook


def _run(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    if getattr(arguments, "allow", None):
        # A module that --allow names may lie in the working folder, like other named modules.
        sys.path.insert(0, "")
    try:
        return int(arguments.run(arguments))
    except BrokenPipeError:
        # The reader of a pipe has enough (`| head`). Nothing can be printed on a closed pipe, and
        # Python's own flush at the end would fail, so stdout is replaced.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.OK
    except KeyboardInterrupt:
        return _fail("interrupted", ExitStatus.INTERRUPTED)
    except (TrajrecError, ValueError, IndexError, OSError) as exc:
        if not is_of_user_code(exc):
            is_short = not isinstance(exc, TrajrecError) and is_out_of_memory(exc)
            return _out_of_memory(exc) if is_short else _fail(_message(exc), status_of(exc))
        traceback.print_exc()
        return ExitStatus.EXCEPTION
    except Exception as exc:
        if is_out_of_memory(exc) and not is_of_user_code(exc):
            return _out_of_memory(exc)
        # Python's own status for an exception is 1, which would be taken for a finding.
        traceback.print_exc()
        return ExitStatus.EXCEPTION


def status_of(exc: Exception) -> ExitStatus:
    """Return the exit status of an error."""
    if isinstance(exc, LogError):
        return ExitStatus.LOG
    if isinstance(exc, (CannotMakeError, ReplayError, RestoreError, SnapshotError)):
        return ExitStatus.REFUSED
    return ExitStatus.USAGE


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="trajrec",
        usage="%(prog)s [-h] [--version] COMMAND ...",
        description="Record agents' episodes, replay them exactly, and query them with SQL.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"trajrec {__version__}")
    subparsers = parser.add_subparsers(
        metavar="COMMAND", required=True, help=argparse.SUPPRESS, parser_class=CommandParser
    )
    sections = []
    for title, modules in GROUPS:
        commands = Commands(subparsers)
        for module in modules:
            module.add_parser(commands)
        sections.append(commands.help_text(title))
    statuses = "\n".join(f"  {int(status):<17}{text}" for status, text in MEANINGS.items())
    parser.epilog = "\n\n".join(
        [
            *sections,
            f"Exit status:\n{statuses}",
            "`trajrec demo` shows the whole tool in a minute; `trajrec COMMAND -h` has an example.",
        ]
    )
    return parser


def _message(exc: Exception) -> str:
    if isinstance(exc, OSError) and not isinstance(exc, TrajrecError):
        # Logs have errors of their own: this is the file that a result should go to.
        return f"{exc.filename or ''}: {exc.strerror or exc}".lstrip(": ")
    return "; ".join([str(exc), *getattr(exc, "__notes__", ())])


def _out_of_memory(exc: Exception) -> ExitStatus:
    """Say so in one line: a traceback names the place that ran out, and not the one that took it."""
    reason = str(exc).strip().partition("\n")[0]
    words = f"out of memory ({reason})" if reason else "out of memory"
    return _fail(
        f"{words}; end other programs, or raise this process's limit (`ulimit -v` shows it)",
        ExitStatus.EXCEPTION,
    )


def _fail(message: str, status: ExitStatus) -> ExitStatus:
    print(one_line(f"trajrec: {message}"), file=sys.stderr)
    return status
