"""The tree of an episode's forks, with the outcome of each branch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trajrec.corpus.corpus import Corpus
from trajrec.types import Value
from trajrec.view.svg import share_path

MAX_BRANCHES = 2_000
"""Branches that the page shows; of more, those that were forked first."""

MAX_AT_STEP = 20
"""Forks of one episode at one step that are listed; more are counted, and open on demand."""

ABSENT = "not in the corpus"
"""Stands for the ending of a root that the corpus does not have."""

_ROOT = "SELECT root_id FROM branches WHERE episode_id = ?"

_BRANCHES = f"""
SELECT episode_id, parent_id, fork_step, end_step, total_reward, outcome, ending,
    count(*) OVER () AS n
FROM branches WHERE root_id = ? ORDER BY depth, fork_step, episode_id LIMIT {MAX_BRANCHES}
"""

_SELF = """
SELECT episode_id, parent_id, coalesce(fork_step, 0), end_step, total_reward, outcome, ending, 0
FROM all_episodes WHERE episode_id = ? ORDER BY kind = 'copy' LIMIT 1
"""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """An episode of the tree.

    Attributes:
        depth: Forks between the root and it.
        first: Its first step: the one that it was forked at.
        end: The number of its last step plus 1.
        path: A bar of its steps on the axis of the tree, of 100.
        parent_id: The episode that it was forked from; None for the root.
    """

    id: str
    depth: int
    first: int
    end: int
    reward: float | None
    outcome: str | None
    ending: str
    path: str
    parent_id: str | None

    @property
    def status(self) -> str:
        """The class of the style sheet."""
        return {"success": "ok", "failure": "failed"}.get(self.outcome or "", "unknown")


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Forks of one episode at one step, which are too many to be listed at once.

    Attributes:
        depth: Forks between the root and them.
        paths: Class of the style sheet -> path of the share of those that succeeded or failed.
    """

    depth: int
    step: int
    branches: Sequence[Branch]
    n_won: int
    n_failed: int
    paths: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class ForkTree:
    """The tree.

    Attributes:
        items: The root, then the branches, each below its parent, by the step of their fork.
        end: The last step of all, plus 1.
        n_branches: All branches.
        n_shown: Those that are shown.
        has_rewards: Whether any episode of it has a reward.
        remark: What is missing of the tree, in words; "" if nothing is.
    """

    items: Sequence[Branch | Bundle]
    end: int
    n_branches: int
    n_shown: int
    n_won: int
    n_failed: int
    has_rewards: bool
    remark: str


def read_fork_tree(corpus: Corpus, episode_id: str) -> ForkTree:
    """Return the tree that an episode is in, from its root on."""
    roots = corpus.sql(_ROOT, params=[episode_id]).fetchall()
    root_id = roots[0][0] if roots else episode_id
    rows = corpus.sql(_BRANCHES, params=[root_id]).fetchall()
    found = corpus.sql(_SELF, params=[root_id]).fetchall()
    # Of a root that is elsewhere, the forks tell how far it went at least.
    elsewhere = (root_id, None, 0, max((row[2] for row in rows), default=0), None, None, ABSENT, 0)
    root = found[0] if found else elsewhere
    end = max(row[3] for row in (root, *rows))
    children: dict[str, list[Sequence[Value]]] = {}
    for row in rows:
        children.setdefault(row[1], []).append(row)
    items = list(_below(root, children, end))
    n_branches = rows[0][7] if rows else 0
    return ForkTree(
        items=items,
        end=end,
        n_branches=n_branches,
        n_shown=len(rows),
        n_won=sum(row[5] == "success" for row in rows),
        n_failed=sum(row[5] == "failure" for row in rows),
        has_rewards=any(row[4] is not None and not math.isnan(row[4]) for row in (root, *rows)),
        remark=""
        if found
        else f"The episode {root_id[:10]}, which all of these were forked from, is not in the corpus.",
    )


def _below(
    root: Sequence[Value], children: dict[str, list[Sequence[Value]]], end: int
) -> list[Branch | Bundle]:
    """Return an episode and all branches below it, depth first."""
    items: list[Branch | Bundle] = []
    # A chain of forks may be deeper than Python's calls may nest.
    waiting: list[tuple[Sequence[Value] | Bundle, int]] = [(root, 0)]
    while waiting:
        row, depth = waiting.pop()
        if isinstance(row, Bundle):
            items.append(row)
            continue
        items.append(_branch(row, depth, end))
        by_step: dict[int, list[Sequence[Value]]] = {}
        for child in children.get(row[0], []):
            by_step.setdefault(child[2], []).append(child)
        later: list[tuple[Sequence[Value] | Bundle, int]] = []
        for step, forks in sorted(by_step.items()):
            leaves = [fork for fork in forks if fork[0] not in children]
            if len(leaves) > MAX_AT_STEP:
                later.append((_bundle(step, leaves, depth + 1, end), depth + 1))
                forks = [fork for fork in forks if fork[0] in children]
            later += [(fork, depth + 1) for fork in forks]
        waiting += reversed(later)
    return items


def _bundle(step: int, rows: Sequence[Sequence[Value]], depth: int, end: int) -> Bundle:
    n_won = sum(row[5] == "success" for row in rows)
    n_failed = sum(row[5] == "failure" for row in rows)
    return Bundle(
        depth=depth,
        step=step,
        branches=[_branch(row, depth, end) for row in rows],
        n_won=n_won,
        n_failed=n_failed,
        paths={
            "all": share_path(0, len(rows), len(rows)),
            "ok": share_path(0, n_won, len(rows)),
            "failed": share_path(n_won, n_won + n_failed, len(rows)),
        },
    )


def _branch(row: Sequence[Value], depth: int, end: int) -> Branch:
    reward = row[4]
    return Branch(
        id=row[0],
        depth=depth,
        first=row[2],
        end=row[3],
        reward=None if reward is None or math.isnan(reward) else reward,
        outcome=row[5],
        ending=row[6],
        path=share_path(row[2], row[3], end),
        parent_id=row[1],
    )
