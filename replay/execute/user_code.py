"""Tells a constructor that does not take a log's arguments from one that has a mistake.

The one is another version than the recorded one. The other's exception is for its author to see, as
it was raised.
"""

from __future__ import annotations

import traceback


def is_refusal(exc: Exception, *callers: str) -> bool:
    """Return whether a constructor was not called at all, or says in Gymnasium's words that it cannot.

    Args:
        exc: The exception.
        callers: The modules that call the constructor: arguments that do not fit are noticed there.
    """
    # Here, so that an agent is run again without Gymnasium: it takes a twentieth of a second.
    import gymnasium

    # Gymnasium raises an error of its own from the first one.
    while isinstance(exc.__cause__, Exception):
        exc = exc.__cause__
    if isinstance(exc, gymnasium.error.Error):
        return True
    frames = list(traceback.walk_tb(exc.__traceback__))
    module = str(frames[-1][0].f_globals.get("__name__")) if frames else ""
    # A time limit of 0 is refused by the wrapper for it.
    is_of_gymnasium = module.startswith(("gymnasium.envs.registration", "gymnasium.wrappers."))
    return is_of_gymnasium or module in callers
