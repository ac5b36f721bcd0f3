"""References to recorded episodes, by which another process can read them: episodes pickle so."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from trajrec.corpus.episode import Episode
from trajrec.errors import CorpusError
from trajrec.log.reader import LogReader

# Logs that a loader keeps open. Consecutive episodes mostly come from the same log; each open log
# takes a file descriptor and the memory of its index.
KEPT_READERS = 16


class EpisodeRef(NamedTuple):
    """The place of an episode in a corpus.

    Attributes:
        id: The episode's id.
        path: The absolute path of its log.
        number: The number of the episode in the log.
    """

    id: str
    path: Path
    number: int


def refs_with_ancestors(episode: Episode) -> tuple[EpisodeRef, ...]:
    """Return the references of an episode and of its ancestors, the episode first.

    The ancestors are the episodes that it was forked from, and those that they were forked from,
    up to one that is missing.
    """
    refs = []
    ancestor: Episode | None = episode
    while ancestor is not None:
        refs.append(EpisodeRef(ancestor.id, ancestor.path.absolute(), ancestor.number))
        try:
            ancestor = ancestor.parent
        except CorpusError:
            # Whoever needs it says that it is missing; a whole batch must not end here.
            break
    return tuple(refs)


class EpisodeLoader:
    """Reads episodes by reference, and keeps the last logs open for further episodes."""

    def __init__(self) -> None:
        # The log that was used last stands at the end.
        self._readers: dict[Path, LogReader] = {}

    def read(self, refs: tuple[EpisodeRef, ...]) -> Episode:
        """Read an episode.

        Args:
            refs: From `refs_with_ancestors`. A fork finds its parent among them.
        """
        by_id = {ref.id: ref for ref in refs}

        def read_one(episode_id: str) -> Episode:
            ref = by_id.get(episode_id)
            if ref is None:
                raise CorpusError(
                    f"episode {episode_id}, which {refs[0].id} was forked from, is not in the corpus: "
                    "read the fork from a folder that has the logs of both"
                )
            reader = self._reader(ref.path)
            episode = Episode(reader, ref.number, reader.chunks_of(ref.number))
            episode.find_parent = read_one
            return episode

        return read_one(refs[0].id)

    def _reader(self, path: Path) -> LogReader:
        reader = self._readers.pop(path, None) or LogReader(path)
        self._readers[path] = reader
        if len(self._readers) > KEPT_READERS:
            oldest = next(iter(self._readers))
            self._readers.pop(oldest)
        return reader


_loader = EpisodeLoader()


def load_episode(refs: tuple[EpisodeRef, ...]) -> Episode:
    """Return the episode that was pickled in another process, or earlier.

    Raises:
        CorpusError: Its log is another one now.
        LogError: Its log cannot be read.
    """
    episode = _loader.read(refs)
    if episode.id != refs[0].id:
        raise CorpusError(f"{refs[0].path}: episode {refs[0].id} is not in this log any more")
    return episode


def _reduce(episode: Episode) -> tuple[Callable[..., Episode], tuple[Any, ...]]:
    return load_episode, (refs_with_ancestors(episode),)


def pickle_by_reference() -> None:
    """Have episodes pickle as references, which are small, and open their logs anew."""
    copyreg.pickle(Episode, _reduce)
