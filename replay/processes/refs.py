"""Where episodes are, so that another process can read them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from trajrec.corpus.episode import Episode
from trajrec.log.reader import LogReader

KEPT_READERS = 16


class EpisodeRef(NamedTuple):
    """Where an episode is."""

    id: str
    path: Path
    number: int


def refs_with_ancestors(episode: Episode) -> tuple[EpisodeRef, ...]:
    """Return where an episode and those that it was forked from are, the episode first."""
    found = []
    at: Episode | None = episode
    while at is not None:
        found.append(EpisodeRef(at.id, at.path.absolute(), at.number))
        at = at.parent
    return tuple(found)


class EpisodeLoader:
    """Reads episodes from where they are; keeps logs open for the next."""

    def __init__(self) -> None:
        self._readers: dict[Path, LogReader] = {}

    def read(self, places: tuple[EpisodeRef, ...]) -> Episode:
        """Read an episode, with what it was forked from."""
        by_id = {place.id: place for place in places}

        def find(episode_id: str) -> Episode:
            place = by_id[episode_id]
            reader = self._reader(place.path)
            episode = Episode(reader, place.number, reader.chunks_of(place.number))
            episode.find_parent = find
            return episode

        return find(places[0].id)

    def _reader(self, path: Path) -> LogReader:
        found = self._readers.pop(path, None) or LogReader(path)
        self._readers[path] = found
        if len(self._readers) > KEPT_READERS:
            self._readers.pop(next(iter(self._readers)))
        return found
