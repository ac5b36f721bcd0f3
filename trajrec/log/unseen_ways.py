"""What a recorder did not see of an episode, in the `extra_data` of its end.

These are the ways past the taps that its process had, since a model call by such a way is not in
the record; and how the episode ended, if nobody told.
"""

from __future__ import annotations

from collections.abc import Sequence

from trajrec.log.source_facts import end_data, facts_of

_UNSEEN = "unseen"


def unseen_data(ways: Sequence[str], *, is_unknown: bool = False) -> bytes | None:
    """Return the `extra_data` of an end; None if nothing was unseen.

    Args:
        ways: The ways past the taps.
        is_unknown: Whether nobody told how the episode ended.
    """
    return end_data(is_unknown=is_unknown, facts={_UNSEEN: list(ways)} if ways else None)


def unseen_of(data: bytes | None) -> list[str]:
    """Return the ways past the taps: names of libraries, and hosts of models.

    >>> unseen_of(unseen_data(["pycurl"])), unseen_of(None)
    (['pycurl'], [])
    """
    ways = facts_of(data).get(_UNSEEN)
    return [str(way) for way in ways] if isinstance(ways, list) else []
