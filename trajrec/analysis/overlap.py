"""Overlap between splits, repeated action paths, and data that descends from held-out episodes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from trajrec.analysis.source import Source, fetch


class Edge(NamedTuple):
    """A derivation.

    Attributes:
        child: Id of an episode, or the name of a file or model.
        parent: The same of its source.
        kind: How it was derived, e.g. "distilled"; "" if unknown.
    """

    child: str
    parent: str
    kind: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shared:
    """A task, goal or first state that several splits have.

    Attributes:
        by: "task", "goal" or "first state".
        value: The task, or the digest.
        splits: The splits.
        n: Episodes.
    """

    by: str
    value: str
    splits: tuple[str, ...]
    n: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamePath:
    """Episodes that took the same actions.

    Attributes:
        digest: Digest of the actions, in order.
        n_actions: Their number; episodes without actions are left out.
        n: Episodes.
        tasks: Their tasks.
    """

    digest: str
    n_actions: int
    n: int
    tasks: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leak:
    """An episode that descends from a held-out one.

    Attributes:
        episode_id: The episode.
        split: Its split.
        path: From the episode to its held-out ancestor.
    """

    episode_id: str
    split: str
    path: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overlap:
    """The overlap of a corpus. Exact digests only: near duplicates are not searched.

    Attributes:
        shared: Tasks, goals and first states of several splits.
        paths: Action paths that several episodes share, the most frequent first.
        leaks: Episodes with a held-out ancestor.
        n_without_split: Episodes whose metadata names no split; they are compared with none.
        n_edges: Derivations that were followed.
    """

    shared: tuple[Shared, ...]
    paths: tuple[SamePath, ...]
    leaks: tuple[Leak, ...]
    n_without_split: int
    n_edges: int

    def __repr__(self) -> str:
        return (
            f"<Overlap: {len(self.shared)} shared between splits, {len(self.paths)} repeated paths,"
            f" {len(self.leaks)} leaks, {self.n_without_split} episodes without a split>"
        )


_SPLIT = "json_extract_string(metadata, '$.split')"


def read_overlap(
    source: Source, *, held_out: Collection[str], edges: Iterable[tuple[str, ...]] = ()
) -> Overlap:
    """Return the overlap between splits.

    Args:
        source: The corpus.
        held_out: Splits that no other data may descend from.
        edges: More derivations, as (child, parent) or (child, parent, kind).

    Raises:
        ValueError: The derivations have a cycle.
    """
    columns = {"task": "task", "goal": "goal_digest", "first state": "reset_key::VARCHAR"}
    shared = [
        Shared(by=by, value=row["value"], splits=tuple(row["splits"]), n=row["n"])
        for by, column in columns.items()
        for row in fetch(
            source,
            f"""
            SELECT {column} AS value, list_sort(list(DISTINCT {_SPLIT})) AS splits, count(*) AS n
            FROM episodes WHERE {column} IS NOT NULL AND {_SPLIT} IS NOT NULL
            GROUP BY 1 HAVING count(DISTINCT {_SPLIT}) > 1 ORDER BY 1""",
        )
    ]
    paths = fetch(
        source,
        """
        SELECT digest, any_value(n_actions) AS n_actions, count(*) AS n,
            list_sort(list(DISTINCT task) FILTER (task IS NOT NULL)) AS tasks
        FROM (
            SELECT episode_id, md5(string_agg(action::VARCHAR, chr(10) ORDER BY step)) AS digest,
                count(*) AS n_actions
            FROM steps WHERE kind = 'rollout'
            GROUP BY 1 HAVING bool_and(action IS NOT NULL)
        ) JOIN episodes USING (episode_id)
        GROUP BY 1 HAVING count(*) > 1 ORDER BY n DESC, 1""",
    )
    ((n_without,),) = source.sql(f"SELECT count(*) FROM episodes WHERE {_SPLIT} IS NULL").fetchall()
    all_edges = [*read_edges(source), *(Edge(*edge) for edge in edges)]
    splits = (
        {
            row["episode_id"]: row["split"]
            for row in fetch(
                source,
                f"SELECT episode_id, {_SPLIT} AS split FROM episodes WHERE {_SPLIT} IS NOT NULL",
            )
        }
        if all_edges
        else {}
    )
    return Overlap(
        shared=tuple(shared),
        paths=tuple(SamePath(**{**row, "tasks": tuple(row["tasks"] or ())}) for row in paths),
        leaks=tuple(find_leaks(all_edges, splits, held_out)),
        n_without_split=n_without,
        n_edges=len(all_edges),
    )


def read_edges(source: Source) -> list[Edge]:
    """Return the derivations that episodes declare: `parents` of their metadata or lineage."""
    rows = fetch(
        source,
        """
        SELECT episode_id, json_extract(metadata, '$.parents') AS own,
            json_extract(interface, '$.lineage.parents') AS inherited
        FROM episodes WHERE own IS NOT NULL OR inherited IS NOT NULL""",
    )
    edges = []
    for row in rows:
        for text, kind in ((row["own"], "metadata"), (row["inherited"], "lineage")):
            parents: Any = [] if text is None else json.loads(text)
            for parent in parents if isinstance(parents, list) else [parents]:
                if isinstance(parent, str):
                    edges.append(Edge(row["episode_id"], parent, kind))
    return edges


def find_leaks(
    edges: Iterable[Edge], splits: Mapping[str, str], held_out: Collection[str]
) -> list[Leak]:
    """Return the episodes that descend from held-out ones, each with its shortest path.

    Args:
        edges: The derivations.
        splits: The split of each episode, by its id.
        held_out: Splits that no other data may descend from.

    Raises:
        ValueError: The derivations have a cycle.

    >>> edges = [Edge("model", "test-1"), Edge("train-1", "model")]
    >>> splits = {"train-1": "train", "test-1": "test"}
    >>> find_leaks(edges, splits, ["test"])[0].path
    ('train-1', 'model', 'test-1')
    """
    parents: dict[str, list[str]] = {}
    for edge in edges:
        parents.setdefault(edge.child, []).append(edge.parent)
    _require_no_cycle(parents)
    leaks = []
    for episode_id, split in splits.items():
        if split in held_out or episode_id not in parents:
            continue
        paths: list[tuple[str, ...]] = [(episode_id,)]
        seen = {episode_id}
        while paths:
            chain = paths.pop(0)
            if splits.get(chain[-1]) in held_out:
                leaks.append(Leak(episode_id=episode_id, split=split, path=chain))
                break
            for parent in parents.get(chain[-1], ()):
                if parent not in seen:
                    seen.add(parent)
                    paths.append((*chain, parent))
    return leaks


def _require_no_cycle(parents: Mapping[str, list[str]]) -> None:
    """Refuse derivations in which something descends from itself.

    Raises:
        ValueError: There is a cycle; the message names it.
    """
    done: set[str] = set()
    for start in parents:
        # A stack of its own: a chain of a thousand derivations would end a recursive search.
        trail: list[str] = []
        stack = [(start, False)]
        while stack:
            node, is_left = stack.pop()
            if is_left:
                done.add(trail.pop())
                continue
            if node in trail:
                cycle = " -> ".join([*trail[trail.index(node) :], node])
                raise ValueError(f"the lineage has a cycle: {cycle}")
            if node in done:
                continue
            trail.append(node)
            stack.append((node, True))
            stack += [(parent, False) for parent in parents.get(node, ())]
