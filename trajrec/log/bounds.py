"""The types of the numbers in records. msgspec checks their bounds while it decodes."""

from __future__ import annotations

from typing import Annotated

import msgspec

MAX_ROWS = 1 << 20
"""Rows of a chunk. Writers stop far below: a full block has 1,536, a merged chunk 65,536."""

MAX_COUNT = (1 << 31) - 1

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
"""A count, or a number that counts from 0: of an episode, a step, a call."""

CountOrNone = Annotated[int, msgspec.Meta(ge=-1, le=MAX_COUNT)]
"""The same, or -1: the step of the reset, or no number."""

FirstStep = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT - MAX_ROWS)]
"""The first step of some rows: even with the most rows, the last step is a count."""

LargeCount = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
LargeCountOrNone = Annotated[int, msgspec.Meta(ge=-1, le=(1 << 63) - 1)]

Time = LargeCount
"""Nanoseconds since 1970 UTC; 0 is unknown."""
