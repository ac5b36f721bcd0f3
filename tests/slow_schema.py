"""The structs of both formats of the log, as their pages list them.

A line is the struct's name, or a tag, and its fields; "=" gives a field its default, in JSON.
Written from docs/reference/log-format.md and log-format-1.md alone.
"""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

from slow_values import DamageError, Typed, unpack

STRUCTS_1 = """
Header log_id created_ns writer env state record runtime process_id host interface_data=null
EnvRecord env_id entry_point kwargs_data max_episode_steps spec_fields wrappers class_name
  recreatable="" observation_space="" action_space=""
StateRecord adapter="" version=0 keep="none"
Chunk time_ns segments columns layouts events irregular=[]
Segment episode first_step n_steps has_reset
Column name kind n dtype="" shape=[] type_name="" filter=[] offset=0 size=0 raw_bytes=0
  rows_data=null
Footer header frames n_episodes n_steps
"""

EVENTS_1 = """
start episode time_ns seed seed_origin options_data rng_data info_data
end episode time_ns n_steps ending terminated truncated stop_reason="" claimed_done=null
fork episode parent_id step kind noise="recorded" level="prefix" metadata_data=null
keyframe episode step data
failure episode step attempt time_ns phase origin error_type message traceback action_data=null
check episode step time_ns check_id version family phase status verdict score evidence_data
  code_digest state_digest
task episode task goal_data world world_data tools_data parts interface_data metadata_data
  caller_id=null caller_step=null held_seed=null
call episode step call attempt time_ns tool call_id arguments_data access invalid="" retry_by=""
  backoff_ns=0 is_redacted=false
result episode step call attempt time_ns outcome result_data is_raised=false origin=""
  error_type="" message="" traceback="" is_redacted=false is_async=false
state episode step call attempt part digest data note=""
model episode step number time_ns function request_data base kept messages attempt=0 retry_by=""
  is_redacted=false
answer episode number time_ns outcome answer_data is_streamed=false error_type="" message=""
  traceback="" is_redacted=false is_async=false
effect episode step time_ns name arguments_data value_data error_type="" message=""
  is_redacted=false
regrade episode target step time_ns check_id version family status verdict score evidence_data
  code_digest state_digest
credit episode target run_id time_ns policy noise root level notes estimates_data rollouts_data
blob episode digest data
"""

STRUCTS_2 = """
Header log_id created_ns writer env state keep_states runtime process_id host
  interface_data=null extra_data=null
EnvRecord env_id entry_point kwargs_data max_episode_steps spec_fields wrappers class_name
  recreatable="" observation_space="" action_space="" extra_data=null
StateRecord adapter="" version=0 keep="none"
Chunk time_ns segments columns layouts events irregular=[] journal=-1 tables=[] order=null
EventTable tag n fields
Segment episode first_step n_steps has_reset
Column name kind n dtype="" shape=[] type_name="" filter=[] offset=0 size=0 raw_bytes=0
  rows_data=null checksum=null const_data=null
Footer header generation content n_episodes n_steps frames steps episodes blobs
FrameTable sizes kinds
StepTable frames episodes first_steps n_steps
EpisodeTable numbers kinds tasks seeds started_ns durations_ns first_steps end_steps endings
  total_rewards first_frames n_frames parent_ids
BlobTable digests frames
"""

EVENTS_2 = """
start episode time_ns seed seed_origin options_data rng_data info_data extra_data=null
task episode task="" goal_data=null world="" world_data=null tools_data=null parts=[]
  interface_data=null metadata_data=null caller_id=null caller_step=null held_seed=null
  task_revision="" goal_digest=null tools_digest=null system_digest=null extra_data=null
end episode time_ns n_steps ending terminated truncated stop_reason="" claimed_done=null fault=""
  reported_data=null extra_data=null
fork episode parent_id step kind noise="recorded" restore="reexecute" metadata_data=null
  extra_data=null
keyframe episode step data
failure episode step attempt time_ns phase origin error_type message traceback action_data=null
  extra_data=null
check episode step time_ns check_id version family phase status verdict score evidence_data
  code_digest state_digest is_primary=false extra_data=null
values episode step values_data extra_data=null
redaction episode step field n
call episode step call attempt time_ns tool call_id arguments_data access invalid="" retry_by=""
  backoff_ns=0 is_redacted=false actor="agent" extra_data=null
result episode step call attempt time_ns outcome result_data is_raised=false origin=""
  error_type="" message="" traceback="" is_redacted=false is_async=false extra_data=null
state episode step call attempt part digest data note="" actor="agent" origin="observed"
  extra_data=null
model episode step number time_ns function request_data base kept messages attempt=0 retry_by=""
  is_redacted=false actor="agent" is_reconstructed=false extra_data=null
answer episode number time_ns outcome answer_data is_streamed=false error_type="" message=""
  traceback="" is_redacted=false is_async=false extra_data=null
answer_part episode number time_ns data
side_effect episode step time_ns name arguments_data value_data error_type="" message=""
  is_redacted=false actor="agent" extra_data=null
exchange episode step number time_ns method url headers body_data model_call=-1 attempt=0
  retry_by="" is_redacted=false actor="agent" extra_data=null
exchange_part episode number time_ns data
response episode number time_ns status headers body_data error_type="" message="" traceback=""
  is_redacted=false extra_data=null
blob episode digest data
post_hoc_check episode target step time_ns check_id version family status verdict score
  evidence_data code_digest state_digest is_primary=false extra_data=null
credit episode target run_id time_ns policy noise seed restore notes estimates_data rollouts_data
  extra_data=null
replay episode target run_id time_ns against grade n_steps step field expected_data actual_data
  cause ulps compared notes versions_data extra_data=null
label episode target step time_ns name value_data by author="" rationale="" extra_data=null
import episode time_ns source sha256 format format_version importer targets report_data=null
  extra_data=null
removed episode time_ns log_id targets reason extra_data=null
"""

REQUIRED = object()
INNER = {
    ("Header", "env"): "EnvRecord",
    ("Header", "state"): "StateRecord",
    ("Footer", "header"): "Header",
    ("Footer", "frames"): "FrameTable",
    ("Footer", "steps"): "StepTable",
    ("Footer", "episodes"): "EpisodeTable",
    ("Footer", "blobs"): "BlobTable",
}
LISTS = {
    ("Chunk", "segments"): "Segment",
    ("Chunk", "columns"): "Column",
    ("Chunk", "tables"): "EventTable",
}
TYPED = {"events", "fields", "runtime", "spec_fields"}
ENCODED = {("blob", "data"), ("state", "data"), ("keyframe", "data"), ("answer_part", "data")}


def parsed(text: str) -> dict[str, dict[str, Any]]:
    """Return the fields of each struct with their defaults."""
    structs = {}
    for line in text.strip().replace("\n  ", " ").splitlines():
        name, *fields = line.split(" ")
        pairs = [field.partition("=") for field in fields]
        structs[name] = {
            field: json.loads(default) if equals else REQUIRED for field, equals, default in pairs
        }
    return structs


STRUCTS = {1: parsed(STRUCTS_1), 2: parsed(STRUCTS_2)}
EVENTS = {1: parsed(EVENTS_1), 2: parsed(EVENTS_2)}


def named(fields: dict[str, Any], items: list[Typed], name: str) -> dict[str, Any]:
    """Return the fields of a struct by name; fields behind those that are known are left out."""
    record = dict(zip(fields, items, strict=False))
    for field, default in fields.items():
        record.setdefault(field, default)
        if record[field] is REQUIRED:
            raise DamageError(f"{name} lacks its field {field}")
    return record


def plain(value: Typed) -> Any:
    """Return a typed value of a struct's own field: bytes, maps by name, lists."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict) and "bytes" in value:
        return value["bytes"]
    if isinstance(value, dict) and "dict" in value:
        return {key: plain(item) for key, item in value["dict"]}
    return value


def read_struct(version: int, name: str, items: list[Typed]) -> dict[str, Any]:
    """Return a struct of a frame; the structs in it are read as well."""
    record = named(STRUCTS[version][name], items, name)
    for field, value in record.items():
        inner = INNER.get((name, field))
        if (name, field) in LISTS:
            record[field] = [read_struct(version, LISTS[name, field], item) for item in value]
        elif inner in STRUCTS[version]:
            record[field] = read_struct(version, inner, value)
        elif field not in TYPED:
            record[field] = plain(value)
    return record


def read_event(version: int, items: list[Typed]) -> dict[str, Any] | None:
    """Return an event, with its encoded fields still encoded; None if its tag is not known."""
    tag, *values = items
    if tag not in EVENTS[version]:
        return None
    record = named(EVENTS[version][tag], values, tag)
    return {"tag": tag} | {field: plain(value) for field, value in record.items()}


def chunk_events(chunk: dict[str, Any]) -> list[list[Typed]]:
    """Return the events of a chunk, each as an array that begins with its tag."""
    tables = chunk.get("tables") or []
    if not tables:
        return chunk["events"]
    rows = []
    for table in tables:
        columns = [table_column(*column) for column in table["fields"]]
        if any(len(column) not in (1, table["n"]) for column in columns):
            raise DamageError(f"a table of events {table['tag']!r} has columns of other lengths")
        wide = [column if len(column) == table["n"] else column * table["n"] for column in columns]
        rows.append(iter([[table["tag"], *row] for row in zip(*wide, strict=True)]))
    return [next(rows[number]) for number in chunk["order"]]


def table_column(form: str, *parts: Typed) -> list[Typed]:
    """Return the values of a field of a table of events; a single one stands for all events."""
    match form:
        case "const":
            return [parts[0]]
        case "differences":
            return list(accumulate(parts[0]))
        case "bytes":
            sizes, content = parts[0], parts[1]["bytes"]
            ends = list(accumulate(max(0, size) for size in sizes))
            return [
                None if size < 0 else {"bytes": content[end - size : end]}
                for size, end in zip(sizes, ends, strict=True)
            ]
        case "values":
            return parts[0]
    raise DamageError(f"a table of events has a column of the form {form!r}")


def is_encoded(tag: str, field: str) -> bool:
    """Return whether a field holds an encoded value."""
    return field.endswith("_data") or (tag, field) in ENCODED


def opened(record: dict[str, Any], tag: str = "") -> dict[str, Any]:
    """Return a record with its encoded values as typed values."""
    values = {
        field: unpack(value) if is_encoded(tag, field) and value else value
        for field, value in record.items()
    }
    if tag == "model":
        values["messages"] = [unpack(message) for message in record["messages"]]
    if "wrappers" in record:
        values["wrappers"] = [[name, data and unpack(data)] for name, data in record["wrappers"]]
    return values
