"""Prices of models that the user gives, as the SQL of a call's cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

Prices: TypeAlias = Mapping[str, Mapping[str, float]]
"""Pattern of model names -> prices of a million tokens: input, output, cached, cache_write."""

_REQUIRED = ("input", "output")
_OPTIONAL = ("cached", "cache_write")
_TOKENS = 1_000_000


def cost_sql(prices: Prices) -> str:
    """Return SQL for the cost of a row of `model_calls`; NULL if it is unknown.

    The first pattern that fits the model counts: `*` stands for any characters, `?` for one. A
    request's tokens cost the price of input, but for those that have a price of their own. If their
    number is unknown, so is the cost.

    Raises:
        TypeError: The prices are no dict of dicts of numbers.
        ValueError: A price is missing, unknown, negative or not finite.

    >>> cost_sql({"gpt-*": {"input": 2.0, "output": 8.0}})
    "CASE WHEN r.model GLOB 'gpt-*' THEN (r.input_tokens * 2.0 + r.output_tokens * 8.0) / 1000000 END"
    """
    if not isinstance(prices, Mapping):
        raise TypeError(f"prices must be a dict of patterns of models, got {type(prices).__name__}")
    cases = [
        f"WHEN r.model GLOB {_quoted(name)} THEN {_sum(name, of)}" for name, of in prices.items()
    ]
    return f"CASE {' '.join(cases)} END" if cases else "NULL"


def _sum(name: str, of: Mapping[str, float]) -> str:
    """Return SQL for the cost by the prices of one pattern."""
    if not isinstance(of, Mapping):
        raise TypeError(f"prices[{name!r}] must be a dict, got {type(of).__name__}")
    for kind in of:
        if kind not in (*_REQUIRED, *_OPTIONAL):
            names = ", ".join((*_REQUIRED, *_OPTIONAL))
            raise ValueError(f"prices[{name!r}] has {kind!r}; the prices are {names}")
    for kind in _REQUIRED:
        if kind not in of:
            raise ValueError(f"prices[{name!r}] lacks {kind!r}, the price of a million tokens")
    numbers = {kind: _price(name, kind, of[kind]) for kind in of}
    own = [kind for kind in _OPTIONAL if kind in numbers]
    plain = " - ".join(["r.input_tokens", *(f"r.{kind}_tokens" for kind in own)])
    terms = [f"({plain}) * {numbers['input']!r}" if own else f"{plain} * {numbers['input']!r}"]
    terms += [f"r.{kind}_tokens * {numbers[kind]!r}" for kind in (*own, "output")]
    return f"({' + '.join(terms)}) / {_TOKENS}"


def _price(name: str, kind: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"prices[{name!r}][{kind!r}] must be a number, got {value!r}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(
            f"prices[{name!r}][{kind!r}] must be finite and not negative, got {value!r}"
        )
    return float(value)


def _quoted(text: str) -> str:
    if not isinstance(text, str) or "\0" in text:
        raise TypeError(f"a pattern of models must be a text without NUL, got {text!r}")
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
