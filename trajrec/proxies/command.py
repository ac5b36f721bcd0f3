"""Runs a command, passes signals on to it, and returns its exit status as a shell does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import FrameType
from typing import IO

from trajrec.proxies.signals import taken

NOT_FOUND = 127
NOT_EXECUTABLE = 126

# How long a command that is to end may take before it is killed.
_GRACE_S = 5.0

# The signals that end or steer a program from outside. Windows has only some.
_PASSED = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH")
    if hasattr(signal, name)
]


class Command:
    """A command that runs below this process.

    On a terminal it shares this process's group, so that it can read from the terminal and gets
    Ctrl-C by itself. Elsewhere it has a group of its own, so that all of it can be ended.

    Args:
        arguments: The program and its arguments.
        environment: Its environment.
        in_background: Whether it is one of several runs. It then has no input, and a group of its
            own also on a terminal; signals end this process, which kills the command.
        output: The file that gets its output; None stands for the output of this process.
        timeout_s: Seconds after which it is killed, with all of its group; None stands for never.

    Attributes:
        was_stopped: Whether `stop` ended it.
        has_timed_out: Whether it was killed because its time was over.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        in_background: bool = False,
        output: IO[bytes] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self._arguments = list(arguments)
        self._environment = dict(environment)
        self._in_background = in_background
        self._output = output
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._signals_before_start: list[int] = []
        self._has_terminal = not in_background and _has_terminal()
        self._lock = threading.Lock()
        self.was_stopped = False
        self.has_timed_out = False

    def run(self) -> int:
        """Run it to its end.

        Returns:
            Its exit status; 128 and the number of the signal that ended it; 127 if there is no
            such program, 126 if it cannot be executed.

        Raises:
            ValueError: It runs in the background, and there is no such program.
        """
        with contextlib.nullcontext() if self._in_background else self._passing_signals():
            with self._lock:
                if self.was_stopped:
                    return 128 + signal.SIGTERM
                try:
                    self._process = subprocess.Popen(
                        self._arguments,
                        env=self._environment,
                        stdin=subprocess.DEVNULL if self._in_background else None,
                        stdout=self._output,
                        stderr=None if self._output is None else subprocess.STDOUT,
                        process_group=None if self._has_terminal or os.name != "posix" else 0,
                    )
                except OSError as exc:
                    if self._in_background:
                        raise ValueError(f"{self._arguments[0]}: {exc.strerror}") from exc
                    print(f"trajrec: {self._arguments[0]}: {exc.strerror}", file=sys.stderr)
                    is_missing = isinstance(exc, FileNotFoundError)
                    return NOT_FOUND if is_missing else NOT_EXECUTABLE
            for number in self._signals_before_start:
                self._send(number)
            status = self._wait(self._process)
        return status if status >= 0 else 128 - status

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            self.has_timed_out = True
            self._send(_KILL)
            return process.wait()
        except BaseException:
            # An interrupt: nobody waits for it any more.
            self._send(_KILL)
            raise

    def stop(self) -> None:
        """End the command, from any thread. It is killed if it does not end by itself."""
        with self._lock:
            if self.was_stopped:
                return
            self.was_stopped = True
            process = self._process
        if process is not None:
            self._send(signal.SIGTERM)
            threading.Thread(target=self._kill_later, args=(process,), daemon=True).start()

    def wait_for_end(self) -> None:
        """Wait until the command, which was stopped, has ended."""
        # It does not start any more if it has not started by now.
        if self._process is not None:
            self._process.wait()

    def _kill_later(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._send(_KILL)

    def _send(self, number: int) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        with contextlib.suppress(OSError):
            if self._has_terminal or os.name != "posix":
                process.send_signal(number)
            else:
                os.killpg(process.pid, number)

    def _passing_signals(self) -> AbstractContextManager[None]:
        """Pass this process's signals on while the command runs."""

        def handle(number: int, _frame: FrameType | None) -> None:
            # The terminal sends these to the command as well.
            if self._has_terminal and number in (signal.SIGINT, _QUIT, _WINCH):
                return
            # The command may run already while `Popen` has not returned yet.
            if self._process is None:
                self._signals_before_start.append(number)
            else:
                self._send(number)

        # What this process ignores, the command ignores as well.
        return taken(_PASSED, handle)


class RunningCommands:
    """Commands that run at the same time, to be stopped together."""

    def __init__(self) -> None:
        self._running: set[Command] = set()
        self._is_stopped = False

    def run(self, command: Command) -> int:
        """Run a command to its end, and return its exit status.

        An exception that interrupts this stops the command.
        """
        self._running.add(command)
        if self._is_stopped:
            # What led here had begun before.
            command.stop()
        # In a thread, which no signal interrupts: it may come before `Popen` has returned, and
        # nobody would know the command that runs then.
        with ThreadPoolExecutor(1) as thread:
            try:
                return thread.submit(command.run).result()
            except BaseException:
                command.stop()
                # The pool does not know a thread whose start was interrupted.
                command.wait_for_end()
                raise
            finally:
                self._running.discard(command)

    def stop(self) -> None:
        """Stop all of them, and those that begin later."""
        self._is_stopped = True
        for command in list(self._running):
            command.stop()


_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
_QUIT = getattr(signal, "SIGQUIT", None)
_WINCH = getattr(signal, "SIGWINCH", None)


def _has_terminal() -> bool:
    """Return whether this process is in the foreground of a terminal."""
    try:
        return os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    except (OSError, AttributeError):
        return False
