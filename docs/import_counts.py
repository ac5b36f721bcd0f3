"""Compare imports with counts that were made without trajrec: `python docs/import_counts.py DATA`.

DATA is a folder with files of other tools, and `COUNTS.json`, which counts them with `json`, `zipfile` and the like.
The page `docs/reference/imported-formats.md` has the result. It is written anew if DATA is given; the tests compare it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from import_claims import FOLDERS, Counts, File

import trajrec

PAGE = Path(__file__).resolve().parent / "reference" / "imported-formats.md"


class Row(NamedTuple):
    """A number of a file: as it was counted, and as it was imported."""

    folder: str
    file: str
    name: str
    counted: Any
    imported: Any


def is_counted(counts: Counts) -> bool:
    """Return whether a file is a trajectory: the counts hold files that are none, too."""
    is_prompts = "prompt" in counts.get("columns", {}) and len(counts["columns"]) > 3
    return counts.get("is_log", True) is True and not is_prompts


def import_folder(data: Path, folder: str, output: Path) -> trajrec.Corpus:
    """Return the corpus of a folder."""
    trajrec.import_trajectories(data / folder, output)
    return trajrec.open(output)


def rows_of(data: Path, folder: str, corpus: trajrec.Corpus) -> list[Row]:
    """Return the numbers of all files of a folder."""
    counts = json.loads((data / "COUNTS.json").read_text())[folder]
    rows = []
    for name, of_file in sorted(counts.items()):
        if is_counted(of_file):
            file = File(corpus, (data / folder / name).resolve())
            if not file.rows("FROM {imports}"):
                # A part of another file: an agent inside of a session.
                file.position = "subagents/" + name.rpartition("subagents/subagents/")[2]
            for claim, (counted, imported) in FOLDERS[folder](of_file, file).items():
                rows.append(Row(folder, name, claim, counted, imported))
    return rows


INTRODUCTION = """# Imported formats

Real files of other tools, counted once by independent means, and once by SQL after `trajrec import`.
`python docs/import_counts.py DATA` writes this page anew, if DATA holds the files and their counts.

| folder | file | number | counted | imported |
|---|---|---|---|---|
"""


def page(rows: list[Row]) -> str:
    """Return the page."""
    lines = [
        f"| {row.folder} | `{row.file}` | {row.name} | {_cell(row.counted)} | {_cell(row.imported)} |"
        for row in rows
    ]
    return INTRODUCTION + "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    text = "none" if value is None else f"`{json.dumps(value)}`"
    return text.replace("|", "\\|")


def main(data: Path) -> int:
    """Write the page; return the number of differences."""
    rows = []
    for folder in FOLDERS:
        with (
            tempfile.TemporaryDirectory() as output,
            import_folder(data, folder, Path(output)) as corpus,
        ):
            rows += rows_of(data, folder, corpus)
    PAGE.write_text(page(rows), encoding="utf-8")
    different = [row for row in rows if row.counted != row.imported]
    for row in different:
        print(*row, file=sys.stderr)
    print(f"{PAGE}: {len(rows)} numbers, {len(different)} differ")
    return len(different)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
