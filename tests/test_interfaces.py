"""What episodes ran under: given once, compared by digest, unknown never equal to unknown."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import pytest

import trajrec
from trajrec.recording.event_log import close_logs
from trajrec.run_interface import FIELDS, missing, source_digest


def scaffold(prompt: str) -> str:
    return prompt.upper()


def test_an_interface_has_all_fields_and_says_what_is_missing_and_why(tmp_path: Path) -> None:
    (tmp_path / "interface.toml").write_text(
        'base = { model = "m-1" }\nbudget = { tokens = 4096 }\n'
    )
    found = trajrec.interface(
        tmp_path / "interface.toml",
        budget={"tokens": 1},
        scaffold=scaffold,
        optimizer=missing("not_applicable"),
    )
    assert tuple(found) == FIELDS
    assert found["base"] == {"model": "m-1"}
    assert found["budget"] == {"tokens": 1}
    assert found["optimizer"] == {"missing": "not_applicable"}
    assert found["lineage"] == {"missing": "unknown"}
    assert found["scaffold"] == {
        "code": f"{__name__}.scaffold",
        "code_digest": source_digest(scaffold),
    }
    with pytest.raises(
        ValueError, match=r"fields of an interface must be among verifier, base, .*, got 'model'"
    ):
        trajrec.interface(model="m-1")
    with pytest.raises(ValueError, match="reason must be one of"):
        missing("forgotten")  # type: ignore[arg-type]


def test_runs_are_compared_field_by_field_and_unknown_is_not_unchanged(tmp_path: Path) -> None:
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
