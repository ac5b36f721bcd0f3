"""Pickle what other processes need of the script that this one runs."""

from __future__ import annotations

import sys

import cloudpickle

from trajrec.module_names import SPAWNED_SCRIPT
from trajrec.types import Value


def by_value(value: Value) -> bytes:
    """Return the pickle of a value for another process, which does not import this one's script.

    Functions and classes of the script go by value, and all others by name.
    """
    script = sys.modules.get(SPAWNED_SCRIPT)
    if script is not None and script.__name__ == SPAWNED_SCRIPT:
        # In a process that multiprocessing spawned cloudpickle knows the script by `__main__` alone.
        cloudpickle.register_pickle_by_value(script)
    data: bytes = cloudpickle.dumps(value)
    return data
