"""The paths of --watch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trajrec.types import Value


def watched_of(paths: Sequence[Path]) -> Value:
    """Return the paths of --watch as `trajrec.episode` takes them; None without one.

    Raises:
        ValueError: A path does not exist, or is neither a folder nor a database.
    """
    from trajrec.tracking.parts import find_parts

    for path in paths:
        if not path.exists():
            raise ValueError(f"--watch {path}: there is no such file or folder")
        try:
            find_parts(None, path.resolve())
        except TypeError as exc:
            raise ValueError(f"--watch {path}: {exc}") from exc
    watched = {str(path): path.resolve() for path in paths}
    return watched if len(watched) > 1 else next(iter(watched.values()), None)
