"""Kills processes that record, at a moment after their first report."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

Zygote = subprocess.Popen[str]
"""A process that forks a child for each line it gets."""


@contextlib.contextmanager
def forking_process() -> Iterator[Zygote]:
    """Start the program of killed.py, whose children import nothing."""
    program = Path(__file__).with_name("killed.py")
    with subprocess.Popen(
        [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def record_and_kill(zygote: Zygote, kind: str, folder: Path, after_s: float) -> Path:
    """Have a child record, kill it, and return its reports."""
    folder.mkdir()
    reports = folder / "reports"
    kill_child(zygote, [kind, str(folder), str(reports)], reports, after_s)
    return reports


def kill_child(
    parent: subprocess.Popen[str], message: list[str], reports: Path, after_s: float
) -> None:
    """Have a process make a child that records, and kill the child.

    Args:
        parent: Makes a child for each line of JSON that it reads, and writes the child's number.
        message: The line.
        reports: The file of the child's reports.
        after_s: The time between the first report and the kill.
    """
    assert parent.stdin is not None
    assert parent.stdout is not None
    parent.stdin.write(json.dumps(message) + "\n")
    parent.stdin.flush()
    pid = int(parent.stdout.readline())
    while not reports.exists() or reports.stat().st_size == 0:
        time.sleep(0.002)
        os.kill(pid, 0)
    time.sleep(after_s)
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            time.sleep(0.001)
