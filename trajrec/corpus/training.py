"""The methods of a corpus that read many steps for training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from trajrec.conditions import bracketed
from trajrec.corpus.agent_transitions import AgentTransitions, agent_transitions
from trajrec.corpus.chat import Conversation, conversations
from trajrec.corpus.episode import Episode
from trajrec.corpus.index.live import Place
from trajrec.corpus.index.views import EPISODE_KINDS, EpisodeKind
from trajrec.corpus.select import select_episodes
from trajrec.datasets.cache import open_cache
from trajrec.datasets.decode import ChunkSource, TableBuilder
from trajrec.datasets.plan import Plan, make_plan
from trajrec.datasets.pools import all_places, row_bytes
from trajrec.datasets.sequences import Sequences
from trajrec.datasets.stores import MemoryWriter
from trajrec.datasets.table import Table
from trajrec.datasets.transitions import COLUMNS, Transitions, wanted_fields
from trajrec.errors import CorpusError, MissingPackageError
from trajrec.types import Value

if TYPE_CHECKING:
    import pyarrow

    from trajrec.datasets.torch_data import TorchBatches

AnyKind: TypeAlias = EpisodeKind | Literal["all"]
Cache: TypeAlias = bool | str | Path | None
"""None or False: no cache; True: one in the corpus; a path: one in that folder."""

MAX_IN_MEMORY = 1 << 32
"""The most bytes of rows that windows without a cache decode into memory."""


def kind_condition(kind: str) -> str:
    """Return SQL for the kind of an episode.

    Raises:
        ValueError: The kind is unknown.
    """
    if kind not in (*EPISODE_KINDS, "all"):
        names = ", ".join(map(repr, EPISODE_KINDS))
        raise ValueError(f"kind must be {names} or 'all', got {kind!r}")
    return "true" if kind == "all" else f"kind = '{kind}'"


class TrainingReads(ABC):
    """Reads the steps of a corpus as arrays, batch by batch.

    Attributes:
        path: The folder.
    """

    path: Path

    @abstractmethod
    def episodes(
        self, where: str = "true", *, kind: AnyKind = "rollout", order_by: str = "log, number"
    ) -> Iterator[Episode]:
        """Yield episodes, log by log."""

    @abstractmethod
    def _query(self, query: str, *, is_ours: bool) -> list[tuple[Value, ...]]:
        """Return the rows of a query, in a sandbox if it is not ours."""

    @abstractmethod
    def _places(self, logs: set[str]) -> Mapping[str, Place]:
        """Return the contents of some logs."""

    def transitions(
        self,
        where: str = "true",
        *,
        kind: AnyKind = "rollout",
        columns: Sequence[str] = COLUMNS,
        batch_size: int = 256,
        shuffle: bool = True,
        seed: int = 0,
        cache: Cache = None,
        pool: int = 64,
        drop_last: bool = False,
        with_failed: bool = False,
    ) -> Transitions:
        """Return the transitions of environments' episodes, in batches.

        Without a cache the logs are decoded while the batches are read: no disk is used, and each
        epoch decodes them again. With one they are decoded once, into flat files that are mapped.

        A transition runs from the observation before a step to the one after it, never to the first
        one of the next episode. At the end of an episode `terminated` or `truncated` is set; `cut`
        is set if neither is and yet no step follows (a loop that was left, a step that raised, a
        damaged log). Of a fork its own steps count, since the parent has those before.

        Args:
            where: A SQL condition on the columns of `all_episodes`.
            kind: "rollout" (the table `episodes`), "fork", "nested", "copy", or "all".
            columns: The columns: "obs", "action", "reward", "next_obs", "terminated", "truncated",
                "cut", "after_failure", "episode", "step", a part such as "obs/image", or values
                that `Recorder.annotate` named, such as "values/logprob".
            batch_size: The transitions of a batch.
            shuffle: Whether the transitions come in an order of their own in each epoch; a stream
                mixes those of `pool` chunks at a time.
            seed: Decides the order, together with the epoch.
            cache: None for a stream; True for a cache in the corpus; a folder for one in there.
            pool: The chunks that a stream decodes and mixes at a time.
            drop_last: Whether to leave out a last batch that is not full.
            with_failed: Whether to include the steps that follow one that raised: their
                observation is the one before the failed step.

        Returns:
            An iterable of batches, each a dict of arrays (B, *shape) by column.

        Raises:
            CorpusError: No episode is selected, or values are no columns of one type and shape.
            QueryError: DuckDB rejects the condition.
            ValueError: An argument is wrong.

        >>> for batch in corpus.transitions("env_id = 'CartPole-v1'", batch_size=4096, seed=0):
        ...     print(batch["obs"].shape, batch["obs"].dtype)
        (61, 4) float32
        """
        plan = self._plan(where, kind, columns)
        return Transitions(
            plan,
            columns=columns,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            pool=pool,
            drop_last=drop_last,
            with_failed=with_failed,
            table=_open_table(plan, cache),
        )

    def sequences(
        self,
        where: str = "true",
        *,
        length: int,
        stride: int = 1,
        pad: bool = False,
        kind: AnyKind = "rollout",
        columns: Sequence[str] = COLUMNS,
        batch_size: int = 64,
        shuffle: bool = True,
        seed: int = 0,
        cache: Cache = None,
        drop_last: bool = False,
    ) -> Sequences:
        """Return windows of consecutive steps of one episode, in batches.

        Without a cache all selected steps are decoded into memory.

        Args:
            where: A SQL condition on the columns of `all_episodes`.
            length: The steps of a window.
            stride: The steps from one window of an episode to the next.
            pad: Whether the last windows of an episode may be shorter: they end with zeros, and the
                column "mask" (B, length) is False there. Without it such windows are left out.
            kind: "rollout" (the table `episodes`), "fork", "nested", "copy", or "all".
            columns: The columns, as in `transitions`.
            batch_size: The windows of a batch.
            shuffle: Whether the windows come in an order of their own in each epoch.
            seed: Decides the order, together with the epoch.
            cache: None for the memory; True for a cache in the corpus; a folder for one in there.
            drop_last: Whether to leave out a last batch that is not full.

        Returns:
            An iterable of batches, each a dict of arrays (B, length, *shape) by column.

        Raises:
            CorpusError: No episode is selected, values are no columns of one type and shape, or the
                steps do not fit into memory.
            QueryError: DuckDB rejects the condition.
            ValueError: An argument is wrong.

        >>> for batch in corpus.sequences("env_id = 'CartPole-v1'", length=32, pad=True):
        ...     print(batch["obs"].shape, batch["mask"].sum(axis=1).tolist()[:3])
        (61, 32, 4) [5, 17, 2]
        """
        plan = self._plan(where, kind, columns)
        table = _open_table(plan, cache) or _decode_all(plan)
        return Sequences(
            plan,
            table,
            length=length,
            stride=stride,
            pad=pad,
            columns=columns,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
        )

    def messages(self, where: str = "true", *, kind: AnyKind = "rollout") -> Iterator[Conversation]:
        """Yield the conversations of agents with models, for trainers of chat models.

        Each has its messages with tool calls and results, the tools on offer, the numbers of the
        messages that the model said, and the outcome of its episode. Episodes of environments have
        none.

        Args:
            where: A SQL condition on the columns of `all_episodes`.
            kind: "rollout" (the table `episodes`), "fork", "nested", "copy", or "all".

        Raises:
            QueryError: DuckDB rejects the condition.
            ValueError: The kind is unknown.

        >>> for talk in corpus.messages("task LIKE 'refund%'"):
        ...     print(talk.episode_id, [message["role"] for message in talk.messages])
        """
        for episode in self.episodes(where, kind=kind):
            if episode.is_agent_episode:
                yield from conversations(episode)

    def to_torch(
        self, where: str = "true", *, length: int | None = None, fetch: int = 1, **options: Any
    ) -> TorchBatches:
        """Return batches as a dataset of PyTorch: item k is batch k, a dict of tensors.

        The same logs and the same seed give the same batches with any number of workers.

        Args:
            where: A SQL condition on the columns of `all_episodes`.
            length: The steps of a window, for the batches of `sequences`; None for `transitions`.
            fetch: The batches of an item. A message from a worker process costs more than a batch
                of numbers: give workers several batches a message.
            **options: The arguments of `transitions`, or of `sequences`.

        Raises:
            MissingPackageError: torch is not installed.
            CorpusError, QueryError, ValueError: As `transitions` and `sequences`.

        >>> dataset = corpus.to_torch("env_id = 'CartPole-v1'", batch_size=256, seed=0)
        >>> for batch in dataset.loader(num_workers=2):
        ...     print(batch["obs"].shape)
        torch.Size([61, 4])
        """
        try:
            from trajrec.datasets.torch_data import TorchBatches
        except ImportError as exc:
            raise MissingPackageError("torch", "torch") from exc
        if length is None:
            return TorchBatches(self.transitions(where, **options), fetch=fetch)
        return TorchBatches(self.sequences(where, length=length, **options), fetch=fetch)

    def agent_transitions(
        self, where: str = "true", *, kind: AnyKind = "rollout"
    ) -> Iterator[AgentTransitions]:
        """Yield the transitions of each player of PettingZoo environments, episode by episode.

        Players differ in their spaces and their turns, so each has arrays of its own. One episode
        at a time is held in memory.

        Args:
            where: A SQL condition on the columns of `all_episodes`.
            kind: "rollout" (the table `episodes`), "fork", "nested", "copy", or "all".

        Raises:
            CorpusError: An episode is of no PettingZoo environment.
            QueryError: DuckDB rejects the condition.

        >>> for part in corpus.agent_transitions("env_id = 'tictactoe_v3'"):
        ...     print(part.agent, part.action.tolist(), part.reward.tolist())
        player_1 [4, 0, 8] [0, 0, 1]
        player_2 [1, 2] [0, -1]
        """
        for episode in self.episodes(where, kind=kind):
            yield from agent_transitions(episode)

    def to_arrow(
        self,
        where: str = "true",
        *,
        kind: AnyKind = "rollout",
        columns: Sequence[str] = COLUMNS,
        batch_size: int = 1 << 16,
    ) -> pyarrow.RecordBatchReader:
        """Return the transitions as a reader of Arrow's record batches, in the order of the logs.

        An array of several numbers is a list of fixed size; the metadata of its field have its
        shape. The column `episode_id` has the ids of episodes. Polars, DuckDB and pandas read it.

        Args:
            where: A SQL condition on the columns of `all_episodes`.
            kind: "rollout" (the table `episodes`), "fork", "nested", "copy", or "all".
            columns: The columns, as in `transitions`.
            batch_size: The transitions of a record batch.

        Raises:
            MissingPackageError: pyarrow is not installed.
            CorpusError, QueryError, ValueError: As `transitions`.

        >>> polars.from_arrow(corpus.to_arrow("outcome = 'success'").read_all())
        """
        try:
            from trajrec.datasets.arrow import to_reader
        except ImportError as exc:
            raise MissingPackageError("pyarrow", "arrow") from exc
        transitions = self.transitions(
            where, kind=kind, columns=columns, batch_size=batch_size, shuffle=False
        )
        return to_reader(transitions)

    def _plan(self, where: str, kind: AnyKind, columns: Sequence[str]) -> Plan:
        """Return the rows of the selected episodes."""
        wanted = wanted_fields(columns)
        condition = f"{kind_condition(kind)} AND {bracketed(where)}"
        is_ours = where == "true"
        selection = select_episodes(
            self.path, condition, lambda query: self._query(query, is_ours=is_ours), self._places
        )
        return make_plan(selection, wanted)


def _open_table(plan: Plan, cache: Cache) -> Table | None:
    if cache is None or cache is False:
        return None
    return open_cache(plan, None if cache is True else Path(cache))


def _decode_all(plan: Plan) -> Table:
    """Return all rows, decoded into memory.

    Raises:
        CorpusError: They are too many.
    """
    n_bytes = sum(int(log.segments.n.sum()) for log in plan.logs) * row_bytes(plan)
    if n_bytes > MAX_IN_MEMORY:
        raise CorpusError(
            f"{plan.selection.folder}: {n_bytes / 1e9:.1f} GB of rows are too many for the memory; "
            "pass cache=True"
        )
    source = ChunkSource(plan)
    try:
        builder = TableBuilder(plan, source, MemoryWriter)
        builder.add(all_places(plan))
        return builder.finish()
    finally:
        source.close()
