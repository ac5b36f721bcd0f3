"""What this process has registered with Gymnasium, for the processes that replay for it: they trust what it trusts."""

from __future__ import annotations

import pickle
import sys

import cloudpickle

_REGISTER_THEMSELVES = frozenset(("gymnasium", "ale_py", "minigrid", "trajrec"))
"""Packages whose environments another process registers when they are asked for."""


def registered() -> bytes:
    """Return the specifications of environments that another process would not know."""
    gymnasium = sys.modules.get("gymnasium")
    found = []
    for spec in [] if gymnasium is None else gymnasium.registry.values():
        entry = spec.entry_point
        if (
            isinstance(entry, str)
            and entry.partition(":")[0].partition(".")[0] in _REGISTER_THEMSELVES
        ):
            continue
        try:
            found.append(cloudpickle.dumps(spec))
        except (
            Exception
        ):  # of what cannot be sent, another process says that it is not registered there
            continue
    return pickle.dumps(found)


def register(data: bytes) -> None:
    """Register what another process has registered; what is there already stays."""
    for sent in pickle.loads(data):
        import gymnasium

        spec = pickle.loads(sent)
        gymnasium.registry.setdefault(spec.id, spec)
