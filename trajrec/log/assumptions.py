"""What the events of an agent say about states that were not compared, in their `extra_data`.

After a call of a tool that is declared `read`, a large part of the state is not compared at once:
the end of the call names the parts that it assumes to be unchanged. If a later comparison finds a
difference, the change names the calls that it may come from.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

from trajrec.errors import DecodeError
from trajrec.log.events import CallEnd, StateChange
from trajrec.types import JsonObject
from trajrec.values import codec

_ASSUMED = "assumed"
_SUSPECTS = "suspects"


@lru_cache(maxsize=64)
def assumed_data(parts: tuple[str, ...]) -> bytes:
    """Return the `extra_data` of the end of a call that assumes parts to be unchanged."""
    return codec.encode({_ASSUMED: list(parts)})


@lru_cache(maxsize=64)
def _parts(data: bytes) -> tuple[str, ...]:
    parts = _facts(data).get(_ASSUMED)
    if isinstance(parts, list) and all(isinstance(part, str) for part in parts):
        return tuple(parts)
    return ()


def assumed_parts(end: CallEnd) -> tuple[str, ...]:
    """Return the parts of the state that were not compared after a call."""
    return () if end.extra_data is None else _parts(end.extra_data)


def suspects_data(calls: Collection[Sequence[int]]) -> bytes:
    """Return the `extra_data` of a change that comes from one of some calls.

    Args:
        calls: The step, call and attempt of each.
    """
    return codec.encode({_SUSPECTS: [list(call) for call in calls]})


def suspects(change: StateChange) -> list[tuple[int, int, int]]:
    """Return the step, call and attempt of each call, declared `read`, that may have changed a part.

    Returns:
        The calls; none if the change was made by a call that may write.
    """
    calls = [] if change.extra_data is None else _facts(change.extra_data).get(_SUSPECTS)
    if not isinstance(calls, list):
        return []
    return [(call[0], call[1], call[2]) for call in calls if _is_key(call)]


def _is_key(call: object) -> bool:
    return isinstance(call, list) and len(call) == 3 and all(type(n) is int for n in call)


def _facts(data: bytes) -> JsonObject:
    try:
        return codec.decode_map(data)
    except DecodeError:
        # Facts that a reader cannot know are none of its business.
        return {}
