"""Writes steps and conversations of a corpus into files that other programs read.

Each file says which rows it has: the condition, and a digest of the episodes that it selected and of
the contents of their logs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from trajrec.corpus.corpus import Corpus
from trajrec.corpus.exports import exporting
from trajrec.corpus.lineage import LINEAGE_KEY, lineage, lineage_beside, write_lineage
from trajrec.errors import CorpusError, MissingPackageError
from trajrec.values.json import finite_json

# Rows of a record batch, and of a group in a Parquet file.
_ROWS = 1 << 16


def export_transitions(
    corpus: Corpus,
    file: str | Path,
    where: str = "true",
    *,
    overwrite: bool = False,
    tell: Callable[[str], None] | None = None,
) -> int:
    """Write the transitions of environments as Parquet (zstd) or as an Arrow file.

    The columns are those of `corpus.to_arrow`. The lineage counts the steps without a transition:
    `n_dropped`, of which the log has lost the observation before, and `n_after_failure`, which
    follow one that raised.

    Args:
        corpus: The corpus.
        file: The file; ends in .parquet or .arrow. It appears when it is whole.
        where: A SQL condition on the columns of `all_episodes`.
        overwrite: Whether any file is replaced, and not only what the same call wrote.
        tell: Is called with a sentence about the steps that are left out, if there are any.

    Returns:
        The number of rows.

    Raises:
        ValueError: The file has another ending.
        MissingPackageError: pyarrow is not installed.
        CorpusError: The file exists, no episode is selected, or values are no columns.
    """
    path = Path(file)
    if path.suffix not in (".parquet", ".arrow"):
        raise ValueError(f"transitions are written to .parquet or .arrow, got {path.name}")
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from trajrec.datasets.arrow import to_reader
    except ImportError as exc:
        raise MissingPackageError("pyarrow", "arrow") from exc
    n_rows = 0
    command = {"kind": "transitions", "where": where}
    with (
        exporting(corpus.path, path, command, overwrite=overwrite) as temporary,
        contextlib.ExitStack() as stack,
    ):
        transitions = corpus.transitions(where, batch_size=_ROWS, shuffle=False)
        reader = to_reader(transitions)
        origin = lineage(where, transitions.digest, len(transitions.episode_ids)) | {
            "n_dropped": transitions.dropped,
            "n_after_failure": transitions.n_after_failure,
        }
        schema = reader.schema.with_metadata({LINEAGE_KEY: json.dumps(origin)})
        if path.suffix == ".parquet":
            writer = stack.enter_context(pq.ParquetWriter(temporary, schema, compression="zstd"))
        else:
            sink = stack.enter_context(pa.OSFile(str(temporary), "wb"))
            # Not the file format of IPC: that allows a dictionary only once.
            writer = stack.enter_context(pa.ipc.new_stream(sink, schema))
        for batch in reader:
            writer.write_batch(batch)
            n_rows += batch.num_rows
        if not n_rows:
            raise CorpusError(f"{corpus.path}: no step of an environment is selected by {where!r}")
    n_lost = transitions.dropped
    n_after = transitions.n_after_failure
    if tell is not None and (n_lost or n_after):
        tell(
            f"steps left out: {n_lost} of which the log has lost the observation before, and "
            f"{n_after} that follow one that raised"
        )
    return n_rows


def export_messages(
    corpus: Corpus,
    file: str | Path,
    where: str = "true",
    *,
    overwrite: bool = False,
    tell: Callable[[str], None] | None = None,
) -> int:
    """Write the conversations of agents as JSON lines, each as `Conversation.as_dict` has it.

    Beside the file lies its lineage, under its name with ".lineage.json".

    Args:
        corpus: The corpus.
        file: The file; ends in .jsonl. It appears when it is whole.
        where: A SQL condition on the columns of `all_episodes`.
        overwrite: Whether any file is replaced, and not only what the same call wrote.
        tell: Is called with a sentence about messages of which parts are left out.

    Returns:
        The number of conversations.

    Raises:
        ValueError: The file has another ending.
        CorpusError: The file exists, or no conversation is selected.
    """
    path = Path(file)
    if path.suffix != ".jsonl":
        raise ValueError(f"messages are written to .jsonl, got {path.name}")
    digest = hashlib.blake2b(digest_size=16)
    episodes: set[str] = set()
    n_rows = 0
    n_with_omitted = 0
    n_unfinished = 0
    n_dropped = 0
    command = {"kind": "messages", "where": where}
    with (
        exporting(corpus.path, path, command, overwrite=overwrite) as temporary,
        temporary.open("w", encoding="utf-8") as opened,
    ):
        for talk in corpus.messages(where):
            line = json.dumps(finite_json(talk.as_dict()), ensure_ascii=True, allow_nan=False)
            opened.write(line + "\n")
            digest.update(line.encode())
            episodes.add(talk.episode_id)
            n_rows += 1
            n_with_omitted += bool(talk.omitted)
            n_unfinished += bool(talk.unfinished)
            n_dropped += talk.is_dropped
        if not n_rows:
            raise CorpusError(
                f"{corpus.path}: no conversation of an agent is selected by {where!r}"
            )
    if tell is not None and n_dropped:
        tell(
            f"{n_dropped} conversations end in an answer that the agent dropped: `is_dropped` is "
            "true in these lines, which are no examples to learn from"
        )
    if tell is not None and n_unfinished:
        tell(
            f"{n_unfinished} conversations have answers that the model did not end, since a stream "
            "broke off or a limit stopped it: `unfinished` has their numbers"
        )
    if tell is not None and n_with_omitted:
        tell(
            f"{n_with_omitted} conversations have messages with images, files or reasoning, which "
            "are left out: `omitted` has the numbers of these messages"
        )
    write_lineage(lineage_beside(path), lineage(where, digest.hexdigest(), len(episodes)))
    return n_rows
