"""The errors and warnings of a recorder."""

from __future__ import annotations

import warnings
from pathlib import Path

from trajrec.errors import EncodeError, EnvContractError
from trajrec.protocols import StateAdapter
from trajrec.values import codec


def located(exc: EncodeError, episode_id: str | None, step: int) -> EncodeError:
    """Return the error of a value that cannot be stored, with its step; -1 stands for the reset."""
    part = "reset" if step < 0 else f"step {step}"
    return EncodeError(exc.what, where=f"episode {episode_id} {part}: {exc.where}")


def not_open(episode_id: str | None) -> EnvContractError:
    """Return the error of a step outside of an episode; None if there was none yet."""
    if episode_id is None:
        return EnvContractError("step before the first reset; call reset first")
    return EnvContractError(f"step after the end of episode {episode_id}; call reset first")


def warn_of_end(path: Path) -> None:
    """Warn that a closed recorder, or that of a parent process, records no more episodes."""
    warnings.warn(
        f"{path}: the recorder was closed, or its process was forked; "
        "this episode and later ones are not recorded",
        RuntimeWarning,
        stacklevel=4,
    )


def is_unrecordable(adapter: StateAdapter | None) -> bool:
    """Return whether an environment's own `get_state` gives no state, and warn of it.

    A function that the caller gave to read the state raises instead: the state was asked for.
    """
    if adapter is None or adapter.name != "get_state":
        return False
    try:
        codec.encode(adapter.capture(), where="its state")
    except Exception as exc:
        # Foreign code may raise anything, and the loop must not end for a state that nobody asked for.
        reason = str(exc) if isinstance(exc, EncodeError) else f"{type(exc).__name__}: {exc}"
        warnings.warn(
            f"the state of the environment is not recorded, since its get_state gives no plain "
            f"data: {reason}; pass state=, a function that returns the state as plain data, or "
            "state=False",
            RuntimeWarning,
            stacklevel=3,
        )
        return True
    return False
