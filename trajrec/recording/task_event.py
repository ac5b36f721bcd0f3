"""The record of an environment's task: its id, its version, and metadata."""

from __future__ import annotations

from collections.abc import Mapping

from trajrec.log.events import TaskStart
from trajrec.recording.options import TaskOfReset
from trajrec.redaction.redactor import Redactor
from trajrec.task_options import check_metadata
from trajrec.types import JsonObject, Value


class TaskDescription:
    """The options `task`, `task_revision` and `metadata` of a recorder.

    Raises:
        TypeError: `task` or `metadata` is of another type.
    """

    def __init__(
        self,
        task: TaskOfReset,
        revision: str,
        metadata: Mapping[str, Value] | None,
        redactor: Redactor,
    ) -> None:
        if not isinstance(task, str) and not callable(task):
            raise TypeError(f"task must be a text, or a function that returns one, got {task!r}")
        check_metadata(metadata)
        self._task = task
        self._revision = revision
        self._metadata = None if metadata is None else redactor.encode(dict(metadata))[0]
        self._redactor = redactor

    def event(self, episode: int, seed: int | None, options: JsonObject | None) -> TaskStart | None:
        """Return the record of an episode's task, None if nothing is known of it.

        Raises:
            TypeError: The function of the task returned no text.
        """
        if self._task == "" and not self._revision and self._metadata is None:
            return None
        task = self._task if isinstance(self._task, str) else self._task(seed, options)
        if not isinstance(task, str):
            raise TypeError(f"the function of the task must return a text, got {task!r:.100}")
        return TaskStart(
            episode=episode,
            task=self._redactor.text(task),
            task_revision=self._redactor.text(self._revision),
            metadata_data=self._metadata,
        )
