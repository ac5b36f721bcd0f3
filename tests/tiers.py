"""Suites at three sizes: a fixed share, a share that is drawn anew, and the whole suite.

Unmarked tests take two minutes and run the fixed shares: the same cases each time, so that a failure is due to a change.
Tests marked `slow` run in `.ci/run` and hold the drawn shares: other cases each time, from a seed that is printed.
Of a test marked `mostly_slow(n)` only n cases are unmarked; of its slow cases, `mostly_deep` leaves only some that are drawn.
Of the tests marked `third_slow`, which take seconds each, a third are slow in a session: each has its own draw.
Tests marked `deep` run in `.ci/deep PART` and hold the whole suites.
"""

from __future__ import annotations

import dataclasses
import os
import random
import secrets
import zlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import hypothesis
import numpy as np
import pytest
from deep_parts import PARTS

Case = TypeVar("Case")
Test = Callable[..., Any]

# The seed is left in the environment, so that the workers of pytest-xdist draw the same shares.
SEED = int(os.environ.get("TRAJREC_SEED") or secrets.randbelow(10**9))
os.environ["TRAJREC_SEED"] = str(SEED)


def seed_of(name: str) -> int:
    """Return the seed of one suite: suites must not share their draws."""
    return zlib.crc32(f"{SEED} {name}".encode())


def deep(part: str) -> pytest.MarkDecorator:
    """Mark a test that runs in a part of the deep tier alone."""
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    return pytest.mark.deep(part=part)


def mostly_deep(part: str, *, drawn: int) -> pytest.MarkDecorator:
    """Make the slow cases of a test deep; some of them, which are drawn, stay slow as well.

    Args:
        part: The part of the deep tier.
        drawn: How many of them are slow in this session.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    return pytest.mark.mostly_deep(part, drawn)


def third_slow(part: str) -> pytest.MarkDecorator:
    """Make a slow test deep; in a third of the sessions it stays slow as well.

    Args:
        part: The part of the deep tier.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    return pytest.mark.third_slow(part)


def comes_up(item: pytest.Item) -> bool:
    """Return whether a slow case marked `third_slow` is slow in this session."""
    # By its name: the tests that run beside it do not matter.
    return random.Random(seed_of(item.nodeid.rpartition("/")[2])).random() < 1 / 3


def drawn_cases(name: str, items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return which of the slow cases of one test marked `mostly_deep` are slow in this session.

    Args:
        name: The test's, which decides with the seed what is drawn.
        items: Its slow cases.
    """
    marker = items[0].get_closest_marker("mostly_deep")
    assert marker is not None
    _part, drawn = marker.args
    return Share("drawn", drawn, seed_of(name)).of(items)


@dataclasses.dataclass(frozen=True)
class Share:
    """A share of a suite.

    Attributes:
        name: "fixed", "drawn" or "whole".
        size: How many cases it has; None for all of them.
        seed: Decides which cases are drawn.
        part: Of a suite of all cases that is split into tests, the number of this one and of all.
    """

    name: str
    size: int | None
    seed: int
    part: tuple[int, int] = (0, 1)

    @property
    def is_whole(self) -> bool:
        """Whether this is the whole suite."""
        return self.name == "whole"

    def of(self, cases: Sequence[Case]) -> list[Case]:
        """Return the share's sample of some cases, in their order."""
        if self.size is None or self.size >= len(cases):
            first, step = self.part
            return list(cases[first::step])
        picked = random.Random(self.seed).sample(range(len(cases)), self.size)
        return [cases[k] for k in sorted(picked)]

    def rng(self) -> np.random.Generator:
        """Return a generator for cases that the test draws itself."""
        return np.random.default_rng(self.seed)


def shares(part: str, name: str, sizes: dict[str, int | None], *, n_tests: int = 1) -> list[Any]:
    """Return the shares of a suite as parameters of its test; a share of size 0 is left out.

    Args:
        part: The part of the deep tier.
        name: The test's.
        sizes: Name of a share -> its size.
        n_tests: The tests of equal size that the whole suite is split into.
    """
    marks = {"fixed": (), "drawn": (pytest.mark.slow,), "whole": (deep(part),)}
    parameters = []
    for share, size in sizes.items():
        if share == "whole" and n_tests > 1:
            each = None if size is None else -(-size // n_tests)
            parts = [(0, 1) if size is not None else (k, n_tests) for k in range(n_tests)]
            parameters += [
                pytest.param(
                    Share(share, each, seed_of(f"{name} {k}"), part),
                    id=f"whole-{k}",
                    marks=marks[share],
                )
                for k, part in enumerate(parts)
            ]
        elif size != 0:
            seed = 0 if share == "fixed" else seed_of(name)
            parameters.append(pytest.param(Share(share, size, seed), id=share, marks=marks[share]))
    return parameters


def suite(
    part: str, *, fixed: int | None, drawn: int | None, whole: int | None, n_tests: int = 1
) -> Callable[[Test], Test]:
    """Run a test at three sizes: it takes an argument `share`, a `Share`.

    Args:
        part: The part of the deep tier that the whole suite belongs to.
        fixed: The size of the unmarked share; 0 leaves it out, None stands for all cases.
        drawn: The size of the slow share.
        whole: The size of the whole suite.
        n_tests: The tests that the whole suite is split into, so that several processes run it.
    """

    def decorate(test: Test) -> Test:
        sizes = {"fixed": fixed, "drawn": drawn, "whole": whole}
        parameters = shares(part, test.__name__, sizes, n_tests=n_tests)
        return pytest.mark.parametrize("share", parameters)(test)

    return decorate


def examples(
    part: str, *strategies: Any, fixed: int, drawn: int, whole: int
) -> Callable[[Test], Test]:
    """Run a property on three numbers of Hypothesis' examples: it stands for `hypothesis.given`.

    Hypothesis' own database and its profile for CI are left out: the seed alone decides.
    Its limits on time are left out too, since other tests run beside this one.
    """

    def decorate(check: Test) -> Test:
        def run(share: Share) -> None:
            settings = hypothesis.settings(
                max_examples=share.size,
                database=None,
                deadline=None,
                derandomize=False,
                suppress_health_check=[hypothesis.HealthCheck.too_slow],
            )
            hypothesis.seed(share.seed)(settings(hypothesis.given(*strategies)(check)))()

        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(run, name, getattr(check, name))
        return suite(part, fixed=fixed, drawn=drawn, whole=whole)(run)

    return decorate


def spread(
    part: str,
    cases: Sequence[Any],
    *,
    fixed: Collection[Any] = (),
    drawn: int = 0,
    costly: Collection[Any] = (),
) -> list[Any]:
    """Return a list of cases as parameters: some unmarked, some drawn for the slow tier, the rest deep.

    A case that is drawn stays in its deep part as well.

    Args:
        part: The part of the deep tier.
        cases: The cases; a tuple gives several arguments.
        fixed: The unmarked ones.
        drawn: How many of the others are slow in this session.
        costly: Those that take most of a minute, which are never drawn.
    """
    others = [case for case in cases if case not in fixed]
    cheap = [case for case in others if case not in costly]
    lot = random.Random(seed_of(f"{part} {len(cases)}")).sample(cheap, min(drawn, len(cheap)))
    parameters = []
    for case in cases:
        marks = [deep(part)] if case in others else []
        if case in lot:
            marks.append(pytest.mark.slow)
        values = case if isinstance(case, tuple) else (case,)
        parameters.append(pytest.param(*values, marks=marks))
    return parameters
