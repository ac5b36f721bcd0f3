"""Reads a log in every way, and compares the values with those of the log that it was made from.

`python fuzz_oracle.py SEEDS` reads numbers of mutants from stdin and writes their findings, so that
a mutant that hangs or takes all memory ends this process alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from fuzz_logs import make_mutant

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.doctor import examine
from trajrec.corpus.episode import Episode
from trajrec.errors import QueryError, TrajrecError
from trajrec.log.journal import journal_path
from trajrec.log.reader import LogReader
from trajrec.log.repair import recover
from trajrec.values.diff import is_same

LONGEST_S = 5.0
"""The processor time that a way to read a log may take."""

MOST_BYTES = 1 << 30

TABLES = {
    "steps": ("episode_id, step", "action, reward, info, state_key, state_check"),
    "attempts": ("episode_id, step, call, attempt", "tool, arguments, outcome, result"),
    "model_calls": ("episode_id, number", "step, n_messages, parameters, answer"),
    "state_changes": ("episode_id, step, call, attempt, part, path", "before, after"),
    "agent_rewards": ("episode_id, step, agent", "reward"),
}

Key = tuple[Any, ...]


@dataclasses.dataclass
class Reading:
    """The values of a log, by their place, and the damage that was noted.

    Attributes:
        values: Place -> value.
        damage: The damage that was noted, in words.
        faults: What must not happen: exceptions outside of the error tree, time, memory.
    """

    values: dict[Key, Any] = dataclasses.field(default_factory=dict)
    damage: list[str] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)


def read_everything(path: Path, folder: Path, ways: Collection[str]) -> Reading:
    """Read a log in every way that the project has.

    Args:
        path: The log.
        folder: An empty folder for copies.
        ways: The names of the ways.
    """
    reading = Reading()
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    _copy(path, corpus / "x.trj")
    for name in ways:
        with watched(reading, name):
            WAYS[name](corpus / "x.trj", reading)
    reading.damage = [reason.replace(str(folder), "") for reason in reading.damage]
    return reading


def _copy(path: Path, copy: Path) -> None:
    for source, target in ((path, copy), (journal_path(path), journal_path(copy))):
        if source.exists():
            shutil.copy(source, target)


class _TooLongError(BaseException):
    pass


def _stop(*_: Any) -> None:
    raise _TooLongError


@contextlib.contextmanager
def watched(reading: Reading, name: str) -> Iterator[None]:
    """Note what must not happen in a way to read a log."""
    peak = Path("/proc/self/clear_refs")
    if peak.exists():
        peak.write_text("5")
    signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
    try:
        yield
    except QueryError:
        reading.faults.append(f"{name}: {_last_lines()}")
    except TrajrecError as exc:
        # A log of forks alone cannot be replayed.
        if name != "replay":
            reading.damage.append(f"{name}: {exc}")
    except _TooLongError:
        reading.faults.append(f"{name}: longer than {LONGEST_S} s: {_last_lines()}")
    except BaseException:
        reading.faults.append(f"{name}: {_last_lines()}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    memory = _peak_bytes()
    if memory > MOST_BYTES:
        reading.faults.append(f"{name}: {memory >> 20} MB")


def _last_lines() -> str:
    return " | ".join(traceback.format_exc().strip().splitlines()[-7:])


def _peak_bytes() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) << 10
    return 0


def read_frames(path: Path, reading: Reading) -> None:
    """Read all chunks, with all columns."""
    with LogReader(path) as reader:
        for chunk in reader.chunks():
            try:
                chunk.decode()
                for index in range(len(chunk.columns())):
                    chunk.rows(index).values()
            except TrajrecError as exc:
                reading.damage.append(str(exc))
        reading.damage += [f"{d.reason}" for d in reader.damage]
        with contextlib.suppress(TrajrecError):
            reader.episodes()
        reading.damage += [f"{d.reason}" for d in reader.damage]


def read_episodes(path: Path, reading: Reading) -> None:
    """Read all episodes from their objects."""
    with LogReader(path) as reader:
        numbers = set()
        for chunk in reader.chunks():
            numbers |= {segment.episode for segment in chunk.record.segments}
            numbers |= {event.episode for event in chunk.record.events if event.episode >= 0}
        for number in sorted(numbers):
            for chunks in (None, reader.chunks_of(number)):
                try:
                    _read_episode(Episode(reader, number, chunks), reading)
                except TrajrecError as exc:
                    reading.damage.append(str(exc))
        reading.damage += [d.reason for d in reader.damage]


def _read_episode(episode: Episode, reading: Reading) -> None:
    values = reading.values
    own = episode.id
    if episode.missing_steps:
        reading.damage.append(f"missing steps {episode.missing_steps}")
    first_row = 1 if episode.has_reset else 0
    observations = episode.observation_values
    if first_row and observations:
        values[own, "reset"] = observations[0]
    for step in episode.steps():
        values[own, "step", step.step] = (step.action, step.observation, step.reward, step.info)
    if episode.has_reset:
        rows = [-1, *episode.step_numbers.tolist()]
        for row, state in episode.states.items():
            if row < len(rows):
                values[own, "state", rows[row]] = state
    _ = episode.state_digests, episode.observations, episode.rewards, episode.total_reward
    _ = episode.outcome, episode.ending, episode.n_steps, episode.rewards_by_agent
    if not episode.is_agent_episode:
        return
    for attempt in episode.transcript.attempts:
        is_open = attempt.end is None
        result = (None, None) if is_open else (attempt.outcome, attempt.result)
        values[own, "attempt", *attempt.key] = (attempt.tool, attempt.arguments)
        if not is_open:
            values[own, "result", *attempt.key] = result
    for call in episode.transcript.model_calls:
        values[own, "model", call.start.number] = (call.messages, call.request)
        if call.end is not None:
            values[own, "answer", call.start.number] = call.answer
    for step in range(episode.first_step, min(episode.end_step + 1, episode.first_step + 30)):
        with contextlib.suppress(TrajrecError):
            values[own, "world", step] = episode.state(step)


def read_index(path: Path, reading: Reading) -> None:
    """Read all rows by SQL."""
    with trajrec.open(path.parent) as corpus:
        for table, (key, columns) in TABLES.items():
            names = f"{key}, {columns}"
            for row in corpus.sql(f"SELECT {names} FROM {table}").fetchall():
                n = key.count(",") + 1
                reading.values["sql", table, *row[:n]] = row[n:]
        for name in ("all_episodes", "failures", "checks", "side_effects", "credit", "rollouts"):
            corpus.sql(f"SELECT * FROM {name}").fetchall()
        lost = corpus.sql("SELECT sum(missing_steps) FROM all_episodes").fetchall()[0][0]
        if lost:
            reading.damage.append(f"SQL counts {lost} missing steps")
        reading.damage += [f"index: {problem.reason}" for problem in corpus.problems()]
        for episode in corpus.episodes(kind="all"):
            repr(episode)


def show(path: Path, reading: Reading) -> None:
    """Show an episode on the command line."""
    for command in (["ls"], ["show"], ["show", "--json"]):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            arguments = [command[0], str(path.parent), *command[1:]]
            if command[0] == "show":
                with trajrec.open(path.parent) as corpus:
                    rows = corpus.sql("SELECT episode_id FROM all_episodes LIMIT 1").fetchall()
                if not rows:
                    return
                arguments.insert(2, rows[0][0])
            status = main(arguments)
        if "Traceback" in out.getvalue() or status == 5:
            reading.faults.append(f"{arguments[0]}: {out.getvalue()[-700:]}")


def replay(path: Path, reading: Reading) -> None:
    """Replay the episodes of environments that are made fast."""
    with trajrec.open(path.parent) as corpus:
        episodes = corpus.episodes("env_id = 'FrozenLake-v1'", kind="all")
        for report in trajrec.replay.replay_episodes(episodes):
            repr(report.grade)


def read_recovered(path: Path, reading: Reading) -> None:
    """Recover a copy, and read its episodes."""
    copy = path.parent.parent / "recovered.trj"
    _copy(path, copy)
    result = recover(copy)
    if not result.was_sealed and result.bytes_lost:
        reading.damage.append(f"recover: {result.bytes_lost} bytes lost")
    with LogReader(copy) as reader:
        again = [chunk for chunk in reader.chunks() if chunk.decode() is None]
        if reader.damage or not reader.is_sealed:
            reading.faults.append(f"the recovered log is damaged: {reader.damage} {len(again)}")
    inner = Reading()
    read_episodes(copy, inner)
    for key, value in inner.values.items():
        reading.values[("recovered", *key)] = value


def doctor(path: Path, reading: Reading) -> None:
    """Ask what is wrong with it."""
    _, findings = examine(path.parent)
    reading.damage += [finding.problem for finding in findings if finding.kind == "damaged"]


WAYS: dict[str, Callable[[Path, Reading], None]] = {
    "frames": read_frames,
    "episodes": read_episodes,
    "index": read_index,
    "show": show,
    "replay": replay,
    "recovered": read_recovered,
    "doctor": doctor,
}


CHEAP_WAYS = ("frames", "episodes", "index", "recovered")


def wrong_values(reading: Reading, truth: Reading) -> list[str]:
    """Return the places whose values are not the original's, if no damage was noted."""
    if set(reading.damage) - set(truth.damage):
        return []
    wrong = []
    for key, value in reading.values.items():
        own = key[1:] if key[0] == "recovered" else key
        if own not in truth.values:
            wrong.append(f"{key} is new")
        elif not is_same(value, truth.values[own]):
            wrong.append(f"{key} is {str(value)[:150]}, was {str(truth.values[own])[:150]}")
    return wrong


def serve(seeds: Path) -> None:
    """Read mutants by their numbers."""
    paths = sorted(seeds.glob("*.trj"))
    # Beyond what is allowed: memory that is claimed at once must not end the machine.
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    truths: dict[Path, Reading] = {}
    for line in sys.stdin:
        mutant = make_mutant(int(line), paths)
        if mutant.original not in truths:
            with tempfile.TemporaryDirectory() as folder:
                truths[mutant.original] = read_everything(mutant.original, Path(folder), WAYS)
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mutant.trj"
            path.write_bytes(mutant.data)
            if mutant.journal is not None:
                journal_path(path).write_bytes(mutant.journal)
            # The other ways take three times as long.
            ways = WAYS if mutant.seed % 10 == 0 else CHEAP_WAYS
            reading = read_everything(path, Path(folder), ways)
            wrong = [] if mutant.is_forged else wrong_values(reading, truths[mutant.original])
        print(
            json.dumps(
                {
                    "seed": mutant.seed,
                    "log": mutant.original.stem,
                    "names": mutant.names,
                    "faults": reading.faults,
                    "damage": reading.damage[:5],
                    "wrong": wrong[:5],
                    "s": time.process_time() - start,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
