"""The episode that another one was forked from."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from trajrec.errors import CorpusError

AnyEpisode = TypeVar("AnyEpisode")


def load_parent(
    parent_id: str,
    find: Callable[[str], AnyEpisode] | None,
    *,
    of: str,
    descendants: Collection[str],
) -> AnyEpisode:
    """Return the parent of a fork.

    Args:
        parent_id: The id that the fork's log names.
        find: Returns the episode of an id; None if the fork was not read from a corpus.
        of: The id of the fork.
        descendants: Ids of the forks as whose parent the fork itself was loaded.

    Raises:
        CorpusError: The parent is not in the corpus, the fork was not read from one, or the fork
            is its own ancestor.
    """
    if find is None:
        raise CorpusError(
            f"episode {of} is a fork of {parent_id}: read it from a corpus that has both"
        )
    if parent_id == of or parent_id in descendants:
        # Whoever follows the parents of a forged log would do so for ever.
        raise CorpusError(
            f"episode {of} is a fork of {parent_id}, which is a fork of it: no recorder writes "
            "such a log; delete one of the two episodes with `trajrec rm`"
        )
    return find(parent_id)
