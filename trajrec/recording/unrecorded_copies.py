"""What a copy of a recorder is: a copy of its environment, which is not recorded."""

from __future__ import annotations

import copy
import warnings
from typing import Any, NoReturn


class CopiedUnrecorded:
    """A recorder whose deep copies are copies of its environment alone.

    Planners copy an environment to try actions that belong to no episode. A log has one writer, so
    a recorder itself has no copies.
    """

    env: Any

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        warnings.warn(
            "a copy of a recorded environment is not recorded; trajrec.record() records it from "
            "its next reset on, and trajrec.replay.fork() gives a copy whose steps are recorded",
            UserWarning,
            stacklevel=3,
        )
        return copy.deepcopy(self.env, memo)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a recorded environment can be neither pickled nor copied by copy.copy, since its log "
            "has one writer; make and record it in the process that steps it, e.g. in a function: "
            "lambda: trajrec.record(gymnasium.make(id), folder)"
        )
