"""Hostile files for an import: bombs, links and pipes. A clear error, in bounds, inside the folder."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
import zstandard
from imported import write_json
from tiers import third_slow

from trajrec.errors import ImportFileError
from trajrec.exchange.importing import import_trajectories

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs limits of memory"),
]

MEMORY_BYTES = 2 << 30
LONGEST_S = 240

LIMITED = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY_BYTES}, {MEMORY_BYTES}))
resource.setrlimit(resource.RLIMIT_CPU, (90, 90))
from trajrec.cli.main import main
sys.exit(main(sys.argv[1:]))
"""

HEADER = {"version": 2, "status": "success", "eval": {"task": "t"}, "plan": {}}
SAMPLE = {
    "id": 1,
    "epoch": 1,
    "input": "Go.",
    "messages": [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "Gone."}],
}
TRAJECTORY = {
    "schema_version": "ATIF-v1.7",
    "session_id": "s",
    "agent": {"name": "a", "version": "1"},
    "steps": [{"step_id": 1, "source": "agent", "message": "Gone."}],
}


def limited_import(path: Path, folder: Path) -> str:
    """Return what the command says about a hostile file, with little memory and time."""
    words = [sys.executable, "-c", LIMITED, "import", str(path), "-o", str(folder / "out")]
    run = subprocess.run(words, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    said = run.stdout + run.stderr
    assert "Traceback" not in said, said[-2000:]
    assert run.returncode in (0, 1, 2, 3), (run.returncode, said[-2000:])
    return said


def write_eval(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("header.json", json.dumps(HEADER))
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def zeros_of(n_bytes: int) -> bytes:
    """Return a deflated text of zeros in JSON's brackets."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = b"0," * (1 << 19)
    parts = [packer.compress(b"[")]
    parts += [packer.compress(block) for _ in range(n_bytes >> 20)]
    return b"".join([*parts, packer.compress(b"0]"), packer.flush()])


def stored_zip(path: Path, packed: bytes, size: int, method: int, n_members: int = 1) -> Path:
    """Write a zip file whose samples all are the same packed bytes, which state a size."""
    header = json.dumps(HEADER).encode()
    entries = [("header.json", header, len(header), 0, zlib.crc32(header))]
    entries += [(f"samples/{k}.json", packed, size, method, 0) for k in range(n_members)]
    data = b""
    directory = b""
    shared: int | None = None
    for name, body, n, how, crc in entries:
        raw = name.encode()
        offset = len(data)
        if how and shared is not None:
            # Members that overlap: each of them is the whole of the first one.
            offset = shared
        else:
            sizes = (crc, len(body), n, len(raw), 0)
            data += struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, how, 0, 0, *sizes) + raw + body
            shared = offset if how else None
        sizes_here = (crc, len(body), n, len(raw), 0, 0, 0, 0, 0, offset)
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, how, 0, 0, *sizes_here) + raw
    end = (0, 0, len(entries), len(entries), len(directory), len(data), 0)
    path.write_bytes(data + directory + struct.pack("<4s4H2IH", b"PK\5\6", *end))
    return path


@third_slow("imports")
def test_a_member_of_gigabytes_of_values_is_refused(tmp_path: Path) -> None:
    packed = zeros_of(300 << 20)
    path = stored_zip(tmp_path / "t.eval", packed, (300 << 20) + 3, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2 << 20
    said = limited_import(path, tmp_path)
    assert "samples/0.json" in said or "unpacks to" in said


def test_a_member_that_states_a_small_size_is_cut(tmp_path: Path) -> None:
    path = stored_zip(tmp_path / "t.eval", zeros_of(300 << 20), 100, zipfile.ZIP_DEFLATED)
    assert "samples/0.json: is damaged" in limited_import(path, tmp_path)


@third_slow("imports")
def test_members_that_overlap_are_refused_before_they_are_read(tmp_path: Path) -> None:
    for method, packed in (
        (zipfile.ZIP_DEFLATED, zeros_of(200 << 20)),
        (93, zstandard.compress(b"0" * (200 << 20))),
    ):
        path = stored_zip(tmp_path / f"{method}.eval", packed, 200 << 20, method, 2000)
        said = limited_import(path, tmp_path)
        assert "unpacks to 419,43" in said, said
        assert "taken for a bomb" in said


def test_a_frame_of_zstd_that_asks_for_gigabytes_is_refused(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compress(b"[1]" * 1000)
    path = stored_zip(tmp_path / "t.eval", packed, 3000, 93)
    assert "samples/0.json" in limited_import(path, tmp_path)


def test_names_that_lead_outside_write_nothing_there(tmp_path: Path) -> None:
    names = [
        "samples/../../../evil.json",
        "/tmp/evil.json",
        "..\\..\\evil.json",
        "samples/a/../../b.json",
    ]
    members = {name: json.dumps({**SAMPLE, "id": name}).encode() for name in names}
    (tmp_path / "in").mkdir()
    path = write_eval(tmp_path / "in" / "t.eval", members)
    before = sorted(tmp_path.rglob("*"))
    import_trajectories(path, tmp_path / "out")
    after = {p for p in tmp_path.rglob("*") if not p.is_relative_to(tmp_path / "out")}
    assert after == set(before)
    logs = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert {p.suffix for p in logs} == {".trj"}
    assert not Path("/tmp/evil.json").exists()


@third_slow("imports")
def test_a_document_of_too_many_values_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    with path.open("wb") as file:
        file.write(b'{"messages": [')
        for _ in range(150):
            file.write(b"[]," * (1 << 20))
        file.write(b"[]]}")
    assert "million values" in limited_import(path, tmp_path)


@third_slow("imports")
@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
def test_a_file_that_no_memory_holds_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    line = json.dumps({"messages": SAMPLE["messages"]})
    with path.open("wb") as file:
        file.write(f"{line}\n".encode() if name.endswith("l") else b'{"messages": [[]')
        file.truncate((600 << 20) if name.endswith("l") else (2 << 30) + 4096)
    said = limited_import(path, tmp_path)
    expected = "line 2: has more than" if name.endswith("l") else "a document of 2,147,487,744"
    assert expected in said, said


@third_slow("imports")
def test_a_table_whose_value_has_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    text = '\'[{"role": "user", "content": "\' || repeat(\'x\', 400000000) || \'"}]\''
    with duckdb.connect() as con:
        con.execute(f"COPY (SELECT {text} AS messages) TO '{path}' (COMPRESSION zstd)")
    assert path.stat().st_size < 1 << 20
    assert "damaged table" in limited_import(path, tmp_path)


def trial(folder: Path) -> Path:
    write_json(folder / "agent" / "trajectory.json", TRAJECTORY)
    write_json(folder / "result.json", {"trial_name": "t", "task_name": "t"})
    return folder


def make_pipe(path: Path, secret: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def make_endless(path: Path, secret: Path) -> None:
    path.symlink_to("/dev/zero")


ODD: dict[str, Callable[[Path, Path], None]] = {
    "a pipe": make_pipe,
    "a link outside": make_link,
    "a link to a device": make_endless,
}
PLACES = {
    "harbor": "agent/trajectory.2.json",
    "harbor result": "result.json",
    "tau2": "simulations/2.json",
    "openhands": "events/event-2.json",
    "claude": "s/subagents/agent-2.jsonl",
    "loose": "2.json",
}


@third_slow("imports")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_of_the_folder_is_never_read(kind: str, place: str, tmp_path: Path) -> None:
    secret = write_json(tmp_path / "secret.json", {**TRAJECTORY, "session_id": "TOP-SECRET-9"})
    folder = tmp_path / "in"
    folder.mkdir()
    event = {"kind": "MessageEvent", "timestamp": "2026-01-01T00:00:00", "source": "user"}
    if place.startswith("harbor"):
        trial(folder)
        (folder / PLACES[place]).unlink(missing_ok=True)
    elif place == "tau2":
        write_json(folder / "results.json", {"info": {}, "tasks": []})
        write_json(folder / "simulations" / "1.json", {"messages": []})
    elif place == "openhands":
        write_json(folder / "base_state.json", {})
        write_json(folder / "events" / "event-1.json", event)
    elif place == "claude":
        record = {"sessionId": "s", "uuid": "u", "type": "user", "message": {"role": "user"}}
        write_json(folder / "s.jsonl", record)
        (folder / "s" / "subagents").mkdir(parents=True)
    ODD[kind](folder / PLACES[place], secret)
    limited_import(folder, tmp_path)
    for log in (tmp_path / "out").rglob("*.trj"):
        assert b"TOP-SECRET-9" not in log.read_bytes()


def test_a_link_that_leads_outside_is_named(tmp_path: Path) -> None:
    secret = write_json(tmp_path / "secret.json", TRAJECTORY)
    trial(tmp_path / "in" / "t")
    (tmp_path / "in" / "t" / "agent" / "trajectory.2.json").symlink_to(secret)
    (tmp_path / "in" / "x.json").symlink_to(secret)
    report = import_trajectories(tmp_path / "in", tmp_path / "out")
    reasons = [file.reason for file in report.of_status("failed")]
    outside = (
        "is a link that leads outside of the folder, and is not followed: import the file itself, "
        "or a copy of the folder (cp -rL)"
    )
    assert sorted(reasons) == [f"agent/trajectory.2.json {outside}", outside]


def test_links_inside_of_the_folder_and_the_path_itself_are_followed(tmp_path: Path) -> None:
    write_json(tmp_path / "in" / "a.json", TRAJECTORY)
    (tmp_path / "in" / "b.json").symlink_to(tmp_path / "in" / "a.json")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    report = import_trajectories(tmp_path / "link", tmp_path / "out")
    assert [file.status for file in report.files] == ["imported", "known"]
    (tmp_path / "c.json").symlink_to(tmp_path / "in" / "a.json")
    assert import_trajectories(tmp_path / "c.json", tmp_path / "two").episodes


def test_a_pipe_that_is_named_itself_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.json")
    with pytest.raises(ImportFileError, match="is no regular file"):
        import_trajectories(tmp_path / "t.json", tmp_path / "out")
