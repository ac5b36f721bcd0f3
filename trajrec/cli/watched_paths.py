"""The paths of --watch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trajrec.types import Value


def watched_of(paths: Sequence[Path], *logs: Path) -> Value:
    """Return the paths of --watch as `trajrec.episode` takes them; None without one.

    Args:
        paths: The paths.
        logs: The folders of logs. In a watched folder they would change with each step, and be put
            back with it.

    Raises:
        ValueError: A path does not exist, is neither a folder nor a database, or holds the logs.
    """
    from trajrec.tracking.parts import find_parts

    for path in paths:
        if not path.exists():
            raise ValueError(f"--watch {path}: there is no such file or folder")
        try:
            find_parts(None, path.resolve())
        except TypeError as exc:
            raise ValueError(f"--watch {path}: {exc}") from exc
        for folder in logs:
            if folder.resolve().is_relative_to(path.resolve()):
                raise ValueError(
                    f"--watch {path}: the folder of logs {folder} lies in it, so recording would "
                    "change what is watched; use a folder of logs outside"
                )
    watched = {str(path): path.resolve() for path in paths}
    return watched if len(watched) > 1 else next(iter(watched.values()), None)
