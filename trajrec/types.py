"""Type aliases that every room shares: the user's own values, and arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import gymnasium

# Values of the user's environment, agent or tool. trajrec makes no claim about their types.
Value: TypeAlias = Any
Action: TypeAlias = Any
Observation: TypeAlias = Any
Info: TypeAlias = dict[str, Any]

# A JSON object: a call's arguments, a reset's options, a schema, a state as plain data.
JsonObject: TypeAlias = dict[str, Any]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
FloatArray: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
IntArray: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

# A string, so that a process which only reads logs does not import Gymnasium.
AnyEnv: TypeAlias = "gymnasium.Env[Any, Any]"
