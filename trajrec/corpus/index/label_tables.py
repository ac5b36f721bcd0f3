"""The tables of labels of episodes and steps, and of episodes that were removed."""

from __future__ import annotations

from trajrec.corpus.index.table import EPISODE_ID, KIND, Table

LABELS = Table(
    "labels",
    "a label of an episode or of a step; none replaces another (see latest_labels)",
    ("episode_id", "step", "name", "given_by", "author", "labelled_at"),
    (
        EPISODE_ID,
        KIND,
        ("step", "INTEGER", "the step; NULL if the label is of the whole episode"),
        ("name", "VARCHAR", "name of the label: a tag, note, mistake, ..."),
        ("value", "JSON", "its value; NULL for a tag without one"),
        ("given_by", "VARCHAR", "person, judge (a model) or program"),
        ("author", "VARCHAR", "name of the person, model or program; NULL if unknown"),
        ("rationale", "VARCHAR", "reason that was given; NULL if none was"),
        ("labelled_at", "TIMESTAMP", "time of the label, UTC; NULL if unknown"),
        ("log", "VARCHAR", "log file that holds it; not the episode's"),
    ),
)
REMOVALS = Table(
    "removals",
    "an episode that `trajrec rm` has removed",
    ("episode_id",),
    (
        ("episode_id", "VARCHAR", "id that it had"),
        ("log_id", "VARCHAR", "id of the log that held it"),
        ("digest", "VARCHAR", "digest of its rows and events; NULL if unknown"),
        ("reason", "VARCHAR", "reason that was given; NULL if none was"),
        ("removed_at", "TIMESTAMP", "time of the removal, UTC"),
        ("log", "VARCHAR", "log file that tells it"),
    ),
)
