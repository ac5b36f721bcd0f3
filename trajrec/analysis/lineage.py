"""Derivations of data: their edges, and the episodes that descend from held-out ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from trajrec.analysis.source import Source, fetch

COLUMNS = (
    ("child", "id of an episode, or the name or digest of a log, file or model"),
    ("parent", "the same of its source"),
    ("kind", "how it was derived, e.g. distilled; NULL if unknown"),
    ("note", "a remark; NULL without one"),
    ("declared_in", "metadata, lineage (of the interface) or label (added later)"),
)

# A source is a name, or an object that may have a child of its own: a model, say.
EDGES_QUERY = """
    WITH declared AS (
        SELECT episode_id, 'metadata' AS declared_in, json_extract(metadata, '$.parents') AS sources
        FROM episodes WHERE sources IS NOT NULL
        UNION ALL
        SELECT episode_id, 'lineage', json_extract(interface, '$.lineage.parents') AS sources
        FROM episodes WHERE sources IS NOT NULL
        UNION ALL
        SELECT episode_id, 'label', value FROM labels
        WHERE kind = 'rollout' AND name = 'parents' AND value IS NOT NULL
    ), items AS (
        SELECT episode_id, declared_in, unnest(
            CASE json_type(sources) WHEN 'ARRAY' THEN sources::JSON[] ELSE [sources] END) AS item
        FROM declared
    )
    SELECT DISTINCT coalesce(json_extract_string(item, '$.child'), episode_id) AS child,
        CASE json_type(item) WHEN 'VARCHAR' THEN json_extract_string(item, '$')
            ELSE json_extract_string(item, '$.parent') END AS parent,
        json_extract_string(item, '$.kind') AS kind,
        json_extract_string(item, '$.note') AS note, declared_in
    FROM items WHERE parent IS NOT NULL"""
"""The query of the view `lineage_edges`."""


class Edge(NamedTuple):
    """A derivation.

    Attributes:
        child: Id of an episode, or the name or digest of a log, file or model.
        parent: The same of its source.
        kind: How it was derived, e.g. "distilled"; "" if unknown.
        note: A remark; "" without one.
    """

    child: str
    parent: str
    kind: str = ""
    note: str = ""


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


def read_edges(source: Source) -> list[Edge]:
    """Return the derivations that episodes declare."""
    rows = fetch(
        source,
        "SELECT DISTINCT child, parent, coalesce(kind, '') AS kind, coalesce(note, '') AS note "
        "FROM lineage_edges ORDER BY ALL",
    )
    return [Edge(**row) for row in rows]


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
                raise ValueError(
                    f"the lineage has a cycle: {cycle}; correct one of these `parents` (metadata, "
                    "interface or label)"
                )
            if node in done:
                continue
            trail.append(node)
            stack.append((node, True))
            stack += [(parent, False) for parent in parents.get(node, ())]
