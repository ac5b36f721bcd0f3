"""`python -m benchmarks.credit [PART ...]`: credit measured against exact answers.

Prints each measurement with its criterion, and ends with status 1 if a criterion is missed. Parts,
all by default: P1 to P11, coverage, planted, quality, scenarios, costs, bank, shop.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable

from benchmarks.credit import (
    coverage,
    faults,
    games,
    planted,
    quality,
    scenarios,
    tabular,
    tools,
    who_when,
)
from benchmarks.credit.truths import Criterion

PARTS: dict[str, Callable[[], Iterable[Criterion]]] = {
    "P1": tabular.p1,
    "P2": tabular.p2,
    "P3": tabular.p3,
    "P4": tabular.p4,
    "P5": games.p5,
    "P6": faults.p6,
    "P7": games.p7,
    "P8": tabular.p8,
    "P9": tabular.p9,
    "P10": scenarios.p10,
    "P11": who_when.p11,
    "coverage": coverage.coverage,
    "quality": quality.quality,
    "scenarios": scenarios.scenarios,
    "costs": scenarios.costs,
    "planted": planted.planted,
    "bank": tools.bank,
    "shop": tools.shop,
}


def main(names: list[str]) -> int:
    """Run parts; return the number of missed criteria."""
    n_missed = 0
    for name in names or PARTS:
        begin = time.perf_counter()
        # Printed one by one: all of P6 takes an hour.
        for criterion in PARTS[name]():
            print(criterion, flush=True)
            n_missed += not criterion.holds
        print(f"     {name} took {time.perf_counter() - begin:.0f} s", flush=True)
    return n_missed


if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in PARTS]
    if unknown:
        raise SystemExit(f"no part {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    raise SystemExit(1 if main(sys.argv[1:]) else 0)
