"""The fast way to add a step: for observations that are arrays and rewards that are numbers.

It does the same as `StepBuffer.add_values` with the fields' own functions, in one call instead of four:
a call costs as much as the encoding of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias
from zlib import crc32

import numpy as np

from trajrec.log.items import FieldLayout, Item, encode
from trajrec.log.journal import PACK_INTO, SMALL
from trajrec.recording.item_journal import ItemJournal
from trajrec.recording.step_fields import MisfitError
from trajrec.recording.step_takes import StepTakes
from trajrec.types import Observation, Value
from trajrec.values.arrays import PADDED

AddStep: TypeAlias = Callable[[Any, Observation, Value, int], None]
"""Adds a step: (part of the action, observation, reward, number of the item)."""


class StepTarget(Protocol):
    """The buffer, as its fast way sees it.

    Attributes:
        rows: The items of the present block.
        number: The number of the next item.
        begun: See `StepBuffer.begun`.
    """

    rows: list[Item]
    number: int
    begun: int | None

    @property
    def takes(self) -> StepTakes:
        """Takes the values of a step."""
        ...

    def add_values(self, action_part: Any, obs: Observation, reward: Value, number: int) -> None:
        """Add a step of any values that fit their fields."""
        ...

    def add_encoded(self, content: bytes, number: int) -> None:
        """Add an encoded row."""
        ...


class _NoType:
    """A type that no reward has."""


def make_add_step(
    target: StepTarget,
    journal: ItemJournal,
    obs_layout: FieldLayout | None,
    reward_layout: FieldLayout | None,
) -> AddStep:
    """Return the fastest function that adds steps whose fields have these layouts.

    The function raises MisfitError if a value does not fit its layout.
    """
    if obs_layout is None or reward_layout is None or not obs_layout.is_single:
        return target.add_values
    leaf = obs_layout.leaves[0]
    if leaf.kind != "array" or np.dtype(leaf.dtype).char in PADDED:
        return target.add_values
    takes = target.takes
    ndarray = np.ndarray
    dtype = np.dtype(leaf.dtype)
    shape = leaf.shape
    reward_leaf = reward_layout.leaves[0] if reward_layout.is_single else None
    # A float is its own part of a row if rewards are Python's plain values.
    is_plain = reward_leaf is not None and reward_leaf.kind == "scalar" and not reward_leaf.dtype
    plain_type = float if is_plain else _NoType

    def add_step(action_part: Any, obs: Observation, reward: Value, number: int) -> None:
        if (
            type(obs) is not ndarray
            or obs.shape != shape
            or (obs.dtype is not dtype and obs.dtype != dtype)
        ):
            raise MisfitError
        reward_part = reward if type(reward) is plain_type else takes.reward(reward)
        try:
            content = encode((action_part, obs.tobytes(), reward_part, takes.state()))
        except (OverflowError, UnicodeEncodeError):
            target.add_values(action_part, obs, reward, number)
            return
        size = len(content)
        position = journal.position
        end = position + size + 8
        if size >= SMALL or end > journal.row_end:
            target.add_encoded(content, number)
            return
        # The step is recorded. The rest is mended by the next call if an exception breaks it off.
        target.rows.append(content)
        try:
            PACK_INTO[size](journal.target, position, size, crc32(content, number), content)
        except (TypeError, ValueError):
            # The map was closed: a signal handler closed the log, or this is a forked child. The
            # next call mends it.
            return
        journal.position = end
        target.number = number + 1
        target.begun = None

    return add_step
