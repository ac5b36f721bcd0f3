"""Imports, exports and merges that are killed: nothing is lost, nothing doubled, run again and done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from conftest import record
from killing import Zygote, forking_process, record_and_kill
from tiers import Share, suite, third_slow

import trajrec
from trajrec.cli import main as cli
from trajrec.corpus.labels import LabelLine
from trajrec.log.folder import has_logs
from trajrec.replay import credit

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

N_LINES = 40
N_STEPS = 12

COMMANDS = {
    "import SOURCE/t.jsonl -o OUT": "corpus",
    "merge SOURCE/a SOURCE/b SOURCE/c -o OUT": "corpus",
    "export SOURCE/talks atif -o OUT": "folder",
    "export SOURCE/talks atif -o OUT.jsonl": "file",
    "export SOURCE/talks otlp -o OUT.jsonl": "file",
    "export SOURCE/talks messages -o OUT.jsonl": "file",
    "export SOURCE/a transitions -o OUT.parquet": "file",
    "export SOURCE/a transitions -o OUT.arrow": "file",
    "export SOURCE/talks parquet -o OUT": "tables",
    "export SOURCE/a parquet -o OUT": "tables",
    "export SOURCE/a minari -o OUT-v0": "folder",
    "export SOURCE/lake prm -o OUT.parquet": "file",
    "export SOURCE/support dpo --messages -o OUT.jsonl": "file",
    "export SOURCE/lake grpo -o OUT.parquet": "file",
    "tag SOURCE/a --write OUT.jsonl": "file",
}
"""Command -> the kind of its output."""


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with forking_process() as process:
        yield process


def atif_line(number: int) -> str:
    steps: list[dict[str, Any]] = [{"step_id": 1, "source": "user", "message": f"Go {number}."}]
    for k in range(N_STEPS):
        call = {
            "tool_call_id": f"c{k}",
            "function_name": "bash",
            "arguments": {"command": f"run {number} {k}"},
        }
        result = {"source_call_id": f"c{k}", "content": f"result {number} {k} " * 40}
        steps.append(
            {
                "step_id": k + 2,
                "source": "agent",
                "message": f"step {k}",
                "tool_calls": [call],
                "observation": {"results": [result]},
            }
        )
    agent = {"name": "a", "version": "1", "model_name": "m"}
    document = {"schema_version": "ATIF-v1.7", "session_id": f"s{number}", "agent": agent}
    return json.dumps({**document, "steps": steps})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders and files that the commands read; their indexes are up to date."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "t.jsonl").write_text("\n".join(map(atif_line, range(N_LINES))))
    trajrec.import_trajectories(folder / "t.jsonl", folder / "talks")
    for name in "abc":
        for _ in range(3):
            record(gym.make("CartPole-v1"), folder / name, 4)
    for _ in range(3):
        record(gym.make("FrozenLake-v1"), folder / "lake", 2)
    with trajrec.open(folder / "lake") as corpus:
        for episode in corpus.episodes():
            credit.estimate(episode, "random", n_rollouts=2)
    with trajrec.open(folder / "a") as corpus:
        corpus.add_labels(
            LabelLine(episode_id=episode.id, name=f"label {k}", value="x" * 100)
            for episode in corpus.episodes()
            for k in range(20)
        )
    trajrec.close_logs()
    samples = Path(__file__).parent.parent / "sample_trajectories"
    shutil.copytree(samples / "support", folder / "support")
    for name in ("talks", "a", "b", "c", "lake", "support"):
        with trajrec.open(folder / name) as corpus:
            corpus.refresh()
    return folder


def content(output: Path, kind: str) -> Any:
    """Return what an output holds, None if it is not there."""
    if not output.exists():
        return None
    if kind == "file":
        return output.read_bytes()
    if kind == "folder":
        files = (path for path in output.rglob("*") if path.is_file())
        return {path.name: path.read_bytes() for path in files}
    if kind == "tables":
        return json.loads((output / "lineage.json").read_text())
    if not has_logs(output):
        return {}
    with trajrec.open(output) as corpus:
        assert corpus.problems() == []
        rows = corpus.sql(
            "SELECT episode_id, n_steps, total_reward, ending, (SELECT count(*) FROM steps s "
            "WHERE s.episode_id = e.episode_id), (SELECT count(*) FROM attempts a WHERE "
            "a.episode_id = e.episode_id), (SELECT count(*) FROM messages m WHERE m.episode_id = "
            "e.episode_id) FROM all_episodes e"
        ).fetchall()
    by_id = {row[0]: row[1:] for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def target(command: str, source: Path, output: Path) -> tuple[list[str], Path]:
    """Return the words of a command, and the path that it writes."""
    words = command.replace("SOURCE", str(source)).replace("OUT", str(output)).split()
    return words, Path(words[-1])


def check_partly(found: Any, expected: Any, kind: str) -> None:
    """Check that what a killed command has left is whole, as far as it goes."""
    if kind == "corpus":
        assert (found or {}).items() <= expected.items()
    else:
        assert found is None or found == expected


def kill_and_run_again(
    zygote: Zygote, command: str, source: Path, folder: Path, expected: Any, after_s: float
) -> bool:
    """Kill a command and run it again; return whether it was killed before its end."""
    folder.mkdir()
    kind = COMMANDS[command]
    words, output = target(command, source, folder / "place" / "out")
    output.parent.mkdir()
    reports = record_and_kill(zygote, json.dumps(words), folder / "child", after_s)
    found = content(output, kind)
    check_partly(found, expected, kind)
    assert cli.main(words) == 0
    assert content(output, kind) == expected
    names = {path.name for path in output.parent.iterdir()}
    assert names <= {output.name, f"{output.name}.lineage.json"}
    assert not list(output.parent.rglob("*.tmp"))
    if words[0] == "import":
        assert list((output / ".trajrec" / "import").iterdir()) == []
    return ">" not in reports.read_text()


@suite("kills", fixed=0, drawn=8, whole=400, n_tests=4)
def test_a_killed_command_can_be_run_again(
    share: Share,
    zygote: Zygote,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = {}
    lasts_s = {}
    for command, kind in COMMANDS.items():
        folder = tmp_path / hashlib.md5(command.encode()).hexdigest()
        # The first run imports what it needs, as the process has whose children are killed.
        for name in ("first", "second"):
            words, output = target(command, source, folder / name / "out")
            output.parent.mkdir(parents=True)
            start = time.monotonic()
            assert cli.main(words) == 0
            lasts_s[command] = time.monotonic() - start
        expected[command] = content(output, kind)
    n_killed = 0
    for k, part in enumerate(share.rng().uniform(0.0, 1.1, share.size)):
        command = list(COMMANDS)[k % len(COMMANDS)]
        folder = tmp_path / str(k)
        after_s = float(part) * lasts_s[command]
        try:
            n_killed += kill_and_run_again(
                zygote, command, source, folder, expected[command], after_s
            )
        except BaseException as exc:
            exc.add_note(f"{command}, killed after {after_s:.3f} s, folder {k}")
            raise
        shutil.rmtree(folder)
        capsys.readouterr()
    assert n_killed


@pytest.mark.slow
def test_what_a_killed_export_has_left_is_removed(tmp_path: Path, source: Path) -> None:
    left = tmp_path / ".out.jsonl.4194305.tmp"
    others = [".out.jsonl.x.tmp", ".other.jsonl.4194305.tmp", f".out.jsonl.{os.getppid()}.tmp"]
    for name in (left.name, *others):
        (tmp_path / name).write_text("half")
    line = ["export", str(source / "talks"), "messages", "-o", str(tmp_path / "out.jsonl")]
    assert cli.main(line) == 0
    assert not left.exists()
    assert all((tmp_path / name).exists() for name in others)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prm", "grpo"])
def test_training_data_removes_what_a_killed_export_left(
    kind: str, tmp_path: Path, source: Path
) -> None:
    for name in (".out.parquet.4194305.tmp", ".out.parquet.rows.4194305.tmp"):
        (tmp_path / name).write_text("half")
    line = ["export", str(source / "lake"), kind, "-o", str(tmp_path / "out.parquet")]
    assert cli.main(line) == 0
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.slow
@third_slow("kills")
def test_a_file_never_has_the_lineage_of_the_one_before(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("messages", "atif", "otlp"):
        target = tmp_path / f"{kind}.jsonl"
        line = ["export", str(source / "talks"), kind, "-o", str(target)]
        assert cli.main([*line, "--where", "n_steps > 0"]) == 0, kind
        lineage = target.with_name(f"{target.name}.lineage.json")
        assert json.loads(lineage.read_text())["where"] == "n_steps > 0"

        def killed(*arguments: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("trajrec.exchange.exporting.write_lineage", killed)
            patch.setattr("trajrec.corpus.export_files.write_lineage", killed)
            assert cli.main([*line, "--overwrite"]) != 0
        assert not lineage.exists()
