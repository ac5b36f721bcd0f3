"""Reads the tables of a footer; `trajrec.log.directory` gathers them."""

from __future__ import annotations

from itertools import accumulate

from trajrec.log.directory import EpisodeSummary, FrameEntry, StepRange
from trajrec.log.frames import ID_BYTES
from trajrec.log.schema import BlobTable, EpisodeTable, FrameTable, StepTable


def read_entries(table: FrameTable, first_frame: int) -> list[FrameEntry]:
    """Return the positions of the frames of a log whose first frame has this offset.

    Raises:
        ValueError: The table contradicts itself.
    """
    entries = []
    offset = first_frame
    for sequence, (size, kind) in enumerate(zip(table.sizes, table.kinds, strict=True)):
        if size <= 0:
            raise ValueError(f"a frame of {size} bytes")
        entries.append(FrameEntry(offset, size, kind, sequence))
        offset += size
    return entries


def read_ranges(table: StepTable) -> list[StepRange]:
    """Return the steps of the frames, in the order of the file.

    Raises:
        ValueError: The table contradicts itself.
    """
    rows = zip(
        accumulate(table.frames),
        accumulate(table.episodes),
        table.first_steps,
        table.n_steps,
        strict=True,
    )
    return [StepRange(*row) for row in rows]


def read_episodes(table: EpisodeTable) -> list[EpisodeSummary]:
    """Return the episodes, by number.

    Raises:
        ValueError: The table contradicts itself.
    """
    rows = zip(
        accumulate(table.numbers),
        table.kinds,
        table.tasks,
        table.seeds,
        accumulate(table.started_ns),
        table.durations_ns,
        table.first_steps,
        table.end_steps,
        table.endings,
        table.total_rewards,
        accumulate(table.first_frames),
        table.n_frames,
        table.parent_ids,
        strict=True,
    )
    episodes = []
    for (
        number,
        kind,
        task,
        seed,
        started_ns,
        duration_ns,
        first_step,
        end_step,
        ending,
        total_reward,
        first_frame,
        n_frames,
        parent_id,
    ) in rows:
        episodes.append(
            EpisodeSummary(
                number=number,
                kind=kind,
                task=task,
                seed=seed,
                started_ns=started_ns,
                ended_ns=0 if duration_ns is None else started_ns + duration_ns,
                first_step=first_step,
                end_step=end_step,
                ending=ending,
                total_reward=float(total_reward),
                first_frame=first_frame,
                last_frame=first_frame + n_frames - 1,
                parent_id=parent_id,
            )
        )
    return episodes


def read_blobs(table: BlobTable) -> dict[bytes, int]:
    """Return digest -> number of its frame, of each value that is stored once.

    Raises:
        ValueError: The table contradicts itself.
    """
    starts = range(0, len(table.digests), ID_BYTES)
    return {
        table.digests[start : start + ID_BYTES]: frame
        for start, frame in zip(starts, accumulate(table.frames), strict=True)
    }
