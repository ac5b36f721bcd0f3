"""The exit statuses. Each one means the same thing for every command."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """Exit status of every command."""

    OK = 0
    FINDING = 1
    USAGE = 2
    LOG = 3
    REFUSED = 4
    EXCEPTION = 5
    INTERRUPTED = 130  # the shell's convention: 128 + SIGINT


class CannotMakeError(ValueError):
    """An environment that a command line names cannot be made."""


MEANINGS = {
    ExitStatus.OK: "the command has done its work and found no difference and no failure",
    ExitStatus.FINDING: "the command has done its work and found a difference or a failure",
    ExitStatus.USAGE: "an argument is wrong, or no episode is selected",
    ExitStatus.LOG: "a log is damaged, cannot be read or cannot be written",
    ExitStatus.REFUSED: "an environment, world or step is not allowed, cannot be made or not restored",
    ExitStatus.EXCEPTION: "a policy, check, environment or trajrec itself raised an exception, or memory ran out",
    ExitStatus.INTERRUPTED: "interrupted by Ctrl-C",
}
"""Status -> its meaning, for the help of `trajrec` and the reference."""
