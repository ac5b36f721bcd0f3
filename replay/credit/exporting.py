"""Write credit as training data, in the columns that the trainers of TRL read.

These are `prompt`, `completions` and `labels` for process reward models, and `prompt`, `chosen` and
`rejected` for preferences. Further columns stand beside them. A step is text, an action or the tool
calls of an agent as JSON; or it is chat messages.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from trajrec.corpus.exports import exporting
from trajrec.corpus.scratch import scratch_beside
from trajrec.errors import CorpusError
from trajrec.options import check_options
from trajrec.replay.credit.estimators.groups import GroupOptions, Method
from trajrec.replay.credit.forms import MessageForm, TextForm
from trajrec.replay.credit.training_data import (
    counterfactual_pairs,
    fork_pairs,
    step_advantages,
    step_labels,
)
from trajrec.replay.credit.whole_episodes import Remark
from trajrec.values.json import finite_json, to_json_value

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus

Kind = Literal["prm", "dpo", "grpo"]

_NEEDS: dict[Kind, str] = {
    "prm": "step labels need rollouts: run `trajrec credit` or `trajrec bisect` on episodes first",
    "dpo": "pairs need forks with another outcome or counterfactuals: run `trajrec fork`, "
    "or credit.counterfactual in Python",
    "grpo": "no episode that has ended is in a group",
}
"""Kind -> the records it is made from, for a corpus without them."""

_MESSAGE = (
    "STRUCT(role VARCHAR, content VARCHAR, tool_calls STRUCT(id VARCHAR, type VARCHAR, "
    '"function" STRUCT("name" VARCHAR, arguments VARCHAR))[], tool_call_id VARCHAR, "name" VARCHAR)'
)

# SQL types of columns in the form of messages.
MESSAGE_COLUMNS = {
    "prompt": f"{_MESSAGE}[]",
    "chosen": f"{_MESSAGE}[]",
    "rejected": f"{_MESSAGE}[]",
    "completions": f"{_MESSAGE}[][]",
}

# SQL types of the columns; the columns are described in training_data.py.
COLUMNS: dict[Kind, dict[str, str]] = {
    "prm": {
        "prompt": "VARCHAR",
        "completions": "VARCHAR[]",
        "labels": "BOOLEAN[]",
        "soft_labels": "DOUBLE[]",
        "n": "BIGINT[]",
        "episode_id": "VARCHAR",
        "run_id": "VARCHAR",
        "policy_id": "VARCHAR",
    },
    "dpo": {
        "prompt": "VARCHAR",
        "chosen": "VARCHAR",
        "rejected": "VARCHAR",
        "margin": "DOUBLE",
        "ci_low": "DOUBLE",
        "ci_high": "DOUBLE",
        "episode_id": "VARCHAR",
        "step": "BIGINT",
        "source": "VARCHAR",
    },
    "grpo": {
        "prompt": "VARCHAR",
        "completions": "VARCHAR[]",
        "advantages": "DOUBLE[]",
        "reward": "DOUBLE",
        "episode_id": "VARCHAR",
        "method": "VARCHAR",
    },
}


# What DuckDB takes for the longest line unless it is told of a longer one.
_LINE_BYTES = 1 << 24


def export(
    corpus: Corpus,
    kind: Kind,
    file: str | Path,
    *,
    where: str = "true",
    method: Method = "grpo",
    messages: bool = False,
    overwrite: bool = False,
    tell: Remark | None = None,
    **options: Unpack[GroupOptions],
) -> int:
    """Write training data from a corpus.

    Args:
        corpus: The corpus; see `trajrec.open`.
        kind: The kind of rows.
            - "prm": An episode a row, with a label for each step: whether any rollout from after
              the step was won (`labels`), and the share that was won (`soft_labels`). The rollouts
              are those of the latest run with rollouts from every step.
            - "dpo": A pair of actions at one step a row: from counterfactuals whose interval
              excludes 0, and from forks whose outcome differs from their parent's.
            - "grpo": An episode a row, with the advantage of each step in the episode's group. An
              unknown advantage is written as 0.
        file: The file to write; ends in .parquet or .jsonl. It appears when it is whole.
        where: Selects episodes: a SQL condition on the table `episodes`.
        method: Method of the advantages, for "grpo"; see `group_advantages`.
        messages: Whether prompts and steps are chat messages with tool calls and results, as
            `Conversation.messages` has them, and a column `tools` has the tools on offer. Episodes
            of environments have none, and are left out. By default they are texts.
        overwrite: Whether any file is replaced, and not only what the same call wrote.
        tell: Is called with each remark about the data, a sentence; e.g. that episodes are alone in
            their group.

    Returns:
        The number of rows.

    Raises:
        ValueError: The kind is unknown, the file ends otherwise, or its folder does not exist.
        TypeError: An option is unknown.
        QueryError: `where` or `by` is not valid SQL.
        CorpusError: There are no rows, or the file exists or cannot be written.
    """
    check_options("export", options, GroupOptions)
    path = Path(file)
    if kind not in COLUMNS:
        raise ValueError(f"kind must be one of {', '.join(COLUMNS)}, got {kind!r}")
    if path.suffix not in (".parquet", ".jsonl"):
        raise ValueError(f"the file must end in .parquet or .jsonl, got {str(file)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such folder to write into; create it first")
    remarks: list[str] = []

    def note(remark: str) -> None:
        remarks.append(remark)
        if tell is not None:
            tell(remark)

    rows: Iterator[Mapping[str, object]]
    form = MessageForm() if messages else TextForm()
    command = {"kind": kind, "where": where, "method": method, "messages": messages, **options}
    with exporting(corpus.path, path, command, overwrite=overwrite) as finished:
        if kind == "prm":
            rows = step_labels(corpus, where, form, note)
        elif kind == "dpo":
            rows = itertools.chain(
                counterfactual_pairs(corpus, where, form, note),
                fork_pairs(corpus, where, form, note),
            )
        else:
            rows = step_advantages(corpus, where, method, form, note, **options)
        if path.suffix == ".jsonl":
            n_rows, _ = _write_lines(rows, finished)
        else:
            # Beside the file, since the folder for temporary files may be too small for a corpus.
            with scratch_beside(path.with_name(f"{path.name}.rows")) as lines:
                n_rows, n_longest = _write_lines(map(_storable, rows), lines)
                columns = _columns(kind, messages=messages)
                _write_parquet(lines, columns, finished, n_longest=n_longest)
        if isinstance(form, MessageForm) and form.n_with_omitted:
            note(
                f"{form.n_with_omitted} episodes have messages with images, files or reasoning, "
                "which are left out"
            )
        if isinstance(form, MessageForm) and form.n_with_unfinished:
            note(
                f"{form.n_with_unfinished} episodes have answers that the model did not end, since "
                "a stream broke off or a limit stopped it: their ends are not the model's"
            )
        if form.n_dropped:
            note(
                f"{form.n_dropped} steps are left out: the agent asked again with the same messages "
                "and none of their calls ran, or it is unknown which of several alternatives of an "
                "answer the agent took"
            )
        if not n_rows:
            raise CorpusError(f"{corpus.path}: no rows: {'; '.join(remarks) or _NEEDS[kind]}")
    return n_rows


def _columns(kind: Kind, *, messages: bool) -> Mapping[str, str]:
    """Return the columns of a kind of rows, with their SQL types."""
    columns = COLUMNS[kind]
    if not messages:
        return columns
    return {name: MESSAGE_COLUMNS.get(name, sql) for name, sql in columns.items()} | {
        "tools": "JSON"
    }


def _storable(row: Mapping[str, object]) -> Mapping[str, object]:
    """Return a row with escapes for lone surrogates, which UTF-8, and so Parquet, does not have."""
    stored: Mapping[str, object] = to_json_value(finite_json(row))
    return stored


def _write_lines(rows: Iterable[Mapping[str, object]], path: Path) -> tuple[int, int]:
    """Write rows as JSON lines; one row is in memory at a time.

    Returns:
        The number of rows, and the bytes of the longest line.
    """
    n_rows = 0
    n_longest = 0
    with path.open("w") as out:
        for row in rows:
            line = json.dumps(finite_json(row), allow_nan=False) + "\n"
            out.write(line)
            n_rows += 1
            n_longest = max(n_longest, len(line))
    return n_rows, n_longest


def _write_parquet(
    lines: Path, columns: Mapping[str, str], target: Path, *, n_longest: int
) -> None:
    """Convert JSON lines to Parquet.

    Args:
        lines: The lines.
        columns: The SQL types of the columns.
        target: The file to write.
        n_longest: The bytes of the longest line.
    """
    # Processes that run rollouts import this package, and need no database.
    import duckdb

    types = ", ".join(f"'{name}': '{kind}'" for name, kind in columns.items())
    # By default DuckDB reads no line of more than 16 MiB.
    n_bytes = max(n_longest, _LINE_BYTES)
    options = f"format='newline_delimited', maximum_object_size={n_bytes}"
    source = f"read_json(?, {options}, columns={{{types}}})"
    # COPY takes no parameter for its target, so the path is quoted by hand.
    quoted = str(target).replace("'", "''")
    with duckdb.connect(":memory:") as connection:
        connection.execute(
            f"COPY (SELECT * FROM {source}) TO '{quoted}' (FORMAT parquet)", [str(lines)]
        )
