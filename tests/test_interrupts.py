"""An exception at any point of recording: no row is lost or halved, and the loop may go on."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import gymnasium as gym
import numpy as np
import pytest
from conftest import Scripted
from tiers import Share, suite

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.corpus.transcript import ModelCall
from trajrec.log import flusher
from trajrec.log.journal import journal_path
from trajrec.log.reader import LogReader
from trajrec.recording import event_log
from trajrec.recording.event_log import close_logs
from trajrec.values.diff import is_same

# The recording thread does all work, so that each run has the same instructions.
pytestmark = pytest.mark.usefixtures("no_flusher")


@pytest.fixture(autouse=True)
def own_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a lock of its own.

    A trace function may raise between the taking of a lock and the block that gives it back, as no
    signal does: the lock is then never given back, and threads of later tests would wait for it.
    """
    monkeypatch.setattr(event_log, "_open_logs_lock", threading.RLock())


ROOMS = ("log", "recording", "agents", "tracking")
PACKAGE = os.path.dirname(trajrec.__file__)
RECORDING = tuple(os.path.join(PACKAGE, room) + os.sep for room in ROOMS)
# The rest of its room only returns values.
WITH_A_STATE = tuple(os.path.join(PACKAGE, "redaction", name) for name in ("streams", "tracks"))


Row = tuple[Any, Any, Any]

P = ParamSpec("P")
T = TypeVar("T")


class InterruptError(BaseException):
    """Comes once, at any instruction, as KeyboardInterrupt does."""


class TimeLimitError(Exception):
    """Comes once, at any instruction, as the exception of a time limit does."""


class Interrupter:
    """Counts the instructions of the recorder, and raises at one of them.

    Args:
        exception: The exception to raise.
        at: The instruction at which to raise, -1 for none.

    Attributes:
        n: The instructions so far.
    """

    def __init__(self, exception: type[BaseException], at: int) -> None:
        self.exception = exception
        self.at = at
        self.n = 0
        self.where = ""
        self._is_in_finalizer = False

    def __enter__(self) -> Interrupter:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if self._is_in_finalizer or not code.co_filename.startswith(RECORDING + WITH_A_STATE):
            return None
        if code.co_name == "__del__":
            self._is_in_finalizer = True
            return self._trace_finalizer
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return self._trace_instruction

    def _trace_finalizer(self, frame: FrameType, event: str, argument: Any) -> Any:
        # The exception of a finalizer would only be reported.
        self._is_in_finalizer = event != "return"
        return self._trace_finalizer

    def _trace_instruction(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self.n += 1
            if self.n - 1 == self.at:
                self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
                raise self.exception
        return self._trace_instruction


def apart(test: Callable[P, T]) -> Callable[P, T]:
    """Forget the exception that is handled when a function returns.

    Where a trace function raises at the end of a handler, as no signal does, the handled exception
    stays the context of each later one. A generator has a state of its own, which ends with it.
    """

    @functools.wraps(test)
    def run(*args: P.args, **options: P.kwargs) -> T:
        return next(test(*args, **options) for _ in range(1))

    return run


class Counted(gym.Wrapper[Any, Any, Any, Any]):
    """Notes the steps that the environment has made, by the seed of their episode."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.made: dict[int, list[Row]] = {}
        self.has_ended = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        result = self.env.reset(seed=seed, options=options)
        assert seed is not None
        self.seed = seed
        self.made[seed] = []
        self.has_ended = False
        return result

    def step(self, action: Any) -> Any:
        try:
            result = self.env.step(action)
        except RuntimeError:
            self.made[self.seed].append((action, None, None))
            raise
        self.made[self.seed].append((action, np.copy(result[0]), result[1]))
        self.has_ended = result[2]
        return result


def numbers(k: int) -> Any:
    return np.array([k, 2 * k], np.float32), float(k), k == N_STEPS - 1, False, {}


def infos(k: int) -> Any:
    info = {"k": k} if k % 2 else {"name": "lamp"}
    return np.array([k, 2 * k], np.float32), k, k == N_STEPS - 1, False, info


def pixels(k: int) -> Any:
    frame = np.zeros((24, 64), np.uint8)
    frame[3, max(0, k) : max(0, k) + 4] = 7
    return frame, 1.0, k == N_STEPS - 1, False, {}


def failing(k: int) -> Any:
    if k == 3:
        raise RuntimeError("no such step")
    return numbers(k)


def changing(k: int) -> Any:
    # Another shape after some steps: a new block begins in the middle of a step.
    return np.zeros(2 + (k >= 4), np.float32), 1.0, k == N_STEPS - 1, False, {}


KINDS: dict[str, Callable[[int], Any]] = {
    "numbers": numbers,
    "infos": infos,
    "pixels": pixels,
    "failing": failing,
    "changing": changing,
}

N_STEPS = 8
"""Steps of each scripted episode."""

FULL_AT = 14
"""The block ends with the item of this number, in the middle of the second episode."""


class Script:
    """Plays two episodes call by call, and notes the steps that returned.

    Attributes:
        returned: The steps that returned, by the seed of their episode, if its reset returned.
    """

    def __init__(self, kind: str, folder: Path, keep_last: int | None = None) -> None:
        self.witness = Counted(Scripted(KINDS[kind]))
        self.env = trajrec.record(
            self.witness,
            folder,
            state=lambda env: {"k": env.unwrapped.k, "text": "lamp"},
            keep_last=keep_last,
        )
        self.env._buffer.limit = FULL_AT
        self.returned: dict[int, list[Row]] = {}
        # The seeds of the episodes whose last step returned.
        self.ended: set[int] = set()
        self.seed = -1
        self.is_open = False

    def calls(self) -> Iterator[Callable[[], None]]:
        """Yield the calls, one of which may be interrupted."""
        for episode in range(2):
            yield self.reset
            if episode == 1:
                # No step follows the reset before.
                yield self.reset
            for k in range(N_STEPS):
                yield partial(self.step, k)
            if episode == 0:
                yield self.env.flush
        yield self.env.close

    def reset(self) -> None:
        self.seed += 1
        self.is_open = False
        self.env.reset(seed=self.seed)
        self.returned[self.seed] = []
        self.is_open = True

    def step(self, k: int) -> None:
        if not self.is_open:
            return
        try:
            result = self.env.step(k)
        except RuntimeError:
            return
        self.returned[self.seed].append((k, np.copy(result[0]), result[1]))
        if result[2]:
            self.is_open = False
            self.ended.add(self.seed)


@apart
def run_interrupted(
    kind: str,
    folder: Path,
    call: int,
    exception: type[BaseException],
    at: int,
    *,
    keep_last: int | None = None,
) -> Interrupter:
    """Interrupt one call at one instruction, go on, and check the log, or all logs of a series."""
    script = Script(kind, folder, keep_last)
    interrupter = Interrupter(exception, at)
    for number, action in enumerate(script.calls()):
        if number != call:
            action()
            continue
        try:
            with interrupter:
                action()
        except exception:
            # The last step of an episode may have been interrupted: then no step is made after it.
            script.is_open = script.is_open and not script.witness.has_ended
            if not script.is_open and number < N_CALLS - 1:
                script.reset()
    script.env.close()
    check(script, [script.env.path] if keep_last is None else sorted(folder.iterdir()))
    return interrupter


N_CALLS = 2 * (1 + N_STEPS) + 3


def check(script: Script, paths: list[Path]) -> None:
    """Check that the logs have all steps that returned, each once and whole."""
    # A reset that no step followed leaves no episode.
    unseen = {seed for seed in script.returned if script.witness.made[seed]}
    for path in paths:
        assert path.suffix == ".trj"
        assert not journal_path(path).exists()
        with LogReader(path) as reader:
            assert reader.is_sealed
            assert not reader.damage
            numbers = {event.episode for chunk in reader.chunks() for event in chunk.record.events}
            episodes = [Episode(reader, number) for number in sorted(numbers)]
            assert all(episode.start and episode.end for episode in episodes)
            by_seed = {episode.start.seed: episode for episode in episodes if episode.start}
            assert len(by_seed) == len(episodes)
            for seed in unseen & by_seed.keys():
                check_episode(
                    by_seed[seed],
                    script.witness.made[seed],
                    script.returned[seed],
                    has_ended=seed in script.ended,
                )
            unseen -= by_seed.keys()
    assert not unseen


def check_episode(
    episode: Episode, made: list[Row], returned: list[Row], *, has_ended: bool
) -> None:
    steps = list(episode.steps())
    assert [step.step for step in steps] == list(range(len(steps)))
    # Each step that the environment has made counts. One more may, if it was interrupted before.
    assert 0 <= len(steps) - len(made) <= 1
    rows = [
        (step.step, (step.action, step.observation, step.reward))
        for step in steps
        if step.failure is None
    ]
    for number, row in rows:
        assert is_same(row, made[min(number, len(made) - 1)]) or is_same(row, made[number - 1])
    recorded = [row for _, row in rows]
    assert 0 <= len(recorded) - len(returned) <= 1
    for row in returned:
        while not is_same(recorded.pop(0), row):
            pass
    if has_ended:
        assert episode.ending == "terminated"
    assert len(episode.states) == len(rows) + 1


def cases(kind: str, folder: Path) -> list[tuple[int, int]]:
    """Return all calls of a script, each with each of its instructions."""
    # What is imported and cached in the first run is no part of a call.
    run_interrupted(kind, folder, 0, InterruptError, -1)
    return [
        (call, at)
        for call in range(N_CALLS)
        for at in range(run_interrupted(kind, folder, call, InterruptError, -1).n)
    ]


@pytest.mark.parametrize("kind", KINDS)
@suite("kills", fixed=30, drawn=400, whole=None)
def test_exception_at_any_instruction_leaves_a_right_log(
    share: Share, kind: str, tmp_path: Path
) -> None:
    for call, at in share.of(cases(kind, tmp_path)):
        exception = InterruptError if at % 3 else TimeLimitError
        try:
            run_interrupted(kind, tmp_path, call, exception, at)
        except BaseException as exc:
            exc.add_note(f"call {call}, instruction {at}, {exception.__name__}")
            raise


@suite("kills", fixed=40, drawn=300, whole=None)
def test_exception_while_the_log_changes_leaves_right_logs(share: Share, tmp_path: Path) -> None:
    # The second reset begins another log.
    call = N_STEPS + 2
    run = partial(run_interrupted, "numbers", call=call, keep_last=4)
    n_instructions = run(tmp_path / "whole", exception=InterruptError, at=-1).n
    for at in share.of(range(n_instructions)):
        exception = InterruptError if at % 3 else TimeLimitError
        try:
            run(tmp_path / str(at), exception=exception, at=at)
        except BaseException as exc:
            exc.add_note(f"instruction {at}, {exception.__name__}")
            raise


def noise(k: int) -> Any:
    return np.random.default_rng(k + 1).random(30), 1.0, False, False, {}


@pytest.mark.filterwarnings("ignore:.*it has reached max_bytes:RuntimeWarning")
@suite("kills", fixed=40, drawn=300, whole=None)
def test_exception_while_a_log_reaches_its_limit_leaves_it_sealed(
    share: Share, tmp_path: Path
) -> None:
    n_instructions = reach_limit(tmp_path, InterruptError, -1)
    for at in share.of(range(n_instructions)):
        exception = InterruptError if at % 3 else TimeLimitError
        try:
            reach_limit(tmp_path, exception, at)
        except BaseException as exc:
            exc.add_note(f"instruction {at}, {exception.__name__}")
            raise


@apart
def reach_limit(folder: Path, exception: type[BaseException], at: int) -> int:
    """Interrupt the call in which a log reaches its limit; return the call's instructions."""
    env = trajrec.record(Scripted(noise), folder, max_bytes=14_000)
    env.reset(seed=0)
    for k in range(20):
        env.step(k)
    env.flush()
    for k in range(20, 40):
        env.step(k)
    interrupter = Interrupter(exception, at)
    with contextlib.suppress(InterruptError, TimeLimitError), interrupter:
        env.flush()
    with contextlib.suppress(InterruptError, TimeLimitError):
        env.step(40)
    env.close()
    assert env.path.stat().st_size <= 14_000
    assert not journal_path(env.path).exists()
    with LogReader(env.path) as reader:
        assert reader.is_sealed
        assert not reader.damage
        steps = list(Episode(reader, 0).steps())
        assert [step.action for step in steps] == list(range(len(steps)))
        assert len(steps) >= 20
        for step in steps:
            assert is_same(step.observation, noise(step.step)[0])
    return interrupter.n


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers that send signals")
# Ctrl-C in a finalizer or a callback of the garbage collector is only reported.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@suite("kills", fixed=25, drawn=300, whole=3000)
def test_loop_that_goes_on_after_ctrl_c_loses_no_row(
    share: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its thread works all the time, as in a long recording.
    monkeypatch.setattr(flusher, "FLUSH_S", 0.001)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    n_interrupted = 0
    try:
        for k, after_s in enumerate(share.rng().uniform(1e-5, 0.01, share.size)):
            script = Script(list(KINDS)[k % len(KINDS)], tmp_path)
            n_interrupted += play_with_alarm(script, after_s)
            script.env.close()
            check(script, [script.env.path])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert n_interrupted > (share.size or 0) / 10


def play_with_alarm(script: Script, after_s: float) -> bool:
    """Play a script, and go on after Ctrl-C at some time; return whether it came before the end."""
    calls = list(script.calls())
    was_interrupted = False
    n_begun = 0
    while n_begun < len(calls):
        try:
            if not was_interrupted:
                signal.setitimer(signal.ITIMER_REAL, after_s)
            while n_begun < len(calls):
                n_begun += 1
                calls[n_begun - 1]()
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        except KeyboardInterrupt:
            was_interrupted = True
            script.is_open = script.is_open and not script.witness.has_ended
            if not script.is_open and n_begun < len(calls):
                script.reset()
    return was_interrupted


class Shelf:
    """A world with one shelf."""

    def __init__(self) -> None:
        self.items: dict[str, int] = {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> str:
        self.items.clear()
        self.items["lamp"] = 1
        return "fill the shelf"

    def tools(self) -> list[trajrec.Tool]:
        return []

    def call(self, name: str, arguments: dict[str, Any], /) -> Any:
        if name == "drop":
            return self.items.pop(arguments["name"])
        self.items[arguments["name"]] = arguments["n"]
        return {"items": dict(self.items), "text": "x" * arguments["n"]}

    def watch(self) -> dict[str, int]:
        return self.items


def answer(messages: list[dict[str, str]]) -> dict[str, str]:
    return {"role": "assistant", "content": f"answer {len(messages)}"}


def stream(n: int) -> Iterator[str]:
    """Answer in pieces, of which a few are held back until no secret can begin in them."""
    for k in range(n):
        yield f"{k} of {n}: " + "word " * 12


class AgentScript:
    """Plays one episode of an agent call by call, and notes the calls that returned.

    Attributes:
        pieces: The pieces of each streamed answer that were read, by their number.
    """

    def __init__(self, folder: Path) -> None:
        self.shelf = Shelf()
        self.ep = trajrec.episode(folder, world=self.shelf, tools=TOOLS, task="shelf")
        self.messages: list[dict[str, str]] = []
        self.results: list[Any] = []
        self.answers: list[Any] = []
        self.pieces: dict[int, list[str]] = {}
        self.is_open = False
        self.has_ended = False

    def calls(self) -> Iterator[Callable[[], None]]:
        """Yield the calls, one of which may be interrupted."""
        yield self.enter
        for k in range(3):
            yield partial(self.ask, f"request {k}")
            # The results of the last one are stored apart, because they are large.
            yield partial(self.put, f"item {k}", 200 * k)
            yield self.fail
        yield partial(self.read, 20)
        yield self.leave
        yield close_logs

    def enter(self) -> None:
        self.ep.__enter__()
        self.is_open = True

    def ask(self, text: str) -> None:
        if self.is_open:
            self.messages.append({"role": "user", "content": text})
            reply = self.ep.model(answer, messages=list(self.messages))
            self.answers.append((list(self.messages), reply))
            self.messages.append(reply)

    def put(self, name: str, n: int) -> None:
        if self.is_open:
            self.results.append(("put", self.ep.call("put", name=name, n=n)))

    def fail(self) -> None:
        if not self.is_open:
            return
        try:
            self.ep.call("drop", name="nothing")
        except KeyError:
            self.results.append(("drop", None))

    def read(self, n: int) -> None:
        """Read an answer, and go on if an exception comes in between."""
        if not self.is_open:
            return
        answer = self.ep.model(stream, n)
        self.pieces[n] = []
        interrupt = None
        while True:
            try:
                self.pieces[n].append(next(answer))
            except StopIteration:
                break
            except (InterruptError, TimeLimitError) as exc:
                interrupt = exc
        if interrupt is not None:
            raise interrupt

    def leave(self) -> None:
        if self.is_open:
            self.ep.__exit__(None, None, None)
            self.has_ended = True


TOOLS = [trajrec.Tool("put", None, "write"), trajrec.Tool("drop", None, "write")]

N_AGENT_CALLS = 13


@apart
def run_agent_interrupted(
    folder: Path, call: int, exception: type[BaseException], at: int
) -> Interrupter:
    """Interrupt one call of an agent's episode, go on, and check the log."""
    script = AgentScript(folder)
    interrupter = Interrupter(exception, at)
    for number, action in enumerate(script.calls()):
        if number != call:
            action()
            continue
        try:
            with interrupter:
                action()
        except exception:
            continue
    close_logs()
    if script.is_open:
        check_agent(script)
    return interrupter


def check_agent(script: AgentScript) -> None:
    path = script.ep.path
    assert not journal_path(path).exists()
    with LogReader(path) as reader:
        assert reader.is_sealed
        assert not reader.damage
        episode = Episode(reader, 0)
        transcript = episode.transcript
        results = []
        for attempt in transcript.attempts:
            # An attempt that was interrupted has no end, or one that is no result.
            if attempt.end is not None and attempt.end.outcome != "cancelled":
                results.append((attempt.tool, attempt.result))
        for result in script.results:
            while not is_same(results.pop(0), result):
                pass
        check_streams(script, transcript.model_calls)
        answers = [
            (call.messages, call.answer)
            for call in transcript.model_calls
            if call.end is not None and not call.end.is_streamed
        ]
        for reply in script.answers:
            while not is_same(answers.pop(0), reply):
                pass
        unknown = transcript.history.first_unknown()
        assert unknown is None, unknown
        if episode.agent_events and script.results:
            last = transcript.state(episode.end_step)
            assert last == {"": script.shelf.items}
        if script.has_ended:
            assert episode.ending == "terminated"


def check_streams(script: AgentScript, calls: list[ModelCall]) -> None:
    """Check that a streamed answer is whole, or says that it is not; it has no gap either way."""
    streamed = {call.request["args"][0]: call for call in calls if "args" in call.request}
    for n, read in script.pieces.items():
        pieces = list(stream(n))
        end = streamed[n].end
        recorded = streamed[n].answer or []
        if end is not None and end.outcome == "ok":
            # A piece that was not returned, because its `next` was interrupted, may be there.
            assert recorded in (read, pieces)
            assert len(pieces) - len(read) <= 1
        else:
            assert recorded == pieces[: len(recorded)]


def agent_cases(folder: Path) -> list[tuple[int, int]]:
    # What is imported and cached in the first run is no part of a call.
    run_agent_interrupted(folder, 0, InterruptError, -1)
    return [
        (call, at)
        for call in range(N_AGENT_CALLS)
        for at in range(run_agent_interrupted(folder, call, InterruptError, -1).n)
    ]


@suite("kills", fixed=100, drawn=1000, whole=None, n_tests=4)
def test_exception_at_any_instruction_of_an_agent_leaves_a_right_log(
    share: Share, tmp_path: Path
) -> None:
    for call, at in share.of(agent_cases(tmp_path)):
        exception = InterruptError if at % 3 else TimeLimitError
        try:
            run_agent_interrupted(tmp_path, call, exception, at)
        except BaseException as exc:
            exc.add_note(f"call {call}, instruction {at}, {exception.__name__}")
            raise


@pytest.mark.slow
def test_a_time_limit_in_a_comparison_leaves_the_state_known(tmp_path: Path) -> None:
    lines: dict[str, int] = {}

    class Noting(Interrupter):
        def _trace_instruction(self, frame: FrameType, event: str, argument: Any) -> Any:
            if event == "opcode" and frame.f_code.co_qualname == "StateRecorder._has_changed":
                lines[f"{frame.f_lineno}:{frame.f_lasti}"] = self.n
            return super()._trace_instruction(frame, event, argument)

    script = AgentScript(tmp_path / "script")
    for number, action in enumerate(script.calls()):
        with Noting(TimeLimitError, -1) if number == 2 else contextlib.nullcontext():
            action()
    close_logs()
    assert lines
    for at in lines.values():
        run_agent_interrupted(tmp_path, 2, TimeLimitError, at)


def interrupt_anywhere(call: Callable[[], None], at: int) -> bool:
    """Interrupt a call at an instruction, also of the standard library; return whether it came."""
    n = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal n
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        if event == "opcode":
            n += 1
            if n - 1 == at:
                raise InterruptError
        return trace

    sys.settrace(trace)
    try:
        call()
    except InterruptError:
        return True
    finally:
        sys.settrace(None)
    return False


def test_an_interrupted_call_of_the_flusher_takes_no_lock_along() -> None:
    own = flusher.Flusher()
    # Python 3.13 tells no instructions of code that is traced for the first time.
    interrupt_anywhere(own.wake_up, -1)
    at = 0
    while interrupt_anywhere(own.wake_up, at):
        at += 1
    assert at > 3
    later = threading.Thread(target=own.wake_up, daemon=True)
    later.start()
    later.join(10)
    assert not later.is_alive()
