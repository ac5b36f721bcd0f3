"""Rows of training data from a corpus: step labels, preference pairs, advantages of groups."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypedDict, Unpack

from trajrec.conditions import bracketed
from trajrec.replay.credit.estimators.groups import (
    GroupOptions,
    Method,
    count_mixed_groups,
    group_advantages,
)
from trajrec.replay.credit.forms import Form
from trajrec.replay.credit.labelled_runs import is_asked, latest_runs, shares_after_steps
from trajrec.replay.credit.results.table import CreditTable
from trajrec.replay.credit.same_context import (
    has_same_context,
    says_the_same,
    tells_action,
    untold_action,
)
from trajrec.replay.credit.whole_episodes import Remark, WholeEpisodes
from trajrec.types import Value

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus


class StepLabels(TypedDict):
    """The labels of an episode's steps, for a process reward model.

    Attributes:
        prompt: The goal, or the first observation.
        completions: Each step.
        labels: Whether any rollout from after the step was won: the hard estimate.
        soft_labels: The share of these rollouts that was won, or their mean score.
        n: The number of these rollouts.
        episode_id: The episode.
        run_id: The run of credit whose rollouts these are.
        policy_id: The policy of the rollouts.
    """

    prompt: Value
    completions: list[Value]
    labels: list[bool]
    soft_labels: list[float]
    n: list[int]
    episode_id: str
    run_id: str
    policy_id: str


class PreferencePair(TypedDict):
    """Two actions at one step, one better than the other.

    Attributes:
        prompt: The information before the step.
        chosen: The better action.
        rejected: The worse action.
        margin: The difference of their effects on the result.
        ci_low: Lower end of the interval of the counterfactual's effect; None for a fork.
        ci_high: Upper end of this interval; None for a fork.
        episode_id: The episode.
        step: The step.
        source: "counterfactual", or "fork" and the id of the branch.
    """

    prompt: Value
    chosen: Value
    rejected: Value
    margin: float
    ci_low: float | None
    ci_high: float | None
    episode_id: str
    step: int
    source: str


class StepAdvantages(TypedDict):
    """The advantages of an episode's steps in its group.

    Attributes:
        prompt: The goal, or the first observation.
        completions: Each step.
        advantages: The advantage of each step.
        reward: The episode's return; NaN if it is unknown, or if the episode is an agent's.
        episode_id: The episode.
        method: The method of `group_advantages`.
    """

    prompt: Value
    completions: list[Value]
    advantages: list[float]
    reward: float
    episode_id: str
    method: str


def step_labels(
    corpus: Corpus, where: str, form: Form, remark: Remark | None
) -> Iterator[StepLabels]:
    """Yield the step labels of each episode, from its latest run with rollouts from every step.

    Args:
        corpus: The corpus.
        where: A SQL condition on the table `all_episodes`.
        form: How steps are written.
        remark: Is told how many episodes are left out, and if the labels say nothing.
    """
    runs = latest_runs(corpus, where)
    whole = WholeEpisodes(form)
    unchecked_labels: set[bool] = set()
    n_unknown = 0
    with_credit = (
        f"{bracketed(where)} AND kind <> 'copy' AND episode_id IN (SELECT episode_id FROM credit)"
    )
    for episode in corpus.episodes(with_credit, kind="all", order_by="episode_id"):
        run = runs.get(episode.id)
        shares = None if run is None else shares_after_steps(episode, run)
        n_unknown += run is not None and shares is None
        if run is None or shares is None or not whole.take(episode):
            continue
        steps = form.kept(episode, shares)
        kept = [shares[step] for step in steps]
        if not kept:
            continue
        labels = [share.share > 0 for share in kept]
        if not run.has_check:
            unchecked_labels.update(labels)
        yield {
            "prompt": form.prompt(episode),
            "completions": form.completions(episode, steps),
            "labels": labels,
            "soft_labels": [share.share for share in kept],
            "n": [share.n for share in kept],
            "episode_id": episode.id,
            "run_id": run.run_id,
            "policy_id": run.policy_id,
            **form.extra(episode),  # type: ignore[typeddict-item]
        }
    whole.tell(remark)
    if remark is not None and n_unknown:
        remark(
            f"episodes left out: {n_unknown}; a step of them has no rollout with a result after it, "
            "or a check decided the rollouts and the episode itself has no outcome "
            "(estimator='advantage' takes the last step in rollouts too)"
        )
    if remark is not None and len(unchecked_labels) == 1:
        (label,) = unchecked_labels
        remark(
            f"all labels are {str(label).lower()}: without a check, a rollout counts as won if its "
            "return is above 0; estimate again with success= (trajrec credit --success)"
        )


def counterfactual_pairs(
    corpus: Corpus, where: str, form: Form, remark: Remark | None
) -> Iterator[PreferencePair]:
    """Yield a pair for each counterfactual whose effect is certain: its interval excludes 0."""
    certain = "estimator = 'effect' AND action IS NOT NULL AND (ci_low > 0 OR ci_high < 0)"
    query = (
        "SELECT c.episode_id, step, CAST(action AS VARCHAR), value, ci_low, ci_high "
        f"FROM latest_credit c WHERE {certain} AND {is_asked(where, 'c')} ORDER BY ALL"
    )
    effects: dict[str, list[tuple[int, str, float, float, float]]] = {}
    for episode_id, *effect in corpus.sql(query, sandbox=True).fetchall():
        effects.setdefault(episode_id, []).append(tuple(effect))
    with_effect = (
        f"{bracketed(where)} AND kind <> 'copy' "
        f"AND episode_id IN (SELECT episode_id FROM latest_credit WHERE {certain})"
    )
    whole = WholeEpisodes(form)
    for episode in corpus.episodes(with_effect, kind="all", order_by="episode_id"):
        if not whole.take(episode):
            continue
        for step, action, value, ci_low, ci_high in effects.get(episode.id, ()):
            recorded = form.action(episode, step)
            if recorded is None:
                continue
            other = form.counterfactual(action, episode, step)
            is_better = ci_low > 0
            yield {
                "prompt": form.prompt(episode, step),
                "chosen": other if is_better else recorded,
                "rejected": recorded if is_better else other,
                "margin": abs(value),
                "ci_low": ci_low,
                "ci_high": ci_high,
                "episode_id": episode.id,
                "step": step,
                "source": "counterfactual",
                **form.extra(episode),  # type: ignore[typeddict-item]
            }
    whole.tell(remark)


def fork_pairs(
    corpus: Corpus, where: str, form: Form, remark: Remark | None
) -> Iterator[PreferencePair]:
    """Yield a pair for each fork with another outcome than its parent, after another action.

    Args:
        corpus: The corpus.
        where: A SQL condition on the table `all_episodes`, for the parents.
        form: How steps are written.
        remark: Is told how many forks make no pair, and why.
    """
    of_parent = (
        "JOIN all_episodes p ON p.episode_id = b.parent_id AND p.kind <> 'copy' "
        f"WHERE {is_asked(where, 'p')}"
    )
    if remark is not None:
        _tell_of_forks_without_outcome(corpus, of_parent, remark)
    # A comparison with NULL is not true, so both outcomes exist.
    query = (
        f"SELECT b.episode_id, b.parent_id, b.fork_step FROM branches b {of_parent} "
        "AND b.outcome <> p.outcome ORDER BY ALL"
    )
    # Forks of one episode often follow each other, so the last parent is kept.
    load_parent = functools.lru_cache(maxsize=1)(corpus.episode)
    whole = WholeEpisodes(form)
    n_told_otherwise = 0
    n_untold = 0
    for branch_id, parent_id, step in corpus.sql(query, sandbox=True).fetchall():
        parent = load_parent(parent_id)
        branch = corpus.episode(branch_id)
        if not whole.take(parent) or not whole.take(branch):
            continue
        recorded = form.action(parent, step)
        is_told = not branch.is_agent_episode or tells_action(branch, step)
        if recorded is None:
            continue
        other = form.action(branch, step) if is_told else untold_action(form, recorded, branch)
        if other is None:
            n_untold += not is_told
            continue
        if says_the_same(recorded, other):
            continue
        # Before an untold action, all was answered from the recording.
        if is_told and not has_same_context(form, parent, branch, step):
            n_told_otherwise += 1
            continue
        is_better = branch.outcome == "success"
        yield {
            "prompt": form.prompt(parent, step),
            "chosen": other if is_better else recorded,
            "rejected": recorded if is_better else other,
            "margin": 1.0,
            "ci_low": None,
            "ci_high": None,
            "episode_id": parent_id,
            "step": step,
            "source": f"fork {branch_id}",
            **form.extra(parent),  # type: ignore[typeddict-item]
        }
    whole.tell(remark)
    if remark is not None and n_told_otherwise:
        remark(
            f"{n_told_otherwise} forks make no pair: their agent was told something else before "
            "the step, such as another result or prompt, so the two actions answer two contexts"
        )
    if remark is not None and n_untold:
        remark(f"{n_untold} forks make no pair: their logs have no call of the step")


def _tell_of_forks_without_outcome(corpus: Corpus, of_parent: str, remark: Remark) -> None:
    """Tell how many forks make no pair because they or their parents have no outcome."""
    without_outcome = "b.outcome IS NULL OR p.outcome IS NULL"
    # Controls of experiments do as recorded, and have no outcome.
    ((n, n_without),) = corpus.sql(
        f"SELECT count(*), count(*) FILTER ({without_outcome}) FROM branches b "
        f"JOIN all_episodes f ON f.episode_id = b.episode_id AND f.kind <> 'copy' {of_parent} "
        "AND f.metadata->>'$.what_if.arm' IS DISTINCT FROM 'control'"
    ).fetchall()
    if n_without:
        remark(
            f"{n_without} of {n} forks make no pair: they and their episodes need an outcome, "
            "fork_many(checks=...); agents get one by trajrec.episode(checks=...) or "
            "trajrec capture --verifier"
        )


def step_advantages(
    corpus: Corpus,
    where: str,
    method: Method,
    form: Form,
    remark: Remark | None,
    **options: Unpack[GroupOptions],
) -> Iterator[StepAdvantages]:
    """Yield the advantages of each episode's steps in its group.

    Args:
        corpus: The corpus.
        where: A SQL condition on the table `all_episodes`.
        method: See `group_advantages`.
        form: How steps are written.
        remark: Is told how many episodes are alone in their group, and how many are left out.
        options: See `group_advantages`.
    """
    tables = {
        table.episode_id: table
        for table in group_advantages(corpus, method, where=where, **options)
    }
    if remark is not None:
        _tell_of_groups(corpus, where, method, list(tables.values()), remark, options)
    whole = WholeEpisodes(form)
    for episode in corpus.episodes(where):
        if episode.id in tables and whole.take(episode):
            values_of = {row.step: row.value for row in tables[episode.id]}
            steps = form.kept(episode, values_of)
            if not steps:
                continue
            # A step with an unknown advantage must not train: 0 gives no gradient.
            values = [values_of[step] for step in steps]
            advantages = [value if math.isfinite(value) else 0.0 for value in values]
            yield {
                "prompt": form.prompt(episode),
                # Those of the table: an agent's step without any record has no advantage.
                "completions": form.completions(episode, steps),
                "advantages": advantages,
                # JSON has neither NaN nor infinities: the file has null in their place.
                "reward": math.nan if episode.is_agent_episode else episode.total_reward,
                "episode_id": episode.id,
                "method": method,
                **form.extra(episode),  # type: ignore[typeddict-item]
            }
    whole.tell(remark)


def _tell_of_groups(
    corpus: Corpus,
    where: str,
    method: Method,
    tables: list[CreditTable],
    remark: Remark,
    options: GroupOptions,
) -> None:
    """Tell of episodes that are in no group, or alone in theirs, and of groups of several models."""

    def n_episodes(condition: str) -> int:
        query = f"SELECT count(*) FROM episodes WHERE {bracketed(where)} AND {condition}"
        ((n,),) = corpus.sql(query, sandbox=True).fetchall()
        return int(n)

    if options.get("measure", "return") == "return":
        n_unmeasured = n_episodes("total_reward IS NULL AND outcome IS NOT NULL")
        if n_unmeasured:
            remark(
                f"{n_unmeasured} episodes have an outcome and no known return: "
                "measure='outcome' (--measure outcome) compares them"
            )
        n_cut_off = n_episodes("ending = 'abandoned' AND total_reward IS NOT NULL")
        if n_cut_off:
            remark(
                f"{n_cut_off} episodes were abandoned before their end, so that their returns lack "
                "its rewards: leave them out by where (--where \"ending <> 'abandoned'\")"
            )
    # The n of a row of GRPO is the size of the group; other methods count other things.
    sizes = tables
    if method != "grpo":
        sizes = group_advantages(corpus, "grpo", where=where, **options)
    n_alone = sum(table[0].n == 1 for table in sizes)
    if n_alone:
        remark(
            f"{n_alone} of {len(tables)} episodes are alone in their group: there is nothing "
            "to compare them with"
        )
    ((n_selected,),) = corpus.sql(
        f"SELECT count(*) FROM episodes WHERE {bracketed(where)}", sandbox=True
    ).fetchall()
    n_out = n_selected - len(tables)
    if tables and n_out:
        remark(
            f"{n_out} of {n_selected} episodes are in no group: they are probes, have not ended, "
            "have no step, no outcome or return, or a fault of the environment or "
            "infrastructure"
        )
    n_mixed = count_mixed_groups(corpus, where, **options)
    if n_mixed:
        verb = "group holds" if n_mixed == 1 else "groups hold"
        remark(
            f"{n_mixed} {verb} episodes of several base models: an advantage compares one "
            "policy with another then; select one by where (--where), or group by= more columns"
        )
