"""The lineage of an export: the condition that selected its rows, and a digest of them."""

from __future__ import annotations

import json
from pathlib import Path

from trajrec.corpus.scratch import replacing
from trajrec.types import JsonObject
from trajrec.version import __version__

LINEAGE_KEY = "trajrec"
"""The key in the metadata of a Parquet or Arrow file that has its lineage, as JSON."""

LINEAGE_NAME = "lineage.json"
"""The file in an exported folder that has its lineage."""


def lineage(where: str, digest: str, n_episodes: int) -> JsonObject:
    """Return the lineage of an export.

    Args:
        where: The condition that selected its rows.
        digest: A digest of the rows.
        n_episodes: The number of the episodes that they are of.
    """
    return {
        "where": where,
        "digest": digest,
        "n_episodes": n_episodes,
        "writer": f"trajrec {__version__}",
    }


def lineage_beside(path: Path) -> Path:
    """Return the file beside an exported file that has its lineage."""
    return path.with_name(f"{path.name}.{LINEAGE_NAME}")


def write_lineage(file: Path, facts: JsonObject) -> None:
    """Write a lineage as a file.

    Raises:
        CorpusError: It cannot be written.
    """
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n")
