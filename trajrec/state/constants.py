"""The layers of an environment, and which of their attributes never change while it runs."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from trajrec.errors import SnapshotError
from trajrec.joint import layers

_CONSTANT = frozenset(("spec", "metadata", "_metadata", "_cached_spec", "_saved_kwargs", "_ezpickle_args", "_ezpickle_kwargs"))
"""Attributes that hold what an environment was made with."""

_CANVASES = frozenset(("screen", "clock", "window", "window_surface", "surf", "renderer", "mujoco_renderer"))
"""What environments of these packages draw on; another's attribute of such a name may be anything."""

_DRAWING = ("gymnasium.envs.", "gymnasium.wrappers.", "minigrid.", "ale_py.", "pettingzoo.")

_TABLES = frozenset(("P", "desc", "initial_state_distrib", "locs", "locs_colors"))
"""Of toy text: tables that are filled when it is made, and large."""


def layers_of(env: Any) -> Iterator[Any]:
    """Yield an environment's wrappers, outermost first, and what they wrap last.

    Raises:
        SnapshotError: A layer has no attributes that could be read.
    """
    for layer in layers(env):
        if not hasattr(layer, "__dict__"):
            raise SnapshotError(f"{type(layer).__qualname__} keeps its attributes out of sight")
        yield layer


def constants(layer: Any) -> frozenset[str]:
    """Return the attributes of a layer that no snapshot has."""
    drawing = any(cls.__module__.startswith(_DRAWING) for cls in type(layer).__mro__)
    is_table = type(layer).__module__.startswith("gymnasium.envs.toy_text.")
    return _CONSTANT | (_CANVASES if drawing else frozenset()) | (_TABLES if is_table else frozenset())


def constants_digest(env: Any) -> bytes:
    """Return a digest of what snapshots take for constant, and leave as it is: tables of toy text, models of MuJoCo."""
    found = hashlib.blake2b()
    for layer in layers_of(env):
        for name, value in sorted(layer.__dict__.items()):
            if type(value).__name__ == "MjModel":
                mujoco = sys.modules["mujoco"]
                buffer = np.empty(mujoco.mj_sizeModel(value), np.uint8)
                mujoco.mj_saveModel(value, None, buffer)
                found.update(buffer.tobytes())
            elif name in _TABLES and type(layer).__module__.startswith("gymnasium.envs.toy_text."):
                found.update(pickle.dumps(value))
    return found.digest()
