"""Reads the tables of a footer; `trajrec.log.directory` gathers them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from trajrec.log.directory import EpisodeSummary, FrameEntry, StepRange
from trajrec.log.format1 import Footer1
from trajrec.log.frames import CHUNK, ID_BYTES
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


def read_entries_of_format1(footer: Footer1, first_frame: int) -> list[FrameEntry]:
    """Return the positions of the frames that a footer of format 1 lists.

    Raises:
        ValueError: They do not follow each other.
    """
    position = first_frame
    entries = []
    for index, entry in enumerate(footer.frames):
        # A log of format 1 may have been sealed around damage, which lies between two frames.
        if entry.offset < position or entry.size <= 0:
            raise ValueError(f"frame {index} does not follow the one before it")
        position = entry.offset + entry.size
        # Format 1 lists no sequence numbers; they stand in the frames.
        entries.append(FrameEntry(entry.offset, entry.size, entry.kind, index))
    return entries


def read_ranges(table: StepTable, entries: Sequence[FrameEntry]) -> list[StepRange]:
    """Return the steps of the frames, in the order of the file.

    Args:
        table: The table.
        entries: The frames of the log.

    Raises:
        ValueError: The table contradicts itself, or the frames.
    """
    n_frames = len(entries)
    # Before each number is looked at: the frames ascend, since their differences are counts.
    if sum(table.frames) >= max(n_frames, 1):
        raise ValueError(f"steps of frame {sum(table.frames)}, of {n_frames}")
    rows = zip(
        accumulate(table.frames),
        accumulate(table.episodes),
        table.first_steps,
        table.n_steps,
        strict=True,
    )
    ranges = [StepRange(*row) for row in rows]
    if any(entries[part.frame].kind != CHUNK for part in ranges):
        raise ValueError("steps of a frame that is no chunk")
    if any(part.episode < 0 for part in ranges):
        raise ValueError("an episode with a negative number")
    return ranges


def read_episodes(table: EpisodeTable, n_frames: int) -> list[EpisodeSummary]:
    """Return the episodes, by number.

    Args:
        table: The table.
        n_frames: The number of frames.

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
    episodes: list[EpisodeSummary] = []
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
        n_frames_of,
        parent_id,
    ) in rows:
        if not 0 <= first_frame < first_frame + n_frames_of <= n_frames or started_ns < 0:
            raise ValueError(f"episode {number} is in frames that do not exist")
        if episodes and number <= episodes[-1].number:
            raise ValueError(f"episode {number} comes twice")
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
                last_frame=first_frame + n_frames_of - 1,
                parent_id=parent_id,
            )
        )
    return episodes


def read_blobs(table: BlobTable, n_frames: int) -> dict[bytes, int]:
    """Return digest -> number of its frame, of each value that is stored once.

    Args:
        table: The table.
        n_frames: The number of frames.

    Raises:
        ValueError: The table contradicts itself.
    """
    if sum(table.frames) >= max(n_frames, 1):
        raise ValueError(f"a value in frame {sum(table.frames)}, of {n_frames}")
    starts = range(0, len(table.digests), ID_BYTES)
    return {
        table.digests[start : start + ID_BYTES]: frame
        for start, frame in zip(starts, accumulate(table.frames), strict=True)
    }
