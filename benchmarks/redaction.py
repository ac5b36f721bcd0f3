"""`python -m benchmarks.redaction`: the cost of looking for secrets, beside encoding alone.

CPU time, medians of interleaved repetitions. The values have no secrets, as most have none; the
last rows have one. The goal is 5 us for a call of 150 bytes, and 40 us a kB.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

from trajrec.redaction.redactor import NO_REDACTION, Redactor
from trajrec.types import Value
from trajrec.values import codec

N_REPETITIONS = 15
REPETITION_S = 0.02

SENTENCE = (
    "The customer paid twice for the lamp; I refunded one of the payments and wrote her a note. "
)
CODE = '''def refund(order, cents, *, author=None):
    """Return the key of the refund, or None."""
    if cents > order["paid"]:
        raise ValueError("a refund must not exceed the payment")
    ledger = open_ledger("/srv/shop/ledgers/2024/orders.sqlite", author=author)
    return ledger.append({"order": order["id"], "cents": cents, "token_count": len(order["notes"])})
'''
ORDER = {"id": "O1001", "items": [{"sku": "lamp-22", "qty": 2}], "status": "shipped", "cents": 1999}


def cut(text: str, size: int) -> str:
    """Return a text of `size` characters."""
    return (text * (size // len(text) + 1))[:size]


VALUES: dict[str, Value] = {
    "call of 150 bytes": {
        "tool": "refund",
        "arguments": {"order": "O1001", "cents": 1999, "note": SENTENCE[:60], "notify": True},
        "channel": "mail",
    },
    "call of 150 bytes, JSON": json.dumps(ORDER | {"note": SENTENCE[:60]}),
    "message of 1 kB": {"role": "user", "content": cut(SENTENCE, 1000)},
    "code of 1 kB": {"role": "user", "content": cut(CODE, 1000)},
    "JSON of 1 kB": {"role": "tool", "content": json.dumps([ORDER] * 10)[:1000]},
    "dict of 1 kB": {"orders": [ORDER] * 10},
    "messages of 20 kB": [{"role": "user", "content": cut(SENTENCE, 1000)}] * 20,
    "1,000 numbers": list(range(1000)),
    "frame of 100 kB": np.zeros((210, 160, 3), np.uint8),
    "call with a password": {"user": "bob", "password": "hunter2", "note": SENTENCE[:60]},
    "message of 1 kB with a token": cut(SENTENCE, 960) + "ghp_" + "a1B2" * 9,
}


def cpu_us(function: Callable[[], object]) -> Callable[[], float]:
    """Return a function that measures one repetition: CPU time of a call in us."""
    # The first call compiles patterns.
    function()
    start = time.process_time()
    function()
    n_calls = max(1, int(REPETITION_S / max(1e-6, time.process_time() - start)))

    def measure() -> float:
        begin = time.process_time()
        for _ in range(n_calls):
            function()
        return (time.process_time() - begin) / n_calls * 1e6

    return measure


def main() -> None:
    """Print the costs."""
    redactor = Redactor({})
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print(f"{'value':30} {'bytes':>7} {'encode us':>10} {'redact us':>10} {'us a kB':>9}")
    for name, value in VALUES.items():
        size = len(codec.encode(value, opaque=True))
        bare = cpu_us(lambda value=value: NO_REDACTION.encode(value))  # type: ignore[misc]
        redacted = cpu_us(lambda value=value: redactor.encode(value))  # type: ignore[misc]
        pairs = [(bare(), redacted()) for _ in range(N_REPETITIONS)]
        encode_us = statistics.median(pair[0] for pair in pairs)
        redact_us = statistics.median(pair[1] - pair[0] for pair in pairs)
        kilobyte_us = redact_us / size * 1000
        print(f"{name:30} {size:7} {encode_us:10.1f} {redact_us:10.1f} {kilobyte_us:9.1f}")


if __name__ == "__main__":
    main()
