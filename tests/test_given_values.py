"""Values that a program gives for an episode: kept, or refused before they can cost the log."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import trajrec
from trajrec.log.events import CallStart
from trajrec.log.record_encoder import encode_event
from trajrec.log.schema import EpisodeStart


def test_an_unknown_access_is_refused() -> None:
    with pytest.raises(ValueError, match="access of the tool 'look' must be one of read"):
        trajrec.Tool("look", access="readonly")  # type: ignore[arg-type]


def test_no_event_is_encoded_that_cannot_be_read() -> None:
    start = EpisodeStart(
        episode=0,
        time_ns=0,
        seed=np.int64(3),  # type: ignore[arg-type]
        seed_origin="caller",
        options_data=None,
        rng_data=None,
        info_data=b"",
    )
    assert encode_event(start)
    call: dict[str, Any] = {"episode": 0, "step": 0, "call": 0, "attempt": 0, "time_ns": 0}
    call |= {"tool": "t", "arguments_data": b"", "access": "read"}
    for wrong in ({"call_id": None}, {"tool": 5}, {"access": "all"}, {"step": -1}):
        (name,) = wrong
        with pytest.raises(TypeError, match=f"CallStart cannot be recorded: {name}="):
            encode_event(CallStart(**{"call_id": "", "invalid": "", **call, **wrong}))
