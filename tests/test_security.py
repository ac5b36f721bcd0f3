"""The page on security: each line of what is never done has a test, and reading a log runs nothing."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.lone_episode import read_episode
from trajrec.recording.event_log import close_logs
from trajrec.replay import replay_episode

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "explanation" / "security.md").read_text()

# The beginning of each line, and the tests of it.
LINES: dict[str, tuple[str, ...]] = {
    "Opening, listing, showing": ("test_security.py::test_reading_a_hostile_log_runs_nothing",),
    "They open no file outside": (
        "test_security.py::test_reading_a_hostile_log_runs_nothing",
        "test_ids.py::test_file_of_ids_names_no_log_outside",
    ),
    "No bytes of a log are unpickled": (
        "test_security.py::test_reading_a_hostile_log_runs_nothing",
        "test_codec.py::test_objects_come_back_as_plain_data_with_type_name",
    ),
    "No size, count, offset": (
        "test_validation.py::test_bomb_takes_neither_time_nor_memory",
        "test_fuzz.py::test_no_mutation_gives_a_traceback_or_a_wrong_value",
    ),
    "No contradiction in a log": (
        "test_validation.py::test_contradiction_costs_its_frame_and_is_named",
    ),
    "No state is given out": (
        "test_rebuilt_states.py::test_damaged_changes_make_the_same_states_unknown_in_any_order",
        "test_whole_states.py::test_a_whole_state_is_compared_with_its_digest",
    ),
    "A replay imports no module": (
        "test_trust.py::test_no_module_is_imported_by_an_id",
        "test_trust.py::test_worlds_that_reach_out_need_permission",
    ),
    "A name in a log leads": (
        "test_trust.py::test_a_log_names_no_function_as_its_world",
        "test_trust.py::test_a_log_names_no_function_as_a_wrapper",
    ),
    "No argument of a log": (
        "test_trust.py::test_paths_of_a_log_are_not_passed_on",
        "test_trust_options.py::test_numbers_that_may_name_open_files_are_not_passed_on",
    ),
    "No option of a recorded reset": (
        "test_trust_options.py::test_options_of_a_log_are_not_passed_on",
        "test_trust_options.py::test_options_of_a_worlds_reset_are_not_passed_on",
    ),
    "No folder comes from a log": (
        "test_trust.py::test_a_folder_named_by_a_log_is_not_touched",
        "test_trust.py::test_a_folder_with_files_is_not_laid_out_anew",
    ),
    "No window opens": (
        "test_values.py::test_a_log_makes_no_wrapper_that_writes_files",
        "test_security.py::test_no_window_opens_because_a_log_says_so",
    ),
    "No tool that reaches beyond": (
        "test_worlds.py::test_external_tools_are_answered_from_the_log",
        "test_credit_tools.py::test_external_calls_are_answered_only_from_the_log",
    ),
    "No query changes": ("test_sandbox.py::test_no_query_changes_anything",),
    "No query of somebody else": (
        "test_sandbox.py::test_queries_of_somebody_else_reach_nothing",
        "test_sandbox.py::test_a_query_of_somebody_else_ends_at_its_limits",
    ),
    "No `where` or `order_by`": ("test_sandbox.py::test_a_condition_reaches_no_file",),
    "No index is believed": (
        "test_sandbox.py::test_an_index_that_is_not_ours_is_not_believed",
        "test_sandbox.py::test_a_truncated_index_is_made_again",
    ),
    "No index is read or written": (
        "test_security.py::test_an_index_that_is_a_link_leads_to_no_file",
    ),
    "No recorded text steers": ("test_sandbox.py::test_no_output_steers_the_terminal",),
    "No recorded text looks": (
        "test_shown_texts.py::test_no_recorded_text_looks_like_a_line_of_the_program",
    ),
    "No recorded text is a formula": (
        "test_sandbox.py::test_a_formula_is_no_formula_in_csv",
        "test_shown_texts.py::test_names_of_columns_are_no_formulas_in_csv",
    ),
    "No recorded text is markup": (
        "test_shown_texts.py::test_pages_and_reports_hold_texts_as_texts",
    ),
}


def test_each_line_of_the_page_has_its_tests() -> None:
    section = PAGE.partition("## What is never done\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^- (.*)$", section, re.MULTILINE)
    assert [line for line in lines if not any(map(line.startswith, LINES))] == []
    assert [start for start in LINES if not any(line.startswith(start) for line in lines)] == []
    for tests in LINES.values():
        for name in tests:
            file, _, function = name.partition("::")
            assert f"def {function}(" in (TESTS / file).read_text(), name


# A module that a log names. Whoever imports it leaves a trace.
TRIPWIRE = """
import pathlib

pathlib.Path(__file__).with_name("tripped").touch()

class Thing:
    pass

def make(**kwargs):
    pass
"""

# Watches a process that reads a benign folder first, so that all imports are done, and then a
# hostile one.
WATCHED = """
import contextlib, io, json, os, sys

tripwire, benign, hostile = sys.argv[1:]
sys.path.append(tripwire)
import trajrec
from trajrec.cli.main import main

COMMANDS = [
    ["ls"], ["ls", "--json"], ["sql", "SELECT * FROM episodes, attempts, steps"], ["schema"],
    ["sql", "SELECT * FROM failures", "--json"], ["doctor"], ["index"], ["index", "--rebuild"],
    ["recover"], ["compact"],
]

def read(folder):
    said = []
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        for name, *rest in COMMANDS:
            said.append([name, int(main([name, folder, *rest]))])
        with trajrec.open(folder) as corpus:
            episodes = list(corpus.episodes())
            ids = [episode.id for episode in episodes]
            pair = [episode.id for episode in episodes if not episode.is_agent_episode]
        for name in ids:
            for rest in ([], ["--json"], ["--step", "0"], ["--step", "0", "--json"]):
                said.append(["show", int(main(["show", folder, name, *rest]))])
        said.append(["diff", int(main(["diff", folder, *pair]))])
    with trajrec.open(folder) as corpus:
        for episode in corpus.episodes():
            episode.actions, episode.observation_values, episode.infos, list(episode.steps())
            if episode.is_agent_episode:
                episode.transcript.attempts, episode.transcript.model_calls
                with contextlib.suppress(trajrec.errors.StateUnknownError):
                    episode.state(episode.end_step)
    return said

read(benign)
events = []
FORBIDDEN = (
    "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "socket.",
    "urllib.", "pickle.", "webbrowser.", "compile", "ctypes.dlopen", "code.__new__", "function.__new__",
)

def watch(event, arguments):
    if event == "open":
        # Not the numbers of files that are open.
        if isinstance(arguments[0], (str, bytes)):
            events.append([event, os.fsdecode(arguments[0])])
    elif event.startswith(FORBIDDEN):
        events.append([event, repr(arguments)[:200]])
    elif event == "import":
        events.append([event, arguments[0]])

sys.addaudithook(watch)
said = read(hostile)
print(json.dumps({"events": list(events), "said": said}))
"""


class Evil:
    """A value whose pickle runs a command."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


def record_both(folder: Path, module: str, tripped: Path, secret: Path) -> None:
    """Record an agent's and an environment's episode that name a module, and other files."""
    thing = type("Thing", (), {"__module__": module})()
    thing.path = str(secret)
    poison: Any = [pickle.dumps(Evil(tripped)), f"__import__('os').system('touch {tripped}')"]

    class Named:
        kwargs = {"file": str(secret), "thing": thing, "poison": poison}  # noqa: RUF012

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return poison

        def tools(self) -> Any:
            return (trajrec.Tool(f"{module}:make", {"$ref": f"file://{secret}"}, "read"),)

        def call(self, name: str, arguments: Any, /) -> Any:
            return [thing, poison, {"path": str(secret)}]

        def get_state(self) -> Any:
            return {"thing": vars(thing), "poison": poison}

    Named.__module__, Named.__qualname__ = module, "make"
    with trajrec.episode(
        folder, task=str(secret), world=Named(), goal=poison, metadata={"file": str(secret)}
    ) as ep:
        ep.call(f"{module}:make", thing=thing, file=str(secret))
        ep.model(lambda **_: poison, messages=[{"role": "user", "content": f"file://{secret}"}])
        ep.check(trajrec.verifier(id=f"{module}:make", version="1")(lambda world: True))
    close_logs()

    class Env(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros(1, np.float32), {"thing": thing, "poison": poison}

        def step(self, action: Any) -> Any:
            return np.zeros(1, np.float32), 1.0, True, False, {"file": str(secret), "thing": thing}

    Env.__module__, Env.__qualname__ = module, "make"
    env = Env()
    env.spec = EnvSpec("Trip-v0", entry_point=f"{module}:make", kwargs={"file": str(secret)})
    recorder = trajrec.record(env, folder)
    for _ in range(2):
        recorder.reset(seed=0, options={"file": str(secret), "poison": poison})
        recorder.step(0)
    recorder.close()


@pytest.mark.slow
def test_reading_a_hostile_log_runs_nothing(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "tripwire_module.py").write_text(TRIPWIRE)
    secret = tmp_path / "secret"
    secret.write_text("a secret file")
    tripped = code / "tripped"
    for name, module in (("benign", "json"), ("hostile", "tripwire_module")):
        record_both(tmp_path / name, module, tripped, secret)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            WATCHED,
            str(code),
            str(tmp_path / "benign"),
            str(tmp_path / "hostile"),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert [each for each in result["said"] if each[1] > 1] == []
    inside = str(tmp_path / "hostile")
    outside = [
        event
        for event in result["events"]
        if not (event[0] == "open" and event[1].startswith((inside, sys.prefix, "/dev/null")))
    ]
    assert outside == []
    assert any(event[1].endswith(".trj") for event in result["events"])
    assert not tripped.exists()


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("name", ["", "index.duckdb", "index.duckdb.wal", "new", "ids.bin"])
def test_an_index_that_is_a_link_leads_to_no_file(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("years of work")
    runs = tmp_path / "runs"
    env = trajrec.record(gym.make("CartPole-v1"), runs)
    env.reset(seed=0)
    env.step(0)
    env.close()
    index = runs / ".trajrec"
    if name:
        index.mkdir()
        target = outside / ("missing" if name == "new" else "mine")
        (index / ("index.duckdb" if name == "new" else name)).symlink_to(target)
    else:
        index.symlink_to(outside)
    for _ in range(2):
        with trajrec.open(runs) as corpus:
            assert corpus.sql("SELECT count(*) FROM steps").fetchall() == [(1,)]
            (episode,) = corpus.episodes()
            assert corpus.episode(episode.id).n_steps == 1
        main(["index", str(runs), "--rebuild"])
    assert [path.name for path in outside.iterdir()] == ["mine"]
    assert (outside / "mine").read_text() == "years of work"


class Shown(gym.Env[Any, Any]):
    """An environment that would open a window."""

    metadata = {"render_modes": ["human"]}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    modes: list[Any] = []  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.modes.append(render_mode)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 1.0, True, False, {}

    def render(self) -> None:
        pass


def test_no_window_opens_because_a_log_says_so(tmp_path: Path) -> None:
    gym.register("Shown-v0", entry_point=f"{__name__}:Shown")
    try:
        env = trajrec.record(gym.make("Shown-v0", render_mode="human"), tmp_path)
        env.reset(seed=0)
        env.step(0)
        env.close()
        assert replay_episode(read_episode(env.path, 0)).grade != "diverged"
        assert Shown.modes == ["human", None]
    finally:
        gym.registry.pop("Shown-v0")
