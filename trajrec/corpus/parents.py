"""The episode that another one was forked from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trajrec.errors import CorpusError

if TYPE_CHECKING:
    from trajrec.corpus.episode import Episode


def parent_of(episode: Episode) -> Episode | None:
    """Return the episode that an episode was forked from; None if it is no fork.

    Raises:
        CorpusError: The parent is not in the corpus, the episode was not read from one, or it is
            its own ancestor.
    """
    fork = episode.fork
    if fork is None:
        return None
    if episode.find_parent is None:
        raise CorpusError(
            f"episode {episode.id} is a fork of {fork.parent_id}: read it from a corpus that has "
            "both"
        )
    descendants = episode.descendants | {episode.id}
    if fork.parent_id in descendants:
        # Whoever follows the parents of a forged log would do so for ever.
        raise CorpusError(
            f"episode {episode.id} is a fork of {fork.parent_id}, which is a fork of it: no "
            "recorder writes such a log; delete one of the two episodes with `trajrec rm`"
        )
    parent = episode.find_parent(fork.parent_id)
    parent.descendants = descendants
    return parent
