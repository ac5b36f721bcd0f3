"""Records are stored as arrays: their bytes depend on the order of the fields alone."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import msgspec
import pytest
from stored_records import HEADER_1, STORED, STORED_1

from trajrec.log import annotations, events, format1, records, schema
from trajrec.log.events import Record

# A reader cannot tell the positions of a longer call apart.
MAX_POSITIONAL = 5

HEADER = schema.Header(
    log_id="c0ffee",
    created_ns=11,
    writer="trajrec 0.1.0",
    env=schema.EnvRecord(
        env_id="e",
        entry_point="m:E",
        kwargs_data=b"",
        max_episode_steps=None,
        spec_fields={},
        wrappers=[],
        class_name="E",
    ),
    state=schema.StateRecord(),
    keep_states="auto",
    runtime={"python": "3.11"},
    process_id=42,
    host="here",
    interface_data=b"i",
    extra_data=b"x",
)

FRAMES = schema.FrameTable([100, 2000], [1, 2])
STEPS = schema.StepTable([1, 0], [0, 1], [0, 0], [20, 10])
EPISODES = schema.EpisodeTable(
    numbers=[0, 1],
    kinds=["rollout", "fork"],
    tasks=["", "buy a lamp"],
    seeds=[3, None],
    started_ns=[1000, 50],
    durations_ns=[40, None],
    first_steps=[0, 7],
    end_steps=[20, 10],
    endings=["terminated", ""],
    total_rewards=[20, 0.5],
    first_frames=[1, 0],
    n_frames=[1, 1],
    parent_ids=["", "99227362d0452b1a"],
)
BLOBS = schema.BlobTable(b"0123456789abcdef", [1])

EXAMPLES: list[Record] = [
    schema.EnvRecord(
        env_id="CartPole-v1",
        entry_point="gymnasium.envs:CartPole",
        kwargs_data=b"\x80",
        max_episode_steps=500,
        spec_fields={"order": 1},
        wrappers=[("Clip", b"k"), ("Other", None)],
        class_name="CartPoleEnv",
        recreatable="the spec is lost",
        observation_space="Box(4)",
        action_space="Discrete(2)",
        extra_data=b"x",
    ),
    schema.StateRecord("attributes", 3, "digest"),
    HEADER,
    schema.Segment(1, 2, 3, True),
    schema.EventTable("keyframe", 1, [["const", 1], ["values", [2]]]),
    schema.Column(
        name="observation",
        kind="array",
        n=5,
        dtype="<f4",
        shape=(2, 3),
        type_name="float",
        filter=(2, 1),
        offset=7,
        size=8,
        raw_bytes=9,
        rows_data=b"r",
        checksum=12,
        const_data=b"c",
    ),
    schema.EpisodeStart(
        episode=1,
        time_ns=2,
        seed=3,
        seed_origin="recorder",
        options_data=b"o",
        rng_data=None,
        info_data=b"\x80",
        extra_data=b"x",
    ),
    schema.Fork(
        episode=1,
        parent_id="99227362d0452b1a",
        step=4,
        kind="policy",
        noise="17",
        restore="snapshot",
        metadata_data=b"m",
        extra_data=b"x",
    ),
    schema.Keyframe(1, 1000, b"state"),
    schema.EpisodeEnd(
        episode=1,
        time_ns=2,
        n_steps=3,
        ending="truncated",
        terminated=False,
        truncated=True,
        stop_reason="budget",
        claimed_done=True,
        fault="infra",
        reported_data=b"r",
        extra_data=b"x",
    ),
    schema.Failure(
        episode=1,
        step=2,
        attempt=0,
        time_ns=3,
        phase="step",
        origin="env",
        error_type="builtins.ValueError",
        message="no",
        traceback="Traceback",
        action_data=b"a",
        extra_data=b"x",
    ),
    schema.Check(
        episode=1,
        step=2,
        time_ns=3,
        check_id="reached",
        version="2",
        family="environmental",
        phase="terminal",
        status="ok",
        verdict=False,
        score=0.5,
        evidence_data=b"e",
        code_digest="c",
        state_digest="s",
        is_primary=True,
        extra_data=b"x",
    ),
    schema.Chunk(
        time_ns=1,
        segments=[schema.Segment(1, 0, 2, False)],
        columns=[schema.Column(name="reward", kind="const", n=2)],
        layouts={"reward": ["leaf", 0]},
        events=[schema.Keyframe(1, 1, b"k")],
        irregular=[(1, 0, b"i")],
        journal=7,
        tables=[schema.EventTable("keyframe", 1, [["const", 1], ["values", [2]]])],
        order=b"\0",
    ),
    events.TaskStart(
        episode=1,
        task="buy a lamp",
        goal_data=b"g",
        world="shop:Shop",
        world_data=None,
        tools_data=b"t",
        parts=[("stock", "tree", 1)],
        interface_data=b"i",
        metadata_data=b"m",
        caller_id="99227362d0452b1a",
        caller_step=6,
        held_seed=7,
        task_revision="3",
        goal_digest=b"G",
        tools_digest=b"T",
        system_digest=None,
        extra_data=b"x",
    ),
    events.CallStart(
        episode=1,
        step=2,
        call=3,
        attempt=4,
        time_ns=5,
        tool="search",
        call_id="call-1",
        arguments_data=b"a",
        access="read",
        invalid="unknown tool",
        retry_by="scaffold",
        backoff_ns=6,
        is_redacted=True,
        actor="user",
        extra_data=b"x",
    ),
    events.CallEnd(
        episode=1,
        step=2,
        call=3,
        attempt=4,
        time_ns=5,
        outcome="timeout",
        result_data=b"r",
        is_raised=True,
        origin="infra",
        error_type="builtins.TimeoutError",
        message="late",
        traceback="Traceback",
        is_redacted=True,
        is_async=True,
        extra_data=b"x",
    ),
    events.StateChange(
        episode=1,
        step=2,
        call=3,
        attempt=4,
        part="stock",
        digest="d",
        data=None,
        note="wrote",
        actor="scaffold",
        origin="reported",
        extra_data=b"x",
    ),
    events.ModelStart(
        episode=1,
        step=2,
        number=3,
        time_ns=4,
        function="llm:chat",
        request_data=b"r",
        base=5,
        kept=6,
        messages=[b"m"],
        attempt=7,
        retry_by="transport",
        is_redacted=True,
        actor="user",
        is_reconstructed=True,
        extra_data=b"x",
    ),
    events.ModelEnd(
        episode=1,
        number=2,
        time_ns=3,
        outcome="cancelled",
        answer_data=None,
        is_streamed=True,
        error_type="asyncio.CancelledError",
        message="m",
        traceback="Traceback",
        is_redacted=True,
        is_async=True,
        extra_data=b"x",
    ),
    events.SideEffect(
        episode=1,
        step=2,
        time_ns=3,
        name="clock",
        arguments_data=b"a",
        value_data=b"v",
        error_type="builtins.OSError",
        message="m",
        is_redacted=True,
        actor="env",
        extra_data=b"x",
    ),
    events.Blob(1, b"0123456789abcdef", b"data"),
    annotations.PostHocCheck(
        episode=-1,
        target="99227362d0452b1a",
        step=2,
        time_ns=3,
        check_id="reached",
        version="2",
        family="environmental",
        status="error",
        verdict=None,
        score=None,
        evidence_data=b"e",
        code_digest="c",
        state_digest="s",
        is_primary=True,
        extra_data=b"x",
    ),
    annotations.CreditRun(
        episode=-1,
        target="99227362d0452b1a",
        run_id="r",
        time_ns=2,
        policy="uniform",
        noise="recorded",
        seed=3,
        restore="reexecute",
        notes=["n"],
        estimates_data=b"e",
        rollouts_data=b"r",
        extra_data=b"x",
    ),
    schema.Footer(
        header=HEADER,
        generation=1,
        content=b"c",
        n_episodes=2,
        n_steps=30,
        frames=FRAMES,
        steps=STEPS,
        episodes=EPISODES,
        blobs=BLOBS,
    ),
    FRAMES,
    STEPS,
    EPISODES,
    BLOBS,
    events.ExchangeStart(
        episode=1,
        step=2,
        number=3,
        time_ns=4,
        method="POST",
        url="https://host/v1/chat/completions",
        headers=[("content-type", "application/json")],
        body_data=b"b",
        model_call=5,
        attempt=6,
        retry_by="transport",
        is_redacted=True,
        actor="user",
        extra_data=b"x",
    ),
    events.ExchangePart(episode=1, number=2, time_ns=3, data=b"d"),
    events.AnswerPart(episode=1, number=2, time_ns=3, data=b"d"),
    events.ExchangeEnd(
        episode=1,
        number=2,
        time_ns=3,
        status=429,
        headers=[("retry-after", "1")],
        body_data=None,
        error_type="builtins.OSError",
        message="m",
        traceback="t",
        is_redacted=True,
        extra_data=b"x",
    ),
    events.StepValues(episode=1, step=2, values_data=b"v", extra_data=b"x"),
    events.Redaction(1, 2, "obs", 3),
    annotations.ReplayVerdict(
        episode=-1,
        target="99227362d0452b1a",
        run_id="r",
        time_ns=2,
        against="CartPole-v1",
        grade="diverged",
        n_steps=3,
        step=2,
        field="obs",
        expected_data=b"e",
        actual_data=b"a",
        cause="seed",
        ulps=1,
        compared=["obs"],
        notes=["n"],
        versions_data=b"v",
        extra_data=b"x",
    ),
    annotations.Label(
        episode=-1,
        target="99227362d0452b1a",
        step=2,
        time_ns=3,
        name="mistake",
        value_data=b"v",
        by="judge",
        author="model",
        rationale="r",
        extra_data=b"x",
    ),
    annotations.ImportRecord(
        episode=-1,
        time_ns=2,
        source="run.eval",
        sha256="ab",
        format="inspect",
        format_version="2",
        importer="trajrec 0.1.0",
        targets=["99227362d0452b1a"],
        report_data=b"r",
        extra_data=b"x",
    ),
    annotations.Tombstone(
        episode=-1,
        time_ns=2,
        log_id="c0ffee",
        targets=["99227362d0452b1a"],
        reason="privacy",
        extra_data=b"x",
    ),
]


def _record_types() -> set[type[Record]]:
    return {
        cls
        for module in (schema, events, annotations)
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Record) and cls is not Record
    }


def test_every_kind_of_record_has_an_example() -> None:
    assert {type(record) for record in EXAMPLES} == _record_types()
    assert STORED.keys() == {cls.__name__ for cls in _record_types()}


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_record_encodes_to_the_bytes_of_format_2(record: Record) -> None:
    data = msgspec.msgpack.encode(record)
    assert data.hex() == STORED[type(record).__name__]
    assert msgspec.msgpack.decode(data, type=type(record)) == record


def test_records_of_more_than_five_fields_take_keywords_only() -> None:
    for cls in _record_types():
        parameters = inspect.signature(cls).parameters.values()
        takes_positions = any(p.kind is not p.KEYWORD_ONLY for p in parameters)
        assert takes_positions == (len(parameters) <= MAX_POSITIONAL), cls.__name__


def test_every_event_ends_in_extra_facts() -> None:
    without = {
        schema.Keyframe,
        events.AnswerPart,
        events.Blob,
        events.ExchangePart,
        events.Redaction,
    }
    for cls in set(get_args(schema.Event)) - without:
        assert cls.__struct_fields__[-1] == "extra_data", cls.__name__


RENAMED = {
    "native": "snapshot",
    "prefix": "reexecute",
    "default": "auto",
    "full": "all",
}


def is_as_it_was(present: Any, old: Any) -> bool:
    """Return whether a value is one of format 1 under present words; records only got longer."""
    if isinstance(old, list):
        return len(present) >= len(old) and all(map(is_as_it_was, present, old))
    return bool(present == RENAMED.get(old, old) if isinstance(old, str) else present == old)


def fields_of(record: Record) -> list[Any]:
    """Return the fields of a record, without its tag, as plain lists."""
    data = msgspec.msgpack.decode(msgspec.msgpack.encode(record))
    return list(data[-len(record.__struct_fields__) :])


@pytest.mark.parametrize("name", STORED_1)
def test_event_of_format_1_becomes_a_present_one(name: str) -> None:
    data = bytes.fromhex(STORED_1[name])
    # A chunk with this one event.
    chunk = format1.decode_chunk(b"\x96\x01\x90\x90\x80\x91" + data + b"\x90")
    (event,) = chunk.events
    assert type(event).__name__ == name.replace("EffectValue", "SideEffect")
    assert is_as_it_was(fields_of(event), msgspec.msgpack.decode(data)[1:])


def test_header_of_format_1_becomes_a_present_one() -> None:
    data = bytes.fromhex(HEADER_1)
    header = format1.decode_header(data)
    assert header.keep_states == "auto"
    assert is_as_it_was(fields_of(header), msgspec.msgpack.decode(data))


def test_events_of_unknown_kinds_are_left_out_by_name() -> None:
    known = msgspec.msgpack.encode(schema.Keyframe(1, 2, b"k"))
    unknown = msgspec.msgpack.encode(["from the future", 1, {"a": 2}])
    data = b"\x97\x01\x90\x90\x80\x93" + known + unknown + known + b"\x90\xff"
    tags: set[str] = set()
    chunk = records.decode_chunk(data, 2, tags)
    assert chunk.events == [schema.Keyframe(1, 2, b"k")] * 2
    assert tags == {"from the future"}


def test_event_of_a_known_kind_must_have_its_fields() -> None:
    bad = msgspec.msgpack.encode(["keyframe", "one", 2, b"k"])
    data = b"\x97\x01\x90\x90\x80\x91" + bad + b"\x90\xff"
    with pytest.raises(msgspec.ValidationError, match="Expected `int`"):
        records.decode_chunk(data, 2, set())
