"""Keeps a Python program of an experiment from asking a model before an episode stands in for it.

The episode that the program begins takes its model calls, and answers them or not. A program that
never begins one is the wrong one for the experiment, and its model calls would really be made.
It imports only the standard library and the taps, until a model is asked.
"""

from __future__ import annotations

import os

from trajrec.taps import hub, patching
from trajrec.wire.exchange import Exchange, HttpRequest

VARIABLE = "TRAJREC_STAND_IN"
"""The name of `trajrec.agents.stand_ins.VARIABLE`, which the stand-in takes when it is made."""


class RefusedByGuardError(BaseException):
    """A model call of a program that has begun no episode. Nothing was sent.

    It is no `Exception`, because clients take these for failures of the network and try again.
    """


def install() -> None:
    """Turn the taps of this process on, and refuse what no episode takes before the first one."""
    # No address begins with this, so that none is left out.
    hub.listen_outside(_begin, comes_first=False, ignored="\0")
    patching.install()


def _begin(request: HttpRequest) -> Exchange | None:
    """Take a model call that no episode has taken; see `trajrec.taps.hub`.

    Raises:
        RefusedByGuardError: The process has begun no episode, and the recording has no such call.
    """
    if VARIABLE not in os.environ:
        # The stand-in was made. What it does not take is the program's own.
        return None
    try:
        # Late: most Python programs below a command ask no model.
        from trajrec.agents.stand_ins import stand_in_of_request

        episode = stand_in_of_request(request)
    except Exception as exc:
        raise RefusedByGuardError(
            f"no episode can be made here, so nothing is sent: {exc}"
        ) from exc
    if episode is None:
        raise RefusedByGuardError(
            "the program asks a model before it begins an episode with trajrec.episode, so nothing "
            "is sent"
        )
    return episode.begin_exchange(request)
