"""Interfaces of runs: given once, compared by digest; unknown never equals unknown."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import pytest

import trajrec
from trajrec.recording.event_log import close_logs
from trajrec.run_interface import FIELDS, missing, source_digest


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
