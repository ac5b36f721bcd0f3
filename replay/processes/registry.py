"""Send the environments that this process registered with Gymnasium to other processes.

Those processes replay for this one, so they may run all that this one trusts.
"""

from __future__ import annotations

import pickle
import sys
import warnings

from trajrec.replay.processes.pickles import by_value

# Packages whose environments another process registers itself when they are asked for.
_SELF_REGISTERING = frozenset(("gymnasium", "ale_py", "minigrid", "trajrec"))


def registered() -> bytes:
    """Return the specifications of the environments that another process would not know."""
    # Not imported: a process that has not imported Gymnasium has registered nothing.
    gymnasium = sys.modules.get("gymnasium")
    specs = []
    for spec in [] if gymnasium is None else gymnasium.registry.values():
        entry = spec.entry_point
        if (
            isinstance(entry, str)
            and entry.partition(":")[0].partition(".")[0] in _SELF_REGISTERING
        ):
            continue
        try:
            specs.append(by_value(spec))
        except Exception:
            # One that cannot be pickled. If an episode needs it, the other process says that it is
            # not registered there.
            continue
    return pickle.dumps(specs)


def register(data: bytes) -> None:
    """Register the specifications that `registered` returned; those of this process stay."""
    # A module that registers its environments when it is imported does so here once more.
    warnings.filterwarnings("ignore", r"(?s).*Overriding environment .* already in registry")
    for sent in pickle.loads(data):
        import gymnasium

        spec = pickle.loads(sent)
        gymnasium.registry.setdefault(spec.id, spec)
