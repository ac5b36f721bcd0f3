"""The nine factors of two runs, as declared and as recorded."""

from __future__ import annotations

from collections.abc import Sequence

from trajrec.analysis.interface_difference import Factor
from trajrec.analysis.observed import add_facets, add_models, add_packages, pair_interfaces
from trajrec.analysis.sides import ReadSide, period_of


def compare_factors(
    reads: tuple[ReadSide, ReadSide], units: Sequence[str], *, by_training_run: bool
) -> dict[str, Factor]:
    """Return the nine factors: as declared, and corrected by the recordings."""
    a, b = reads
    factors = pair_interfaces(
        (a.groups, b.groups), (a.interfaces, b.interfaces), units, by_training_run=by_training_run
    )
    add_facets(factors, a.groups, b.groups, units)
    add_packages(factors, a.packages, b.packages)
    bases = [
        interface.get("base") if isinstance(interface, dict) else None
        for read in reads
        for interface in read.interfaces.values()
    ]
    periods = (period_of(a.groups), period_of(b.groups))
    add_models(factors, a.models, b.models, units, bases=bases, periods=periods)
    return factors
