"""Checks a log's header and footer against each other and against the file."""

from __future__ import annotations

from typing import Any

from trajrec.log.frames import ID_BYTES, Trailer, log_id_bytes
from trajrec.log.schema import Footer, Header
from trajrec.values import codec

MAX_DEPTH = 20
"""The deepest nesting of the maps in a header. Writers need five levels."""


def check_header(header: Header, log_id: bytes) -> None:
    """Check a log's header.

    Args:
        header: The record.
        log_id: The id of the log as its frames have it, b"" if the frames have none.

    Raises:
        ValueError: The header names another log, or holds no values where it should.
    """
    if log_id and log_id_bytes(header.log_id) != log_id:
        raise ValueError(f"the header is that of log {header.log_id}")
    if is_deeper(header.runtime, MAX_DEPTH) or is_deeper(header.env.spec_fields, MAX_DEPTH):
        raise ValueError("the header is nested too deeply")
    env = header.env
    codec.decode_map(env.kwargs_data)
    for _, data in env.wrappers:
        codec.decode_map(data)
    for data in (header.interface_data, env.extra_data, header.extra_data):
        if data is not None:
            codec.decode(data)


def check_footer(footer: Footer, trailer: Trailer | None) -> None:
    """Check that the tables of a footer have as many rows as each other.

    The rows are checked when they are read (`trajrec.log.directory`).

    Raises:
        ValueError: They have not, or the footer is not the one that the trailer names.
    """
    if trailer is not None and (footer.content, footer.generation) != (
        trailer.content,
        trailer.generation,
    ):
        raise ValueError("the trailer has another seal or generation")
    steps = footer.steps
    episodes = footer.episodes
    n_episodes = {len(getattr(episodes, name)) for name in episodes.__struct_fields__}
    n_ranges = {len(getattr(steps, name)) for name in steps.__struct_fields__}
    if n_episodes != {footer.n_episodes} or len(n_ranges) != 1:
        raise ValueError("the columns of a table have different lengths")
    if len(footer.blobs.digests) != ID_BYTES * len(footer.blobs.frames):
        raise ValueError("the table of values is cut")


def is_deeper(value: Any, depth: int) -> bool:
    """Return whether a value of maps and arrays is nested deeper than so many levels."""
    level = [value]
    for _ in range(depth + 1):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return False
    return True
