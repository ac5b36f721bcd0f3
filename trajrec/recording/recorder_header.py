"""The header of an environment's log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from trajrec.log.schema import Header, StateRecord
from trajrec.log.writer import new_log_id
from trajrec.protocols import StateAdapter
from trajrec.recording.env_record import describe_env, redacted_env, with_factory
from trajrec.recording.options import KeepStates, LogOrigin, check_keep_states, stored_states
from trajrec.recording.provenance import make_header
from trajrec.redaction.redactor import Redactor
from trajrec.types import AnyEnv, Value


def recorder_header(
    env: AnyEnv,
    adapter: StateAdapter | None,
    origin: LogOrigin,
    *,
    keep_states: KeepStates,
    interface: Mapping[str, Value] | None,
    redactor: Redactor,
    factory: Callable[[], Value] | None = None,
) -> Header:
    """Return the header of a recorder's log.

    Raises:
        ValueError: `keep_states` is none of its words, or `factory` cannot be imported.
        EncodeError: The interface is no plain data.
    """
    check_keep_states(keep_states)
    kept: str = keep_states
    clock_ns = origin.clock_ns or time.time_ns
    if origin.parent is None:
        env_record = with_factory(redacted_env(describe_env(env), redactor), factory)
        state_record = StateRecord(
            adapter="" if adapter is None else adapter.name,
            version=0 if adapter is None else adapter.version,
            keep=stored_states(adapter, keep_states),
        )
    else:
        # The environment of a branch may be a stand-in that plays back the branch's steps. The log
        # of its parent describes the real one.
        env_record = origin.parent.env
        state_record = origin.parent.state
        kept = origin.parent.keep_states
    return make_header(
        log_id=new_log_id(origin.name),
        created_ns=clock_ns(),
        env=env_record,
        state=state_record,
        keep_states=kept,
        interface=interface,
        redactor=redactor,
    )
