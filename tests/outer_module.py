"""A module that environments of `outer_envs` import in their methods."""

from __future__ import annotations

count = 0
