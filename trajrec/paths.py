"""Paths of files and folders that a program names once and uses later."""

from __future__ import annotations

import os
from pathlib import Path


def fixed_path(path: str | Path) -> Path:
    """Return a path that still leads to the same place if the program changes its working folder.

    It is absolute. Where a folder above the working folder may not be searched, no absolute path
    leads there, and a relative one is returned as it is.

    >>> fixed_path("runs").is_absolute()
    True
    """
    try:
        absolute = os.path.abspath(path)
        is_reached = os.path.isabs(path) or os.path.exists(os.getcwd())
    except OSError:
        # The working folder was deleted.
        is_reached = False
    return Path(absolute if is_reached else path)
