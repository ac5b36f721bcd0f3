"""Links in the place of an index: a folder of somebody else could have our index written anywhere."""

from __future__ import annotations

from pathlib import Path

from trajrec.log.folder import INDEX_FOLDER

# The folder, and the files that are made in it. DuckDB follows links of the second and third too.
_NAMES = ("", "index.duckdb", "index.duckdb.wal", "index.duckdb.tmp", "ids.bin")


def has_links(folder: Path) -> bool:
    """Return whether the index of a folder of logs, or a file of it, is a link.

    Such an index is neither read nor written: queries read the logs.
    """
    return first_link(folder) is not None


def first_link(folder: Path) -> Path | None:
    """Return the first link in the place of the index or of a file of it; None if there is none."""
    paths = (folder / INDEX_FOLDER / name for name in _NAMES)
    return next((path for path in paths if path.is_symlink()), None)
