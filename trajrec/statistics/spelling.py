"""Numbers for people: with three decimals, unless these would hide what they are."""

from __future__ import annotations

import math

SMALL = 0.01
"""Numbers below are spelled by their first digits."""

LARGE = 1e15
"""Numbers from here on are spelled by their first digits: they have no decimals."""


def spell(*numbers: float, sign: str = "", digits: int = 3) -> list[str]:
    """Return numbers with three decimals; if all are small, with three digits that count.

    Args:
        numbers: Numbers that are read together.
        sign: "+" to write the sign of positive ones too.
        digits: Decimals, or digits that count.

    >>> spell(0.5, 0.0), spell(0.0004, 0.0001, sign="+")
    (['0.500', '0.000'], ['+0.0004', '+0.0001'])
    """
    largest = max((abs(number) for number in numbers if math.isfinite(number)), default=0.0)
    # An interval of small numbers must not read as one without a width.
    is_fixed = largest == 0.0 or SMALL <= largest < LARGE
    form = f"{sign}.{digits}{'f' if is_fixed else 'g'}"
    return [format(number, form) for number in numbers]
