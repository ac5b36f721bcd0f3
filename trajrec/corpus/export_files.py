"""Writes steps and conversations of a corpus into files that other programs read.

Each file says which rows it has: the condition, and a digest of the episodes that it selected and of
the contents of their logs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from trajrec.corpus.corpus import Corpus
from trajrec.errors import CorpusError, MissingPackageError
from trajrec.log.locks import is_running
from trajrec.types import JsonObject
from trajrec.version import __version__

LINEAGE_KEY = "trajrec"
"""The key in the metadata of a Parquet or Arrow file that has its lineage, as JSON."""

# Rows of a record batch, and of a group in a Parquet file.
_ROWS = 1 << 16


def export_transitions(corpus: Corpus, file: str | Path, where: str = "true") -> int:
    """Write the transitions of environments as Parquet (zstd) or as an Arrow file.

    The columns are those of `corpus.to_arrow`.

    Args:
        corpus: The corpus.
        file: The file; ends in .parquet or .arrow. It is replaced when it is whole.
        where: A SQL condition on the columns of `all_episodes`.

    Returns:
        The number of rows.

    Raises:
        ValueError: The file has another ending.
        MissingPackageError: pyarrow is not installed.
        CorpusError: No episode is selected, or values are no columns.
    """
    path = Path(file)
    if path.suffix not in (".parquet", ".arrow"):
        raise ValueError(f"transitions are written to .parquet or .arrow, got {path.name}")
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as exc:
        raise MissingPackageError("pyarrow", "arrow") from exc
    transitions = corpus.transitions(where, batch_size=_ROWS, shuffle=False)
    reader = corpus.to_arrow(where, batch_size=_ROWS)
    origin = lineage(where, transitions.digest, len(transitions.episode_ids))
    schema = reader.schema.with_metadata({LINEAGE_KEY: json.dumps(origin)})
    n_rows = 0
    with replacing(path) as temporary, contextlib.ExitStack() as stack:
        if path.suffix == ".parquet":
            writer = stack.enter_context(pq.ParquetWriter(temporary, schema, compression="zstd"))
        else:
            sink = stack.enter_context(pa.OSFile(str(temporary), "wb"))
            # Not the file format of IPC: that allows a dictionary only once.
            writer = stack.enter_context(pa.ipc.new_stream(sink, schema))
        for batch in reader:
            writer.write_batch(batch)
            n_rows += batch.num_rows
    return n_rows


def export_messages(corpus: Corpus, file: str | Path, where: str = "true") -> int:
    """Write the conversations of agents as JSON lines, each as `Conversation.as_dict` has it.

    Beside the file lies its lineage, under its name with ".lineage.json".

    Args:
        corpus: The corpus.
        file: The file; ends in .jsonl. It is replaced when it is whole.
        where: A SQL condition on the columns of `all_episodes`.

    Returns:
        The number of conversations.

    Raises:
        ValueError: The file has another ending.
        CorpusError: No conversation is selected.
    """
    path = Path(file)
    if path.suffix != ".jsonl":
        raise ValueError(f"messages are written to .jsonl, got {path.name}")
    digest = hashlib.blake2b(digest_size=16)
    episodes: set[str] = set()
    n_rows = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as opened:
        for talk in corpus.messages(where):
            row = talk.as_dict()
            if math.isnan(talk.total_reward):
                # JSON has no NaN.
                row["total_reward"] = None
            line = json.dumps(row, ensure_ascii=True, allow_nan=False)
            opened.write(line + "\n")
            digest.update(line.encode())
            episodes.add(talk.episode_id)
            n_rows += 1
        if not n_rows:
            raise CorpusError(f"{corpus.path}: no conversation of an agent is {where!r}")
    origin = lineage(where, digest.hexdigest(), len(episodes))
    path.with_name(path.name + ".lineage.json").write_text(json.dumps(origin, indent=2) + "\n")
    return n_rows


def lineage(where: str, digest: str, n_episodes: int) -> JsonObject:
    """Return the lineage of an exported file.

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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside a path, for a file or a folder that takes its place if no error comes.

    What exports that were killed have left for the same path is removed.

    Raises:
        CorpusError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        for left in _left(path):
            _remove(left)
        yield temporary
        os.replace(temporary, path)
    except OSError as exc:
        raise CorpusError(f"{path}: cannot be written: {exc.strerror or exc}") from exc
    finally:
        _remove(temporary)


def _left(path: Path) -> Iterator[Path]:
    """Yield the files and folders of exports to a path whose processes are gone."""
    if not path.parent.is_dir():
        return
    head = f".{path.name}."
    for entry in path.parent.iterdir():
        number = entry.name.removeprefix(head).removesuffix(".tmp")
        is_ours = entry.name == f"{head}{number}.tmp" and number.isdecimal()
        if is_ours and not is_running(number):
            yield entry


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
