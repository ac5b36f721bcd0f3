"""Runs a call in a forked process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable


def ends_well(call: Callable[[], object]) -> bool:
    """Return whether a call returns in a forked process, which is ended if it takes a minute."""
    process = multiprocessing.get_context("fork").Process(target=call)
    process.start()
    process.join(60)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode == 0
