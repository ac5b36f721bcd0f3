"""Large states after calls of tools that are declared `read`: compared seldom, never claimed."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from compare_readers import compare_log
from conftest import only
from tiers import Share, suite, third_slow

import trajrec
from trajrec.agents.state_recorder import CHANGED, MAX_ASSUMED, OR_PROGRAM
from trajrec.corpus.episode import Episode
from trajrec.errors import DivergenceError, ReplayError, StateUnknownError
from trajrec.log.compaction import compact
from trajrec.protocols import Tool
from trajrec.recording.event_log import close_logs
from trajrec.replay import replay_episode
from trajrec.replay.agents.answered import Answered
from trajrec.replay.agents.world_replay import bring_world
from trajrec.tracking.parts import digest_of_parts
from trajrec.tracking.tree import Tree
from trajrec.types import JsonObject
from trajrec.values import codec

N_RECORDS = 300


def large() -> dict[str, Any]:
    return {f"O{k}": {"note": "paid by card " * 24, "n": 0} for k in range(N_RECORDS)}


class Depot:
    """A world with a large state, and a tool that is declared to read and may write."""

    def __init__(self, *, is_honest: bool = True) -> None:
        self.kwargs: JsonObject = {}
        self.is_honest = is_honest
        self.orders: dict[str, Any] = {}
        self.n_looks = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> str:
        self.orders = large()
        return "Count."

    def tools(self) -> list[Tool]:
        return [
            Tool.with_args("look", "read", order="string"),
            Tool.with_args("peek", "read", order="string"),
            Tool.with_args("write", "write", order="string", n="integer"),
            Tool.with_args("call", "external", order="string"),
        ]

    def call(self, name: str, arguments: dict[str, Any], /) -> Any:
        order = self.orders[arguments["order"]]
        if name == "write":
            order["n"] = arguments["n"]
        elif name == "peek" and not self.is_honest:
            order["n"] += 1
        return "ok"

    def get_state(self) -> Any:
        self.n_looks += 1
        return {"orders": self.orders}

    def set_state(self, state: Any) -> None:
        self.orders = copy.deepcopy(state["orders"])


def digest(world: Depot) -> str:
    tree = Tree(lambda: {"orders": world.orders})
    return digest_of_parts({"": tree.begin()[1]}) or ""


def record(
    folder: Path, calls: list[tuple[str, str]], *, is_honest: bool = True, **options: Any
) -> tuple[Depot, list[str]]:
    """Record calls of tools on orders; return the world and its digests, before and after each."""
    world = Depot(is_honest=is_honest)
    with trajrec.episode(folder, world=world, **options) as ep:
        digests = [digest(world)]
        for number, (tool, order) in enumerate(calls):
            arguments = {"n": number} if tool == "write" else {}
            ep.call(tool, order=order, **arguments)
            digests.append(digest(world))
    close_logs()
    return world, digests


def known_states(episode: Episode) -> list[bool]:
    """Return whether the state before each step, and the last one, is known."""
    return [is_known(episode, step) for step in range(episode.end_step + 1)]


def is_known(episode: Episode, step: int) -> bool:
    try:
        episode.state(step)
    except StateUnknownError:
        return False
    return True


def failures(folder: Path) -> list[Any]:
    with trajrec.open(folder) as corpus:
        return corpus.sql(
            "SELECT step, origin, message, action->>'$[*].step' FROM failures WHERE phase = 'state'"
        ).fetchall()


LOOK = ("look", "O1")
PEEK = ("peek", "O2")
WRITE = ("write", "O3")


def test_one_read_in_fifty_is_compared(tmp_path: Path) -> None:
    world, _ = record(tmp_path, [LOOK] * 4 * MAX_ASSUMED)
    # One for the beginning, and one for the end.
    assert world.n_looks == 1 + 4 + 1


@pytest.mark.parametrize(
    ("calls", "n_looks"),
    [
        ([LOOK, LOOK, WRITE], 3),
        ([LOOK, LOOK, WRITE, LOOK], 3),
        ([WRITE, WRITE], 5),
        ([LOOK, LOOK], 1),
        ([LOOK, LOOK, ("call", "O1")], 3),
    ],
    ids=str,
)
def test_a_part_is_compared_around_writes_and_once_for_reads(
    tmp_path: Path, calls: list[tuple[str, str]], n_looks: int
) -> None:
    world, _ = record(tmp_path, calls)
    assert world.n_looks == 1 + n_looks


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("is_honest", [True, False])
def test_the_last_read_before_a_check_is_compared(tmp_path: Path, is_honest: bool) -> None:
    world = Depot(is_honest=is_honest)

    @trajrec.verifier(id="any", version="1")
    def check(world: Depot) -> bool:
        return True

    with trajrec.episode(tmp_path, world=world) as ep:
        ep.call("peek", order="O1")
        ep.call("peek", order="O1")
        ep.check(check)
        ep.call("look", order="O1")
        assert ep.state_digest == digest(world)
    close_logs()
    (verdict,) = only(tmp_path).checks
    assert verdict.state_digest == digest(world)
    message = f"{CHANGED}: one of 2 calls, {OR_PROGRAM}"
    assert [row[2] for row in failures(tmp_path)] == ([] if is_honest else [message])


@pytest.mark.slow
def test_states_that_were_assumed_rightly_are_known(tmp_path: Path) -> None:
    calls = [LOOK, LOOK, WRITE, *[LOOK] * 2 * MAX_ASSUMED, WRITE, LOOK]
    _, digests = record(tmp_path, calls)
    episode = only(tmp_path)
    assert [attempt.state_digest for attempt in episode.transcript.attempts] == digests[1:]
    assert all(known_states(episode))
    assert episode.transcript.state_digest == digests[-1]
    assert failures(tmp_path) == []
    with trajrec.open(tmp_path) as corpus:
        findings = corpus.sql("SELECT count(finding), count(state_digest) FROM attempts")
        assert findings.fetchall() == [(0, len(calls))]
        changes = corpus.sql("SELECT step FROM state_changes ORDER BY step").fetchall()
    assert changes == [(2,), (len(calls) - 2,)]


def test_a_read_that_wrote_is_one_of_the_calls_since_the_last_comparison(tmp_path: Path) -> None:
    calls = [WRITE, LOOK, LOOK, PEEK, LOOK, WRITE, LOOK]
    _, digests = record(tmp_path, calls, is_honest=False)
    episode = only(tmp_path)
    attempts = episode.transcript.attempts
    # The state was taken after the last of the four calls.
    expected = [digests[1], None, None, None, digests[5], digests[6], digests[7]]
    assert [attempt.state_digest for attempt in attempts] == expected
    message = f"{CHANGED}: one of 4 calls, {OR_PROGRAM}"
    assert failures(tmp_path) == [(4, "tool", message, ["1", "2", "3", "4"])]
    assert known_states(episode) == [True, True, False, False, False, True, True, True]
    findings = [bool(attempt.notes) for attempt in attempts]
    assert findings == [False, True, True, True, True, False, False]
    with pytest.raises(StateUnknownError, match="since step 1 it was assumed to be unchanged"):
        episode.state(3)
    with pytest.raises(StateUnknownError, match="the next comparison found a difference"):
        episode.transcript.state_after(attempts[2])
    assert episode.transcript.state_after(attempts[4]) == episode.state(5)


def test_a_read_that_wrote_right_before_a_write_is_named(tmp_path: Path) -> None:
    record(tmp_path, [WRITE, PEEK, WRITE], is_honest=False)
    message = f"{CHANGED}: the call, {OR_PROGRAM}"
    assert failures(tmp_path) == [(1, "tool", message, ["1"])]
    attempts = only(tmp_path).transcript.attempts
    assert [attempt.notes for attempt in attempts] == [[], [message], []]
    assert all(attempt.state_digest for attempt in attempts)


@pytest.mark.slow
def test_a_small_state_is_compared_after_each_call(tmp_path: Path) -> None:
    state = {"n": 0}
    with trajrec.episode(tmp_path, watch=state) as ep:
        ep.tool(lambda: None, name="look", access="read")
        ep.tool(lambda: state.update(n=state["n"] + 1), name="peek", access="read")
        for tool in ("look", "peek", "look", "peek"):
            ep.call(tool)
    assert [row[0] for row in failures(tmp_path)] == [1, 3]
    assert all(known_states(only(tmp_path)))


@pytest.mark.slow
def test_a_change_there_and_back_again_is_not_seen(tmp_path: Path) -> None:
    world = Depot()
    with trajrec.episode(tmp_path, world=world) as ep:
        ep.call("look", order="O1")
        world.orders["O1"]["n"] = 5
        ep.call("look", order="O1")
        world.orders["O1"]["n"] = 0
        ep.call("write", order="O2", n=1)
    # The documentation says so.
    assert failures(tmp_path) == []
    assert all(known_states(only(tmp_path)))


KILLED = """
import os, sys
sys.path[:0] = sys.argv[2:]
import trajrec
from test_assumed_states import Depot

with trajrec.episode(sys.argv[1], world=Depot()) as ep:
    ep.call("write", order="O1", n=1)
    for _ in range(3):
        ep.call("look", order="O1")
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_states_that_a_kill_left_uncompared_are_unknown(tmp_path: Path) -> None:
    folder = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), folder], check=False, stderr=subprocess.PIPE
    )
    assert done.returncode == -9, done.stderr
    episode = only(tmp_path)
    digests = [attempt.state_digest for attempt in episode.transcript.attempts]
    assert [digest is None for digest in digests] == [False, True, True, True]
    assert known_states(episode) == [True, True, False, False, False]
    assert episode.transcript.state_digest is None
    with pytest.raises(StateUnknownError, match="the log ends before it was compared again"):
        episode.state(2)
    report = replay_episode(episode, world=Depot())
    assert report.divergence is None
    assert any("state not compared after the last calls" in note for note in report.notes)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("recorded_honest", [True, False])
@pytest.mark.parametrize("live_honest", [True, False])
def test_replays_compare_where_the_recorder_did(
    tmp_path: Path, recorded_honest: bool, live_honest: bool
) -> None:
    calls = [WRITE, LOOK, PEEK, LOOK, LOOK, WRITE, LOOK]
    record(tmp_path, calls, is_honest=recorded_honest)
    world = Depot(is_honest=live_honest)
    report = replay_episode(only(tmp_path), world=world, explain=False)
    if recorded_honest == live_honest:
        assert report.grade == "exact"
        return
    assert report.divergence is not None
    # A call that was right is compared at once; one that may be wrong, where the recorder did so.
    assert report.divergence.step == (2 if recorded_honest else 4)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("is_honest", [True, False])
def test_a_world_is_brought_to_states_that_are_known_alone(tmp_path: Path, is_honest: bool) -> None:
    record(tmp_path, [WRITE, LOOK, PEEK, LOOK, LOOK, WRITE, LOOK], is_honest=is_honest)
    episode = only(tmp_path)
    attempts = episode.transcript.attempts
    for n in range(len(attempts) + 1):
        world = Depot(is_honest=is_honest)
        keys = {attempt.key for attempt in attempts[:n]}
        if is_known(episode, n):
            bring_world(episode, world, Answered(attempts=frozenset(keys)))
            assert digest(world) == digest_of_state(episode.state(n))
        else:
            with pytest.raises(ReplayError, match="the recorded state after step"):
                bring_world(episode, world, Answered(attempts=frozenset(keys)))


def test_a_world_with_another_tool_is_not_taken_for_the_recorded_one(tmp_path: Path) -> None:
    record(tmp_path, [WRITE, LOOK, PEEK, LOOK])
    episode = only(tmp_path)
    keys = {attempt.key for attempt in episode.transcript.attempts[:3]}
    with pytest.raises(DivergenceError, match="step 2"):
        bring_world(episode, Depot(is_honest=False), Answered(attempts=frozenset(keys)))


def digest_of_state(state: Any) -> str:
    return digest_of_parts({"": Tree(lambda: state[""]).begin()[1]}) or ""


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("seed", range(3))
def test_honest_tools_in_parallel_are_not_blamed(tmp_path: Path, seed: int) -> None:
    class Guarded(Depot):
        """A world whose calls exclude each other, as a database's do."""

        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

        def call(self, name: str, arguments: dict[str, Any], /) -> Any:
            for k in range(3):
                with self.lock:
                    if name == "write":
                        self.orders[f"O{k}"]["n"] += 1
            return "ok"

        def get_state(self) -> Any:
            with self.lock:
                return copy.deepcopy(super().get_state())

    world = Guarded()
    with trajrec.episode(tmp_path, world=world) as ep:

        def act(number: int) -> None:
            rng = random.Random(f"{seed} {number}")
            for _ in range(40):
                tool = rng.choice(["look", "look", "look", "write"])
                arguments = {"n": 1} if tool == "write" else {}
                ep.call(tool, order="O1", **arguments)

        with ThreadPoolExecutor(4) as pool:
            for future in [
                pool.submit(contextvars.copy_context().run, act, number) for number in range(4)
            ]:
                future.result()
    close_logs()
    assert failures(tmp_path) == []
    episode = only(tmp_path)
    assert episode.transcript.state_digest == digest(world)
    assert episode.transcript.history.first_unknown() is None
    looked = [a for a in episode.transcript.attempts if a.tool == "look"]
    assert all(a.state_digest for a in episode.transcript.attempts if a.tool == "write")
    assert len(looked) > 50


@pytest.mark.slow
def test_a_read_during_a_write_is_not_blamed(tmp_path: Path) -> None:
    world = Depot()

    class Slow(Depot):
        def call(self, name: str, arguments: dict[str, Any], /) -> Any:
            if name != "write":
                return "ok"

            async def write() -> str:
                self.orders["O1"]["n"] = 1
                await asyncio.sleep(0)
                self.orders["O2"]["n"] = arguments["n"]
                return "ok"

            return write()

    world = Slow()

    async def run() -> None:
        async with trajrec.episode(tmp_path, world=world) as ep:

            async def look() -> None:
                ep.call("look", order="O1")

            await asyncio.gather(ep.call("write", order="O1", n=5), look())
            ep.call("look", order="O1")

    asyncio.run(run())
    assert failures(tmp_path) == []
    episode = only(tmp_path)
    digests = {a.start.step: a.state_digest for a in episode.transcript.attempts}
    assert digests == {0: digest(world), 1: None, 2: digest(world)}
    with trajrec.open(tmp_path) as corpus:
        changed = corpus.sql("SELECT step, path FROM state_changes ORDER BY path").fetchall()
    assert changed == [(0, "/orders/O1/n"), (0, "/orders/O2/n")]


def test_a_state_that_cannot_be_seen_blames_no_tool(tmp_path: Path) -> None:
    class Blind(Depot):
        is_blind = False

        def get_state(self) -> Any:
            if self.is_blind:
                raise OSError("not now")
            return super().get_state()

    world = Blind()
    with trajrec.episode(tmp_path, world=world) as ep:
        for _ in range(3):
            ep.call("look", order="O1")
        world.is_blind = True
        ep.call("call", order="O1")
        world.is_blind = False
        ep.call("write", order="O1", n=3)
    episode = only(tmp_path)
    assert {failure.origin for failure in episode.failures} == {"env"}
    digests = [attempt.state_digest for attempt in episode.transcript.attempts]
    assert [digest is None for digest in digests] == [True] * 4 + [False]
    assert known_states(episode) == [True, False, False, False, False, True]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("is_honest", [True, False])
def test_readers_agree_on_what_was_assumed(tmp_path: Path, is_honest: bool) -> None:
    calls = [WRITE, LOOK, PEEK, *[LOOK] * MAX_ASSUMED, WRITE, PEEK, WRITE, LOOK]
    record(tmp_path, calls, is_honest=is_honest)
    (log,) = tmp_path.glob("*.trj")

    def facts() -> list[Any]:
        attempts = only(tmp_path).transcript.attempts
        return [(a.key, a.state_digest, a.notes, a.unproved) for a in attempts]

    before = facts()
    assert compare_log(log).differences == []
    compact(log)
    assert compare_log(log).differences == []
    assert facts() == before


def drawn_calls(rng: random.Random) -> list[tuple[str, str]]:
    """Return some calls; with rows of reads that are longer than the recorder assumes."""
    calls: list[tuple[str, str]] = []
    for _ in range(rng.randrange(1, 6)):
        calls += [LOOK] * rng.choice([0, 1, 2, 5, MAX_ASSUMED, 2 * MAX_ASSUMED])
        calls.append((rng.choice(["look", "peek", "write", "call"]), f"O{rng.randrange(9)}"))
    return calls


@suite("agents", fixed=2, drawn=10, whole=1_000)
def test_no_state_is_claimed_that_was_not_there(share: Share, tmp_path: Path) -> None:
    for seed in share.of(range(1_000)):
        check_claims(tmp_path / str(seed), drawn_calls(random.Random(seed)))


def check_claims(folder: Path, calls: list[tuple[str, str]]) -> None:
    _, digests = record(folder, calls, is_honest=False)
    episode = only(folder)
    for attempt, expected in zip(episode.transcript.attempts, digests[1:], strict=True):
        assert attempt.state_digest in (None, expected)
    for step, expected in enumerate(digests):
        if is_known(episode, step):
            assert digest_of_state(episode.state(step)) == expected
    # Only what lies between a change and its comparison is unknown.
    n_liars = sum(tool == "peek" for tool, _ in calls)
    if n_liars == 0:
        assert all(known_states(episode))
    assert is_known(episode, len(calls))
    suspects = {
        step
        for failure in episode.failures
        for step in (call["step"] for call in codec.decode(failure.action_data or b""))
    }
    liars = {step for step, (tool, _) in enumerate(calls) if tool == "peek"}
    assert liars <= suspects
    assert {calls[step][0] for step in suspects} <= {"look", "peek"}
    assert replay_episode(episode, world=Depot(is_honest=False)).grade == "exact"


@third_slow("agents")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("n", range(1, 60, 3))
def test_an_interrupt_leaves_no_wrong_claim(tmp_path: Path, n: int) -> None:
    """Ctrl-C at the n-th call of a function within the recorder."""
    world = Depot(is_honest=False)
    seen: dict[int, str] = {}
    counted = 0

    def interrupt(frame: Any, event: str, argument: Any) -> Any:
        nonlocal counted
        if event == "call" and frame.f_code.co_filename.endswith("state_recorder.py"):
            counted += 1
            if counted == n:
                raise KeyboardInterrupt
        return None

    with trajrec.episode(tmp_path, world=world) as ep:
        for tool in ("look", "peek", "look", "write", "look", "peek", "write", "look"):
            arguments = {"n": 7} if tool == "write" else {}
            sys.settrace(interrupt)
            try:
                ep.call(tool, order="O1", **arguments)
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            seen[ep.last_step] = digest(world)
    close_logs()
    episode = only(tmp_path)
    for attempt in episode.transcript.attempts:
        if attempt.outcome == "ok":
            assert attempt.state_digest in (None, seen[attempt.start.step]), attempt.key
    assert is_known(episode, episode.end_step)
    assert episode.transcript.state_digest == digest(world)
