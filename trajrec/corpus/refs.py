"""References to recorded episodes, by which another process can read them: episodes pickle so."""

from __future__ import annotations

import copyreg
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trajrec.corpus.episode import Episode
from trajrec.errors import CorpusError, LogError
from trajrec.log.journal_reader import Half, read_journal
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


class _OpenLog(NamedTuple):
    """A log that was opened.

    Attributes:
        reader: Its reader.
        file: The file as it was just before: device, inode, bytes and time of the last change.
        halves: The journal as it was just before.
    """

    reader: LogReader
    file: tuple[int, ...]
    halves: Sequence[Half]

    def is_current(self) -> bool:
        """Return whether neither the log nor its journal has changed since."""
        path = self.reader.path
        if _file_state(path) != self.file:
            return False
        if self.reader.is_sealed:
            return True
        return _extent(_journal(path, self.halves)) == _extent(self.halves)


def _file_state(path: Path) -> tuple[int, ...]:
    """Return what tells a file from others, and from itself before a change; () without one."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _journal(path: Path, known: Sequence[Half] = ()) -> Sequence[Half]:
    try:
        return read_journal(path, known)
    except LogError:
        # The log is read without it.
        return ()


def _extent(halves: Sequence[Half]) -> list[tuple[int, int, int]]:
    return [(half.first_number, half.end, half.check) for half in halves]


class EpisodeLoader:
    """Reads episodes by reference, and keeps the last logs open for further episodes."""

    def __init__(self) -> None:
        # The log that was used last stands at the end.
        self._logs: dict[Path, _OpenLog] = {}

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
        log = self._logs.pop(path, None)
        # A log may grow, be sealed, rewritten or replaced between two episodes. Not refreshed: the
        # episodes that were read before hold the same reader.
        if log is None or not log.is_current():
            file = _file_state(path)
            halves = _journal(path)
            log = _OpenLog(LogReader(path), file, halves)
        self._logs[path] = log
        if len(self._logs) > KEPT_READERS:
            self._logs.pop(next(iter(self._logs)))
        return log.reader


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
