"""Times as other tools write them."""

from __future__ import annotations

import datetime

from trajrec.types import Value

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)


def time_of(value: Value) -> int:
    """Return a time in nanoseconds since 1970 UTC; 0 if it is unknown.

    A text is a time of ISO 8601; one without a zone is taken as UTC, which is the best guess. A
    number is seconds.

    >>> time_of("1970-01-01T00:00:01.5Z"), time_of(2), time_of("soon"), time_of(None)
    (1500000000, 2000000000, 0, 0)
    """
    if type(value) is str:
        try:
            moment = datetime.datetime.fromisoformat(value)
        except ValueError:
            return 0
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return _in_bounds((moment - _EPOCH) // _MICROSECOND * 1000)
    if type(value) in (int, float) and abs(value) < 1e12:
        return _in_bounds(round(value * 1e9))
    return 0


def text_of_time(time_ns: int) -> str:
    """Return a time as ISO 8601 in UTC, to the microsecond.

    Args:
        time_ns: Nanoseconds since 1970 UTC.

    >>> text_of_time(1_500_000_000)
    '1970-01-01T00:00:01.500000Z'
    """
    moment = _EPOCH + datetime.timedelta(microseconds=time_ns // 1000)
    return moment.replace(tzinfo=None).isoformat() + "Z"


def _in_bounds(time_ns: int) -> int:
    """Return a time that a log can hold; 0, unknown, for any other."""
    return time_ns if 0 < time_ns < 1 << 63 else 0
