"""The errors of trajrec, one tree.

TrajrecError
├── LogError .path .offset
│   ├── LogFormatError      not a trajrec log, or one of a newer format
│   ├── LogCorruptError     a checksum does not hold, or a record contradicts itself
│   └── LogWriteError       the log could not be written (disk full, no permission)
├── EncodeError .where      a value that cannot be stored losslessly
├── EnvContractError        step before reset, step after the end
├── RestoreError           a state cannot be put back
├── SnapshotError          a live environment cannot be copied at this level
├── UnknownToolError        an agent called a tool that there is not
├── RecordedError           a recorded exception whose class is not loaded: .type_name
├── MissingPackageError     an optional package is not installed; names the extra
├── CorpusError             no such folder, no logs in it, no or several such episodes
├── QueryError              the SQL is wrong; names the nearest column
└── ReplayError .what .episode_id
    ├── EnvRefusedError     the log names an environment that may not be imported
    ├── EnvMissingError     the environment, or the package it comes from, is not installed
    ├── DivergenceError     .step .field .expected .actual
    └── AgentDivergedError   an agent that is run again does what it did not do: .difference

Wrong arguments are plain ValueError and TypeError.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class TrajrecError(Exception):
    """What every error of trajrec is. It can be sent to another process."""

    def __reduce__(self) -> Any:
        return _rebuilt, (type(self), self.args, self.__dict__)


class LogError(TrajrecError):
    """A log file could not be read or written."""

    def __init__(self, message: str, *, path: str | Path, offset: int | None = None) -> None:
        self.path = Path(path)
        self.offset = offset
        at = "" if offset is None else f" at byte {offset}"
        super().__init__(f"{path}{at}: {message}")


class LogFormatError(LogError):
    """The file is not a trajrec log, or its format is newer than this program."""


class LogCorruptError(LogError):
    """A checksum does not hold, or a record contradicts itself."""


class LogWriteError(LogError):
    """The log could not be written; what was written before stays readable."""


class EncodeError(TrajrecError):
    """A value cannot be stored losslessly."""

    def __init__(self, what: str, *, where: str) -> None:
        self.what, self.where = what, where
        super().__init__(f"{where}: {what}")


class EnvContractError(TrajrecError):
    """An environment, or the loop around it, broke the Gymnasium contract."""


class RestoreError(TrajrecError):
    """A state, or a part of it, cannot be put back as it was."""


class SnapshotError(TrajrecError):
    """A live environment, or something in it, cannot be copied."""


class UnknownToolError(TrajrecError):
    """An agent called a tool that there is not."""


class RecordedError(TrajrecError):
    """A recorded exception, given back where its class is not loaded."""

    def __init__(self, type_name: str, message: str) -> None:
        self.type_name = type_name
        super().__init__(message)


class MissingPackageError(TrajrecError):
    """What was asked for needs a package that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs {package}, which is not installed: pip install 'trajrec[{extra}]'"
        )


class CorpusError(TrajrecError):
    """The corpus, or an episode of it, could not be found."""


class QueryError(TrajrecError):
    """A SQL query could not be run."""


class ReplayError(TrajrecError):
    """An episode could not be replayed, or was not the same."""

    def __init__(self, message: str, *, episode_id: str) -> None:
        self.what, self.episode_id = message, episode_id
        super().__init__(f"episode {episode_id}: {message}")


class EnvRefusedError(ReplayError):
    """The log names an environment that may not be imported without the caller's leave."""


class EnvMissingError(ReplayError):
    """The environment, or the package it comes from, is not installed."""


class DivergenceError(ReplayError):
    """A replayed episode was not the recorded one."""

    def __init__(
        self, message: str, *, episode_id: str, step: int, field: str, expected: Any, actual: Any
    ) -> None:
        self.step, self.field, self.expected, self.actual = step, field, expected, actual
        super().__init__(message, episode_id=episode_id)


class AgentDivergedError(ReplayError):
    """An agent that is run again asks for something that it did not ask for when it was recorded."""

    def __init__(self, difference: Any, *, episode_id: str) -> None:
        self.difference = difference
        super().__init__(str(difference), episode_id=episode_id)


def _rebuilt(cls: type[TrajrecError], args: tuple[Any, ...], state: dict[str, Any]) -> TrajrecError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error
