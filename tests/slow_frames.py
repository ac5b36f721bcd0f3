"""The frames of a log, read slowly: by its footer, or by scanning it.

Written from docs/reference/log-format.md alone, as `slow_values` was.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slow_columns import decompress
from slow_schema import read_struct
from slow_values import DamageError, unpack

SIGNATURE = bytes.fromhex("8954524A0D0A1A0A")
FRAME = {1: bytes.fromhex("F574726A"), 2: bytes.fromhex("F5747232")}
SEAL = {1: bytes.fromhex("74726A5345414C0A"), 2: bytes.fromhex("74726A5345414C32")}
SIGNATURE_SIZE = {1: 16, 2: 36}
HEADER_SIZE = {1: 32, 2: 52}
TRAILER_SIZE = {1: 24, 2: 60}
LARGEST = 1 << 28
HEADER, CHUNK, FOOTER, COPY = 1, 2, 3, 4
NAMES = {HEADER: "Header", CHUNK: "Chunk", FOOTER: "Footer", COPY: "Header"}


@dataclass
class Frame:
    """A frame of a log."""

    offset: int
    size: int
    kind: int
    sequence: int
    head: bytes
    record: dict[str, Any] | None
    data: bytes | None


@dataclass
class Trailer:
    """The end of a sealed log; format 1 has no seal and no generation."""

    footer: int
    salt: bytes = b""
    seal: bytes = b""
    generation: int = 0


@dataclass
class SlowLog:
    """A log, its frames, and the checks that were made."""

    content: bytes
    version: int = 0
    salt: bytes = b""
    frames: list[Frame] = field(default_factory=list)
    damage: list[tuple[int, int]] = field(default_factory=list)
    torn: int = 0
    has_signature: bool = True
    trailer: Trailer | None = None
    footer: Frame | None = None
    checked: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def check(self, name: str, holds: bool, *, what: str = "") -> bool:
        self.checked[name] += 1
        if not holds:
            self.failed.append(f"{name}: {what}")
        return holds


def u32(data: bytes, at: int) -> int:
    return struct.unpack_from("<I", data, at)[0]


def read_signature(log: SlowLog) -> None:
    """Read the version of a log, and the id that its frames carry."""
    content = log.content
    if content[:8] == SIGNATURE and zlib.crc32(content[:12]) == u32(content.ljust(16), 12):
        log.version = u32(content, 8)
        if log.version not in FRAME:
            raise DamageError(f"the log has format version {log.version}")
    else:
        log.has_signature = False
    if log.version == 2 and len(content) >= SIGNATURE_SIZE[2]:
        if zlib.crc32(content[16:32]) == u32(content, 32):
            log.salt = content[16:32]
        else:
            log.has_signature = False


def read_trailer(log: SlowLog) -> None:
    """Read the trailer, if there is one."""
    end = log.content[-TRAILER_SIZE[log.version] :]
    if len(end) < TRAILER_SIZE[log.version] or end[-8:] != SEAL[log.version]:
        return
    if log.version == 1:
        # Four zero bytes follow the checksum, which does not cover them.
        if log.check("trailer", zlib.crc32(end[:8]) == u32(end, 8) and not u32(end, 12)):
            log.trailer = Trailer(struct.unpack_from("<Q", end)[0])
    elif log.check("trailer", zlib.crc32(end[:48]) == u32(end, 48)):
        log.salt = log.salt or end[8:24]
        footer = struct.unpack_from("<Q", end)[0]
        if end[8:24] == log.salt:
            log.trailer = Trailer(footer, end[8:24], end[24:40], u32(end, 40))


def frame_head(log: SlowLog, at: int) -> tuple[int, ...] | None:
    """Return the fields of a frame's header, without its id, if one begins at an offset."""
    size = HEADER_SIZE[log.version]
    head = log.content[at : at + size]
    if len(head) < size or head[:4] != FRAME[log.version]:
        return None
    if zlib.crc32(head[:-4]) != u32(head, size - 4):
        return None
    kind, flags, _, *numbers = struct.unpack_from("<BBHIIII" + "I" * log.version, head, 4)
    if max(numbers[1:4]) > LARGEST:
        return None
    return kind, flags, *numbers


def frame_end(log: SlowLog, at: int) -> int | None:
    """Return the end that the header of a frame promises, or None if none begins here."""
    head = frame_head(log, at)
    return None if head is None else at + HEADER_SIZE[log.version] + head[3] + head[5]


def is_intact(version: int, meta: bytes, data: bytes, sums: list[int]) -> tuple[bool, bool]:
    """Return whether the checksums of meta and of data hold; format 1 has one for both."""
    if version == 1:
        holds = zlib.crc32(meta + data) == sums[0]
        return holds, holds
    return zlib.crc32(meta) == sums[0], (zlib.crc32(data) if data else 0) == sums[1]


def is_own(log: SlowLog, at: int) -> bool:
    """Return whether an intact frame is one of this log at its place."""
    head = frame_head(log, at) or (0, 0, 0)
    has_id = log.version == 1 or log.content[at + 32 : at + 48] == (
        log.salt or log.content[at + 32 : at + 48]
    )
    return has_id and (not log.frames or head[2] > log.frames[-1].sequence)


def read_frame(log: SlowLog, at: int) -> Frame | None:
    """Return the frame that begins at an offset, or None; its record may be that of another log."""
    end = frame_end(log, at)
    if end is None or end > len(log.content):
        return None
    head_size = HEADER_SIZE[log.version]
    kind, flags, sequence, meta_size, plain_size, _, *sums = frame_head(log, at) or ()
    meta = log.content[at + head_size : at + head_size + meta_size]
    data = log.content[at + head_size + meta_size : end]
    has_meta, has_data = is_intact(log.version, meta, data, sums)
    if not has_meta:
        return None
    record = None
    if kind in NAMES and not flags:
        content = decompress(meta)
        if len(content) == plain_size:
            record = read_struct(log.version, NAMES[kind], unpack(content))
    head = log.content[at : at + head_size]
    return Frame(at, end - at, kind, sequence, head, record, data if has_data else None)


def scan(log: SlowLog) -> None:
    """Read the frames one after the other; bytes that are no frame are damage or torn."""
    end = len(log.content)
    if log.trailer is not None:
        end -= TRAILER_SIZE[log.version]
    at = SIGNATURE_SIZE[log.version]
    if not log.has_signature:
        log.damage.append((0, at))
    while at < end:
        frame = read_frame(log, at)
        if frame is not None and is_own(log, at):
            take(log, frame)
            at += frame.size
        elif frame is not None:
            log.damage.append((at, at + frame.size))
            at += frame.size
        else:
            at = skip_damage(log, at, end)


def take(log: SlowLog, frame: Frame) -> None:
    """Add an intact frame."""
    log.frames.append(frame)
    log.salt = log.salt or frame.head[32:48]
    has_record = frame.record is not None or frame.kind not in NAMES
    log.check("record", has_record, what=f"frame {frame.sequence}")
    if not log.check("data", frame.data is not None, what=f"frame {frame.sequence}"):
        meta_size = u32(frame.head, 12)
        start = frame.offset + len(frame.head) + meta_size
        log.damage.append((start, frame.offset + frame.size))


def skip_damage(log: SlowLog, begin: int, end: int) -> int:
    """Note damaged bytes; return the offset of the next frame, or the end."""
    at = log.content.find(FRAME[log.version], begin + 1, end)
    while at >= 0 and (read_frame(log, at) is None or not is_own(log, at)):
        at = log.content.find(FRAME[log.version], at + 1, end)
    if at >= 0:
        log.damage.append((begin, at))
        return at
    is_torn = end - begin < HEADER_SIZE[log.version] or (frame_end(log, begin) or 0) > end
    if is_torn and log.trailer is None:
        log.torn = end - begin
    else:
        log.damage.append((begin, end))
    return end


def read_footer(log: SlowLog) -> bool:
    """Take the frames that the footer lists, if an intact one ends right before the trailer."""
    trailer = log.trailer
    if trailer is None or trailer.footer >= len(log.content):
        return False
    footer = read_frame(log, trailer.footer)
    end = len(log.content) - TRAILER_SIZE[log.version]
    if footer is None or footer.kind != FOOTER or trailer.footer + footer.size != end:
        return False
    ids = {log.salt, trailer.salt, footer.head[32:48]} if log.version == 2 else {b""}
    if footer.record is None or footer.data is None or len(ids) > 1:
        return False
    listed = listed_frames(log, footer.record)
    if listed is None or (listed and sum(listed[-1][:2]) != trailer.footer):
        return False
    if not log.has_signature:
        log.damage.append((0, SIGNATURE_SIZE[log.version]))
    for sequence, (offset, size, kind) in enumerate(listed):
        frame = read_frame(log, offset)
        is_right = frame is not None and (frame.size, frame.kind) == (size, kind)
        if log.version == 2:
            is_right = is_right and frame is not None and frame.head[32:48] == log.salt
        if log.check("frame", is_right, what=f"{sequence}") and frame is not None:
            take(log, frame)
        else:
            log.damage.append((offset, offset + size))
            log.frames.append(Frame(offset, size, kind, sequence, b"", None, None))
    log.frames.append(footer)
    log.footer = footer
    return True


def listed_frames(log: SlowLog, footer: dict[str, Any]) -> list[tuple[int, int, int]] | None:
    """Return offset, size and kind of the frames that a footer lists, or None."""
    if log.version == 1:
        return [(offset, size, kind) for offset, size, kind, *_ in footer["frames"]]
    offset = SIGNATURE_SIZE[2]
    listed = []
    for size, kind in zip(footer["frames"]["sizes"], footer["frames"]["kinds"], strict=True):
        listed.append((offset, size, kind))
        offset += size
    return listed


def check_footer(log: SlowLog) -> None:
    """Check the seal, and that a scan gives the frames that the footer lists."""
    scanned = SlowLog(log.content, log.version, log.salt, trailer=log.trailer)
    scan(scanned)
    places = [
        [(f.offset, f.size, f.kind) for f in frames] for frames in (log.frames, scanned.frames)
    ]
    log.check("scan", places[0] == places[1])
    if log.version == 2 and log.trailer is not None and log.footer is not None:
        footer = log.footer.record or {}
        heads = b"".join(frame.head for frame in log.frames[:-1])
        seal = hashlib.blake2b(heads, digest_size=16).digest()
        log.check("seal", seal == log.trailer.seal == footer["content"])
        log.check("generation", log.trailer.generation == footer["generation"])


def read_log(path: Path) -> SlowLog:
    """Read all frames of a log.

    Raises:
        DamageError: It is no log, or has parts that this reader must refuse.
    """
    content = path.read_bytes()
    for version in (2, 1):
        log = SlowLog(content, version)
        read_signature(log)
        if log.has_signature or log.version == version:
            read_trailer(log)
            if read_footer(log):
                check_footer(log)
            else:
                scan(log)
            if log.frames:
                return log
    raise DamageError("no frame is intact")
