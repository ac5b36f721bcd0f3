"""Environments that we ship: to demonstrate, to test, to teach. Importing this registers them with Gymnasium."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from trajrec.envs.bank import Bank
    from trajrec.envs.contract import Contract, check_env
    from trajrec.envs.keydoor import KeyDoor
    from trajrec.envs.office import Office
    from trajrec.envs.shop import Shop
    from trajrec.envs.text import EnvWorld, WorldEnv
    from trajrec.envs.workspace import Workspace

__all__ = [
    "Bank",
    "Contract",
    "EnvWorld",
    "KeyDoor",
    "Office",
    "Shop",
    "Workspace",
    "WorldEnv",
    "check_env",
]

_HOME = {
    "Bank": "bank",
    "Contract": "contract",
    "EnvWorld": "text",
    "KeyDoor": "keydoor",
    "Office": "office",
    "Shop": "shop",
    "Workspace": "workspace",
    "WorldEnv": "text",
    "check_env": "contract",
}

for _id, _entry_point in (
    ("trajrec/KeyDoor-v0", "trajrec.envs.keydoor:KeyDoor"),
    ("trajrec/Shop-v0", "trajrec.envs.shop:Shop"),
    ("trajrec/FaultChain-v0", "trajrec.envs.solved:FaultChain"),
    ("trajrec/NoisyKey-v0", "trajrec.envs.solved:NoisyKey"),
    ("trajrec/Switches-v0", "trajrec.envs.solved:Switches"),
):
    if _id not in gymnasium.registry:
        gymnasium.register(_id, entry_point=_entry_point)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'trajrec.envs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"trajrec.envs.{_HOME[name]}"), name)
