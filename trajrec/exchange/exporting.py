"""Exports trajectories of a corpus in the formats of other tools, with their lineage and losses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from trajrec.corpus.corpus import Corpus
from trajrec.corpus.episode import Episode
from trajrec.corpus.exports import exporting
from trajrec.corpus.lineage import LINEAGE_NAME, lineage, lineage_beside, write_lineage
from trajrec.errors import CorpusError
from trajrec.exchange.account import Account
from trajrec.exchange.export_reports import ExportReport
from trajrec.exchange.to_atif import atif_document
from trajrec.exchange.to_otlp import otlp_export
from trajrec.types import JsonObject
from trajrec.values.json import to_json

MAX_NESTED = 50
"""Agents that begin agents: a log that is damaged on purpose might name them in a circle."""


def export_atif(
    corpus: Corpus, output: str | Path, where: str = "true", *, overwrite: bool = False
) -> ExportReport:
    """Write agents' episodes as documents of ATIF 1.7.

    Args:
        corpus: The corpus.
        output: A file that ends in .jsonl takes a document a line; anything else is a new folder,
            which takes a file for each episode. It appears when it is whole. The lineage stands in
            the folder's `lineage.json`, or beside the file under its name with ".lineage.json".
        where: A SQL condition on the columns of `all_episodes`.
        overwrite: Whether any file, or folder of an export, is replaced, and not only what the same
            call wrote.

    Returns:
        The number of the documents, and the account of what they hold. Episodes of environments
        are no conversations, and are counted as dropped.

    Raises:
        CorpusError: No agent's episode is selected, the output exists, or it cannot be written.
        LogCorruptError: A log has lost a value.

    >>> export_atif(corpus, "trajectories", "outcome = 'success'").n_episodes
    2
    """
    path = Path(output)

    def documents(account: Account) -> Iterator[tuple[str, JsonObject]]:
        callers = _callers(corpus)
        for episode in _agents_episodes(corpus, where, account):
            yield episode.id, _document(corpus, episode, callers, account, depth=0)

    return _write(documents, corpus, path, "atif", where, overwrite=overwrite)


def export_otlp(
    corpus: Corpus, output: str | Path, where: str = "true", *, overwrite: bool = False
) -> ExportReport:
    """Write agents' episodes as traces in OTLP/JSON, an export a line.

    Args:
        corpus: The corpus.
        output: A file that ends in .jsonl. Its lineage stands beside it, under its name with
            ".lineage.json".
        where: A SQL condition on the columns of `all_episodes`.
        overwrite: Whether any file is replaced, and not only what the same call wrote.

    Returns:
        The number of the traces, and the account of what they hold. Episodes of environments are
        counted as dropped.

    Raises:
        ValueError: The file has another ending.
        CorpusError: No agent's episode is selected, or the file exists or cannot be written.
        LogCorruptError: A log has lost a value.

    >>> export_otlp(corpus, "traces.jsonl", "outcome = 'success'").n_episodes
    2
    """
    path = Path(output)
    if path.suffix != ".jsonl":
        raise ValueError(f"traces are written to .jsonl, got {path.name}")

    def exports(account: Account) -> Iterator[tuple[str, JsonObject]]:
        callers = _callers(corpus)
        for episode in _agents_episodes(corpus, where, account):
            nested = _nested(corpus, episode, callers, depth=0)
            yield episode.id, otlp_export(episode, account, nested)

    return _write(exports, corpus, path, "otlp", where, overwrite=overwrite)


def _write(
    documents: Callable[[Account], Iterator[tuple[str, JsonObject]]],
    corpus: Corpus,
    path: Path,
    kind: str,
    where: str,
    *,
    overwrite: bool,
) -> ExportReport:
    """Write documents with their lineage, and return the report."""
    report = ExportReport()
    digest = hashlib.blake2b(digest_size=16)
    is_file = path.suffix == ".jsonl"
    command = {"kind": kind, "where": where}
    with exporting(corpus.path, path, command, overwrite=overwrite) as temporary:
        if not is_file:
            temporary.mkdir(parents=True)
        for episode_id, document in documents(report.account):
            line = _json(document)
            digest.update(line.encode())
            report.n_episodes += 1
            file = temporary if is_file else temporary / f"{episode_id}.json"
            with file.open("a", encoding="utf-8") as opened:
                opened.write(line + "\n")
        if not report.n_episodes:
            raise CorpusError(f"{corpus.path}: no episode of an agent is selected by {where!r}")
        origin = lineage(where, digest.hexdigest(), report.n_episodes)
        facts = {**origin, "report": report.account.as_dict()}
        if not is_file:
            write_lineage(temporary / LINEAGE_NAME, facts)
    if is_file:
        write_lineage(lineage_beside(path), facts)
    return report


def _callers(corpus: Corpus) -> set[str]:
    """Return the ids of the episodes that have begun others."""
    rows = corpus.sql("SELECT DISTINCT caller_id FROM all_episodes WHERE kind = 'nested'")
    return {row[0] for row in rows.fetchall()}


def _agents_episodes(corpus: Corpus, where: str, account: Account) -> Iterator[Episode]:
    """Yield the selected episodes of agents."""
    for episode in corpus.episodes(where):
        if episode.is_agent_episode:
            yield episode
        else:
            account.drop("an episode of an environment is no conversation")


def _nested(corpus: Corpus, episode: Episode, callers: set[str], *, depth: int) -> list[Episode]:
    """Return the episodes that an episode has begun, each behind its caller."""
    if episode.id not in callers or depth >= MAX_NESTED:
        return []
    episodes: list[Episode] = []
    for inner in corpus.episodes(f"caller_id = '{episode.id}'", kind="nested"):
        if inner.is_agent_episode:
            episodes += [inner, *_nested(corpus, inner, callers, depth=depth + 1)]
    return episodes


def _document(
    corpus: Corpus, episode: Episode, callers: set[str], account: Account, *, depth: int
) -> JsonObject:
    """Return the document of an episode, with those of the agents that it has begun."""
    subagents: list[tuple[Episode, JsonObject]] = []
    if episode.id in callers and depth < MAX_NESTED:
        for inner in corpus.episodes(f"caller_id = '{episode.id}'", kind="nested"):
            if inner.is_agent_episode:
                document = _document(corpus, inner, callers, account, depth=depth + 1)
                subagents.append((inner, document))
    return atif_document(episode, account, subagents)


def _json(document: JsonObject) -> str:
    """Return a document as JSON text: NaN and infinities, which JSON lacks, as texts."""
    try:
        return json.dumps(document, allow_nan=False)
    except (TypeError, ValueError):
        return to_json(document)
