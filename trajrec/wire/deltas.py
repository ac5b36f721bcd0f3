"""Bodies of requests without repetition: each request of a conversation repeats the one before.

A body is stored as the bytes that differ from an earlier one. This needs no knowledge of any API.
"""

from __future__ import annotations

from typing import AnyStr, NamedTuple

REMEMBERED = 4
"""Bodies that a new one is compared with: so many conversations may take turns."""

MIN_SHARED_BYTES = 64
"""With less in common, a body is stored whole: the reference would save nothing."""

# Compared at once while the bodies are equal: large enough that the loop costs little, small enough
# that the last block costs little.
_BLOCK = 1 << 14


class BodyDelta(NamedTuple):
    """A body as the difference from an earlier one.

    Attributes:
        base: The exchange whose body it is like, -1 if it is stored whole.
        n_prefix: Number of bytes that it has in common with the base at the start.
        n_suffix: The same at the end.
        middle: The bytes in between.
    """

    base: int
    n_prefix: int
    n_suffix: int
    middle: bytes

    def applied(self, base: bytes) -> bytes:
        """Return the body, given that of the base.

        >>> BodyDelta(0, 1, 2, b"xy").applied(b"abcde")
        b'axyde'
        """
        end = len(base) - self.n_suffix
        return base[: self.n_prefix] + self.middle + base[end:]


class BodyDeltas:
    """The bodies that later ones are compared with."""

    def __init__(self) -> None:
        self._last: list[tuple[int, bytes]] = []

    def delta(self, body: bytes) -> BodyDelta:
        """Return a body as the difference from the remembered one that it is most like."""
        best = BodyDelta(-1, 0, 0, body)
        for number, base in self._last:
            n_prefix = common_prefix(base, body)
            n_suffix = common_suffix(base, body, min(len(base), len(body)) - n_prefix)
            n_shared = n_prefix + n_suffix
            if n_shared >= MIN_SHARED_BYTES and n_shared > best.n_prefix + best.n_suffix:
                middle = body[n_prefix : len(body) - n_suffix]
                best = BodyDelta(number, n_prefix, n_suffix, middle)
        return best

    def add(self, number: int, body: bytes, delta: BodyDelta) -> None:
        """Remember the body of an exchange, which is in the log now."""
        # A body that goes on from another one, or repeats it, replaces it.
        n_shared = delta.n_prefix + delta.n_suffix
        kept = [
            (earlier, base)
            for earlier, base in self._last
            if earlier != delta.base or n_shared < len(base)
        ]
        self._last = [*kept[1 - REMEMBERED :], (number, body)]


def common_prefix(a: AnyStr, b: AnyStr) -> int:
    """Return the number of bytes or characters that two texts have in common at the start.

    >>> common_prefix(b"abcd", b"abxd")
    2
    """
    n = min(len(a), len(b))
    low = 0
    while low < n and a[low : low + _BLOCK] == b[low : low + _BLOCK]:
        low += _BLOCK
    if low >= n:
        return n
    high = min(low + _BLOCK, n)
    # a and b are equal before `low`, and differ or end before `high`.
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def common_suffix(a: AnyStr, b: AnyStr, limit: int) -> int:
    """Return the same at the end, at most `limit`.

    >>> common_suffix(b"abcd", b"xxcd", 4)
    2
    """
    n_equal = 0
    while n_equal < limit:
        step = min(_BLOCK, limit - n_equal)
        if not _ends_alike(a, b, n_equal, step):
            break
        n_equal += step
    high = min(n_equal + _BLOCK, limit)
    low = n_equal
    while low < high:
        middle = (low + high + 1) // 2
        if _ends_alike(a, b, low, middle - low):
            low = middle
        else:
            high = middle - 1
    return low


def _ends_alike(a: AnyStr, b: AnyStr, skipped: int, n: int) -> bool:
    """Return whether the `n` items before the last `skipped` ones are equal."""
    end_a = len(a) - skipped
    end_b = len(b) - skipped
    return a[end_a - n : end_a] == b[end_b - n : end_b]
