"""Environments and tool worlds to demonstrate, test and teach with.

Importing this package registers the environments with Gymnasium.
"""

from typing import TYPE_CHECKING

import gymnasium

from trajrec._lazy import lazy_exports

if TYPE_CHECKING:
    from trajrec.envs.bank import Bank as Bank
    from trajrec.envs.keydoor import KeyDoor as KeyDoor
    from trajrec.envs.office import Office as Office
    from trajrec.envs.shop import Shop as Shop
    from trajrec.envs.text import GymWorld as GymWorld
    from trajrec.envs.text import ToolTextEnv as ToolTextEnv
    from trajrec.envs.workspace import Workspace as Workspace

# Imported on first use: a process that needs one of them does not load the others.
__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "Bank": "trajrec.envs.bank:Bank",
        "GymWorld": "trajrec.envs.text:GymWorld",
        "KeyDoor": "trajrec.envs.keydoor:KeyDoor",
        "Office": "trajrec.envs.office:Office",
        "Shop": "trajrec.envs.shop:Shop",
        "ToolTextEnv": "trajrec.envs.text:ToolTextEnv",
        "Workspace": "trajrec.envs.workspace:Workspace",
    },
)

_ENTRY_POINTS = {
    "trajrec/KeyDoor-v0": "trajrec.envs.keydoor:KeyDoor",
    "trajrec/Shop-v0": "trajrec.envs.shop:Shop",
    "trajrec/FaultChain-v0": "trajrec.envs.solved:FaultChain",
    "trajrec/NoisyKey-v0": "trajrec.envs.solved:NoisyKey",
    "trajrec/Switches-v0": "trajrec.envs.solved:Switches",
}
for _id, _entry_point in _ENTRY_POINTS.items():
    # Gymnasium warns of an id that is registered twice, e.g. when this module is reloaded.
    if _id not in gymnasium.registry:
        gymnasium.register(_id, entry_point=_entry_point)
