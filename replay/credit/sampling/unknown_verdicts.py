"""The verdicts of an agent's own checks in a rollout: nobody knows them, and no agent may decide by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trajrec.protocols import Verdict

_FIELDS = frozenset(("passed", "score", "evidence"))


class UnknownVerdicts:
    """Gives verdicts without a result, and notes whether the agent has read one."""

    def __init__(self) -> None:
        self._is_read = False

    def verdict(self) -> Verdict:
        """Return a verdict without a result."""
        return _UnknownVerdict(self._read)

    def refusal(self, tool: str) -> str:
        """Return why a new call is refused, "" if the agent has read no verdict."""
        if not self._is_read:
            return ""
        return (
            f"the agent calls {tool} after it has read the verdict of a check, which rollouts do "
            "not have; let it decide by the results of tools"
        )

    def _read(self) -> None:
        self._is_read = True


class _UnknownVerdict(Verdict):
    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__(None)
        object.__setattr__(self, "_note", note)

    def __getattribute__(self, name: str) -> Any:
        if name in _FIELDS:
            object.__getattribute__(self, "_note")()
        return object.__getattribute__(self, name)
