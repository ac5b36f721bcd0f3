"""What holds of the project as a whole: layers, packages, documents, samples."""

from __future__ import annotations

import ast
import doctest
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
from trajrec.log.reader import LogReader

ROOT = Path(__file__).resolve().parent.parent
sources = pytest.mark.sources

LAYERS = [
    {"errors", "version", "protocols", "interfaces", "agents.current", "joint"},
    {"structs", "state.emulator"},
    {"schema"},
    {"codec"},
    {
        "state.diff",
        "state.fields",
        "state.digests",
        "state.adapters",
        "state.generators",
        "state.constants",
        "state.sharing",
        "verifiers",
        "provenance",
        "log.frames",
        "log.pixels",
    },
    {"log.columns", "recorded", "state.assign", "state.projection"},
    {"state.tree"},
    {"log.writer", "log.reader", "state.sticky", "transcript", "state.database", "state.folder"},
    {
        "log.repair",
        "log.fields",
        "state.snapshots",
        "blocks",
        "agents.arguments",
        "agents.redaction",
        "agents.conversation",
        "agents.streams",
        "state.watching",
    },
    {"episodes"},
    {"paths"},
    {"effects", "agents.sink", "agents.steps"},
    {"agents.journal"},
    {"agents.calls", "agents.models", "agents.clients"},
    {"agents.loop"},
    {"steps", "index.tables", "index.jsonable", "index.rewards"},
    {"state.keyframes"},
    {"recorder", "index.rows"},
    {"index.credit", "pettingzoo"},
    {"index.agents"},
    {"index.build"},
    {"corpus"},
    {"envs.shop_tasks", "envs.workspace_tasks"},
    {
        "envs.bank",
        "envs.keydoor",
        "envs.solved",
        "envs.shop",
        "envs.office",
        "envs.workspace",
        "envs.scripted",
        "envs.text",
        "envs.contract",
        "envs",
    },
    {"replay.registry", "replay.values"},
    {"replay.report", "replay.environments", "replay.stages", "replay.places", "replay.children", "replay.policies"},
    {"replay.workers"},
    {"replay.conditions", "replay.compare", "replay.differences", "replay.page", "replay.regression"},
    {"replay.cause"},
    {"replay.worlds", "replay.branches", "replay.execution"},
    {"replay.levels", "replay.forcing"},
    {"replay.engine"},
    {"replay.cluster"},
    {"replay.determinism", "replay.batch"},
    {"replay.walking"},
    {"replay.server"},
    {"replay.pool"},
    {"replay.forking"},
    {"replay.credit.noise", "replay.credit.intervals", "replay.credit.contexts"},
    {"replay.credit.changepoint", "replay.credit.grounds"},
    {"replay.credit.rollouts", "replay.credit.worlds", "replay.credit.setting"},
    {"replay.credit.agents", "replay.credit.estimates"},
    {"replay.credit.probes"},
    {"replay.credit.keeping"},
    {"replay.credit.scanning"},
    {
        "replay.credit.decisive",
        "replay.credit.groups",
        "replay.credit.pooling",
        "replay.credit.sharing",
        "replay.credit.substitution",
    },
    {"replay.credit.hindsight", "replay.credit.no_return", "replay.credit.exporting", "replay.credit.plotting"},
    {"replay.credit"},
    {"replay"},
    {"regrading"},
    {"continuing"},
    {"reruns"},
    {"auditing"},
    {"recording"},
    {"", "cli.output", "pytest_plugin"},
    {"cli.transcript"},
    {"cli.show"},
    {"cli.commands"},
    {"cli.replaying"},
    {"cli.forks", "cli.credit"},
    {"cli.demo"},
    {"cli"},
    {"__main__"},
]
"""Modules by layer, lowest first: a module imports only from layers below its own."""

FORBIDDEN = {
    "replay": ("recorder", "steps", "blocks", "corpus", "index"),
    "recorder": ("episodes", "corpus", "index", "replay"),
    "recording": ("corpus", "index"),
}


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in (("", "trajrec"), ("envs", "envs"), ("replay", "replay")):
        for path in (ROOT / folder).rglob("*.py"):
            if package == "" and path.relative_to(ROOT / folder).parts[0] in ("envs", "replay"):
                continue
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            name = ".".join(part for part in parts if part and part != "__init__")
            found[name] = path
    return found


def imports(path: Path) -> set[str]:
    """Return the modules of the project that a module imports when it is imported itself."""
    found = set()
    tree = ast.parse(path.read_text())
    for node in tree.body:
        for inner in [node] if not isinstance(node, ast.Try) else node.body:
            if isinstance(inner, ast.ImportFrom):
                assert not inner.level, f"{path}: a relative import"
                if inner.module == "trajrec":
                    found |= {alias.name for alias in inner.names if alias.name not in ("__version__",)}
                elif inner.module and inner.module.startswith("trajrec."):
                    module = inner.module.removeprefix("trajrec.")
                    folder = (
                        ROOT / ("" if module.partition(".")[0] in ("envs", "replay") else "trajrec") / module.replace(".", "/")
                    )
                    names = [alias.name for alias in inner.names]
                    inside = {name for name in names if (folder / f"{name}.py").exists() or (folder / name).is_dir()}
                    found |= {f"{module}.{name}" for name in inside} if inside else {module}
    return found


@sources
def test_every_module_imports_only_from_layers_below_its_own() -> None:
    level = {name: k for k, layer in enumerate(LAYERS) for name in layer}
    packages = {"agents", "log", "index", "state"}
    found = modules()
    assert set(found) - packages == set(level), set(found) - packages ^ set(level)
    for name, path in found.items():
        for imported in imports(path):
            if name not in packages and imported in level:
                assert level[imported] < level[name], f"{name} imports {imported}"


@sources
def test_recorder_and_replay_share_only_the_log_but_that_forks_are_recorded() -> None:
    for name, path in modules().items():
        if name in ("replay.branches", "replay.forking", "replay.credit.exporting"):  # the last asks the corpus
            continue
        for prefix, forbidden in FORBIDDEN.items():
            if name == prefix or name.startswith(prefix + "."):
                for imported in imports(path):
                    assert imported.partition(".")[0] not in forbidden, f"{name} imports {imported}"


@sources
def test_every_package_is_listed_for_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    there = {"trajrec"} | {
        "trajrec." + ".".join(path.parent.relative_to(ROOT / "trajrec").parts)
        for path in (ROOT / "trajrec").rglob("__init__.py")
        if path.parent != ROOT / "trajrec"
    }
    there |= {f"trajrec.{name}" for name in ("envs", "replay", "replay.credit")}
    assert listed == there
    assert project["project"]["version"] == trajrec.__version__


@sources
def test_modules_stay_small() -> None:
    for name, path in modules().items():
        assert len(path.read_text().splitlines()) <= 400, name


def test_the_public_names_are_few_sorted_and_there() -> None:
    assert len(trajrec.__all__) <= 20
    assert trajrec.__all__ == sorted(trajrec.__all__)
    for name in trajrec.__all__:
        assert getattr(trajrec, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        trajrec.nothing  # noqa: B018


DOCUMENTED = [
    "trajrec.codec",
    "trajrec.schema",
    "trajrec.interfaces",
    "trajrec.verifiers",
    "trajrec.state.assign",
    "trajrec.state.diff",
    "trajrec.state.projection",
    "trajrec.state.digests",
    "trajrec.index.jsonable",
    "trajrec.envs.bank",
    "trajrec.envs.keydoor",
    "trajrec.envs.office",
    "trajrec.envs.shop",
    "trajrec.envs.solved",
    "trajrec.envs.text",
    "trajrec.envs.workspace",
    "trajrec.envs.contract",
    "trajrec.replay.credit.intervals",
    "trajrec.replay.policies",
    "trajrec.replay.determinism",
    "trajrec.replay.report",
]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_examples_of_docstrings_hold(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS, extraglobs={"np": np, "gymnasium": gym})
    assert result.attempted > 0
    assert result.failed == 0


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(code) == 6
    script = "\n".join(code) + "\nenv.close()\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "exact None" in done.stdout
    assert "arguments/cents: recorded 1000000, now 5000" in done.stdout


def test_the_readme_names_every_command() -> None:
    from trajrec.cli import build_parser

    text = (ROOT / "README.md").read_text()
    choices = next(action.choices for action in build_parser()._actions if action.choices)
    assert choices is not None
    for command in choices:
        assert f"trajrec {command}" in text


def sample_env(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": "0", "HOME": str(folder)}


def test_the_samples_are_made_again(tmp_path: Path) -> None:
    script = ROOT / "sample_trajectories" / "make.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, env=sample_env(tmp_path))
    samples = sorted((ROOT / "sample_trajectories").glob("*.trj"))
    assert [path.name for path in samples] == sorted(path.name for path in tmp_path.glob("*.trj"))
    if zstandard.ZSTD_VERSION != (1, 5, 7):
        pytest.skip("the samples' bytes are of zstd 1.5.7")
    for path in samples:
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_the_samples_hold_a_won_a_lost_a_crashed_and_a_killed_episode(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(ROOT / "sample_trajectories", tmp_path / "samples")
    with trajrec.open(tmp_path / "samples") as corpus:
        found = dict(corpus.sql("SELECT outcome, count(*) FROM episodes GROUP BY 1").fetchall())
        assert found == {"success": 5, "failure": 2, None: 6}
        assert corpus.sql("SELECT count(*) FROM failures").fetchall() == [(9,)]
        assert corpus.sql("SELECT count(*) FROM episodes WHERE ending = 'interrupted'").fetchall() == [(1,)]
        for episode in corpus.episodes("env_id LIKE 'trajrec/%'"):
            assert trajrec.replay.replay_episode(episode).grade == "exact"


GOLDEN = sorted((ROOT / "tests" / "golden").glob("*.trj"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_logs_of_every_format_version_stay_readable(path: Path) -> None:
    from trajrec.episodes import Episode

    with LogReader(path) as reader:
        assert not reader.damage
        episode = Episode(reader, 0)
        assert (episode.n_steps, episode.ending, float(episode.total_reward)) == (13, "terminated", 1.0)
        assert episode.actions == [0, 0, 0, 0, 2, 1, 1, 1, 1, 1, 1, 1, 3]
        assert episode.observations[-1].tolist() == [7, 1, 0, 13]


def test_importing_trajrec_costs_little() -> None:
    code = (
        "import gymnasium, numpy, time; t = time.process_time(); import trajrec; trajrec.record; print(time.process_time() - t)"
    )
    times = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) for _ in range(3)]
    assert min(times) < 0.3  # a guard against an import gone wrong; benchmarks measure it


@pytest.mark.parametrize(
    "module", ["trajrec.recording", "trajrec.replay.server", "trajrec.replay.workers", "trajrec.replay.credit"]
)
def test_what_records_and_the_processes_that_replay_load_no_database(module: str) -> None:
    code = f"import sys, {module}; print('duckdb' in sys.modules, 'matplotlib' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split() == ["False", "False"]
