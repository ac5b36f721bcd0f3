"""Removes episodes from a corpus: their bytes go from every file, and a tombstone says so."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from trajrec.conditions import bracketed
from trajrec.corpus.corpus import Corpus, open
from trajrec.corpus.location import require_logs
from trajrec.errors import CorpusError, LogError
from trajrec.log.annotations import Tombstone
from trajrec.log.folder import INDEX_FOLDER
from trajrec.log.reader import LogReader
from trajrec.log.removal import check_rewritable, digests_of, id_if_emptied, remove_episodes
from trajrec.log.rewriting import SUFFIX_OF_DAMAGED
from trajrec.log.schema import episode_id
from trajrec.recording.event_log import open_event_log
from trajrec.types import Value
from trajrec.values import codec

_ANNOTATIONS = {
    "credit": "credit",
    "rollouts": "rollouts of credit",
    "labels": "labels",
    "replays": "verdicts of replays",
    "checks": "post-hoc checks",
}
"""Table -> the annotations in it, in words."""


@dataclass(frozen=True, kw_only=True)
class RemovalPlan:
    """The episodes that a removal takes, and what depends on them.

    Attributes:
        episodes: The ids of the selected episodes.
        dependents: The ids of episodes that were forked from them, or begun inside them, and are
            not selected.
        annotations: The number of annotations of all of these, by kind.
        logs: The logs that are rewritten, relative to the corpus: path -> numbers of episodes.
        refusals: Why nothing can be removed as it is; empty if it can.
    """

    episodes: list[str]
    dependents: list[str]
    annotations: dict[str, int]
    logs: dict[str, list[int]]
    refusals: list[str]


def remove(
    folder: str | Path,
    where: str,
    *,
    reason: str = "",
    only_forks: bool = False,
    with_dependents: bool = False,
    dry_run: bool = False,
) -> RemovalPlan:
    """Remove the episodes that a condition selects; afterwards no file of the corpus has their bytes.

    Each log is written anew and replaces the old one at once; a call that was killed loses nothing,
    and can be made again. The index and the caches are deleted, since they are made of the logs.
    The ids, digests, time and reason stay as rows of the table `removals`.

    Args:
        folder: The corpus. No process may have it open for writing.
        where: A SQL condition on the columns of `all_episodes`.
        reason: The reason, for the table `removals`.
        only_forks: Whether to take forks alone among the selected episodes.
        with_dependents: Whether to remove the episodes and annotations too that depend on the
            selected ones.
        dry_run: Whether to remove nothing.

    Returns:
        The plan that was carried out; of a dry run, with what would refuse it.

    Raises:
        CorpusError: Nothing is selected, something depends on a selected episode, or a log is not
            sealed or is damaged.
        LogError: A log cannot be written.
    """
    root = Path(folder)
    require_logs(root)
    with open(root) as corpus:
        plan = _plan(corpus, where, only_forks=only_forks)
        if (plan.dependents or plan.annotations) and not with_dependents:
            plan.refusals.append(
                f"{root}: {_described(plan)}; pass --with-dependents to remove them"
            )
        plan.refusals.extend(_unwritable(corpus, plan))
        if dry_run:
            return plan
        if plan.refusals:
            raise CorpusError(plan.refusals[0])
        told = {row[0] for row in corpus.sql("SELECT episode_id FROM removals").fetchall()}
    _append_tombstones(root, plan, reason, told)
    targets = [*plan.episodes, *plan.dependents]
    for log, numbers in plan.logs.items():
        remove_episodes(root / log, numbers, targets)
    delete_derived(root)
    return plan


def delete_derived(folder: Path) -> None:
    """Delete the index and the caches of a corpus; the next query makes the index again."""
    shutil.rmtree(folder / INDEX_FOLDER, ignore_errors=True)


def _plan(corpus: Corpus, where: str, *, only_forks: bool) -> RemovalPlan:
    kind = "kind = 'fork'" if only_forks else "kind <> 'copy'"
    query = f"SELECT episode_id FROM all_episodes WHERE {kind} AND {bracketed(where)} ORDER BY log, number"
    episodes = [row[0] for row in corpus.sql(query, sandbox=True).fetchall()]
    if not episodes:
        raise CorpusError(
            f"{corpus.path}: no {'fork' if only_forks else 'episode'} is selected by {where!r}"
        )
    dependents = _dependents(corpus, episodes)
    ids = [*episodes, *dependents]
    logs: dict[str, list[int]] = {}
    annotations = {}
    for table, words in _ANNOTATIONS.items():
        condition = "phase = 'post-hoc' AND" if table == "checks" else ""
        rows = corpus.sql(
            f"SELECT log, count(*) FROM {table} WHERE {condition} episode_id IN (SELECT unnest(?)) "
            "GROUP BY log ORDER BY log",
            params=[ids],
        ).fetchall()
        if rows:
            annotations[words] = sum(row[1] for row in rows)
        logs |= {row[0]: logs.get(row[0], []) for row in rows}
    # Copies too: each file that holds an episode.
    rows = corpus.sql(
        "SELECT log, number FROM all_episodes WHERE episode_id IN (SELECT unnest(?)) "
        "ORDER BY log, number",
        params=[ids],
    ).fetchall()
    for log, group in groupby(rows, key=itemgetter(0)):
        logs[log] = [row[1] for row in group]
    # Copies of logs that hold annotations alone: their rows count once.
    copies = corpus.sql(
        "SELECT log FROM logs WHERE log_id IN (SELECT log_id FROM logs WHERE log IN "
        "(SELECT unnest(?))) ORDER BY log",
        params=[list(logs)],
    ).fetchall()
    for (log,) in copies:
        logs.setdefault(log, [])
    return RemovalPlan(
        episodes=episodes,
        dependents=dependents,
        annotations=annotations,
        logs=logs,
        refusals=[],
    )


def _dependents(corpus: Corpus, episodes: Sequence[str]) -> list[str]:
    """Return the episodes that were forked from some, or begun inside them, at any depth."""
    rows = corpus.sql(
        "WITH RECURSIVE down AS (SELECT unnest(?) AS episode_id UNION "
        "SELECT e.episode_id FROM all_episodes e JOIN down d "
        "ON d.episode_id IN (e.parent_id, e.caller_id)) "
        "SELECT episode_id FROM down WHERE episode_id NOT IN (SELECT unnest(?)) ORDER BY episode_id",
        params=[list(episodes), list(episodes)],
    ).fetchall()
    return [row[0] for row in rows]


def _described(plan: RemovalPlan) -> str:
    parts = [f"{n} {words}" for words, n in plan.annotations.items()]
    if plan.dependents:
        shown = ", ".join(plan.dependents[:3])
        parts.insert(0, f"{len(plan.dependents)} forks or nested episodes ({shown}, ...)")
    return f"on the {len(plan.episodes)} selected episodes depend {' and '.join(parts)}"


def _unwritable(corpus: Corpus, plan: RemovalPlan) -> Iterator[str]:
    """Yield why logs cannot be rewritten, before any is."""
    rows = corpus.sql(
        "SELECT log FROM logs WHERE NOT is_sealed AND log IN (SELECT unnest(?)) ORDER BY log",
        params=[list(plan.logs)],
    ).fetchall()
    unsealed = {row[0] for row in rows}
    for log in sorted(unsealed):
        yield (
            f"{corpus.path / log}: not sealed: close its recorder (trajrec.close_logs()), "
            "or run `trajrec recover` if its process was killed"
        )
    for log in plan.logs:
        path = corpus.path / log
        for copy in sorted(path.parent.glob(f"{path.name}{SUFFIX_OF_DAMAGED}*")):
            yield f"{copy}: may hold the same episodes; delete it first"
        if log not in unsealed:
            try:
                check_rewritable(path)
            except LogError as exc:
                yield str(exc)


def _append_tombstones(folder: Path, plan: RemovalPlan, reason: str, told: set[Value]) -> None:
    """Append a tombstone for each log. Before the removal: one that is killed is made again."""
    events = []
    targets = [*plan.episodes, *plan.dependents]
    emptied = sorted(
        {
            log_id
            for log, numbers in plan.logs.items()
            for log_id in [id_if_emptied(folder / log, numbers, targets)]
            if log_id is not None
        }
    )
    for log, numbers in plan.logs.items():
        digests = _digests(folder / log, numbers)
        new = {target: digest for target, digest in digests.items() if target not in told}
        told |= new.keys()
        if new:
            with LogReader(folder / log) as reader:
                log_id = reader.header.log_id
            events.append(
                Tombstone(
                    episode=-1,
                    time_ns=time.time_ns(),
                    log_id=log_id,
                    targets=list(new),
                    reason=reason,
                    extra_data=codec.encode({"digests": new, "emptied": emptied}),
                )
            )
    if events:
        writer = open_event_log(folder, "raise", "process")
        for event in events:
            writer.add(event)
        writer.flush()


def emptied_logs(path: Path) -> set[str]:
    """Return the ids of the logs of which a removal left nothing, by the tombstones of a log."""
    emptied: set[str] = set()
    with LogReader(path) as reader:
        for chunk in reader.chunks():
            for event in chunk.record.events:
                if isinstance(event, Tombstone):
                    stated = codec.decode_map(event.extra_data).get("emptied")
                    # A log that somebody else made may state anything.
                    emptied.update(
                        log_id
                        for log_id in (stated if isinstance(stated, list) else ())
                        if isinstance(log_id, str)
                    )
    return emptied


def _digests(path: Path, numbers: Sequence[int]) -> Mapping[str, str]:
    """Return the digests of some episodes of a log, by id."""
    if not numbers:
        return {}
    with LogReader(path) as reader:
        log_id = reader.header.log_id
    return {episode_id(log_id, n): digest for n, digest in digests_of(path, numbers).items()}
