"""What holds of the project as a whole: layers, packages, documents, samples."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import zstandard

import trajrec

ROOT = Path(__file__).resolve().parent.parent
sources = pytest.mark.sources

VALUES = {"values"}
LOG = VALUES | {"log"}
RECORDING = LOG | {"redaction", "envstate", "recording"}
TAPS = VALUES | {"wire", "taps"}
AGENTS = RECORDING | TAPS | {"tracking", "agents"}
ANALYSIS = {"statistics", "analysis"}
READING = LOG | {"corpus"}
EXECUTE = READING | {"redaction", "envstate", "tracking", "replay.execute"}
FORKS = EXECUTE | {"recording", "replay.processes", "replay.forks"}
SAMPLING = FORKS | AGENTS | {"statistics", "replay.agents", "replay.credit.sampling"}
ESTIMATORS = SAMPLING | {"replay.credit.results", "replay.credit.estimators"}

ROOMS = {
    "base": set(),
    "values": VALUES,
    "wire": VALUES | {"wire"},
    "taps": TAPS,
    "statistics": {"statistics"},
    "analysis": VALUES | ANALYSIS,
    "log": LOG,
    "datasets": LOG | {"datasets"},
    "redaction": VALUES | {"redaction"},
    "envstate": VALUES | {"envstate"},
    "tracking": VALUES | {"tracking"},
    "recording": RECORDING,
    "agents": AGENTS,
    "proxies": AGENTS | {"proxies"},
    "instrument": VALUES | TAPS | {"agents", "instrument"},
    "corpus": AGENTS | ANALYSIS | {"datasets", "corpus"},
    "exchange": AGENTS | {"corpus", "exchange"},
    "envs": VALUES | {"envs"},
    "replay.execute": EXECUTE,
    "replay.processes": READING | {"replay.processes"},
    "replay.forks": FORKS,
    # From agents only `freeze`: a diagnosis freezes the same things as a recording.
    "replay.diagnose": FORKS | AGENTS | {"replay.diagnose"},
    "replay.agents": AGENTS | EXECUTE | {"replay.diagnose", "replay.agents"},
    "replay": FORKS | AGENTS | {"replay.diagnose", "replay.agents", "replay"},
    "replay.whatif": AGENTS | EXECUTE | {"proxies", "statistics", "replay.agents", "replay.whatif"},
    "replay.credit.sampling": SAMPLING,
    "replay.credit.results": SAMPLING | {"replay", "replay.credit.results"},
    "replay.credit.estimators": ESTIMATORS,
    "replay.credit": ESTIMATORS | {"replay.credit"},
    "view": AGENTS | ANALYSIS | {"datasets", "corpus", "view"},
    "cli": ESTIMATORS
    | {
        "analysis",
        "exchange",
        "envs",
        "replay",
        "replay.diagnose",
        "replay.whatif",
        "replay.credit",
        "proxies",
        "view",
        "cli",
    },
    "front": ESTIMATORS | {"replay", "replay.diagnose", "proxies", "view", "cli", "front"},
}
"""Room -> the rooms that it may import, itself included; every room may import the base.

A room is named after its folder. The base is the modules at the top of `trajrec/` that import no
room; the front is those at the top that choose among rooms for users. A room may only name rooms
above it in this table, so the arrows have one direction.
"""

FRONT = {"api", "pytest_plugin", "__main__"}


@functools.cache
def modules() -> dict[str, Path]:
    """Return every module of the project by its dotted name below `trajrec`."""
    paths = {}
    for package, folder in (("", "trajrec"), ("envs", "envs"), ("replay", "replay")):
        for path in (ROOT / folder).rglob("*.py"):
            if package == "" and path.relative_to(ROOT / folder).parts[0] in ("envs", "replay"):
                continue
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            paths[".".join(part for part in parts if part and part != "__init__")] = path
    return paths


def room_of(module: str) -> str:
    """Return the room that a module stands in."""
    if module in FRONT:
        return "front"
    rooms = [room for room in ROOMS if module == room or module.startswith(f"{room}.")]
    return max(rooms, key=len, default="base")


@functools.cache
def imports(path: Path) -> set[str]:
    """Return the modules of the project that a module imports, at its top or inside of functions.

    A package lists its public names for type checkers under TYPE_CHECKING and imports none of them.
    """
    names = set(modules())
    imported = set()
    tree = ast.parse(path.read_text())
    if path.name == "__init__.py":
        tree.body = [node for node in tree.body if not isinstance(node, ast.If)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            if node.module == "trajrec" or (node.module or "").startswith("trajrec."):
                module = node.module.removeprefix("trajrec").removeprefix(".")
                for alias in node.names:
                    inner = f"{module}.{alias.name}".removeprefix(".")
                    imported.add(inner if inner in names else module)
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("trajrec.") for alias in node.names), path
    return imported


@pytest.mark.slow
@sources
def test_every_room_imports_only_rooms_above_it() -> None:
    above: set[str] = set()
    for room, allowed in ROOMS.items():
        assert allowed - {room} <= above, f"{room} may import a room below it"
        above.add(room)
    for name, path in modules().items():
        for imported in imports(path):
            room = room_of(imported)
            assert room == "base" or room in ROOMS[room_of(name)], f"{name} imports {imported}"


@pytest.mark.slow
@sources
def test_no_module_imports_itself_through_others() -> None:
    paths = modules()
    graph = {name: imports(path) - {name} for name, path in paths.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for imported in graph.get(name, ()):
                visit(imported, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@sources
def test_recorder_and_replay_share_only_the_log() -> None:
    for room, allowed in ROOMS.items():
        if room in ("recording", "agents"):
            assert not any(other.startswith(("replay", "corpus")) for other in allowed)
    for name in ("replay.execute", "replay.processes"):
        assert not ROOMS[name] & {"recording", "agents"}


@sources
def test_no_module_has_the_name_of_a_public_function() -> None:
    for package in ("", "replay", "replay.credit", "envs"):
        public = importlib.import_module(f"trajrec.{package}".rstrip(".")).__all__
        prefix = f"{package}." if package else ""
        for name in modules():
            if name.startswith(prefix) and "." not in name.removeprefix(prefix):
                assert name.removeprefix(prefix) not in {*public} - {"envs", "replay", "credit"}


@sources
def test_every_package_is_listed_for_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    there = {"trajrec"} | {
        "trajrec." + ".".join(path.parent.relative_to(ROOT / "trajrec").parts)
        for path in (ROOT / "trajrec").rglob("__init__.py")
        if path.parent != ROOT / "trajrec"
    }
    there |= {
        ".".join(("trajrec", *path.parent.relative_to(ROOT).parts))
        for folder in ("envs", "replay")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert listed == there
    assert project["project"]["version"] == trajrec.__version__


@sources
def test_modules_stay_small() -> None:
    for name, path in modules().items():
        assert len(path.read_text().splitlines()) <= 520, name


PACKAGES = ["trajrec", "trajrec.envs", "trajrec.replay", "trajrec.replay.credit"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_of_a_package_resolves(package: str) -> None:
    module = importlib.import_module(package)
    assert len(module.__all__) <= 25
    assert module.__all__ == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


@sources
@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_the_same_public_names(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__file__ is not None
    body = ast.parse(Path(module.__file__).read_text()).body
    declared = set()
    for node in [
        *body,
        *(node for block in body if isinstance(block, ast.If) for node in block.body),
    ]:
        match node:
            # An import under another name is no export to them.
            case ast.ImportFrom(names=[ast.alias(name=name, asname=same)]) if name == same:
                declared.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]) if not name.startswith("_"):
                declared.add(name)
    assert declared - {"TYPE_CHECKING"} == set(module.__all__)


DOCUMENTED = [
    "trajrec.wire.aws_stream",
    "trajrec.wire.dialects.anthropic",
    "trajrec.wire.dialects.bedrock",
    "trajrec.wire.dialects.chat",
    "trajrec.wire.body_reader",
    "trajrec.wire.dialects.chat_stream",
    "trajrec.wire.dialects.choose",
    "trajrec.wire.dialects.gemini",
    "trajrec.wire.dialects.reading",
    "trajrec.wire.dialects.responses",
    "trajrec.wire.dialects.streams",
    "trajrec.wire.dialects.urls",
    "trajrec.wire.json_bodies",
    "trajrec.wire.json_stream",
    "trajrec.wire.keys",
    "trajrec.wire.results",
    "trajrec.wire.sse",
    "trajrec.corpus.call_contents",
    "trajrec.exchange.chat",
    "trajrec.exchange.import_log",
    "trajrec.exchange.otlp_genai",
    "trajrec.exchange.reading",
    "trajrec.exchange.times",
    "trajrec.exchange.values",
    "trajrec.log.source_facts",
    "trajrec.corpus.prices",
    "trajrec.corpus.reward_sums",
    "trajrec.options",
    "trajrec.values.codec",
    "trajrec.log.schema",
    "trajrec.run_interface",
    "trajrec.verifiers",
    "trajrec.tracking.restore",
    "trajrec.values.diff",
    "trajrec.values.projection",
    "trajrec.values.digest",
    "trajrec.values.json",
    "trajrec.envs.bank",
    "trajrec.envs.keydoor",
    "trajrec.envs.office",
    "trajrec.envs.shop",
    "trajrec.envs.solved",
    "trajrec.envs.text",
    "trajrec.envs.workspace",
    "trajrec.statistics.intervals",
    "trajrec.statistics.paired_rates",
    "trajrec.statistics.pass_k",
    "trajrec.statistics.quantiles",
    "trajrec.analysis.contrasts",
    "trajrec.analysis.disagreement",
    "trajrec.analysis.factors",
    "trajrec.analysis.interface_difference",
    "trajrec.analysis.lineage",
    "trajrec.analysis.planning",
    "trajrec.analysis.rollouts",
    "trajrec.analysis.support",
    "trajrec.replay.forks.policies",
    "trajrec.replay.diagnose.determinism",
    "trajrec.replay.execute.report",
    "trajrec.view.rows",
    "trajrec.view.svg",
    "trajrec.view.text",
    "trajrec.view.tree",
]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_examples_of_docstrings_hold(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(
        module, optionflags=doctest.ELLIPSIS, extraglobs={"np": np, "gymnasium": gym}
    )
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.slow
def test_the_readmes_python_runs(tmp_path: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(code) == 5
    script = "\n".join(code) + "\nenv.close()\n"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "exact None" in done.stdout
    assert "arguments/cents: recorded 1000000, now 5000" in done.stdout


def sample_env(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": "0", "HOME": str(folder)}


MAX_MODULE_LINES = 400
MAX_BODY_LINES = 60


@sources
def test_no_module_is_longer_than_one_idea() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name: n for name, n in lines.items() if n > MAX_MODULE_LINES} == {}


@sources
def test_each_function_fits_on_a_screen() -> None:
    long = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                # The first statement is the docstring, if there is one.
                first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
                n_lines = (node.end_lineno or 0) - first.lineno + 1
                if n_lines > MAX_BODY_LINES:
                    long.append(f"{name}:{node.name}: {n_lines} lines")
    assert long == []


@pytest.mark.slow
def test_the_samples_are_made_again(tmp_path: Path) -> None:
    script = ROOT / "sample_trajectories" / "make.py"
    subprocess.run(
        [sys.executable, str(script), str(tmp_path)], check=True, env=sample_env(tmp_path)
    )
    samples = sorted((ROOT / "sample_trajectories").glob("*.trj"))
    assert [path.name for path in samples] == sorted(path.name for path in tmp_path.glob("*.trj"))
    if zstandard.ZSTD_VERSION != (1, 5, 7):
        pytest.skip("the samples' bytes are of zstd 1.5.7")
    for path in samples:
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_the_samples_hold_no_paths_of_a_machine() -> None:
    corpus = trajrec.open(ROOT / "sample_trajectories")
    failures = [failure for episode in corpus.episodes() for failure in episode.failures]
    assert failures
    assert [failure for failure in failures if "File " in failure.traceback] == []


@pytest.mark.slow
def test_the_samples_hold_a_won_a_lost_a_crashed_and_a_killed_episode(tmp_path: Path) -> None:
    import shutil

    # The corpus of the support agent has tests of its own.
    others = shutil.ignore_patterns("support")
    shutil.copytree(ROOT / "sample_trajectories", tmp_path / "samples", ignore=others)
    with trajrec.open(tmp_path / "samples") as corpus:
        found = dict(corpus.sql("SELECT outcome, count(*) FROM episodes GROUP BY 1").fetchall())
        assert found == {"success": 5, "failure": 2, None: 6}
        assert corpus.sql("SELECT count(*) FROM failures").fetchall() == [(9,)]
        assert corpus.sql(
            "SELECT count(*) FROM episodes WHERE ending = 'interrupted'"
        ).fetchall() == [(1,)]
        for episode in corpus.episodes("env_id LIKE 'trajrec/%'"):
            assert trajrec.replay.replay_episode(episode).grade == "exact"


@pytest.mark.slow
def test_importing_trajrec_costs_little() -> None:
    code = (
        "import gymnasium, numpy, time; t = time.process_time(); import trajrec; trajrec.record; "
        "print(time.process_time() - t)"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(times) < 0.3  # a guard against an import gone wrong; benchmarks measure it


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    "module",
    [
        "trajrec.api",
        "trajrec.replay.forks.fork_server",
        "trajrec.replay.processes.workers",
        "trajrec.replay.credit",
    ],
)
def test_what_records_and_the_processes_that_replay_load_no_database(module: str) -> None:
    code = f"import sys, {module}; print('duckdb' in sys.modules, 'matplotlib' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert found.split() == ["False", "False"]
