"""Changed logs end in errors of the tree or noted damage: never in a wrong value or a traceback."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from fuzz_logs import MUTATIONS, make_mutant, open_log
from fuzz_oracle import WAYS, read_everything, wrong_values
from fuzz_parts import put_together
from fuzz_run import findings, read_mutants
from fuzz_seeds import make_seeds
from tiers import Share, suite

from trajrec.log.journal import journal_path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches memory by /proc")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small logs of all kinds."""
    folder = tmp_path_factory.mktemp("seeds")
    make_seeds(folder)
    return folder


@suite("hostile", fixed=0, drawn=8, whole=20_000)
def test_no_mutation_gives_a_traceback_or_a_wrong_value(share: Share, seeds: Path) -> None:
    assert share.size is not None
    numbers = share.rng().integers(0, 1 << 40, share.size).tolist()
    results = read_mutants(numbers, seeds)
    assert len(results) == share.size
    if reasons := findings(results):
        kept = Path(tempfile.mkdtemp(prefix="trajrec-fuzz-"))
        shutil.copytree(seeds, kept / "seeds")
        pytest.fail(f"{len(reasons)}, of the logs in {kept}:\n" + "\n".join(reasons[:20]))


@pytest.mark.slow
def test_log_is_put_together_as_it_was(seeds: Path, tmp_path: Path) -> None:
    for path in seeds.glob("*.trj"):
        truth = read_everything(path, tmp_path / path.stem / "a", ["frames", "episodes"])
        again = tmp_path / path.name
        log = open_log(path)
        again.write_bytes(put_together(log))
        if log.journal is not None:
            journal_path(again).write_bytes(log.journal)
        reading = read_everything(again, tmp_path / path.stem / "b", ["frames", "episodes"])
        assert reading.damage == truth.damage
        assert reading.values.keys() == truth.values.keys()
        assert not wrong_values(reading, truth)


@pytest.mark.slow
def test_every_mutation_is_made_and_is_the_same_again(seeds: Path) -> None:
    paths = sorted(seeds.glob("*.trj"))
    mutants = [make_mutant(number, paths) for number in range(300)]
    assert len({name for mutant in mutants for name in mutant.names}) > 2 * len(MUTATIONS)
    assert [make_mutant(number, paths) for number in range(20)] == mutants[:20]


@pytest.mark.slow
def test_oracle_sees_a_wrong_value(seeds: Path, tmp_path: Path) -> None:
    path = seeds / "cartpole-0.trj"
    truth = read_everything(path, tmp_path / "a", ["episodes"])
    assert not truth.faults
    assert not wrong_values(truth, truth)
    key, value = next(iter(truth.values.items()))
    changed = read_everything(path, tmp_path / "b", ["episodes"])
    changed.values[key] = (value, 1)
    assert len(wrong_values(changed, truth)) == 1
    assert "replay" in WAYS
