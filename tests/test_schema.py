"""Log format 1 stores records as arrays: their bytes depend on the order of the fields alone."""

from __future__ import annotations

import inspect

import msgspec
import pytest

from trajrec.log import events, schema
from trajrec.log.events import Record

# A reader cannot tell the positions of a longer call apart.
MAX_POSITIONAL = 5

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
    ),
    schema.StateRecord("attributes", 3, "digest"),
    schema.Header(
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
        record="default",
        runtime={"python": "3.11"},
        process_id=42,
        host="here",
        interface_data=b"i",
    ),
    schema.Segment(1, 2, 3, True),
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
    ),
    schema.EpisodeStart(
        episode=1,
        time_ns=2,
        seed=3,
        seed_origin="recorder",
        options_data=b"o",
        rng_data=None,
        info_data=b"\x80",
    ),
    schema.Fork(
        episode=1,
        parent_id="99227362d0452b1a",
        step=4,
        kind="policy",
        noise="17",
        level="native",
        metadata_data=b"m",
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
    ),
    schema.Chunk(
        time_ns=1,
        segments=[schema.Segment(1, 0, 2, False)],
        columns=[schema.Column(name="reward", kind="const", n=2)],
        layouts={"reward": ["leaf", 0]},
        events=[schema.Keyframe(1, 1, b"k")],
        irregular=[(1, 0, b"i")],
    ),
    schema.FrameEntry(16, 100, 2, [0, 1]),
    schema.Footer(
        schema.Header(
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
            record="full",
            runtime={},
            process_id=42,
            host="here",
        ),
        [schema.FrameEntry(16, 100, 1, [])],
        2,
        30,
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
    ),
    events.EffectValue(
        episode=1,
        step=2,
        time_ns=3,
        name="clock",
        arguments_data=b"a",
        value_data=b"v",
        error_type="builtins.OSError",
        message="m",
        is_redacted=True,
    ),
    events.Blob(1, b"0123456789abcdef", b"data"),
    events.PostHocCheck(
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
    ),
    events.CreditRun(
        episode=-1,
        target="99227362d0452b1a",
        run_id="r",
        time_ns=2,
        policy="uniform",
        noise="recorded",
        root=3,
        level="prefix",
        notes=["n"],
        estimates_data=b"e",
        rollouts_data=b"r",
    ),
]

# Made by the encoder before records were built by keyword: hex of each example above.
STORED: dict[str, str] = {
    "EnvRecord": (
        "9aab43617274506f6c652d7631b767796d6e617369756d2e656e76733a43617274506f6c65c40180"
        "cd01f481a56f72646572019292a4436c6970c4016b92a54f74686572c0ab43617274506f6c65456e"
        "76b07468652073706563206973206c6f7374a6426f78283429ab4469736372657465283229"
    ),
    "StateRecord": ("93aa6174747269627574657303a6646967657374"),
    "Header": (
        "9aa66330666665650bad7472616a72656320302e312e309aa165a36d3a45c400c08090a145a0a0a0"
        "93a000a46e6f6e65a764656661756c7481a6707974686f6ea4332e31312aa468657265c40169"
    ),
    "Segment": ("94010203c3"),
    "Column": (
        "9bab6f62736572766174696f6ea5617272617905a33c6634920203a5666c6f6174920201070809c40172"
    ),
    "EpisodeStart": ("98a57374617274010203a87265636f72646572c4016fc0c40180"),
    "Fork": (
        "98a4666f726b01b03939323237333632643034353262316104a6706f6c696379a23137a66e6174697665c4016d"
    ),
    "Keyframe": ("94a86b65796672616d6501cd03e8c4057374617465"),
    "EpisodeEnd": ("99a3656e64010203a97472756e6361746564c2c3a6627564676574c3"),
    "Failure": (
        "9ba76661696c75726501020003a473746570a3656e76b36275696c74696e732e56616c7565457272"
        "6f72a26e6fa954726163656261636bc40161"
    ),
    "Check": (
        "9ea5636865636b010203a772656163686564a132ad656e7669726f6e6d656e74616ca87465726d69"
        "6e616ca26f6bc2cb3fe0000000000000c40165a163a173"
    ),
    "Chunk": (
        "96019194010002c2919ba6726577617264a5636f6e737402a090a090000000c081a6726577617264"
        "92a46c656166009194a86b65796672616d650101c4016b91930100c40169"
    ),
    "FrameEntry": ("94106402920001"),
    "Footer": (
        "949aa66330666665650bad7472616a72656320302e312e309aa165a36d3a45c400c08090a145a0a0"
        "a093a000a46e6f6e65a466756c6c802aa468657265c0919410640190021e"
    ),
    "TaskStart": (
        "9da47461736b01aa6275792061206c616d70c40167a973686f703a53686f70c0c401749193a57374"
        "6f636ba47472656501c40169c4016db0393932323733363264303435326231610607"
    ),
    "CallStart": (
        "9ea463616c6c0102030405a6736561726368a663616c6c2d31c40161a472656164ac756e6b6e6f77"
        "6e20746f6f6ca873636166666f6c6406c3"
    ),
    "CallEnd": (
        "9fa6726573756c740102030405a774696d656f7574c40172c3a5696e667261b56275696c74696e73"
        "2e54696d656f75744572726f72a46c617465a954726163656261636bc3c3"
    ),
    "StateChange": ("99a5737461746501020304a573746f636ba164c0a577726f7465"),
    "ModelStart": (
        "9da56d6f64656c01020304a86c6c6d3a63686174c40172050691c4016d07a97472616e73706f7274c3"
    ),
    "ModelEnd": (
        "9ca6616e73776572010203a963616e63656c6c6564c0c3b66173796e63696f2e43616e63656c6c65"
        "644572726f72a16da954726163656261636bc3c3"
    ),
    "EffectValue": (
        "9aa6656666656374010203a5636c6f636bc40161c40176b06275696c74696e732e4f534572726f72a16dc3"
    ),
    "Blob": ("94a4626c6f6201c41030313233343536373839616263646566c40464617461"),
    "PostHocCheck": (
        "9ea772656772616465ffb0393932323733363264303435326231610203a772656163686564a132ad"
        "656e7669726f6e6d656e74616ca56572726f72c0c0c40165a163a173"
    ),
    "CreditRun": (
        "9ca6637265646974ffb039393232373336326430343532623161a17202a7756e69666f726da87265"
        "636f7264656403a670726566697891a16ec40165c40172"
    ),
}


def _record_types() -> set[type[Record]]:
    return {
        cls
        for module in (schema, events)
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Record) and cls is not Record
    }


def test_every_kind_of_record_has_an_example() -> None:
    assert {type(record) for record in EXAMPLES} == _record_types()
    assert STORED.keys() == {cls.__name__ for cls in _record_types()}


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_record_encodes_to_the_bytes_of_format_1(record: Record) -> None:
    data = msgspec.msgpack.encode(record)
    assert data.hex() == STORED[type(record).__name__]
    assert msgspec.msgpack.decode(data, type=type(record)) == record


def test_records_of_more_than_five_fields_take_keywords_only() -> None:
    for cls in _record_types():
        parameters = inspect.signature(cls).parameters.values()
        takes_positions = any(p.kind is not p.KEYWORD_ONLY for p in parameters)
        assert takes_positions == (len(parameters) <= MAX_POSITIONAL), cls.__name__
