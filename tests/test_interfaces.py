"""Interfaces of runs: given once, compared by digest; unknown never equals unknown."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import itertools
import linecache
import operator
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import trajrec
from trajrec.recording.event_log import close_logs
from trajrec.run_interface import FIELDS, missing
from trajrec.source_digest import source_digest


def scaffold(prompt: str) -> str:
    return prompt.upper()


def test_interface_has_all_fields_and_reasons_for_missing_ones(tmp_path: Path) -> None:
    (tmp_path / "interface.toml").write_text(
        'base = { model = "m-1" }\nbudget = { tokens = 4096 }\n'
    )
    interface = trajrec.interface(
        tmp_path / "interface.toml",
        budget={"tokens": 1},
        scaffold=scaffold,
        optimizer=missing("not_applicable"),
    )
    assert tuple(interface) == FIELDS
    assert interface["base"] == {"model": "m-1"}
    assert interface["budget"] == {"tokens": 1}
    assert interface["optimizer"] == {"missing": "not_applicable"}
    assert interface["lineage"] == {"missing": "unknown"}
    assert interface["scaffold"] == {
        "code": f"{__name__}.scaffold",
        "code_digest": source_digest(scaffold),
    }
    with pytest.raises(
        ValueError, match=r"fields of an interface must be among verifier, base, .*, got 'model'"
    ):
        trajrec.interface(model="m-1")
    with pytest.raises(ValueError, match="reason must be one of"):
        missing("forgotten")  # type: ignore[arg-type]


def test_unknown_interface_fields_never_compare_equal(tmp_path: Path) -> None:
    ran = [
        trajrec.interface(base={"model": "m-1"}, budget={"tokens": 10, "steps": 5}),
        trajrec.interface(base={"model": "m-2"}, budget={"steps": 5, "tokens": 10}),
        trajrec.interface(base={"model": "m-2"}, budget={"steps": 5, "tokens": 10}),
    ]
    for k, interface in enumerate(ran):
        with trajrec.episode(tmp_path, task=str(k), interface=interface):
            pass
    close_logs()
    with trajrec.record(
        gymnasium.make("CartPole-v1"), tmp_path, interface={"policy": "random"}
    ) as env:
        env.reset(seed=0)
        env.step(0)
    with trajrec.open(tmp_path) as corpus:
        counts = corpus.sql(
            "SELECT n_episodes FROM interfaces WHERE base IS NOT NULL ORDER BY 1"
        ).fetchall()
        assert counts == [(1,), (2,)]
        compared = corpus.sql(
            "SELECT a.base_digest = b.base_digest, a.budget_digest = b.budget_digest, a.lineage_digest = b.lineage_digest "
            "FROM interfaces a, interfaces b WHERE a.base->>'model' = 'm-1' AND b.base->>'model' = 'm-2'"
        ).fetchall()
        assert compared == [(False, True, None)]
        assert corpus.sql(
            "SELECT base, base_digest FROM interfaces WHERE base IS NULL"
        ).fetchall() == [(None, None)]
        assert corpus.sql(
            "SELECT count(*) FROM episodes WHERE interface_id IS NULL"
        ).fetchall() == [(0,)]


def test_code_of_exec_has_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    # Since Python 3.13 the source of `python -c` stands where all such code is looked for.
    lines = ["def won(state): return False\n"]
    monkeypatch.setitem(linecache.cache, "<string>", (len(lines[0]), None, lines, "<string>"))
    names: dict[str, Any] = {}
    exec("def won(state): return state['count'] >= 3", names)
    assert source_digest(names["won"]) is None


NUMBERS = itertools.count()
FIRST = """
def lost(state):
    return state["count"] < 3


def won(state):
    return state["count"] >= 3


class Won:
    def __call__(self, state):
        return state["count"] >= 3
"""


def import_edited(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[Any, Path]:
    """Return code of a new module, and the module's file."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = folder / f"edited_{next(NUMBERS)}.py"
    file.write_text(FIRST)
    return operator.attrgetter(name)(importlib.import_module(file.stem)), file


@pytest.mark.parametrize("name", ["won", "Won", "Won.__call__"])
def test_code_of_an_edited_file_has_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    code, file = import_edited(tmp_path, monkeypatch, name)
    before = hashlib.blake2b(inspect.getsource(code).encode(), digest_size=16).hexdigest()
    # What stands at the lines of the code is other code now.
    file.write_text(FIRST.replace("def lost", "def other():\n    pass\n\n\ndef lost"))
    assert source_digest(code) in (None, before)


@pytest.mark.parametrize("name", ["won", "Won", "Won.__call__"])
def test_digest_of_running_code_outlasts_an_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    code, file = import_edited(tmp_path, monkeypatch, name)
    before = source_digest(code)
    assert before is not None
    file.write_text(FIRST.replace(">= 3", ">= 4"))
    assert source_digest(code) == before
    module = importlib.reload(sys.modules[code.__module__])
    again = source_digest(operator.attrgetter(name)(module))
    assert again not in (None, before)
    # As a notebook does that reloads files: the old function has the new code.
    if isinstance(code, types.FunctionType):
        code.__code__ = operator.attrgetter(name)(module).__code__
        assert source_digest(code) == again


def test_a_reloaded_module_has_the_digest_of_its_new_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, file = import_edited(tmp_path, monkeypatch, "won")
    module = sys.modules[code.__module__]
    before = source_digest(module)
    file.write_text(FIRST.replace(">= 3", ">= 4"))
    assert source_digest(module) == before
    assert source_digest(importlib.reload(module)) not in (None, before)


@pytest.mark.parametrize(
    "code",
    [
        functools.wraps(Path)(lambda path: Path(path)),
        scaffold,
        lambda state: state,
        Path.exists,
        Path,
        importlib,
        functools.wraps(scaffold)(lambda prompt: scaffold(prompt)),
    ],
)
def test_code_of_files_has_a_source(code: Callable[..., Any]) -> None:
    assert source_digest(code) is not None
