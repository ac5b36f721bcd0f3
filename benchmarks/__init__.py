"""What trajrec costs, measured beside its peers in one run. Prints figures and ratios; asserts nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def scratch_folder() -> Path:
    """Return a new folder that is gone when the process is."""
    _KEPT.append(tempfile.TemporaryDirectory(prefix="trajrec-bench-", ignore_cleanup_errors=True))
    return Path(_KEPT[-1].name)
