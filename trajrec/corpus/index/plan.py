"""Decides which contents a changed folder has: which are new, moved, copied, grown or gone.

Files with one log id have one log, in one or several states: a copy made while it was written, the
log as it was before it was compacted. The rows of one state count, the original. It is the one
without damage; of several the one beside its journal, the one that goes on for longest, a sealed
one, the one that was rewritten most often, the largest, and the first by name. The others are
copies.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from trajrec.corpus.index.catalog import Catalog, Content
from trajrec.corpus.index.scan import Scan
from trajrec.errors import LogError
from trajrec.log.folder import LogFile
from trajrec.log.frame_reader import FrameReader
from trajrec.log.identity import Identity, frame_digest, read_identity
from trajrec.log.journal import journal_path
from trajrec.log.reader import LogReader


class FileEntry(NamedTuple):
    """A file as it will be in the index.

    Attributes:
        file: The file.
        log_key: The key of its contents, None if it cannot be read.
        is_original: Whether its contents are read from it.
    """

    file: LogFile
    log_key: int | None = None
    is_original: bool = False


class Reading(NamedTuple):
    """Contents that must be read.

    Attributes:
        log_key: Their key.
        logs: Their files, in the order in which they are tried.
        before: The contents so far, if only what was appended is to be read.
        is_copy: Whether only their episodes are read.
        original: For a copy, a file with the contents that count.
    """

    log_key: int
    logs: list[str]
    before: Content | None
    is_copy: bool
    original: str


@dataclass
class Plan:
    """The changes of an index.

    Attributes:
        dropped: Keys of contents whose rows hold no more; some of them are read again.
        readings: The contents to read.
        files: The files that differ.
        gone: The files that are gone.
        next_key: The key of the next new contents.
    """

    dropped: set[int] = field(default_factory=set)
    readings: list[Reading] = field(default_factory=list)
    files: dict[str, FileEntry] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    next_key: int = 0


@dataclass
class _State:
    """One state of a log, with the files that have it.

    Attributes:
        content: The contents as they were read, None if they are new.
        is_changed: Whether they have grown, or are to be read again.
    """

    log_key: int
    identity: Identity
    size: int
    content: Content | None = None
    logs: set[str] = field(default_factory=set)
    is_changed: bool = False


def make_plan(root: Path, scan: Scan, catalog: Catalog, *, is_full: bool) -> Plan:
    """Return the changes that bring the index up to date with a folder.

    Args:
        root: The corpus.
        scan: The files that differ.
        catalog: The files and contents that the index knows.
        is_full: Whether files of known contents are read again.
    """
    return _Planner(root, scan, catalog, is_full=is_full).make()


class _Planner:
    def __init__(self, root: Path, scan: Scan, catalog: Catalog, *, is_full: bool) -> None:
        self._root = root
        self._is_full = is_full
        self._scan = scan
        self._plan = Plan(gone=scan.gone, next_key=catalog.next_key())
        self._identities = self._identify(scan.found)
        # The files that differ, as they were, and all contents of their logs, before and now.
        self._before = catalog.named([*scan.found, *scan.gone]) if self._plan.next_key else {}
        keys = {file.log_key for file in self._before.values() if file.log_key is not None}
        logs = {identity.log for identity in self._identities.values()}
        logs |= {content.identity.log for content in catalog.contents_with(keys)}
        self._contents = catalog.contents_of(logs) if self._plan.next_key else []
        self._known = catalog.files_of(content.log_key for content in self._contents)
        self._had: dict[int | None, set[str]] = defaultdict(set)
        for log, file in self._known.items():
            self._had[file.log_key].add(log)

    def make(self) -> Plan:
        states: dict[str, dict[int, _State]] = {}
        for content in self._contents:
            of_log = states.setdefault(content.identity.log, {})
            state = _State(content.log_key, content.identity, content.size, content)
            of_log[content.log_key] = state
        differs = self._scan.found.keys() | self._scan.gone
        by_key = {state.log_key: state for group in states.values() for state in group.values()}
        for log, file in self._known.items():
            if log not in differs and file.log_key is not None:
                by_key[file.log_key].logs.add(log)
        for log, identity in self._identities.items():
            self._place(log, identity, states.setdefault(identity.log, {}))
        for group in states.values():
            self._resolve(group)
        return self._plan

    def _identify(self, found: Mapping[str, LogFile]) -> dict[str, Identity]:
        """Return the identity of each file that can be read, and note the others."""
        identities = {}
        root = os.fspath(self._root)
        for log, file in found.items():
            problem = file.problem
            if not problem:
                try:
                    identities[log] = read_identity(f"{root}/{log}")
                except LogError as exc:
                    problem = str(exc)
            if problem:
                self._plan.files[log] = FileEntry(file._replace(problem=problem))
        return identities

    def _place(self, log: str, identity: Identity, group: dict[int, _State]) -> None:
        """Find the state that a file has: a known one, one that has grown, or a new one."""
        state = self._same(identity, group) or self._grown(log, identity, group)
        if state is None:
            size = self._scan.found[log].size
            state = _State(self._plan.next_key, identity, size, is_changed=True)
            group[state.log_key] = state
            self._plan.next_key += 1
        state.logs.add(log)

    def _same(self, identity: Identity, group: dict[int, _State]) -> _State | None:
        """Return the state with the same contents."""
        if not identity.seal:
            return None
        for state in group.values():
            if state.identity == identity:
                # Another file may be whole.
                is_damaged = state.content is not None and bool(state.content.losses)
                state.is_changed = state.is_changed or is_damaged or self._is_full
                return state
        return None

    def _grown(self, log: str, identity: Identity, group: dict[int, _State]) -> _State | None:
        """Return the state that a file goes on with: nobody else has it any more."""
        before = self._before.get(log)
        for state in group.values():
            content = state.content
            if content is None or content.is_sealed or state.logs:
                continue
            is_own = before is not None and before.log_key == state.log_key
            has_moved = not self._had[state.log_key] & self._scan.found.keys()
            if (is_own or has_moved) and self._continues(log, content):
                state.identity = identity
                state.size = self._scan.found[log].size
                state.is_changed = True
                return state
        return None

    def _continues(self, log: str, content: Content) -> bool:
        """Return whether a file has the frames that were read before, at their places."""
        n = content.n_frames
        with contextlib.suppress(LogError), FrameReader(self._root / log) as reader:
            return 0 < n <= len(reader.frames) and frame_digest(reader, n - 1) == content.last_frame
        return False

    def _resolve(self, group: dict[int, _State]) -> None:
        """Choose the original of a log, and plan what must be read and dropped."""
        states = []
        for state in group.values():
            if state.logs:
                states.append(state)
            else:
                self._plan.dropped.add(state.log_key)
        if len(states) > 1:
            states.sort(key=self._rank)
        for place, state in enumerate(states):
            is_copy = place > 0
            before = state.content
            if before is not None:
                is_same_role = before.is_copy == is_copy
                can_grow = is_same_role and not is_copy and not before.is_sealed
                if not is_same_role or (state.is_changed and not can_grow):
                    self._plan.dropped.add(state.log_key)
                    state.is_changed = True
                    before = None
            logs = self._in_order(state)
            if state.is_changed:
                original = self._in_order(states[0])[0]
                self._plan.readings.append(
                    Reading(state.log_key, logs, before, is_copy=is_copy, original=original)
                )
            self._set_files(state, logs)

    def _in_order(self, state: _State) -> list[str]:
        """Return the files of a state: first the one that it was read from, then by name.

        If it is to be read, a file without damage comes first.
        """

        def rank(log: str) -> tuple[bool, bool, str]:
            known = self._known.get(log)
            was_original = known is not None and known.is_original
            is_own = was_original and log in self._had[state.log_key]
            is_damaged = must_choose and extent(self._root / log).is_damaged
            return is_damaged, not is_own, log

        if len(state.logs) == 1:
            return list(state.logs)
        must_choose = state.is_changed
        return sorted(state.logs, key=rank)

    def _set_files(self, state: _State, logs: list[str]) -> None:
        for log in logs:
            file = self._scan.found.get(log)
            is_original = log == logs[0]
            if file is None:
                known = self._known[log]
                if known.is_original == is_original and not state.is_changed:
                    continue
                file = LogFile(known.size, known.mtime_ns, known.is_link, known.folder)
            self._plan.files[log] = FileEntry(file, state.log_key, is_original)

    def _rank(self, state: _State) -> tuple[bool, bool, int, bool, int, int, str]:
        """Return the order of a state among those of its log, the original first."""
        identity = state.identity
        if state.is_changed or state.content is None:
            extents = [extent(self._root / log) for log in state.logs]
            is_damaged, last_item = min(extents, key=lambda e: (e.is_damaged, -e.last_item))
        else:
            is_damaged, last_item = bool(state.content.losses), state.content.last_item
        # The file beside the journal is the one that a program writes, or wrote; it has the most.
        has_journal = not identity.seal and any(
            journal_path(self._root / log).exists() for log in state.logs
        )
        return (
            is_damaged,
            not has_journal,
            -last_item,
            not identity.seal,
            -identity.generation,
            -state.size,
            min(state.logs),
        )


class Extent(NamedTuple):
    """How much of a log a file has.

    Attributes:
        is_damaged: Whether any of it is lost.
        last_item: The number of the last item, -1 if there is none.
    """

    is_damaged: bool
    last_item: int


def extent(path: Path) -> Extent:
    """Read a log, and return how much it has."""
    try:
        with LogReader(path, with_journal=False) as reader:
            for _ in reader.chunks(0):
                pass  # a damaged chunk is noted in `reader.damage`
            return Extent(reader.has_losses, reader.last_written())
    except LogError:
        return Extent(True, -1)
