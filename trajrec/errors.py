"""The errors of trajrec form one tree.

TrajrecError
├── LogError                .what .path .offset: a log could not be read or rewritten
│   ├── LogFormatError      not a log, or a log of a newer format
│   ├── LogCorruptError     a checksum fails, or a record contradicts itself
│   └── LogWriteError       the log could not be written (disk full, no permission)
├── EncodeError             .what .where: a value cannot be stored losslessly
├── DecodeError             stored bytes are no encoded value, or one of another type
├── EnvContractError        a step outside of an episode, or a result Gymnasium does not allow
├── RestoreError            a recorded state cannot be put back
├── SnapshotError           a live environment cannot be copied
├── UnknownToolError        the agent called a tool that does not exist
├── RecordedError           .type_name: a recorded exception whose class is not loaded
├── MissingPackageError     an optional package is not installed
├── CorpusError             no such folder, no logs in it, or no single episode with this id
│   └── StateUnknownError   .episode_id .step .part: a state cannot be rebuilt from its log
├── QueryError              the SQL is wrong
├── ImportFileError         .what .path .position: another tool's file cannot be imported
└── ReplayError             .what .episode_id: an episode cannot be replayed or forked
    ├── EnvRefusedError     the log names a module that may not be imported
    ├── EnvMissingError     the environment, or its package, is not installed
    ├── DivergenceError     .step .field .expected .actual: a replay differs from the recording
    ├── RedactedError       .step: an action or state had a secret, which the log does not have
    ├── UnreplayableError   a rollout came to a tool call that cannot be executed again
    └── AgentDivergedError  .difference: an agent that is run again makes another request

Wrong arguments raise plain ValueError and TypeError. docs/reference/errors.md has the cause and the
remedy of each error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Not at run time: the command line imports this module, and must not wait for NumPy.
    from trajrec.types import JsonObject, Value


class TrajrecError(Exception):
    """The base class of all errors of trajrec. Errors can be sent to another process."""

    # Exceptions with keyword-only arguments cannot be unpickled by their constructor.
    def __reduce__(
        self,
    ) -> tuple[
        Callable[..., TrajrecError], tuple[type[TrajrecError], tuple[object, ...], JsonObject]
    ]:
        return _rebuild, (type(self), self.args, self.__dict__)


class LogError(TrajrecError):
    """A log file could not be read or rewritten.

    Attributes:
        what: The message without the log and the offset.
        path: The log.
        offset: The byte of the file at which reading or writing failed, or None.
    """

    def __init__(self, message: str, *, path: str | Path, offset: int | None = None) -> None:
        self.what = message
        self.path = Path(path)
        self.offset = offset
        position = "" if offset is None else f" at byte {offset}"
        super().__init__(f"{path}{position}: {message}")


class LogFormatError(LogError):
    """The file is not a trajrec log, or its format is newer than this program.

    Attributes:
        version: The newer version; None if the file is not a log.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | Path,
        offset: int | None = None,
        version: int | None = None,
    ) -> None:
        self.version = version
        super().__init__(message, path=path, offset=offset)


class LogCorruptError(LogError):
    """A checksum fails, or a record contradicts itself."""


class LogWriteError(LogError):
    """The log could not be written. Everything written before stays readable."""


class EncodeError(TrajrecError):
    """A value cannot be stored losslessly.

    Attributes:
        what: The reason.
        where: The path to the value, e.g. "step 3: action['pos']".
    """

    def __init__(self, what: str, *, where: str) -> None:
        self.what = what
        self.where = where
        super().__init__(f"{where}: {what}")


class DecodeError(TrajrecError, ValueError):
    """Stored bytes are not an encoded value, or the value is of another type than it should be."""


class EnvContractError(TrajrecError):
    """An environment, or the loop around it, broke the Gymnasium contract."""


class RestoreError(TrajrecError):
    """A recorded state, or a part of it, cannot be put back."""


class SnapshotError(TrajrecError):
    """A live environment, or an object in it, cannot be copied."""


class UnknownToolError(TrajrecError):
    """The agent called a tool that does not exist."""


class RecordedError(TrajrecError):
    """A recorded exception whose class is not loaded.

    Attributes:
        type_name: Module and qualified name of the class.
    """

    def __init__(self, type_name: str, message: str) -> None:
        self.type_name = type_name
        super().__init__(message)


class MissingPackageError(TrajrecError):
    """A function needs an optional package that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs {package}, which is not installed: pip install 'trajrec[{extra}]'"
        )


class CorpusError(TrajrecError):
    """The corpus, or a single episode in it, could not be found."""


class StateUnknownError(CorpusError):
    """A recorded state is unknown: it was not stored, or it does not match its recorded digest.

    Attributes:
        what: The reason.
        episode_id: The episode.
        step: The step before which the state was asked for; -1 for the reset.
        part: The part of an agent's world; "" if there is only one.
    """

    def __init__(self, what: str, *, episode_id: str, step: int, part: str = "") -> None:
        self.what = what
        self.episode_id = episode_id
        self.step = step
        self.part = part
        place = f"part {part!r} of the state" if part else "the state"
        super().__init__(f"episode {episode_id} step {step}: {place} is unknown: {what}")


class QueryError(TrajrecError):
    """A SQL query could not be run."""


class ImportFileError(TrajrecError):
    """A file of another tool cannot be imported: nothing of it is.

    Attributes:
        what: The reason.
        path: The file.
        position: The place in it, e.g. "steps[3]"; "" for all of it.
    """

    def __init__(self, what: str, *, path: str | Path, position: str = "") -> None:
        self.what = what
        self.path = Path(path)
        self.position = position
        place = f" {position}" if position else ""
        super().__init__(f"{path}{place}: {what}")


class ReplayError(TrajrecError):
    """An episode cannot be replayed or forked.

    Attributes:
        what: The message without the episode.
        episode_id: The episode.
    """

    def __init__(self, message: str, *, episode_id: str) -> None:
        self.what = message
        self.episode_id = episode_id
        super().__init__(f"episode {episode_id}: {message}")


class EnvRefusedError(ReplayError):
    """The log names a module that may not be imported without permission."""


class EnvMissingError(ReplayError):
    """The environment, or its package, is not installed."""


class DivergenceError(ReplayError):
    """A replayed episode differs from the recording.

    Attributes:
        step: The step of the first difference, -1 for the reset.
        field: The field that differs, e.g. "observation/2".
        expected: The recorded value.
        actual: The value of the replay.
    """

    def __init__(
        self,
        message: str,
        *,
        episode_id: str,
        step: int,
        field: str,
        expected: Value,
        actual: Value,
    ) -> None:
        self.step = step
        self.field = field
        self.expected = expected
        self.actual = actual
        super().__init__(message, episode_id=episode_id)


class ControlError(ReplayError):
    """Branches are void: a control, which takes the recorded actions, did not reproduce them.

    Attributes:
        restore: How the steps were reached.
        start: The step at which the control started.
        step: The step of the first difference; -1 if it is unknown.
        field: The field that differs, e.g. "observation/2"; "" if it is unknown.
    """

    def __init__(
        self,
        message: str,
        *,
        episode_id: str,
        restore: str,
        start: int,
        step: int = -1,
        field: str = "",
        is_optional: bool = True,
    ) -> None:
        self.restore = restore
        self.start = start
        self.step = step
        self.field = field
        advice = ". control=False (--no-control) runs without this proof" if is_optional else ""
        super().__init__(message + advice, episode_id=episode_id)
        # Without the advice: several of them are told in one message.
        self.what = message


class RedactedError(ReplayError):
    """A step cannot be executed again or verified: a secret in its action or state is not known.

    Attributes:
        step: The first such step, -1 for the reset.
    """

    def __init__(self, message: str, *, episode_id: str, step: int) -> None:
        self.step = step
        super().__init__(message, episode_id=episode_id)


class UnreplayableError(ReplayError):
    """A rollout came to a tool call that reaches beyond the world and cannot be executed again."""


class AgentDivergedError(ReplayError):
    """An agent that is run again makes a request that it did not make when it was recorded.

    Attributes:
        difference: The first difference between the two requests.
    """

    def __init__(self, difference: object, *, episode_id: str) -> None:
        self.difference = difference
        super().__init__(str(difference), episode_id=episode_id)


class ToolNotHeldError(AgentDivergedError):
    """A rerun would run a tool for real, because nothing has recorded the tool's calls themselves.

    Attributes:
        tool: Name of the tool.
    """

    def __init__(self, tool: str, *, episode_id: str) -> None:
        self.tool = tool
        super().__init__(
            f"the tool {tool!r} would run for real: the recording has its call, but not its result "
            "as the program got it; record the tool by ep.tool, or allow it by run_tools='all'",
            episode_id=episode_id,
        )


class RerunStopped(BaseException):
    """Stops an agent at an HTTP request that it did not make when it was recorded.

    It is no `Exception`, because clients take these for failures of the network and try again. At
    the end of its block, the rerun raises the error in place of it.

    Attributes:
        error: That error, mostly an `AgentDivergedError`.
    """

    def __init__(self, error: ReplayError) -> None:
        self.error = error
        super().__init__(str(error))


def _rebuild(
    cls: type[TrajrecError], args: tuple[object, ...], attributes: JsonObject
) -> TrajrecError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


# An attribute, because exceptions of workers are pickled, and pickles keep attributes.
_USER_CODE = "_trajrec_user_code"


def mark_user_code(exc: Exception) -> None:
    """Note that code of the user, or of a package of environments, raised an exception."""
    setattr(exc, _USER_CODE, True)


def is_of_user_code(exc: Exception) -> bool:
    """Return whether an exception is marked: the command line then shows its traceback."""
    return getattr(exc, _USER_CODE, False) is True
