"""Where the records of an episode may be lost: in damaged frames, and between the others."""

from __future__ import annotations

from itertools import pairwise

from trajrec.log.reader import LogReader


def lost_frames(reader: LogReader, episode: int) -> list[int]:
    """Return the numbers of the frames in or before which records of an episode may be lost.

    Only damage that was read is known. A loss behind the last frame has the number behind it.
    """
    if reader.footer is not None:
        return [index for index in reader.chunks_of(episode) if index in reader.refused]
    lost = set(reader.refused)
    for index, (before, frame) in enumerate(pairwise(reader.frames), start=1):
        if frame.sequence != before.sequence + 1:
            lost.add(index)
    end = reader.frames[-1].end if reader.frames else 0
    if any(damage.offset >= end and not damage.is_tail for damage in reader.damage):
        lost.add(len(reader.frames))
    return sorted(lost)
