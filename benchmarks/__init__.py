"""Measure the cost of trajrec beside its peers, or beside the same work without trajrec.

Each benchmark prints figures, ratios, and the goal of each figure. Nothing is asserted.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

# A reference to each folder: a folder is deleted when nothing refers to it.
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def scratch_folder() -> Path:
    """Return a new folder, which is deleted when the process ends."""
    _FOLDERS.append(
        tempfile.TemporaryDirectory(prefix="trajrec-bench-", ignore_cleanup_errors=True)
    )
    return Path(_FOLDERS[-1].name)
