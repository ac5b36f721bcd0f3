"""Kills processes that record, at a moment after their first report."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path


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
