"""Opens recorders whose logs have a given origin."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from trajrec.recording.options import LogOrigin, RecordOptions
from trajrec.recording.recorder import Recorder
from trajrec.types import AnyEnv


def open_recorder(
    env: AnyEnv,
    folder: str | Path,
    origin: LogOrigin,
    **options: Unpack[RecordOptions],
) -> Recorder:
    """Return a recorder whose log has the given origin; for forks, tests and samples."""
    recorder = Recorder.__new__(Recorder)
    recorder._origin = origin
    Recorder.__init__(recorder, env, folder, **options)
    return recorder
