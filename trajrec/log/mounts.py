"""Which file systems can be trusted with a file that is mapped into memory and shared."""

from __future__ import annotations

import os
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")

COHERENT = frozenset(("ext2", "ext3", "ext4", "xfs", "tmpfs", "f2fs", "overlay"))
"""Local file systems that keep the space of an allocated file.

Network file systems are missing, because another machine would see a mapped file too late or never.
File systems that copy on write (btrfs, zfs, APFS) are missing too: a page that is written again
needs new space, and on a full disk the process would get a SIGBUS."""


def has_coherent_maps(path: Path) -> bool:
    """Return whether a file may be mapped, which is unknown outside of Linux and then False."""
    try:
        device = os.stat(path).st_dev
        name = f"{os.major(device)}:{os.minor(device)}"
        lines = MOUNTS.read_text(errors="replace").splitlines()
    except (OSError, AttributeError):
        return False
    for line in lines:
        # Fields before " - ": id, parent, device, ...; behind it: type, source, options.
        mount, _, system = line.partition(" - ")
        if mount.split()[2:3] == [name]:
            return system.split(" ", 1)[0] in COHERENT
    return False
