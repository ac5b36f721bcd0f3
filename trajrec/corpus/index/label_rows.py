"""Rows of the tables `labels` and `removals`."""

from __future__ import annotations

from collections.abc import Iterator

from trajrec.corpus.index.cells import stored_json, to_timestamp
from trajrec.corpus.index.rows import Row, Time
from trajrec.corpus.index.views import EpisodeKind
from trajrec.log.annotations import Label, Tombstone
from trajrec.values import codec


class LabelRow(Row, kw_only=True):
    """A row of `labels`. Like a post-hoc check, it does not know the kind of its episode."""

    episode_id: str
    kind: EpisodeKind | None = None
    step: int | None
    name: str
    value: str | None
    given_by: str
    author: str | None
    rationale: str | None
    labelled_at: Time | None


def label_row(event: Label) -> LabelRow:
    """Return the row of a label."""
    return LabelRow(
        episode_id=event.target,
        step=event.step,
        name=event.name,
        value=stored_json(event.value_data),
        given_by=event.by,
        author=event.author or None,
        rationale=event.rationale or None,
        labelled_at=to_timestamp(event.time_ns),
    )


class RemovalRow(Row, kw_only=True):
    """A row of `removals`."""

    episode_id: str
    log_id: str
    digest: str | None
    reason: str | None
    removed_at: Time | None


def removal_rows(event: Tombstone) -> Iterator[RemovalRow]:
    """Yield the rows of a removal."""
    digests = codec.decode_map(event.extra_data).get("digests")
    for target in event.targets:
        digest = digests.get(target) if isinstance(digests, dict) else None
        yield RemovalRow(
            episode_id=target,
            log_id=event.log_id,
            digest=digest if isinstance(digest, str) else None,
            reason=event.reason or None,
            removed_at=to_timestamp(event.time_ns),
        )
