"""Episodes in the place of those that `trajrec.episode` would record.

A program that records its own episodes can be run again, unchanged, against one of them: the
experiment that runs it names a function, which makes the episode of its `with trajrec.episode(...)`.
Within `trajrec.rerun`, the rerun takes the place of that episode.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from trajrec.agents.context import EpisodeSession, calling_episode
from trajrec.log.remote import local_folder
from trajrec.types import Value
from trajrec.wire.exchange import HttpRequest


class StandInMaker(Protocol):
    """Makes the episodes in the place of those of a program."""

    def __call__(
        self, folder: str | Path, given: Mapping[str, Value], is_conversation: bool
    ) -> EpisodeSession | None:
        """Return the episode in the place of one that is about to be recorded; None to record it.

        Args:
            folder: The corpus.
            given: The other arguments of `trajrec.episode`.
            is_conversation: Whether a capture makes the episode of a conversation.
        """
        ...

    def of_request(self, request: HttpRequest) -> EpisodeSession | None:
        """Return the episode that a request outside of all episodes belongs to; None if none."""
        ...


VARIABLE = "TRAJREC_STAND_IN"
"""Names, as module:function, the function that prepares a process whose parent runs an experiment."""

RERUN_FOLDER = "TRAJREC_RERUN_FOLDER"
"""Names the folder for the episodes of a command that `trajrec rerun` runs. It is thrown away: the
command does again what the log has, and no corpus may count that twice."""

_makers: list[StandInMaker] = []


def folder_of_episodes(folder: str | Path) -> Path:
    """Return the folder to record episodes into, which is not the given one in a rerun.

    Raises:
        ValueError: It is an address.
    """
    own = local_folder(folder)
    thrown_away = os.environ.get(RERUN_FOLDER, "")
    return Path(thrown_away) if thrown_away else own


def stand_in_for(
    folder: str | Path, options: Mapping[str, Value], *, is_conversation: bool = False
) -> EpisodeSession | None:
    """Return the episode in the place of one that is about to be recorded, mostly None.

    Args:
        folder: The corpus.
        options: The other arguments of `trajrec.episode`.
        is_conversation: Whether a capture makes the episode of a conversation.
    """
    maker = _maker()
    if maker is not None:
        return maker(folder, options, is_conversation)
    # Only a rerun has it: it answers the agent that begins its own episode.
    stand_in = None if is_conversation else getattr(calling_episode(), "stand_in", None)
    return None if stand_in is None else stand_in(options)


def stand_in_of_request(request: HttpRequest) -> EpisodeSession | None:
    """Return the episode that a model call outside of all episodes belongs to, mostly None."""
    maker = _maker()
    return None if maker is None else maker.of_request(request)


def _maker() -> StandInMaker | None:
    name = os.environ.pop(VARIABLE, "")
    if name:
        module, _, function = name.partition(":")
        # By name: the room of experiments stands above this one.
        _makers.append(getattr(importlib.import_module(module), function)())
    return _makers[-1] if _makers else None


@contextlib.contextmanager
def standing_in(maker: StandInMaker) -> Iterator[None]:
    """Have an object make the episodes of a block."""
    _makers.append(maker)
    try:
        yield
    finally:
        # By identity: two may be equal.
        _makers[:] = [other for other in _makers if other is not maker]
