"""Episodes in the place of those that `trajrec.episode` would record.

A program that records its own episodes can be run again, unchanged, against one of them: the
experiment that runs it names a function, which makes the episode of its `with trajrec.episode(...)`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from trajrec.agents.context import EpisodeSession
from trajrec.types import Value

MakeStandIn: TypeAlias = Callable[[str | Path, Mapping[str, Value], bool], EpisodeSession | None]
"""Takes the arguments of `trajrec.episode`, and whether a capture makes the episode of a
conversation; returns the episode in its place, None to record one."""

VARIABLE = "TRAJREC_STAND_IN"
"""Names, as module:function, the function that prepares a process whose parent runs an experiment."""

_makers: list[MakeStandIn] = []


def stand_in_for(
    folder: str | Path, options: Mapping[str, Value], *, is_conversation: bool = False
) -> EpisodeSession | None:
    """Return the episode in the place of one that is about to be recorded, mostly None.

    Args:
        folder: The corpus.
        options: The other arguments of `trajrec.episode`.
        is_conversation: Whether a capture makes the episode of a conversation.
    """
    name = os.environ.pop(VARIABLE, "")
    if name:
        module, _, function = name.partition(":")
        # By name: the room of experiments stands above this one.
        _makers.append(getattr(importlib.import_module(module), function)())
    return _makers[-1](folder, options, is_conversation) if _makers else None


@contextlib.contextmanager
def standing_in(make: MakeStandIn) -> Iterator[None]:
    """Have a function make the episodes of a block."""
    _makers.append(make)
    try:
        yield
    finally:
        _makers.remove(make)
