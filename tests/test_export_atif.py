"""Agents' episodes as documents of ATIF: equal to those imported, and accepted by its validator."""

from __future__ import annotations

import contextlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from imported import DATA, needs_data, sources_of, texts_of_logs, write_json, write_lines
from test_imports import trajectory
from test_messages import assistant, chat, send, user
from tiers import third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.errors import CorpusError
from trajrec.exchange.exporting import export_atif
from trajrec.exchange.importing import import_trajectories


@dataclass
class Answer:
    """An answer as an object of a client."""

    choices: list[dict[str, Any]]
    usage: dict[str, float]


def exported(folder: Path, where: str = "true") -> list[dict[str, Any]]:
    """Return the documents of the episodes of a corpus."""
    file = folder.with_suffix(".jsonl")
    with trajrec.open(folder) as corpus:
        export_atif(corpus, file, where)
    return [json.loads(line) for line in file.read_text().splitlines()]


def come_back(documents: list[Any], folder: Path) -> list[dict[str, Any]]:
    """Return documents after an import and an export."""
    write_lines(folder / "in.jsonl", documents)
    import_trajectories(folder / "in.jsonl", folder / "runs")
    return exported(folder / "runs")


def normal(document: Any) -> Any:
    """Return a document as its validator compares it: without nulls, and in the last version."""
    if isinstance(document, list):
        return [normal(item) for item in document]
    if not isinstance(document, dict):
        return document
    rest = {name: normal(value) for name, value in document.items() if value is not None}
    if "schema_version" in rest:
        rest["schema_version"] = "ATIF-v1.7"
    return rest


def random_document(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """Return a document that the validator accepts, with any of its fields."""

    def maybe(**fields: Any) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if rng.random() < 0.4}

    def extra() -> dict[str, Any]:
        return {"a": rng.choice((1, "x", None, [1, {"b": 0.5}], {}))}

    def text() -> Any:
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        return rng.choice(("", "same", f"text {rng.random()}", parts))

    def calls() -> list[dict[str, Any]]:
        return [
            {
                "tool_call_id": rng.choice(("c", f"c{number}")),
                "function_name": rng.choice(("add", "ls")),
                "arguments": rng.choice(({}, {"x": 1}, {"x": "é\ud800", "y": [None]})),
                **maybe(extra=extra()),
            }
            for number in range(rng.randrange(1, 4))
        ]

    def results(ids: list[str]) -> dict[str, Any]:
        chosen = [
            {**maybe(content=text(), extra=extra()), "source_call_id": rng.choice(ids)}
            if ids and rng.random() < 0.6
            else {"content": text(), **maybe(extra=extra())}
            for _ in range(rng.randrange(1, 4))
        ]
        return {"results": chosen}

    def step(number: int) -> dict[str, Any]:
        times = (
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05.5+02:00",
            "2026-01-02T03:04:05.123456",
        )
        source = rng.choice(("user", "system", "agent", "agent", "agent"))
        fields = {"step_id": number, "source": source, "message": text(), **maybe(extra=extra())}
        fields |= maybe(timestamp=rng.choice(times), is_copied_context=rng.random() < 0.5)
        asked = calls() if source == "agent" and rng.random() < 0.6 else None
        if source == "agent":
            fields |= maybe(model_name=rng.choice(("m", "n")), reasoning_effort="high")
            fields |= maybe(llm_call_count=rng.choice((0, 1, 2)))
            if fields.get("llm_call_count") != 0:
                counts = maybe(prompt_tokens=7, completion_tokens=2, cached_tokens=1, cost_usd=0.5)
                metrics = {**counts, **maybe(logprobs=[-0.5], extra=extra())}
                fields |= maybe(reasoning_content="why")
                if metrics:
                    fields["metrics"] = metrics
            if asked:
                fields["tool_calls"] = asked
        if rng.random() < 0.5:
            ids = [call["tool_call_id"] for call in asked or ()]
            fields["observation"] = results(ids)
        return fields

    document = {
        "schema_version": "ATIF-v1.7",
        "trajectory_id": f"t{rng.random()}",
        "agent": {"name": "a", "version": "1", **maybe(model_name="m", extra=extra())},
        "steps": [step(number + 1) for number in range(rng.randrange(0, 7))],
        **maybe(session_id="s", notes="n", extra=extra(), final_metrics={"total_steps": 3}),
    }
    if rng.random() < 0.4:
        tool = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}
        strict = rng.choice(({}, {"strict": True}))
        document["agent"]["tool_definitions"] = [{"type": "function", "function": tool | strict}]
    if depth < 2 and rng.random() < 0.5:
        inner = [random_document(rng, depth + 1) for _ in range(rng.randrange(1, 3))]
        document["subagent_trajectories"] = inner
    return document


def check_random(seed: int, n: int, folder: Path) -> None:
    """Check that random documents come back equal."""
    documents = [random_document(random.Random(f"{seed} {number}")) for number in range(n)]
    for number, (before, after) in enumerate(
        zip(documents, come_back(documents, folder), strict=True)
    ):
        assert normal(after) == normal(before), f"document {number} of seed {seed}"


def test_random_documents_come_back_equal(tmp_path: Path) -> None:
    check_random(random.randrange(10**6), 8, tmp_path)


@pytest.mark.slow
def test_many_random_documents_come_back_equal(tmp_path: Path) -> None:
    check_random(random.randrange(10**6), 60, tmp_path)


@needs_data
@pytest.mark.slow
@third_slow("imports")
def test_real_documents_come_back_equal(tmp_path: Path) -> None:
    files = [*(DATA / "atif").iterdir(), *DATA.glob("harbor-trial/*/agent/*.json")]
    assert len(files) == 11
    for number, file in enumerate(sorted(files)):
        folder = tmp_path / str(number)
        folder.mkdir()
        before = sources_of(file)
        assert normal(come_back(before, folder)) == normal(before), file


@pytest.mark.slow
def test_a_validator_accepts_what_came_of_each_format(tmp_path: Path) -> None:
    atif = pytest.importorskip("atif", reason="the validator of ATIF is not installed")
    if not DATA.is_dir():
        pytest.skip(f"the real files of other tools are not at {DATA}")
    n_documents = 0
    for source in sorted(DATA.iterdir()):
        if source.is_dir():
            import_trajectories(source, tmp_path / source.name)
        if list((tmp_path / source.name).glob("*.trj")):
            for document in exported(tmp_path / source.name):
                atif.Trajectory.model_validate(document)
                n_documents += 1
    assert n_documents > 100


@needs_data
@pytest.mark.slow
@third_slow("imports")
@pytest.mark.parametrize("name", ["agentdojo", "codex", "gemini-cli", "swe-agent", "tau-bench"])
def test_no_text_of_an_import_is_lost(name: str, tmp_path: Path) -> None:
    import_trajectories(DATA / name, tmp_path / "runs")
    text = "\n".join(leaves(exported(tmp_path / "runs")))
    with trajrec.open(tmp_path / "runs") as corpus:
        for episode in corpus.episodes():
            for said in episode.messages:
                assert said.text in text
            for attempt in episode.transcript.attempts:
                assert all(leaf in text for leaf in leaves(attempt.result))
    lost = {line for line in texts_of_logs(tmp_path / "runs")[0].split("\n") if line not in text}
    # Names of fields, digests, the account of the import; JSON, whose texts stand by themselves.
    known = ("item ", "trajrec ", "{", "[")
    assert not [line for line in lost if " " in line and not line.startswith(known)]


def leaves(value: Any) -> list[str]:
    """Return all texts of a value, also those in texts that are JSON."""
    if isinstance(value, str):
        inner: list[str] = []
        if value[:1] in ("{", "["):
            with contextlib.suppress(ValueError):
                inner = leaves(json.loads(value))
        return [value, *inner]
    if isinstance(value, dict):
        return [text for item in value.items() for text in leaves(list(item))]
    return [text for item in value for text in leaves(item)] if isinstance(value, list) else []


def test_a_recorded_agent_becomes_steps_with_what_they_cost(tmp_path: Path) -> None:
    def add(x: int) -> dict[str, int]:
        return {"sum": x + 1}

    def fail() -> None:
        raise ValueError("no")

    with trajrec.episode(tmp_path / "runs", task="t") as ep:
        send(ep, {"messages": [user("1")], "temperature": 0.5}, chat("one"))
        send(ep, {"messages": [user("1"), assistant("one"), user("2")]}, chat("two"))
        ep.tool(add)(x=1)
        with pytest.raises(ValueError, match="no"):
            ep.tool(fail)()
        with trajrec.episode(tmp_path / "runs", task="inner") as inner:
            inner.tool(add)(x=5)
    trajrec.close_logs()
    (document,) = exported(tmp_path / "runs")
    steps = document["steps"]
    assert [(step["source"], step["message"]) for step in steps] == [
        ("user", "1"),
        ("agent", "one"),
        ("user", "2"),
        ("agent", "two"),
    ]
    assert steps[1]["extra"]["trajrec"]["model_call"]["parameters"] == {"temperature": 0.5}
    calls = steps[3]["tool_calls"]
    assert [call["function_name"] for call in calls] == ["add", "fail"]
    results = steps[3]["observation"]["results"]
    assert [result.get("source_call_id") for result in results[:2]] == [
        call["tool_call_id"] for call in calls
    ]
    assert json.loads(results[0]["content"]) == {"sum": 2}
    assert results[1]["extra"]["trajrec"]["error_type"] == "builtins.ValueError"
    (subagent,) = document["subagent_trajectories"]
    assert results[2]["subagent_trajectory_ref"] == [{"trajectory_id": subagent["trajectory_id"]}]
    assert subagent["steps"][0]["llm_call_count"] == 0


@pytest.mark.slow
def test_attempts_before_the_last_one_stand_under_extra(tmp_path: Path) -> None:
    tries = iter((TimeoutError("slow"), None))

    def flaky() -> str:
        error = next(tries)
        if error is not None:
            raise error
        return "done"

    with trajrec.episode(tmp_path / "runs") as ep:
        tool = ep.tool(flaky)
        for attempt in ep.attempts(2, on=TimeoutError):
            with attempt:
                tool()
    trajrec.close_logs()
    (document,) = exported(tmp_path / "runs")
    (call,) = document["steps"][0]["tool_calls"]
    (failed,) = call["extra"]["trajrec"]["attempts"]
    assert (failed["outcome"], failed["message"]) == ("timeout", "slow")
    (result,) = document["steps"][0]["observation"]["results"]
    assert result["content"] == "done"


@pytest.mark.slow
def test_a_folder_of_documents_says_where_they_come_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [trajectory(1), trajectory(2), trajectory(3)]
    write_lines(tmp_path / "in.jsonl", lines)
    ids = import_trajectories(tmp_path / "in.jsonl", tmp_path / "runs").episodes
    arguments = ["export", str(tmp_path / "runs"), "atif", "-o", str(tmp_path / "out")]
    assert main([*arguments, "--where", "n_steps > 1"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"{ids[1]}.json", f"{ids[2]}.json", "lineage.json"}
    lineage = json.loads((tmp_path / "out" / "lineage.json").read_text())
    assert (lineage["where"], lineage["n_episodes"]) == ("n_steps > 1", 2)
    assert lineage["report"]["dropped"] == 0
    assert lineage["report"]["records"]["call"] == 5
    assert "2 episodes" in capsys.readouterr().err
    # A folder that exists is not written over.
    assert main(arguments) != 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


@pytest.mark.slow
def test_episodes_of_environments_are_counted_and_left_out(
    cartpole: trajrec.Corpus, tmp_path: Path
) -> None:
    with pytest.raises(CorpusError, match="no episode of an agent"):
        export_atif(cartpole, tmp_path / "out")
    assert list(tmp_path.glob("*out*")) == []


@pytest.mark.slow
def test_an_export_that_was_imported_keeps_its_facts(tmp_path: Path) -> None:
    document = trajectory(1)
    document["extra"] = {"trajrec": {"checks": [{"check_id": "c", "verdict": True}]}}
    (tmp_path / "a").mkdir()
    (after,) = come_back([document], tmp_path / "a")
    assert normal(after) == normal(document)


@pytest.mark.slow
def test_a_step_without_a_model_keeps_all_of_its_fields(tmp_path: Path) -> None:
    document = trajectory(2)
    document["steps"][1] |= {"llm_call_count": 0, "model_name": "m", "timestamp": "2026-01-01"}
    document["steps"][2] |= {"is_copied_context": True, "metrics": {"prompt_tokens": 3}}
    document["steps"][0] |= {"is_copied_context": True, "metrics": {"prompt_tokens": 4}}
    write_json(tmp_path / "t.json", document)
    import_trajectories(tmp_path / "t.json", tmp_path / "runs")
    (after,) = exported(tmp_path / "runs")
    metrics = after["steps"][0].pop("extra")["trajrec"]["metrics"]
    assert metrics == document["steps"][0].pop("metrics")
    assert normal(after) == normal(document)


def test_a_document_keeps_images_and_the_developer(tmp_path: Path) -> None:
    pictured = {"role": "user", "content": [{"text": "a"}, {"image": {"format": "png"}}]}
    with trajrec.episode(tmp_path / "runs") as ep:
        send(ep, {"messages": [{"role": "developer", "content": "be brief"}, pictured]}, chat("b"))
    trajrec.close_logs()
    with trajrec.open(tmp_path / "runs") as corpus:
        export_atif(corpus, tmp_path / "runs.jsonl")
    first, second, _ = json.loads((tmp_path / "runs.jsonl").read_text())["steps"]
    assert first["source"] == "system"
    assert first["extra"]["trajrec"] == {"role": "developer"}
    assert second["extra"]["trajrec"]["message"] == pictured


def test_the_cost_of_a_client_object_is_exported(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "cost": 0.5}
    answer = Answer([{"message": {"role": "assistant", "content": "b"}}], usage)
    with trajrec.episode(tmp_path / "runs") as ep:
        ep.model(lambda **_: answer, messages=[user("a")])
    trajrec.close_logs()
    _, step = exported(tmp_path / "runs")[0]["steps"]
    assert step["metrics"] == {"prompt_tokens": 3, "completion_tokens": 4, "cost_usd": 0.5}


@pytest.mark.parametrize("n_counted", [2, 3])
def test_the_tokens_of_an_answer_are_exported_if_they_are_all(
    n_counted: int, tmp_path: Path
) -> None:
    told = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -0.25}]}
    choice = {"message": {"role": "assistant", "content": "ab"}, "logprobs": told}
    answer = {
        "choices": [choice | {"token_ids": [5, 6]}],
        "prompt_token_ids": [1],
        "usage": {"prompt_tokens": 1, "completion_tokens": n_counted},
    }
    with trajrec.episode(tmp_path / "runs") as ep:
        ep.model(lambda messages: answer, messages=[{"role": "user", "content": "?"}])
    trajrec.close_logs()
    (document,) = exported(tmp_path / "runs")
    tokens = {"prompt_token_ids": [1], "completion_token_ids": [5, 6], "logprobs": [-0.5, -0.25]}
    metrics = document["steps"][-1]["metrics"]
    assert metrics == {"prompt_tokens": 1, "completion_tokens": n_counted} | (
        tokens if n_counted == 2 else {}
    )
