"""Reads logs in several processes: each makes rows of some logs, and one inserts them all.

The plan has given each log its key, so the rows are those that one process makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

from trajrec.corpus.index.batch import Batch
from trajrec.corpus.index.content_reader import ContentReader, Progress, Sink
from trajrec.corpus.index.plan import FileEntry, Plan, Reading
from trajrec.corpus.index.rows import EpisodeRow
from trajrec.types import Value

# The most bytes of logs in one task. Its rows are in memory at once, and so are those of the tasks
# that are done and not inserted yet; but DuckDB takes twice as long for a row in small batches.
_TASK_BYTES = 1 << 23

# The tasks of a smaller folder, so that each process has some.
_TASKS = 24

# Processes take a second to start.
_MIN_BYTES = 1 << 21

# The rows of a larger log are too many for the memory: the process that inserts reads it in pieces.
_MAX_BYTES = 1 << 25


class Task(NamedTuple):
    """Logs to read.

    Attributes:
        folder: The corpus.
        readings: Their contents.
        files: Their files.
    """

    folder: Path
    readings: list[Reading]
    files: dict[str, FileEntry]


@dataclass
class Part:
    """The rows of some logs.

    Attributes:
        is_whole: Whether all files could be read.
    """

    batches: list[Batch] = field(default_factory=list)
    contents: list[Mapping[str, Value]] = field(default_factory=list)
    files: dict[str, FileEntry] = field(default_factory=dict)
    is_whole: bool = True

    def insert(self, batch: Batch) -> None:
        """Take rows."""
        self.batches.append(batch)

    def add_contents(self, rows: Sequence[Mapping[str, Value]]) -> None:
        """Take rows of contents."""
        self.contents += rows

    def drop(self, keys: set[int]) -> None:
        """Give up: the process that inserts reads these logs itself."""
        del keys
        self.is_whole = False

    def open_rows(self, log_key: int) -> dict[int, EpisodeRow]:
        """Return nothing: the logs are read from their beginning."""
        del log_key
        return {}


RunTasks: TypeAlias = Callable[[Callable[[Task], Part], Iterable[Task]], Iterator[object]]
"""Applies a function to tasks in other processes, and yields the results in the order of the tasks;
any other object in the place of a result stands for a process that ended."""


def read_part(task: Task) -> Part:
    """Make the rows of some logs."""
    part = Part()
    files = dict(task.files)
    ContentReader(task.folder, part).read_all(task.readings, files)
    part.files = files
    return part


def read_in_parts(
    plan: Plan, folder: Path, sink: Sink, run: RunTasks, progress: Progress | None
) -> list[Reading]:
    """Have logs read in other processes, hand their rows on, and return the readings left.

    Args:
        plan: The readings; a log that goes on with earlier rows is left.
        folder: The corpus.
        sink: Takes the rows.
        run: Runs the tasks.
        progress: Called with (bytes read, bytes to read) after each task.
    """
    sizes = {r.log_key: plan.files[r.logs[0]].file.size for r in plan.readings}
    new = [r for r in plan.readings if r.before is None and sizes[r.log_key] <= _MAX_BYTES]
    left = [r for r in plan.readings if r.before is not None or sizes[r.log_key] > _MAX_BYTES]
    total = sum(sizes[reading.log_key] for reading in new)
    if total < _MIN_BYTES:
        return plan.readings
    tasks = list(_tasks(folder, plan, new, sizes))
    done = 0
    for task, part in zip(tasks, run(read_part, tasks), strict=True):
        if isinstance(part, Part) and part.is_whole:
            for batch in part.batches:
                sink.insert(batch)
            sink.add_contents(part.contents)
            plan.files |= part.files
        else:
            left += task.readings
        done += sum(sizes[reading.log_key] for reading in task.readings)
        if progress is not None:
            progress(done, total)
    return left


def _tasks(
    folder: Path, plan: Plan, readings: list[Reading], sizes: dict[int, int]
) -> Iterator[Task]:
    """Yield tasks of about the same size."""
    limit = min(_TASK_BYTES, sum(sizes[reading.log_key] for reading in readings) / _TASKS)
    group: list[Reading] = []
    size = 0
    for reading in readings:
        group.append(reading)
        size += sizes[reading.log_key]
        if size >= limit or reading is readings[-1]:
            yield Task(folder, group, {log: plan.files[log] for r in group for log in r.logs})
            group = []
            size = 0
