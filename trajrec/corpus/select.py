"""Selects episodes for training: the rows of the index as arrays, log by log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from trajrec.conditions import bracketed
from trajrec.corpus.index.live import Place
from trajrec.datasets.plan import failures_by_number
from trajrec.datasets.selection import LogSelection, Selection
from trajrec.errors import CorpusError, QueryError
from trajrec.types import Value

Query = Callable[[str], list[tuple[Value, ...]]]
"""Runs a query and returns its rows."""

_COLUMNS = (
    "log, number, episode_id, first_frame, last_frame, coalesce(fork_step, 0), end_step, "
    "coalesce(terminated, false), coalesce(truncated, false)"
)


def select_episodes(
    folder: Path,
    condition: str,
    query: Query,
    places: Callable[[set[str]], Mapping[str, Place]],
) -> Selection:
    """Return the episodes of environments that a condition selects.

    Args:
        folder: The corpus.
        condition: SQL on the columns of `all_episodes`.
        query: Runs a query.
        places: Returns the contents of some logs.

    Raises:
        CorpusError: The condition selects no episode that has steps of an environment.
        QueryError: DuckDB rejects the condition.
    """
    rows = query(
        f"SELECT {_COLUMNS} FROM all_episodes WHERE n_steps > 0 "
        f"AND {bracketed(condition)} ORDER BY log, number"
    )
    if not rows:
        raise CorpusError(
            f"{folder}: no episode with a step is selected by {' '.join(condition.split())!r}"
        )
    failed = query(
        "SELECT log, number, step FROM failures JOIN all_episodes USING (episode_id) WHERE "
        "phase = 'step' AND call IS NULL"
    )
    failed_of = {
        log: failures_by_number((row[1], row[2]) for row in group)
        for log, group in groupby(sorted(failed), key=itemgetter(0))
    }
    known = places({row[0] for row in rows})
    logs = []
    n_before = 0
    for log, group in groupby(rows, key=itemgetter(0)):
        if log not in known:
            raise QueryError(f"the condition selects {log!r}, no log of this corpus")
        of_log = list(group)
        numbers, firsts, lasts, first_steps, end_steps = (
            np.array([row[column] for row in of_log], np.int64) for column in (1, 3, 4, 5, 6)
        )
        logs.append(
            LogSelection(
                path=folder / log,
                seal=known[log].seal,
                first_frame=int(firsts.min()),
                last_frame=int(lasts.max()),
                numbers=numbers,
                codes=np.arange(n_before, n_before + len(of_log)),
                first_steps=first_steps,
                end_steps=end_steps,
                terminated=np.array([row[7] for row in of_log], np.bool_),
                truncated=np.array([row[8] for row in of_log], np.bool_),
                failed=failed_of.get(log, {}),
            )
        )
        n_before += len(of_log)
    return Selection(folder, tuple(row[2] for row in rows), tuple(logs))
