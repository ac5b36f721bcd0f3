"""The table of replay verdicts."""

from __future__ import annotations

from trajrec.corpus.index.table import EPISODE_ID, KIND, Table

REPLAYS = Table(
    "replays",
    "the verdict of one replay of an episode; none replaces another (see latest_replay)",
    ("run_id", "episode_id"),
    (
        ("run_id", "VARCHAR", "run of `trajrec replay` that gave it"),
        EPISODE_ID,
        KIND,
        (
            "against",
            "VARCHAR",
            "environment or world that it was replayed in, as --env names it; `recorded` is the one"
            " that its log names",
        ),
        (
            "grade",
            "VARCHAR",
            "exact, state, partial, observed-only, diverged or refused (nothing was executed)",
        ),
        ("n_steps", "BIGINT", "steps that were executed"),
        ("step", "INTEGER", "first step that differs, -1 for the reset; NULL if none does"),
        ("field", "VARCHAR", "field that differs there; NULL if none does"),
        (
            "expected",
            "JSON",
            "its recorded value, NULL if there is none; of a large one, the text around the difference",
        ),
        ("actual", "JSON", "its value in the replay, in the same form"),
        ("cause", "VARCHAR", "likely cause that experiments showed; NULL if none did"),
        (
            "ulps",
            "BIGINT",
            "floats between the two values; NULL if they are no floats of one type, or equal",
        ),
        ("compared", "JSON", "fields that were compared"),
        ("notes", "JSON", "remarks that qualify the grade, or the reason of a refusal"),
        ("versions", "JSON", "versions and settings of the process that replayed it"),
        ("replayed_at", "TIMESTAMP", "time of the replay, UTC; NULL if unknown"),
        ("log", "VARCHAR", "log file that holds it; not the episode's"),
    ),
)
