"""Overlap between splits, repeated action paths, and data that descends from held-out episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator

from trajrec.analysis.lineage import Edge, Leak, find_leaks, read_edges
from trajrec.analysis.near_duplicates import MAX_GOALS, Goal, NearDuplicates, near_duplicates
from trajrec.analysis.source import Source, fetch
from trajrec.task_options import IS_OF_AGENT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shared:
    """A task, goal or first state that several splits have.

    Attributes:
        by: "task", "goal" or "first state".
        value: The task, the digest, or the environment and the state.
        splits: The splits.
        n: Episodes.
        is_task: Whether it stands for a task. A first state does not if all episodes from there
            name their tasks: many tasks begin in one world.
    """

    by: str
    value: str
    splits: tuple[str, ...]
    n: int
    is_task: bool


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
class Overlap:
    """The overlap of a corpus.

    Attributes:
        shared: Tasks, goals and first states of several splits.
        paths: Action paths that several episodes share, the most frequent first.
        leaks: Episodes with a held-out ancestor.
        n_without_split: Episodes whose metadata names no split; they are compared with none.
        n_edges: Derivations that were followed.
        near: Goals that resemble each other.
    """

    shared: tuple[Shared, ...]
    paths: tuple[SamePath, ...]
    leaks: tuple[Leak, ...]
    n_without_split: int
    n_edges: int
    near: NearDuplicates

    def __repr__(self) -> str:
        return (
            f"<Overlap: {len(self.shared)} shared between splits, {len(self.paths)} repeated paths,"
            f" {len(self.leaks)} leaks, {len(self.near.pairs)} pairs of goals that are alike,"
            f" {self.n_without_split} episodes without a split>"
        )


def split_names(held_out: Collection[str]) -> tuple[str, ...]:
    """Return names of splits as SQL has those of the metadata, which may be whole numbers.

    Raises:
        TypeError: A single text is given: its letters would be taken for names.
    """
    if isinstance(held_out, str):
        raise TypeError(f"held_out must be names of splits, such as ({held_out!r},)")
    return tuple(map(str, held_out))


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
    held_out = split_names(held_out)
    # Probes of the checks take one path on purpose; a task of theirs may still be a held-out one.
    # A step of an agent without a call has no action: it answers, and its action is not unknown.
    paths = fetch(
        source,
        f"""
        SELECT digest, any_value(n_actions) AS n_actions, count(*) AS n,
            list_sort(list(DISTINCT task) FILTER (task IS NOT NULL)) AS tasks
        FROM (
            SELECT episode_id, count(action) AS n_actions,
                md5(string_agg(coalesce(action::VARCHAR, ''), chr(10) ORDER BY step)) AS digest
            FROM steps WHERE kind = 'rollout' GROUP BY 1
            HAVING count(action) > 0 AND (count(action) = count(*)
                OR episode_id IN (SELECT episode_id FROM model_calls))
        ) JOIN episodes USING (episode_id) WHERE {IS_OF_AGENT}
        GROUP BY 1 HAVING count(*) > 1 ORDER BY n DESC, 1""",
    )
    ((n_without,),) = source.sql(
        f"SELECT count(*) FROM episodes WHERE {_SPLIT} IS NULL AND {IS_OF_AGENT}"
    ).fetchall()
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
        shared=tuple(_shared(source)),
        paths=tuple(SamePath(**{**row, "tasks": tuple(row["tasks"] or ())}) for row in paths),
        leaks=tuple(find_leaks(all_edges, splits, held_out)),
        n_without_split=n_without,
        n_edges=len(all_edges),
        near=_near_goals(source),
    )


def _shared(source: Source) -> Iterator[Shared]:
    columns = {
        "task": "task",
        "goal": "goal_digest",
        # States of two environments may be equal: a lake and a taxi both begin in a number.
        "first state": "coalesce(env_id, '?') || ' from state ' || reset_key",
    }
    for by, column in columns.items():
        rows = fetch(
            source,
            f"""
            SELECT {column} AS value, list_sort(list(DISTINCT {_SPLIT})) AS splits, count(*) AS n,
                bool_or(task IS NULL) AS has_unnamed
            FROM episodes WHERE {column} IS NOT NULL AND {_SPLIT} IS NOT NULL
            GROUP BY 1 HAVING count(DISTINCT {_SPLIT}) > 1 ORDER BY 1""",
        )
        for row in rows:
            yield Shared(
                by=by,
                value=row["value"],
                splits=tuple(row["splits"]),
                n=row["n"],
                is_task=by != "first state" or row["has_unnamed"],
            )


def _near_goals(source: Source) -> NearDuplicates:
    """Return the goals that resemble each other; their texts are read from the logs."""
    rows = fetch(
        source,
        f"""
        SELECT goal_digest AS digest, min(episode_id) AS episode_id, count(*) AS n,
            list_sort(list(DISTINCT task) FILTER (task IS NOT NULL)) AS tasks,
            list_sort(list(DISTINCT {_SPLIT}) FILTER ({_SPLIT} IS NOT NULL)) AS splits
        FROM episodes WHERE goal_digest IS NOT NULL GROUP BY 1 ORDER BY 1""",
    )
    ((n_without,),) = source.sql(
        f"SELECT count(*) FROM episodes WHERE goal_digest IS NULL AND {IS_OF_AGENT}"
    ).fetchall()
    goals = []
    for row in rows[:MAX_GOALS]:
        text = source.goal_text(row["episode_id"])
        if text is None:
            n_without += row["n"]
            continue
        goals.append(
            Goal(
                digest=row["digest"],
                tasks=tuple(row["tasks"] or ()),
                splits=tuple(row["splits"] or ()),
                n=row["n"],
                text=text,
            )
        )
    found = near_duplicates(goals, n_without_goal=n_without)
    return dataclasses.replace(found, n_left=len(rows) - min(len(rows), MAX_GOALS))
