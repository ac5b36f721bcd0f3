"""The module that a function or class is named by in logs."""

from __future__ import annotations

from trajrec.types import Value

SCRIPT = "__main__"
"""The module of the script that was run."""

# Processes that multiprocessing spawns import the script under this name.
SPAWNED_SCRIPT = "__mp_main__"


def module_name(named: Value, unknown: str = "?") -> str:
    """Return the name of the module of a function or class.

    The script that was run has one name in all of its processes, spawned ones too: what they record
    is compared and counted together.

    Args:
        named: The function or class, or an object of a class.
        unknown: What is returned if it has no module.

    >>> module_name(module_name)
    'trajrec.module_names'
    """
    name = getattr(named, "__module__", None)
    return unknown if name is None else script_name(str(name))


def script_name(module: str) -> str:
    """Return the name of a module, with one name for the script in all processes."""
    return SCRIPT if module == SPAWNED_SCRIPT else module
