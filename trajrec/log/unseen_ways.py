"""The ways past the taps that a process had, in the `extra_data` of the end of an episode.

A model call by such a way is not in the record, so that the record may be partial.
"""

from __future__ import annotations

from collections.abc import Sequence

from trajrec.log.source_facts import facts_of
from trajrec.values import codec

_UNSEEN = "unseen"


def unseen_data(ways: Sequence[str]) -> bytes | None:
    """Return the `extra_data` of an end; None if there are no such ways."""
    return codec.encode({_UNSEEN: list(ways)}) if ways else None


def unseen_of(data: bytes | None) -> list[str]:
    """Return the ways past the taps: names of libraries, and hosts of models.

    >>> unseen_of(unseen_data(["pycurl"])), unseen_of(None)
    (['pycurl'], [])
    """
    ways = facts_of(data).get(_UNSEEN)
    return [str(way) for way in ways] if isinstance(ways, list) else []
