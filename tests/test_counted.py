"""What is counted: the primary check, faults, metadata, digests, and states of factors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from tiers import third_slow

import trajrec
from trajrec.corpus.recheck import recheck
from trajrec.recording.event_log import close_logs
from trajrec.replay import fork
from trajrec.run_interface import missing


@trajrec.verifier(id="passes", version="1")
def passes(subject: Any) -> bool:
    return True


@trajrec.verifier(id="fails", version="1")
def fails(subject: Any) -> bool:
    return False


@trajrec.verifier(id="raises", version="1")
def raises(subject: Any) -> bool:
    raise RuntimeError("no verdict")


class Countdown(gym.Env[Any, Any]):
    """Ends after three steps, or raises at the second one."""

    observation_space = gym.spaces.Discrete(4)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, exc: BaseException | None = None, at: int = 2) -> None:
        self.exc = exc
        self.at = at

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.n = 0
        if self.exc is not None and self.at == 0:
            raise self.exc
        return 0, {}

    def step(self, action: Any) -> Any:
        self.n += 1
        if self.exc is not None and self.n == self.at:
            raise self.exc
        return self.n, 1.0, self.n == 3, False, {}


def run(folder: Path, env: gym.Env[Any, Any] | None = None, **options: Any) -> None:
    recorder = trajrec.record(env or Countdown(), folder, **options)
    try:
        recorder.reset(seed=1, options={"level": 2})
        for _ in range(3):
            recorder.step(0)
    except (RuntimeError, OSError, KeyboardInterrupt):
        pass
    finally:
        recorder.close()


def only(folder: Path, columns: str, table: str = "episodes") -> tuple[Any, ...]:
    with trajrec.open(folder) as corpus:
        (row,) = corpus.sql(f"SELECT {columns} FROM {table}").fetchall()
        (episode,) = corpus.episodes()
        shown = dict(zip(columns.split(", "), row, strict=True))
        for name in ("outcome", "fault"):
            if name in shown:
                assert getattr(episode, name) == shown[name]
        return tuple(row)


CHOICES = [
    ([passes, fails], None, "success", "passes"),
    ([fails, passes], None, "failure", "fails"),
    ([passes, fails], fails, "failure", "fails"),
    ([passes, fails], "fails", "failure", "fails"),
    ([raises, passes], None, None, "raises"),
    ([raises, passes], "passes", "success", "passes"),
]


@third_slow("index")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(("checks", "primary", "outcome", "name"), CHOICES)
@pytest.mark.parametrize("kind", ["environment", "agent"])
def test_one_check_decides_the_outcome(
    tmp_path: Path, kind: str, checks: list[Any], primary: Any, outcome: str | None, name: str
) -> None:
    if kind == "environment":
        run(tmp_path, checks=checks, primary=primary)
    else:
        with trajrec.episode(tmp_path, checks=checks, primary=primary):
            pass
        close_logs()
    fault = "verifier" if outcome is None else None
    assert only(tmp_path, "outcome, fault") == (outcome, fault)
    with trajrec.open(tmp_path) as corpus:
        found = corpus.sql("SELECT check_id FROM checks WHERE is_primary").fetchall()
        (episode,) = corpus.episodes()
    assert found == [(name,)]
    assert [check.check_id for check in episode.checks if check.is_primary] == [name]


def test_the_first_check_of_an_agent_is_the_primary_one(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        ep.check(raises, 1)
        ep.check(fails, 1)
        ep.check(raises, 1)
    with trajrec.episode(tmp_path, primary="fails") as ep:
        ep.check(passes, 1)
        ep.check(fails, 1)
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.sql("SELECT outcome, fault FROM episodes ORDER BY number").fetchall()
    assert rows == [(None, "verifier"), ("failure", None)]


def test_a_primary_check_must_be_one_of_the_checks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="primary must be one of the checks, got 'other'"):
        trajrec.record(Countdown(), tmp_path, checks=[passes], primary="other")


class StatusError(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__(f"status {status_code}")
        self.status_code = status_code


def wrapped(exc: Exception) -> RuntimeError:
    """Return an error that was raised from another one."""
    try:
        try:
            raise exc
        except Exception as cause:
            raise RuntimeError("the step failed") from cause
    except RuntimeError as error:
        return error


ENV_FAULTS = [
    (RuntimeError("broken"), 2, "env"),
    (RuntimeError("broken"), 0, "env"),
    (TimeoutError("no answer"), 2, "infra"),
    (ConnectionResetError("gone"), 0, "infra"),
    (wrapped(ConnectionRefusedError("no service")), 2, "infra"),
    (wrapped(ValueError("bad")), 2, "env"),
    (KeyboardInterrupt(), 2, None),
]


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize(("exc", "at", "fault"), ENV_FAULTS)
def test_the_fault_of_an_environments_episode_is_named(
    tmp_path: Path, exc: BaseException, at: int, fault: str | None
) -> None:
    run(tmp_path, Countdown(exc, at), checks=[passes])
    assert only(tmp_path, "ending, fault, outcome") == ("error", fault, None)


AGENT_FAULTS: list[tuple[Any, str, str | None]] = [
    (TimeoutError("slow"), "plain", "infra"),
    (TimeoutError("slow"), "wrapped", "infra"),
    (ValueError("bad"), "plain", "env"),
    (ValueError("bad"), "wrapped", "env"),
    (ValueError("bad"), "own", None),
    (StatusError(503), "own", "infra"),
    (StatusError(429), "wrapped", "infra"),
    (StatusError(401), "own", None),
    (KeyboardInterrupt(), "plain", None),
]


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize(("exc", "way", "fault"), AGENT_FAULTS)
def test_the_fault_of_an_agents_episode_is_that_of_the_root(
    tmp_path: Path, exc: BaseException, way: str, fault: str | None
) -> None:
    def tool() -> None:
        raise exc

    def act() -> None:
        with trajrec.episode(tmp_path) as ep:
            ep.tool(tool, name="tool")
            if way == "own":
                raise exc
            try:
                ep.call("tool")
            except Exception as cause:
                if way == "plain":
                    raise
                raise RuntimeError("the agent gave up") from cause

    with pytest.raises((type(exc), RuntimeError)):
        act()
    close_logs()
    assert only(tmp_path, "ending, fault") == ("error", fault)


def test_a_failed_call_that_the_agent_survived_is_no_fault(tmp_path: Path) -> None:
    def tool() -> None:
        raise ValueError("bad")

    def act() -> None:
        with trajrec.episode(tmp_path) as ep:
            ep.tool(tool, name="tool")
            ep.tool(lambda: 1, name="fine")
            with pytest.raises(ValueError, match="bad"):
                ep.call("tool")
            ep.call("fine")
            raise KeyError("a mistake of the agent")

    with pytest.raises(KeyError):
        act()
    close_logs()
    assert only(tmp_path, "ending, fault") == ("error", None)


def test_a_world_that_cannot_be_reset_is_the_fault(tmp_path: Path) -> None:
    class Broken:
        def reset(self, **_: Any) -> None:
            raise RuntimeError("no world")

        def tools(self) -> tuple[()]:
            return ()

        def call(self, name: str, arguments: Any, /) -> None: ...

    with pytest.raises(RuntimeError), trajrec.episode(tmp_path, world=Broken()):
        pass
    close_logs()
    assert only(tmp_path, "ending, fault") == ("error", "env")


METADATA = {"run": "r1", "group": 3, "trial": 1, "family": "f", "split": "test", "x": {"y": [1]}}


@pytest.mark.parametrize("kind", ["environment", "agent"])
def test_task_and_metadata_are_indexed(tmp_path: Path, kind: str) -> None:
    if kind == "environment":
        run(tmp_path, task="t1", task_revision="2", metadata=METADATA)
    else:
        with trajrec.episode(tmp_path, task="t1", task_revision="2", metadata=METADATA):
            pass
        close_logs()
    columns = "task, task_revision, metadata->>'group', metadata->>'run', metadata->'x'->>'y'"
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql(f"SELECT {columns} FROM episodes").fetchall() == [
            ("t1", "2", "3", "r1", "[1]")
        ]


def test_a_task_may_follow_from_the_reset(tmp_path: Path) -> None:
    run(tmp_path, task=lambda seed, options: f"seed {seed}, level {options['level']}")
    assert only(tmp_path, "task, metadata") == ("seed 1, level 2", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metadata": {"run": ["r"]}}, r"metadata\['run'\] must be a text or a whole number"),
        ({"metadata": {"trial": True}}, r"metadata\['trial'\] must be a text"),
        ({"metadata": {1: "x"}}, "metadata must have texts as keys, got 1"),
        ({"task": 3}, "task must be a text, or a function that returns one"),
    ],
)
def test_wrong_tasks_and_metadata_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        trajrec.record(Countdown(), tmp_path, **options)


def test_a_task_that_is_no_text_is_refused_before_the_reset(tmp_path: Path) -> None:
    recorder = trajrec.record(Countdown(), tmp_path, task=lambda seed, options: 3)
    with pytest.raises(TypeError, match="the function of the task must return a text, got 3"):
        recorder.reset(seed=1)
    recorder.close()


def test_a_fork_has_the_task_and_metadata_of_its_parent(tmp_path: Path) -> None:
    recorder = trajrec.record(
        gym.make("CartPole-v1"), tmp_path, task="balance", metadata={"split": "train"}
    )
    recorder.reset(seed=1)
    for k in range(6):
        recorder.step(k % 2)
    recorder.close()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        with fork(episode, at=3) as branch:
            branch.step(0)
        rows = corpus.sql("SELECT task, metadata->>'split' FROM forks").fetchall()
    assert rows == [("balance", "train")]


def test_digests_tell_goals_tools_and_prompts_apart(tmp_path: Path) -> None:
    def record(goal: Any, tool: str, system: str | None, *, way: str = "message") -> None:
        with trajrec.episode(tmp_path, goal=goal, tools=[trajrec.Tool(tool)]) as ep:
            messages = [{"role": "user", "content": "hi"}]
            if system is not None and way == "message":
                messages.insert(0, {"role": "system", "content": system})
            extra = {"system": system} if system is not None and way == "argument" else {}
            ep.model(lambda **_: "ok", messages=messages, **extra)
            ep.model(lambda **_: "ok", messages=[{"role": "system", "content": "later"}])

    record({"a": 1, "b": 2}, "x", "be kind")
    record({"b": 2, "a": 1}, "x", "be kind", way="argument")
    record("other", "y", "be short")
    record(None, "x", None)
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.sql(
            "SELECT goal_digest, tools_digest, system_digest FROM episodes ORDER BY number"
        ).fetchall()
    goals, tools, systems = zip(*rows, strict=True)
    assert goals[0] == goals[1] != goals[2]
    assert goals[3] is None
    assert tools[0] == tools[1] == tools[3] != tools[2]
    assert systems[0] == systems[1] != systems[2]
    assert systems[3] is None
    assert all(len(digest) == 32 for digest in (goals[0], tools[0], systems[0]))


FACTORS = [
    ({"tokens": 4096}, "known"),
    (0, "known"),
    ({"note": '{"missing":"unknown"}'}, "known"),
    ({"teacher": missing("not_applicable")}, "known"),
    (missing("not_applicable"), "not_applicable"),
    (missing("unknown"), "unknown"),
    (missing("redacted"), "unknown"),
    ({"train": "x", "teacher": missing("unknown")}, "partial"),
    ({"a": [{"b": {"c": missing("not_captured")}}]}, "partial"),
]


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize(("value", "state"), FACTORS, ids=str)
def test_a_factor_is_known_at_every_depth_or_not(tmp_path: Path, value: Any, state: str) -> None:
    run(tmp_path, interface=trajrec.interface(budget=value))
    found = only(tmp_path, "budget_state, budget_digest IS NULL, lineage_state", "interfaces")
    assert found == (state, state in ("unknown", "partial"), "unknown")


def test_episodes_that_a_fault_ended_are_not_judged_again(tmp_path: Path) -> None:
    run(tmp_path, Countdown(TimeoutError("no answer")), state=lambda env: {"n": env.unwrapped.n})
    run(tmp_path, state=lambda env: {"n": env.unwrapped.n})
    with trajrec.open(tmp_path) as corpus:
        assert len(list(recheck(corpus, passes, append=False))) == 1
        assert len(list(recheck(corpus, passes, append=False, with_faulted=True))) == 2
