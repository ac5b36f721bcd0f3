"""The corpus that a viewer serves: opened once, asked by one thread at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from trajrec.corpus.corpus import Corpus
from trajrec.corpus.episode import Episode
from trajrec.corpus.index.live import Revision
from trajrec.view.compare_view import CompareView, read_comparison
from trajrec.view.corpus_view import CorpusView, read_corpus
from trajrec.view.credit_view import CreditView, read_credit
from trajrec.view.episode_view import EpisodeView
from trajrec.view.evidence import Evidence, read_evidence
from trajrec.view.failures import FailuresView, read_failures
from trajrec.view.fork_tree import ForkTree, read_fork_tree
from trajrec.view.interface_view import (
    InterfacePair,
    InterfaceRow,
    InterfaceView,
    read_interface,
    read_interfaces,
    read_pair,
)
from trajrec.view.live import Listed, growth_of
from trajrec.view.news import News, read_news
from trajrec.view.sql_view import SANDBOX, SqlView, csv_of, json_of, run_query

KEPT_EPISODES = 16

KEPT_TABLES = 16
"""Tables of episodes that are kept until the corpus changes: people come back to them."""

KEPT_VERSIONS = 4
"""Earlier versions of episodes that are being recorded, of which open pages get what is new."""


class ServedCorpus:
    """A corpus and the episodes that were opened last.

    Args:
        corpus: The corpus. Its folder is read again when an episode or the table is asked for.

    Attributes:
        lock: To be held by whoever asks an `EpisodeView` of it.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        # Opened by the first query that an address holds: it has tables of its own.
        self._closed_off: Corpus | None = None
        self._tables: OrderedDict[tuple[int, tuple[tuple[str, str], ...]], CorpusView] = (
            OrderedDict()
        )
        self._views: OrderedDict[str, EpisodeView] = OrderedDict()
        self._earlier: OrderedDict[tuple[str, str], EpisodeView] = OrderedDict()
        self.lock = threading.RLock()

    def close(self) -> None:
        """Close what it has opened. The corpus stays open."""
        with self.lock:
            if self._closed_off is not None:
                self._closed_off.close()
                self._closed_off = None

    def _sandbox(self) -> Corpus:
        """Return the same folder, with limits for queries of somebody else."""
        with self.lock:
            if self._closed_off is None:
                self._closed_off = Corpus(self._corpus.path, sandbox=SANDBOX)
            return self._closed_off

    @property
    def name(self) -> str:
        """The folder's name."""
        return str(self._corpus.path)

    def table(self, items: Iterable[tuple[str, str]]) -> CorpusView:
        """Return the table that the parameters of an address ask for."""
        with self.lock:
            # Before the table: what is recorded meanwhile must not be taken for shown.
            key = (self._corpus.revision().number, tuple(items))
            view = self._tables.pop(key, None) or read_corpus(self._corpus, key[1])
            self._tables[key] = view
            while len(self._tables) > KEPT_TABLES:
                self._tables.popitem(last=False)
            return view

    def revision(self) -> Revision:
        """Return how far the corpus is read, and how many logs are being written."""
        with self.lock:
            return self._corpus.revision()

    def failures(self, *, phase: str | None, tool: str | None) -> FailuresView:
        """Return the failures, those of one phase or tool in groups."""
        with self.lock:
            return read_failures(self._corpus, phase=phase, tool=tool)

    def comparison(self, *, a: str, b: str, check: str) -> CompareView:
        """Return the comparison of two runs."""
        # Without the lock: a condition that takes its time must not stop all other pages. With the
        # limits of a query that an address holds: an hour of work must not follow from a link.
        corpus = self._sandbox() if a and b else self._corpus
        return read_comparison(corpus, a=a, b=b, check=check)

    def interfaces(self) -> list[InterfaceRow]:
        """Return the interfaces that episodes ran under."""
        with self.lock:
            return read_interfaces(self._corpus)

    def interface(self, given: str) -> InterfaceView:
        """Return an interface, by its digest or a beginning of it."""
        with self.lock:
            return read_interface(self._corpus, given)

    def interface_pair(self, a: str, b: str) -> InterfacePair:
        """Return the difference of two interfaces."""
        with self.lock:
            return read_pair(self._corpus, a, b)

    def fork_tree(self, episode_id: str) -> ForkTree:
        """Return the tree of forks that an episode is in."""
        with self.lock:
            return read_fork_tree(self._corpus, episode_id)

    def credit(self, view: EpisodeView, *, run_id: str, sort: str) -> CreditView:
        """Return the credit of an episode's steps, as a run has estimated it."""
        with self.lock:
            return read_credit(self._corpus, view.id, view.steps, run_id=run_id, sort=sort)

    def query(self, query: str) -> SqlView:
        """Return the answer to somebody's query."""
        # Without the lock, as above.
        return run_query(self._sandbox(), query)

    def query_file(self, query: str, name: str) -> str:
        """Return the answer as a text of "csv" or "json".

        Raises:
            QueryError: The query is refused, or has too many rows.
        """
        closed = self._sandbox()
        return csv_of(closed, query) if name == "csv" else json_of(closed, query)

    def episode(self, episode_id: str, *, is_new_page: bool = True) -> EpisodeView:
        """Return an episode.

        Args:
            episode_id: Its id, or a beginning of it that no other id has.
            is_new_page: Whether verdicts and forks are read again. A fragment of a page that is
                open already needs only the step.

        Raises:
            CorpusError: No episode, or more than one, has an id that begins so.
        """
        with self.lock:
            kept = self._views.get(episode_id)
            if kept is not None and not is_new_page and kept.recording is None:
                self._views.move_to_end(episode_id)
                return kept
            # It may have been removed since, or its log may have been written anew.
            self._views.pop(episode_id, None)
            self._corpus.refresh()
            episode = self._corpus.episode(episode_id)
            evidence = (
                kept.evidence
                if kept is not None and not is_new_page
                else read_evidence(self._corpus, episode.id)
            )
            if kept is None or not _is_current(kept, episode, evidence):
                if kept is not None and kept.recording is not None:
                    self._keep_rows(kept)
                kept = EpisodeView(episode, evidence)
            self._views[kept.id] = kept
            while len(self._views) > KEPT_EPISODES:
                self._views.popitem(last=False)
            return kept

    def news(self, episode_id: str, version: str, listed: Listed) -> tuple[EpisodeView, News]:
        """Return an episode, and what a page that shows an earlier version of it lacks.

        Args:
            episode_id: Its id.
            version: The version that the page shows.
            listed: The part of the list that the page shows.
        """
        with self.lock:
            view = self.episode(episode_id, is_new_page=False)
            if view.recording is None:
                # Its verdicts and credit may have come since.
                view = self.episode(episode_id)
            return view, read_news(view, listed, self._earlier.get((view.id, version)))

    def _keep_rows(self, view: EpisodeView) -> None:
        """Keep the lines of a version that is going to be an old one: pages may show it."""
        self._earlier[view.id, view.growth.version] = view
        while len(self._earlier) > KEPT_VERSIONS:
            self._earlier.popitem(last=False)


def _is_current(kept: EpisodeView, episode: Episode, evidence: Evidence) -> bool:
    return (
        kept.episode.reader is episode.reader
        and kept.growth == growth_of(episode)
        and kept.evidence == evidence
    )
