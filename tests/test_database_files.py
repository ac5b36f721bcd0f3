"""Secrets in the bytes of a SQLite database, whose values lie beside each other."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

import trajrec
from trajrec.redaction.redactor import Redactor

KEY = "sk-proj-" + "Ab3dEfGh" * 4
CARD = "4111 1111 1111 1111"
CARDS = Redactor({}, rules={"card": r"\b\d{4} \d{4} \d{4} \d{4}\b"})


def database(path: Path, name: str, value: str, *, mode: str = "delete") -> bytes:
    """Return the bytes of a database with a value right behind another one."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute(f"CREATE TABLE settings (name TEXT, {name} TEXT)")
        connection.execute("INSERT INTO settings VALUES ('api', ?)", [value])
        connection.commit()
    return path.read_bytes()


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize(
    ("name", "value"), [("value", KEY), ("value", CARD), ("password", "correct horse")]
)
def test_secret_in_a_database_is_not_kept(tmp_path: Path, name: str, value: str, mode: str) -> None:
    data = database(tmp_path / "shop.db", name, value, mode=mode)
    assert value.encode() in data
    cleaned = CARDS.plain({"shop.db": {"mode": "644", "bytes": data}})
    assert b"redacted database with secrets" in cleaned["shop.db"]["bytes"]
    assert value.encode() not in cleaned["shop.db"]["bytes"]


@pytest.mark.parametrize("damage", [0, 40, 2000])
def test_database_without_secrets_stays_as_it_is(tmp_path: Path, damage: int) -> None:
    data = bytearray(database(tmp_path / "shop.db", "value", "lamp"))
    if damage:
        data[damage : damage + 40] = b"\xff" * 40
    assert CARDS.plain(bytes(data)) == bytes(data)


def test_database_in_a_watched_folder_leaves_no_secret(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    with trajrec.episode(tmp_path / "runs", watch=folder) as ep:
        ep.tool(lambda: len(database(folder / "shop.db", "value", KEY)), name="write")()
    trajrec.close_logs()
    with trajrec.open(tmp_path / "runs") as corpus:
        ((after,),) = corpus.sql("SELECT after FROM state_changes").fetchall()
    assert b"database with secrets".hex() in after
    assert KEY.encode().hex() not in after
