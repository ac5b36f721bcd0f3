"""Values that a program gives for an episode: kept, or refused before they can cost the log."""

from __future__ import annotations

import enum
from collections import OrderedDict, UserDict
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import only, rows

import trajrec
from trajrec.log.events import CallStart
from trajrec.log.record_encoder import encode_event
from trajrec.log.schema import EpisodeStart


class Name(enum.StrEnum):
    LOOK = "look"


class Text(str):
    __slots__ = ()


class World:
    """A world whose `seed` is a method, as of many simulators."""

    def seed(self, number: int) -> None:
        self.number = number

    def reset(self, *, seed: int | None, options: dict[str, Any] | None) -> str:
        return "Look."

    def tools(self) -> list[trajrec.Tool]:
        return [trajrec.Tool.with_args("look", "read", at="string")]

    def call(self, name: str, arguments: dict[str, Any], /) -> int:
        return len(arguments)


def test_ids_names_and_arguments_of_any_class_are_kept(tmp_path: Path) -> None:
    def agent(ep: Any) -> None:
        ep.execute("look", OrderedDict(at="a"), call_id=None)
        ep.execute(Name.LOOK, UserDict(at="b"), call_id=Text("call-1"))
        ep.execute(Text("look"), {"at": "c"})
        assert ep.side_effect(Name.LOOK, lambda: 1) == 1

    with trajrec.episode(tmp_path, world=World(), task=Text("t"), seed=np.int64(7)) as ep:
        agent(ep)
        ep.stop("done", claimed_done=np.bool_(True))
    trajrec.close_logs()
    episode = only(tmp_path)
    calls = [(a.tool, a.start.call_id, a.arguments) for a in episode.transcript.attempts]
    assert calls == [
        ("look", "", {"at": "a"}),
        ("look", "call-1", {"at": "b"}),
        ("look", "", {"at": "c"}),
    ]
    assert not any(attempt.start.invalid for attempt in episode.transcript.attempts)
    assert rows(tmp_path, "SELECT task, seed, claimed_done FROM episodes") == [("t", 7, True)]
    with trajrec.rerun(episode) as rerun:
        agent(rerun)


def test_values_of_a_wrong_type_cost_no_other_record(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, world=World()) as ep:
        assert ep.call("look", at="a") == 1
        for wrong in (
            lambda: ep.execute("look", {}, call_id=7),
            lambda: ep.execute("look", '{"at": "a"}'),
            lambda: ep.execute("look", None),
            lambda: ep.side_effect(5, lambda: 1),
        ):
            with pytest.raises(TypeError):
                wrong()
        assert ep.call("look", at="b") == 1
    trajrec.close_logs()
    assert [a.arguments for a in only(tmp_path).transcript.attempts] == [{"at": "a"}, {"at": "b"}]


@pytest.mark.parametrize(
    "options", [{"seed": True}, {"seed": "7"}, {"seed": 1 << 64}, {"task": 5}, {"task_revision": 2}]
)
def test_options_of_a_wrong_type_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(options))} must be"):
        trajrec.episode(tmp_path, world=World(), **options)


def test_an_unknown_access_is_refused() -> None:
    with pytest.raises(ValueError, match="access of the tool 'look' must be one of read"):
        trajrec.Tool("look", access="readonly")  # type: ignore[arg-type]


def test_a_truth_value_says_whether_a_result_is_an_error(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, is_error=lambda result: result == "bad") as ep:  # type: ignore[arg-type, return-value]
        ep.tool(str, name="say")("good")
        ep.tool(str, name="say")("bad")
    trajrec.close_logs()
    assert [attempt.outcome for attempt in only(tmp_path).transcript.attempts] == ["ok", "error"]


def test_a_result_is_recorded_though_is_error_raises(tmp_path: Path) -> None:
    def look(result: Any) -> str | None:
        return str(result["error"])

    with trajrec.episode(tmp_path, is_error=look) as ep:
        with pytest.raises(TypeError, match="indices"):
            ep.tool(str, name="say")("good")
        ep.tool(dict, name="tell")(error="bad")
    trajrec.close_logs()
    attempts = only(tmp_path).transcript.attempts
    assert [(a.outcome, a.result) for a in attempts] == [
        ("ok", "good"),
        ("error", {"error": "bad"}),
    ]


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


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("returned", "status", "verdict", "score"),
    [
        (trajrec.Verdict(np.bool_(True), np.float32(0.5)), "ok", True, 0.5),
        (trajrec.Verdict(None, Decimal("0.5")), "ok", None, 0.5),  # type: ignore[arg-type]
        (trajrec.Verdict(1), "error", None, None),  # type: ignore[arg-type]
        (trajrec.Verdict(True, "0.5"), "error", None, None),  # type: ignore[arg-type]
    ],
)
def test_a_verdict_of_other_types_costs_no_episode(
    tmp_path: Path, returned: Any, status: str, verdict: bool | None, score: float | None
) -> None:
    def check(_watched: Any) -> Any:
        return returned

    check.verifier_id = 5  # type: ignore[attr-defined]
    check.verifier_family = None  # type: ignore[attr-defined]
    with trajrec.episode(tmp_path, checks=[check]):
        pass
    trajrec.close_logs()
    query = "SELECT check_id, family, status, verdict, score FROM checks"
    assert rows(tmp_path, query) == [("5", "programmatic", status, verdict, score)]
    assert rows(tmp_path, "SELECT ending FROM episodes") == [("terminated",)]
