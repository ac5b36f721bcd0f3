"""Imports the files of other tools into a corpus: each into a log of its own, once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from trajrec.errors import EncodeError, ImportFileError, MissingPackageError
from trajrec.exchange import minari
from trajrec.exchange.account import MISFITS, Account, why_not_stored
from trajrec.exchange.candidates import (
    Candidate,
    Format,
    SourceFile,
    digest_of,
    source_files,
    why_not_read,
)
from trajrec.exchange.env_log import EnvEpisodeLogger, EnvImportLog
from trajrec.exchange.env_records import EnvRecordings
from trajrec.exchange.formats import FORMATS, format_named, why_refused
from trajrec.exchange.import_log import ImportLog, import_log_id, remove_unfinished
from trajrec.exchange.import_reports import FileReport, ImportReport
from trajrec.exchange.known_imports import KnownImports
from trajrec.exchange.mappings import read_mapping
from trajrec.exchange.messages import mapping_format
from trajrec.exchange.reading import SEVERAL
from trajrec.exchange.writing import EpisodeLogger
from trajrec.log.annotations import ImportRecord
from trajrec.log.folder import INDEX_FOLDER, SUFFIX
from trajrec.log.record_encoder import encode_event
from trajrec.log.schema import Event
from trajrec.redaction.redactor import Redactor, as_redactor
from trajrec.values import codec
from trajrec.values.garbage import collector_off
from trajrec.version import __version__

# Files with these names hold JSON.
_JSON_SUFFIXES = (".json", ".jsonl", ".traj")

# Reasons in the error for a file of which nothing is left.
_SHOWN_REASONS = 3

_CHANGED = "the file has changed since an earlier import, whose episodes stay and are counted too"

_REMOVED = (
    "was imported before, and `trajrec rm` has removed all of its episodes: import it into another "
    "folder if you want them"
)


def import_trajectories(
    path: str | Path,
    output: str | Path,
    *,
    format: str | None = None,
    redact: bool | Redactor | None = None,
    mapping: str | Path | None = None,
    report: Callable[[FileReport], None] | None = None,
) -> ImportReport:
    """Import the trajectories of other tools into a corpus.

    The formats are told by the files' contents. Each file becomes a log in `output`, whole or not
    at all; a file that was imported before adds nothing, and one that has grown since replaces its
    earlier import. Nothing in a file is executed.

    Args:
        path: A file, or a folder, which is searched. With the format "minari" also the id of a
            dataset that Minari has on this machine.
        output: The corpus. It is made if it does not exist.
        format: The name of the format, which is then not looked for.
        redact: Whether to remove secrets, or the `Redactor` that does so. By default, secrets are
            removed from sessions of coding agents (Claude Code, Codex, Gemini CLI) only.
        mapping: A TOML file that says which columns of a table hold a conversation; see
            `trajrec.exchange.mappings.Mapping`. All files are then read by it.
        report: Called with the result for each file.

    Returns:
        The results. A damaged file in a folder is one of them, and no exception.

    Raises:
        ImportFileError: `path` is a file that is damaged or of no known format, or does not exist.
        LogWriteError: The corpus cannot be written.
        MissingPackageError: `path` is read by a package that is not installed. In a folder of
            several files this is a result.
        ValueError: `format` is none of the formats.

    >>> report = trajrec.import_trajectories("trials/", "runs/")            # doctest: +SKIP
    >>> trajrec.open("runs/").sql("SELECT file, found, kept FROM imports")  # doctest: +SKIP
    """
    path = Path(path)
    output = Path(output)
    chosen = FORMATS if format is None else (format_named(format),)
    if mapping is not None:
        chosen = (mapping_format(read_mapping(Path(mapping))),)
    if format == minari.FORMAT.name and not path.exists():
        path = minari.dataset_folder(str(path))
    if not path.exists():
        raise ImportFileError("does not exist", path=path)
    root = path.resolve()
    if not path.is_dir():
        root = path.parent.resolve()
        if not path.is_file():
            raise ImportFileError("is no regular file", path=path)
    remove_unfinished(output)
    known = KnownImports(output)
    result = ImportReport()
    for candidate, matched in _candidates(path, root, chosen, set()):
        if matched is not None:
            candidate.refusal = _why_not_read(candidate, matched, path, root)
        try:
            file = _import_file(candidate, matched, output, known, redact)
        except MissingPackageError as exc:
            if candidate.path == path:
                raise
            file = FileReport(path=candidate.path, status="failed", reason=str(exc))
        result.files.append(file)
        if report is not None:
            report(file)
    if path.is_file() and result.files[0].status in ("skipped", "failed"):
        raise ImportFileError(result.files[0].reason, path=path)
    return result


def _candidates(
    path: Path, root: Path, formats: Sequence[Format], taken: set[Path]
) -> Iterator[tuple[Candidate, Format | None]]:
    """Yield the files and folders below a path that may be trajectories, with their formats.

    A folder that is a trajectory itself is not searched, and neither are the files that belong to
    a trajectory that was yielded before: `taken` has them.
    """
    if path in taken:
        return
    candidate = Candidate(path)
    matched = next((format for format in formats if _is_of(format, candidate)), None)
    if matched is not None or not candidate.is_folder:
        if matched is not None:
            taken.update(matched.files(candidate))
        yield candidate, matched
        return
    try:
        entries = [(entry.is_dir(), entry) for entry in path.iterdir()]
    except OSError as exc:
        raise ImportFileError(f"cannot be searched: {exc.strerror or exc}", path=path) from exc
    # Files first: some of them take files in the folders beside them.
    for is_folder, entry in sorted(entries):
        if entry.name == INDEX_FOLDER or entry.suffix == SUFFIX:
            continue
        # Not through links: one that leads upwards would never end.
        if is_folder and not entry.is_symlink():
            yield from _candidates(entry, root, formats, taken)
        elif entry.is_file():
            refused = Candidate(entry)
            refused.refusal = why_not_read(entry, root)
            if refused.refusal:
                yield refused, None
            else:
                yield from _candidates(entry, root, formats, taken)


def _why_not_read(candidate: Candidate, matched: Format, path: Path, root: Path) -> str:
    """Return why one of the files of a candidate is not read, "" if all may be.

    A link that the user names is followed.
    """
    base = candidate.path if candidate.is_folder else candidate.path.parent
    for file in matched.files(candidate):
        reason = "" if file == path else why_not_read(file, root)
        if reason:
            return f"{file.relative_to(base)} {reason}" if file != candidate.path else reason
    return ""


def _is_of(format: Format, candidate: Candidate) -> bool:
    """Return whether a candidate is of a format; one that cannot be read is of none."""
    try:
        return format.matches(candidate)
    except (ImportFileError, *MISFITS):
        return False


def _unmatched(candidate: Candidate) -> FileReport:
    """Return the result for a file of no format: a file that is cut off is damaged."""
    if candidate.refusal:
        return FileReport(path=candidate.path, status="failed", reason=candidate.refusal)
    error = candidate.json_error
    is_json = candidate.path.suffix in _JSON_SUFFIXES or error.startswith(SEVERAL)
    if error and is_json and not candidate.records(1):
        return FileReport(path=candidate.path, status="failed", reason=error)
    return FileReport(path=candidate.path, status="skipped", reason=why_refused(candidate))


def _import_file(
    candidate: Candidate,
    matched: Format | None,
    output: Path,
    known: KnownImports,
    redact: bool | Redactor | None,
) -> FileReport:
    """Import one file, and return the result."""
    if matched is None or candidate.refusal:
        return _unmatched(candidate)
    file = FileReport(path=candidate.path, status="imported", format=matched.name)
    try:
        sources = source_files(candidate, matched.files(candidate))
        file.sha256 = digest_of(sources)
        log_id = import_log_id(file.sha256, matched.name)
        if known.is_removed(log_id):
            file.status = "skipped"
            file.reason = _REMOVED
            return file
        earlier = known.earlier_states(candidate, matched.name, file.sha256)
        if known.has(file.sha256, matched.name) or (output / f"{log_id}{SUFFIX}").exists():
            file.status = "known"
            # An import that was killed between the two steps may have left them.
            known.remove(earlier)
            return file
        is_redacted = matched.is_session if redact is None else redact
        redactor = as_redactor(is_redacted) if is_redacted is not False else None
        if earlier:
            file.account.note("the file has grown: its earlier import is replaced")
        elif known.has_other_contents(candidate, matched.name):
            file.account.note(_CHANGED)
        n_notes = len(file.account.notes)
        with collector_off():
            path = output / f"{log_id}{SUFFIX}"
            try:
                _write_log(candidate, matched, path, file, redactor, sources)
            except EncodeError:
                # Again, with a look at each part before it is written: the others are kept.
                logger = EpisodeLogger(_encode_only, log_id, source={}, redactor=redactor)
                file.account = Account(notes=file.account.notes[:n_notes], check=logger.write)
                _write_log(candidate, matched, path, file, redactor, sources)
        known.remove(earlier)
        known.add(file.sha256, matched.name)
    except ImportFileError as exc:
        return _failed(file, str(exc).removeprefix(str(candidate.path)).lstrip(": "))
    except EncodeError as exc:
        return _failed(file, why_not_stored(exc))
    except MISFITS as exc:
        return _failed(file, f"is not of the form of {matched.title}: {type(exc).__name__}: {exc}")
    return file


def _encode_only(event: Event) -> None:
    encode_event(event)


def _failed(file: FileReport, reason: str) -> FileReport:
    """Return the result for a file of which nothing was imported."""
    return FileReport(
        path=file.path, status="failed", format=file.format, sha256=file.sha256, reason=reason
    )


def _write_log(
    candidate: Candidate,
    matched: Format,
    path: Path,
    file: FileReport,
    redactor: Redactor | None,
    sources: list[SourceFile],
) -> None:
    """Write the log of a file: its episodes, and the record of its import."""
    content = matched.read(candidate, file.account)
    source = {"file": candidate.name, "sha256": file.sha256, "format": matched.name}
    if isinstance(content, EnvRecordings):
        cleaner = as_redactor(False) if redactor is None else redactor
        with EnvImportLog(path.parent, path.stem, content.env, cleaner) as env_log:
            env_logger = EnvEpisodeLogger(env_log, source, cleaner)
            file.version = content.version
            for recording in content.episodes:
                env_logger.write(recording)
            env_log.add(_import_record(candidate, file, env_logger, sources))
            env_log.finish()
    else:
        with ImportLog(path.parent, path.stem) as log:
            logger = EpisodeLogger(log.add, log.path.stem, source=source, redactor=redactor)
            versions: dict[str, None] = {}
            for episode in content:
                versions[episode.version] = None
                # The parts of a trial may have several.
                file.version = ", ".join(filter(None, versions))
                logger.write(episode)
            log.add(_import_record(candidate, file, logger, sources))
            log.finish()
    file.log = path


def _import_record(
    candidate: Candidate,
    file: FileReport,
    logger: EpisodeLogger | EnvEpisodeLogger,
    sources: list[SourceFile],
) -> ImportRecord:
    """Return the record of an import whose episodes are written, and complete its report."""
    account = file.account
    if not logger.ids:
        reasons = "; ".join([*account.dropped][:_SHOWN_REASONS])
        if len(account.dropped) > _SHOWN_REASONS:
            reasons = f"{reasons}; and {len(account.dropped) - _SHOWN_REASONS} more"
        raise ImportFileError(
            f"holds no trajectory{f' ({reasons})' if reasons else ''}", path=candidate.path
        )
    file.episodes = logger.ids
    file.n_steps = logger.n_steps
    file.n_calls = logger.n_calls
    file.n_redacted = logger.n_redacted
    return ImportRecord(
        episode=-1,
        time_ns=time.time_ns(),
        source=logger.text(str(candidate.path.resolve())),
        sha256=file.sha256,
        format=file.format,
        format_version=file.version,
        importer=f"trajrec {__version__}",
        targets=logger.ids,
        report_data=codec.encode(
            {
                **account.as_dict(),
                "n_steps": file.n_steps,
                "n_calls": file.n_calls,
                "n_redacted": file.n_redacted,
                "files": [item._asdict() for item in sources],
            }
        ),
    )
