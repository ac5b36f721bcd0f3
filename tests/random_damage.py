"""Random damage of logs: bytes that change, are lost, come twice, or are those of another log."""

from __future__ import annotations

from random_values import Rng, pick


def damaged(data: bytes, other: bytes, rng: Rng) -> bytes:
    """Return the bytes of a log with some damage.

    Args:
        data: The log.
        other: Another log, of which parts may be put into this one.
        rng: Decides the damage.
    """
    content = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        start, end = sorted(rng.integers(0, len(content) + 1, 2).tolist())
        short = min(end, start + int(rng.integers(1, 64)))
        kind = pick(rng, ["flip", "flip", "zero", "cut", "lose", "repeat", "splice", "insert"])
        if kind == "flip" and content:
            content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        elif kind == "zero":
            content[start:short] = bytes(short - start)
        elif kind == "cut":
            del content[end:]
        elif kind == "lose":
            del content[start:end]
        elif kind == "repeat":
            content[end:end] = content[start:end]
        elif kind == "splice":
            content[start:end] = other[start:end]
        elif kind == "insert":
            content[start:start] = other
    return bytes(content)
