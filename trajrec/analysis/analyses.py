"""The analyses as methods of a corpus."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trajrec.types import Value

# Each analysis is imported when it is asked for: most commands open a corpus and analyse nothing,
# and all analyses together take longer to import than a small corpus takes to open.
if TYPE_CHECKING:
    from trajrec.analysis.arms import Over
    from trajrec.analysis.bands import Bands
    from trajrec.analysis.comparison import Comparison
    from trajrec.analysis.disagreement import Disagreement
    from trajrec.analysis.factors import FactorEffects
    from trajrec.analysis.fidelity import Fidelity
    from trajrec.analysis.overlap import Overlap
    from trajrec.analysis.pass_k import PassK
    from trajrec.analysis.planning import Plan
    from trajrec.analysis.recovery import Recovery
    from trajrec.analysis.release import Release
    from trajrec.analysis.source import Rows, Source
    from trajrec.analysis.support import Support
    from trajrec.analysis.verifier_health import VerifierHealth


class Analyses:
    """The analyses of a corpus, which works on its SQL tables.

    Attributes:
        path: The folder.
    """

    path: Path

    def sql(
        self,
        query: str,
        *,
        params: Sequence[Value] | Mapping[str, Value] | None = None,
        sandbox: bool = False,
    ) -> Rows:
        """Return the rows of a query."""
        raise NotImplementedError

    def goal_text(self, episode_id: str) -> str | None:
        """Return the goal of an agent's episode as text; None if tables alone are known."""
        return None

    def copy_log(self, log: str, target: Path) -> None:
        """Copy a log whole, by its path relative to the folder."""
        raise NotImplementedError

    def compare(
        self,
        other: Source | None = None,
        *,
        a: str = "true",
        b: str = "true",
        check: str | None = None,
        cluster: str | None = None,
        over: Over = "population",
        score: bool = False,
        range: tuple[float, float] | None = None,
        tasks: Sequence[str] | None = None,
        variants: int = 1,
    ) -> Comparison:
        """Compare two runs, b against a: the difference, its interval, and what may be said of it.

        The unit is the task: the mean over tasks of the difference of their rates.

        Args:
            other: The corpus of b; by default this one.
            a: A SQL condition on the columns of `episodes`, for the first run. It may read only
                columns that are fixed before an episode ends.
            b: The same for the second run.
            check: The check that grades: "reached@1" for a version, whenever it ran; "reached" for
                the verdict given when the episode ended; None for the primary check.
            cluster: Key of the metadata that names families of tasks (one repository, one
                template): families are then the units.
            over: "population" for tasks like these; "these" for these tasks alone.
            score: Whether the results are scores and not verdicts.
            range: Least and greatest possible score.
            tasks: Only these tasks, chosen by other rollouts than those that are compared.
            variants: How many runs you compared with the first one, this one included: the
                interval widens so that all hold together in 95 % (Bonferroni).

        Returns:
            The comparison. If the data do not allow a claim, it says so, with reasons.

        Raises:
            QueryError: DuckDB rejects a condition.
            ValueError: A run has no episodes, an episode is in both, no episode has the check, or an
                option is wrong.

        >>> comparison = corpus.compare(
        ...     a="metadata->>'$.run' = 'base'", b="metadata->>'$.run' = 'new-prompt'"
        ... )
        >>> comparison.claim, comparison.differing_paths
        ('attributable', ('scaffold.prompt "A" -> "B"',))
        """
        from trajrec.analysis.compare import compare_sides
        from trajrec.analysis.sides import Options, Side

        options = Options(
            check=check,
            cluster=cluster,
            over=over,
            score=score,
            value_range=range,
            tasks=None if tasks is None else tuple(tasks),
            variants=variants,
        )
        return compare_sides(Side(self, a), Side(other or self, b), options)

    def bands(
        self,
        where: str = "true",
        *,
        check: str | None = None,
        min_n: int = 8,
        before: datetime.datetime | None = None,
    ) -> Bands:
        """Return how often each task is solved under each interface, with its interval and dates.

        The view `bands` has the same for the primary check, from one rollout on.

        Args:
            where: A SQL condition on the columns of `episodes`.
            check: The check that grades, as `compare` takes it.
            min_n: Fewest graded rollouts; with fewer a band is "unmeasured".
            before: Only rollouts that began before this time, UTC: to choose tasks by other
                rollouts than those that are compared.

        Raises:
            QueryError: DuckDB rejects the condition.
            ValueError: The condition selects by outcomes.
        """
        from trajrec.analysis.bands import read_bands

        return read_bands(self, where, check=check, min_n=min_n, before=before)

    def pass_k(self, k: int, where: str = "true", *, check: str | None = None) -> PassK:
        """Return pass@k and pass^k, unbiased, as means over tasks with intervals.

        Args:
            k: Rollouts, at least 1.
            where: A SQL condition on the columns of `episodes`.
            check: The check that grades, as `compare` takes it.

        Raises:
            QueryError: DuckDB rejects the condition.
            ValueError: k is below 1.
        """
        from trajrec.analysis.pass_k import read_pass_k

        return read_pass_k(self, k, where, check=check)

    def plan(
        self,
        effect: float,
        where: str = "true",
        *,
        check: str | None = None,
        effect_spread: float | None = None,
    ) -> Plan:
        """Return how many tasks and rollouts would show an effect, from the rollouts of a pilot.

        Args:
            effect: Difference of rates that should be shown, in (0, 1].
            where: A SQL condition on the columns of `episodes`: the pilot.
            check: The check that grades, as `compare` takes it.
            effect_spread: Standard deviation of the effect over tasks. By default it is the effect
                itself: some tasks gain nothing, and others twice as much.

        Raises:
            QueryError: DuckDB rejects the condition.
            ValueError: An argument is out of range, or the pilot is too small.
        """
        from trajrec.analysis.planning import make_plan

        return make_plan(self, where, check=check, effect=effect, effect_spread=effect_spread)

    def disagreement(self, *, gold: str | None = None) -> Disagreement:
        """Return how far checks agree on the same states, and each check with itself.

        States of fresh rollouts are counted, and not rows. `trajrec recheck` appends the verdicts
        of another check, or of the same one again.

        Args:
            gold: A check that is taken as the truth, e.g. "human@1": the others get the shares
                of states that they accept and reject falsely.
        """
        from trajrec.analysis.disagreement import read_disagreement

        return read_disagreement(self, gold=gold)

    def verifier_health(self) -> list[VerifierHealth]:
        """Return what is known of each version of each check: its verdicts on probes, and its flakes.

        A probe is an episode whose verdict is known beforehand: `{"probe": "gold"}` in its metadata
        says that it solves its task, "no-op" that it does nothing, "attack" that it games the check.
        No rate counts probes.
        """
        from trajrec.analysis.verifier_health import read_health

        return read_health(self)

    def support(self, where: str = "true") -> Support:
        """Return which claims the recorded fields allow, and the fields that are missing.

        The claims are correctness (of verdicts), trace (what happened), difficulty (of tasks) and
        coverage (of the corpus).

        Args:
            where: A SQL condition on the columns of `episodes`.

        Raises:
            QueryError: DuckDB rejects the condition.
        """
        from trajrec.analysis.support import read_support

        return read_support(self, where)

    def factors(self, runs: Sequence[str], *, check: str | None = None) -> FactorEffects:
        """Return the effects of several factors, from runs that change some of them.

        With all combinations of at most four changes, each factor has an effect alone, an effect
        last, a Shapley value and interactions. With a chain of runs, each link has its effect. The
        combinations that no run has are listed: they are the next experiments.

        Args:
            runs: A SQL condition on the columns of `episodes` for each run, the first without
                changes. One run must have all changes.
            check: The check that grades, as `compare` takes it.

        Raises:
            QueryError: DuckDB rejects a condition.
            ValueError: There are fewer than two runs, a run has no episodes, or runs share some.
        """
        from trajrec.analysis.factors import read_factors

        return read_factors(self, runs, check=check)

    def recovery(self, where: str = "true") -> Recovery:
        """Return the failures of calls and their recoveries, and runs that look cleaned.

        A run that has neither failures nor losses, although others do, may have lost them to a
        filter: its traces then support no claim on failures and credit.

        Args:
            where: A SQL condition on the columns of `episodes`.

        Raises:
            QueryError: DuckDB rejects the condition.
        """
        from trajrec.analysis.recovery import read_recovery

        return read_recovery(self, where)

    def overlap(
        self, *, held_out: Collection[str] = ("test",), edges: Iterable[tuple[str, ...]] = ()
    ) -> Overlap:
        """Return tasks, goals and states that splits share, and data that descends from held-out.

        Goals that resemble each other are found too: see `trajrec.analysis.near_duplicates`.

        Splits are those of the metadata. An episode declares its sources as `parents` in its
        metadata, in the lineage of its interface, or in a label that is added later: ids of
        episodes, names of files or models, or objects with `parent`, `kind`, `note`, and `child` if
        that is another one. The view `lineage_edges` has them.

        Args:
            held_out: Splits that no other data may descend from.
            edges: More derivations, as (child, parent) or (child, parent, kind).

        Raises:
            TypeError: The splits are one text.
            ValueError: The derivations have a cycle.
        """
        from trajrec.analysis.overlap import read_overlap

        return read_overlap(self, held_out=held_out, edges=edges)

    def fidelity(self) -> list[Fidelity]:
        """Return how far the episodes of each environment replay, by their latest verdicts.

        A refused replay counts as one that did not reproduce; an episode that was never replayed
        is counted beside.
        """
        from trajrec.analysis.fidelity import read_fidelity

        return read_fidelity(self)

    def card(
        self,
        out: str | Path,
        *,
        name: str | None = None,
        description: str | None = None,
        license: str | None = None,
        url: str | None = None,
        creator: str | None = None,
        published: datetime.date | None = None,
        held_out: Sequence[str] = ("test",),
        tables: Sequence[str] | None = None,
        comparisons: Sequence[Comparison] = (),
        allows_private: bool = False,
    ) -> Release:
        """Write a release: Parquet tables, logs, README.md, card.json, croissant.json, SHA256SUMS.

        The card says no more than the recorded fields support, and names those that are missing.

        Args:
            out: A new folder, or an empty one.
            name: Name of the release; by default that of the corpus' folder.
            description: A sentence or two.
            license: Id of its licence, e.g. "apache-2.0". It is never guessed.
            url: Its address.
            creator: Person or organisation.
            published: Day of publication; by default today, UTC.
            held_out: Splits that no other data may descend from.
            tables: Names of the tables; by default all that have rows.
            comparisons: Comparisons that the card lists.
            allows_private: Whether episodes may be published that their metadata marks with
                another `privacy` than "public".

        Raises:
            CorpusError: A log is being written, or the folder cannot be.
            TypeError: The splits are one text.
            ValueError: The folder is not empty, a table is unknown, an episode is marked as
                private, or the declared lineage has a cycle.
        """
        from trajrec.analysis.card import About
        from trajrec.analysis.overlap import split_names
        from trajrec.analysis.release import write_release

        about = About(
            name=name or self.path.resolve().name,
            description=description,
            license=license,
            url=url,
            creator=creator,
            published=published or datetime.datetime.now(datetime.UTC).date(),
            held_out=split_names(held_out),
        )
        return write_release(
            self,
            Path(out),
            about,
            tables=tables,
            comparisons=comparisons,
            allows_private=allows_private,
        )
