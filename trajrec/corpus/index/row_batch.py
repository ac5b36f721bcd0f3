"""The rows of several logs, gathered until they are inserted together."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from trajrec.corpus.index.import_rows import ImportRow
from trajrec.corpus.index.label_rows import LabelRow, RemovalRow
from trajrec.corpus.index.rows import (
    AttemptRow,
    CheckRow,
    CreditRow,
    EpisodeRow,
    FailureRow,
    MessageRow,
    ModelCallRow,
    ReplayRow,
    RolloutRow,
    SideEffectRow,
    StateChangeRow,
    StepRow,
)
from trajrec.types import Array

# Rows gathered before they are inserted: enough to amortise the insert, few enough to bound
# memory.
BATCH_STEPS = 400_000
BATCH_BYTES = 1 << 25


@dataclass
class StepGroup:
    """Steps of one layout as NumPy columns.

    Attributes:
        action: SQL that makes the action's JSON from the columns.
        info: SQL that makes the info's JSON from the columns.
        columns: The columns of each chunk, by name.
    """

    action: str
    info: str
    columns: list[dict[str, Array]] = field(default_factory=list)


_BY_LOG = (
    "episodes",
    "copies",
    "episode_ids",
    "failures",
    "checks",
    "changes",
    "attempts",
    "model_calls",
    "messages",
    "side_effects",
    "credit",
    "rollouts",
    "replays",
    "imports",
    "labels",
    "removals",
    "decisions",
)


@dataclass
class Rows:
    """Rows for the tables, gathered over chunks and logs until they are inserted.

    Attributes:
        episode_ids: Id of the episode that each number in the column "episode" of steps stands for.
        numeric_changes: Columns of the table `numeric_changes` of each chunk, by form.
        n_steps: Steps of environments so far.
        n_bytes: Bytes of the rows of agents, about.
        decisions: Rows of `steps` that come from agents.
        replaced: Episodes whose earlier rows must be deleted first.
    """

    episodes: dict[str, EpisodeRow] = field(default_factory=dict)
    copies: list[EpisodeRow] = field(default_factory=list)
    episode_ids: list[str] = field(default_factory=list)
    steps: dict[tuple[str, str], StepGroup] = field(default_factory=dict)
    agent_rewards: list[dict[str, Array]] = field(default_factory=list)
    numeric_changes: dict[str, list[dict[str, Array]]] = field(default_factory=dict)
    n_steps: int = 0
    n_bytes: int = 0
    failures: list[FailureRow] = field(default_factory=list)
    checks: list[CheckRow] = field(default_factory=list)
    changes: list[StateChangeRow] = field(default_factory=list)
    attempts: list[AttemptRow] = field(default_factory=list)
    model_calls: list[ModelCallRow] = field(default_factory=list)
    messages: list[MessageRow] = field(default_factory=list)
    side_effects: list[SideEffectRow] = field(default_factory=list)
    credit: list[CreditRow] = field(default_factory=list)
    rollouts: list[RolloutRow] = field(default_factory=list)
    replays: list[ReplayRow] = field(default_factory=list)
    imports: list[ImportRow] = field(default_factory=list)
    labels: list[LabelRow] = field(default_factory=list)
    removals: list[RemovalRow] = field(default_factory=list)
    decisions: list[StepRow] = field(default_factory=list)
    replaced: set[str] = field(default_factory=set)
    _begun: list[tuple[int, list[int]]] = field(default_factory=list)

    def begin_log(self, log_key: int) -> None:
        """Note that the rows from here on are of another log."""
        self._begun.append((log_key, [len(getattr(self, name)) for name in _BY_LOG]))

    def log_keys(self, name: str) -> Array:
        """Return the key of the log of each row in one of the lists, int32."""
        place = _BY_LOG.index(name)
        keys = [key for key, _ in self._begun]
        starts = [sizes[place] for _, sizes in self._begun]
        counts = np.diff([*starts, len(getattr(self, name))])
        return np.repeat(np.array(keys, np.int32), counts)

    @property
    def is_full(self) -> bool:
        """Whether there are enough rows to insert them."""
        return self.n_steps + len(self.changes) > BATCH_STEPS or self.n_bytes > BATCH_BYTES

    def extend(self, other: Rows) -> None:
        """Add the rows of an agent's episode."""
        self.episodes |= other.episodes
        self.replaced |= other.replaced
        self.n_bytes += other.n_bytes
        self.failures += other.failures
        self.checks += other.checks
        self.changes += other.changes
        self.attempts += other.attempts
        self.model_calls += other.model_calls
        self.messages += other.messages
        self.side_effects += other.side_effects
        self.decisions += other.decisions
