"""Finds what is wrong with the files of a folder, and says what to do. It changes nothing."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from trajrec.corpus.episode import Episode
from trajrec.corpus.index.file import OLD_INDEX_NAME
from trajrec.corpus.index.links import first_link
from trajrec.errors import CorpusError, LogError, LogFormatError
from trajrec.log.folder import INDEX_FOLDER, SUFFIX, LogFile, find_logs
from trajrec.log.frames import Damage
from trajrec.log.journal import SUFFIX as JOURNAL_SUFFIX
from trajrec.log.journal import journal_path
from trajrec.log.locks import is_being_written
from trajrec.log.reader import LogReader

Kind = Literal[
    "damaged",
    "contradictory",
    "unsealed",
    "copy",
    "left-over",
    "newer",
    "not a log",
    "not a file",
    "unreadable",
]
"""The kinds of findings."""

_TEMPORARY = re.compile(rf"^\.(?P<log>.+{re.escape(SUFFIX)})\.tmp(\.copy|\.lock|\.copy\.lock)?$")
_JOURNAL = SUFFIX + JOURNAL_SUFFIX


class Finding(NamedTuple):
    """Something that is wrong with a file.

    Attributes:
        file: The file, relative to the folder.
        kind: The kind of the finding.
        problem: What is wrong.
        advice: What to do about it.
        command: The command that does it, "" if there is none.
        offset: The first damaged byte, None if the whole file is meant.
        size: The number of damaged bytes.
    """

    file: str
    kind: Kind
    problem: str
    advice: str
    command: str = ""
    offset: int | None = None
    size: int | None = None


class _Whole(NamedTuple):
    """A log that can be read."""

    file: str
    log_id: str
    content: bytes
    is_damaged: bool
    size: int
    is_link: bool
    file_id: tuple[int, int]


def examine(
    folder: Path, progress: Callable[[int, int], None] | None = None
) -> tuple[int, list[Finding]]:
    """Read all logs of a folder whole, and return what is wrong with its files.

    Args:
        folder: The folder.
        progress: Called with (logs read, logs to read).

    Returns:
        The number of logs, and the findings in the order of the files.

    Raises:
        CorpusError: The folder cannot be searched, or holds no logs and nothing that logs left.
    """
    try:
        files = find_logs(folder)
    except OSError as exc:
        raise CorpusError(f"{folder}: cannot be searched: {exc.strerror or exc}") from exc
    findings = [*_linked_index(folder), *_left_overs(folder)]
    logs: list[_Whole] = []
    for n_done, (name, file) in enumerate(files.items(), 1):
        examination = _Examination(folder, name)
        log = examination.read(file)
        findings += examination.findings
        if log is not None:
            logs.append(log)
        if progress is not None:
            progress(n_done, len(files))
    if not files and not findings:
        raise CorpusError(f"{folder}: no logs (*{SUFFIX}) in this folder")
    findings += _copies(folder, logs)
    return len(files), sorted(findings, key=lambda f: (f.file, f.offset or 0))


class _Examination:
    """The examination of one file with the name of a log."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / name
        self._name = name
        self.findings: list[Finding] = []

    def read(self, file: LogFile) -> _Whole | None:
        """Add the findings; return the log if it can be read."""
        if finding := self._without_reading(file):
            self.findings.append(finding)
            return None
        try:
            with LogReader(self._path) as reader:
                return self._read_log(reader)
        except LogFormatError as exc:
            self._add_format(exc)
        except LogError as exc:
            self._add("unreadable", exc.what, "look at the disk, or take the log from a backup")
        except FileNotFoundError:
            pass  # deleted meanwhile
        return None

    def _add(self, kind: Kind, problem: str, advice: str, command: str = "") -> None:
        self.findings.append(Finding(self._name, kind, problem, advice, command))

    def _add_format(self, exc: LogFormatError) -> None:
        if exc.version is not None:
            command = "pip install --upgrade trajrec"
            self._add("newer", exc.what, "read it with a newer trajrec", command)
        elif not self._path.stat().st_size:
            if is_being_written(self._path):
                return
            command = f"rm {_quoted(self._path)}"
            self._add("not a log", exc.what, "delete it; it holds nothing", command)
        else:
            new = self._path.with_name(self._path.name + ".other")
            command = f"mv {_quoted(self._path)} {_quoted(new)}"
            self._add(
                "not a log", exc.what, f"give it a name that does not end in {SUFFIX}", command
            )

    def _without_reading(self, file: LogFile) -> Finding | None:
        """Return what is wrong with a file that is not to be opened."""
        path = self._path
        away = f"mv {_quoted(path)} {_quoted(path.with_suffix('.other'))}"
        try:
            is_link = path.is_symlink()
            status = os.stat(path)
        except OSError as exc:
            if "UTF-8" in file.problem:
                return Finding(self._name, "unreadable", file.problem, "rename it")
            problem = f"a link that leads nowhere ({exc.strerror or exc})" if is_link else str(exc)
            command = f"rm {_quoted(path)}" if is_link else ""
            return Finding(self._name, "not a file", problem, "delete the link", command)
        if stat.S_ISDIR(status.st_mode) and file.problem:
            command = f"chmod u+rwx {_quoted(path)}"
            return Finding(self._name, "unreadable", file.problem, "allow to search it", command)
        if not stat.S_ISREG(status.st_mode):
            problem = f"{_type_name(status.st_mode)}, not a file"
            advice = f"give it a name that does not end in {SUFFIX}"
            return Finding(self._name, "not a file", problem, advice, away)
        if not os.access(path, os.R_OK):
            command = f"chmod u+r {_quoted(path)}"
            return Finding(self._name, "unreadable", "not permitted", "allow to read it", command)
        return None

    def _read_log(self, reader: LogReader) -> _Whole:
        for index in range(len(reader.frames)):
            reader.check(index)
        damage = [part for part in reader.damage if not part.is_tail]
        is_alive = reader.is_being_written()
        self._add_damage(damage, is_alive)
        if not reader.is_sealed and not is_alive:
            self._add_unsealed(reader, is_alive)
        _read_episodes(reader)
        for part in reader.damage:
            if not part.is_tail and part not in damage:
                self._add_at(
                    part,
                    "contradictory",
                    "nothing: the first of two records that contradict each other stands",
                )
        if reader.is_sealed and journal_path(self._path).exists():
            command = f"trajrec recover {_quoted(self._path)}"
            self._add("left-over", "a journal beside a sealed log", "delete it", command)
        status = os.stat(self._path)
        return _Whole(
            file=self._name,
            log_id=reader.header.log_id,
            content=b"" if reader.trailer is None else reader.trailer.content,
            is_damaged=bool(damage),
            size=reader.size,
            is_link=self._path.is_symlink(),
            file_id=(status.st_dev, status.st_ino),
        )

    def _add_at(self, part: Damage, kind: Kind, advice: str, command: str = "") -> None:
        self.findings.append(
            Finding(self._name, kind, part.reason, advice, command, part.offset, part.size)
        )

    def _add_damage(self, damage: list[Damage], is_alive: bool | None) -> None:
        command = f"trajrec recover {_quoted(self._path)}"
        advice = "keep what is intact; the damaged file is kept beside it"
        if is_alive:
            advice = f"when its writer has ended, {advice}"
        for part in damage:
            self._add_at(part, "damaged", advice, command)

    def _add_unsealed(self, reader: LogReader, is_alive: bool | None) -> None:
        n_torn = sum(part.size for part in reader.damage if part.is_tail)
        problem = "its writer was killed, or could not write"
        if is_alive is None:
            problem = "it has no end; whether a process still writes it is unknown here"
        if n_torn:
            problem += f"; {n_torn} bytes of its last write are torn"
        if reader.journal:
            problem += "; its last items are in its journal"
        self._add("unsealed", problem, "seal it", f"trajrec recover {_quoted(self._path)}")


def _read_episodes(reader: LogReader) -> None:
    """Read all events of all episodes: the reader notes those that contradict each other."""
    numbers: set[int] = set()
    for chunk in reader.chunks():
        numbers.update(segment.episode for segment in chunk.record.segments)
        numbers.update(event.episode for event in chunk.record.events if event.episode >= 0)
    for number in sorted(numbers):
        episode = Episode(reader, number, reader.chunks_of(number))
        if episode.is_agent_episode:
            transcript = episode.transcribe(is_tolerant=True)
            _ = transcript.attempts, transcript.model_calls


def _copies(folder: Path, logs: list[_Whole]) -> Iterator[Finding]:
    """Yield the logs that are copies of others; the index counts the episodes of the first."""
    originals: dict[str, _Whole] = {}
    for log in sorted(logs, key=lambda log: (log.is_damaged, -log.size, log.file)):
        original = originals.setdefault(log.log_id, log)
        if original is log:
            continue
        path = folder / log.file
        command = f"rm {_quoted(path)}"
        if log.is_link or log.file_id == original.file_id:
            yield Finding(log.file, "copy", f"a link to {original.file}", "delete it", command)
        elif log.content and log.content == original.content and not log.is_damaged:
            yield Finding(log.file, "copy", f"a copy of {original.file}", "delete it", command)
        else:
            yield Finding(
                log.file,
                "copy",
                f"another state of the log {original.file}, whose episodes count",
                "compare the two, and move one of them away",
                _comparison(folder, log.file, original.file),
            )


def _comparison(folder: Path, *logs: str) -> str:
    """Return a command that shows the contents of some logs side by side."""
    names = ", ".join("'{}'".format(log.replace("'", "''")) for log in logs)
    query = (
        "SELECT log, count(*) AS episodes, sum(n_steps) AS steps, max(ended_at) AS last "
        f"FROM all_episodes WHERE log IN ({names}) GROUP BY log"
    )
    return f"trajrec sql {_quoted(folder)} {shlex.quote(query)}"


def _left_overs(folder: Path) -> Iterator[Finding]:
    """Yield the files beside logs that killed processes have left."""
    for place, inner, names in os.walk(folder):
        if INDEX_FOLDER in inner:
            inner.remove(INDEX_FOLDER)
        for name in names:
            path = Path(place, name)
            relative = path.relative_to(folder).as_posix()
            command = f"rm {_quoted(path)}"
            if _TEMPORARY.match(name) and not is_being_written(path):
                problem = "a temporary file of a `trajrec recover` or `compact` that was killed"
                yield Finding(relative, "left-over", problem, "delete it", command)
            elif name == OLD_INDEX_NAME and _is_database(path):
                problem = f"an index of an earlier version; the index is in {INDEX_FOLDER} now"
                yield Finding(relative, "left-over", problem, "delete it", command)
            elif name.endswith(_JOURNAL) and not path.with_suffix("").exists():
                problem = "a journal whose log is gone"
                yield Finding(
                    relative, "left-over", problem, "bring the log back, or delete it", command
                )


def _linked_index(folder: Path) -> Iterator[Finding]:
    link = first_link(folder)
    if link is not None:
        yield Finding(
            link.relative_to(folder).as_posix(),
            "not a file",
            "a link in the place of the index, which is therefore neither read nor written",
            "delete it: the index is made again",
            f"rm {_quoted(link)}",
        )


def _is_database(path: Path) -> bool:
    """Return whether a file is a database of DuckDB."""
    try:
        with path.open("rb") as file:
            return file.read(12)[8:] == b"DUCK"
    except OSError:
        return False


def _type_name(mode: int) -> str:
    """Return what a path names if it is no regular file."""
    names = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return names.get(stat.S_IFMT(mode), "something else")


def _quoted(path: Path) -> str:
    """Return a path as the shell takes it."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
