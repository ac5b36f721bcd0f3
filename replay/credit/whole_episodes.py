"""Leaves out the episodes of which a log has lost a part: no training data is made of them."""

from __future__ import annotations

from collections.abc import Callable

from trajrec.corpus.episode import Episode
from trajrec.errors import CorpusError
from trajrec.replay.credit.forms import Form

Remark = Callable[[str], None]
"""Is called with each remark about the data, a sentence."""


class WholeEpisodes:
    """Leaves out episodes of which the log has lost a part: prompts and steps would not be theirs.

    Args:
        form: How steps are written.
    """

    def __init__(self, form: Form) -> None:
        self._form = form
        self._lost: set[str] = set()

    def take(self, episode: Episode) -> bool:
        """Return whether an episode can be written, and is whole."""
        if not self._form.takes(episode):
            return False
        if not _is_whole(episode):
            self._lost.add(episode.id)
        return episode.id not in self._lost

    def tell(self, remark: Remark | None) -> None:
        """Tell how many episodes are left out."""
        if remark is not None and self._lost:
            remark(
                f"episodes left out: {len(self._lost)}; the log has lost a part of them, or of the "
                "episode that they were forked from"
            )


def _is_whole(episode: Episode) -> bool:
    """Return whether an episode, and those that it was forked from, have lost nothing."""
    if not episode.is_whole or episode.fork is None:
        return episode.is_whole
    try:
        parent = episode.parent
    except CorpusError:
        # A prompt that needs the parent raises the same; one of model calls does not need it.
        return True
    return parent is None or _is_whole(parent)
