"""The episode that a task or thread is in: what a wrapped client records into without being told."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

current_episode: ContextVar[Any] = ContextVar("trajrec_episode", default=None)
"""An AgentEpisode, or a Rerun, which stands in for one."""
