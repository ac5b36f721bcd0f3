"""The card as README.md: front matter of Hugging Face, and Markdown for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trajrec.analysis.card import Card, episodes
from trajrec.analysis.card_markdown import bullets, code, escape, table
from trajrec.analysis.card_overlap import overlap_text
from trajrec.statistics.spelling import spell
from trajrec.types import Value
from trajrec.values.shown import counted

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)

MOST_ROWS = 20


class TableFile(NamedTuple):
    """A file of the rows of one table.

    Attributes:
        table: The table.
        split: Name of its split, which Hugging Face accepts.
        path: The file, relative to the release.
        n_rows: Its rows.
        columns: Names and types of its columns.
    """

    table: str
    split: str
    path: str
    n_rows: int
    columns: tuple[tuple[str, str], ...]


def readme(card: Card, tables: Sequence[TableFile]) -> str:
    """Return README.md."""
    about = card["about"]
    blocks = [
        front_matter(card, tables),
        f"# {escape(about['name'])}",
        escape(about["description"] or "No description was given."),
        _overview(card),
        "## What may be said of it",
        _claims(card),
        "## Interfaces",
        *_interfaces(card),
        "## Tasks and splits",
        *_tasks(card),
        "## Checks",
        _checks(card),
        "## Success and bands",
        *_success(card),
        "## Failures and retries",
        _failures(card),
        "## Replay",
        _fidelity(card),
        "## Overlap and lineage",
        *overlap_text(card),
        *_comparisons(card),
        "## Missing",
        "These fields are not in the release. A claim that needs one of them is not supported.",
        bullets(card["missing"]) or "Nothing that this card looks for is missing.",
        "## How to query",
        _query(tables),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def front_matter(card: Card, tables: Sequence[TableFile]) -> str:
    """Return the YAML of Hugging Face; each value is JSON, which YAML includes."""
    about = card["about"]
    n = card["counts"]["episodes"]
    size = next((name for most, name in SIZES if n < most), "n>10M")
    lines = [f"pretty_name: {json.dumps(about['name'])}"]
    if about["license"]:
        lines.append(f"license: {json.dumps(about['license'])}")
    lines += [
        f"size_categories: {json.dumps([size])}",
        'tags: ["agents", "trajectories", "trajrec"]',
    ]
    lines.append("configs:")
    for name in dict.fromkeys(file.table for file in tables):
        lines += [f"- config_name: {json.dumps(name)}", "  data_files:"]
        for file in tables:
            if file.table == name:
                split = json.dumps(file.split)
                lines += [f"  - split: {split}", f"    path: {json.dumps(file.path)}"]
    return "\n".join(["---", *lines, "---"])


def _days(card: Card) -> str:
    first = card["counts"]["first_day"]
    last = card["counts"]["last_day"]
    if first is None:
        return "**unknown**"
    return first if first == last else f"{first} to {last}"


def counts_text(counts: Mapping[str, int]) -> str:
    """Return counts as "3 error, 1 timeout"."""
    return ", ".join(f"{n} {escape(name)}" for name, n in counts.items())


def _overview(card: Card) -> str:
    about = card["about"]
    counts = card["counts"]
    rows = [
        ("episodes", f"{counts['episodes']} fresh rollouts, {counts['steps']} steps"),
        ("besides", _besides(counts)),
        ("recorded", _days(card)),
        ("outcomes", counts_text(counts["outcomes"])),
        ("faults", counts_text(counts["faults"]) or "none"),
        ("logs", f"{counted(counts['logs'], 'file')}, {counted(counts['bytes'], 'byte')}"),
        ("licence", code(about["license"]) if about["license"] else "**not given**"),
        ("creator", escape(about["creator"]) if about["creator"] else "**not given**"),
        ("address", escape(about["url"]) if about["url"] else "**not given**"),
        ("published", about["published"]),
        ("made with", escape(card["made_with"])),
    ]
    return table(("", ""), rows)


def _besides(counts: Mapping[str, Any]) -> str:
    text = f"{counts['forks']} forks, {counts['nested']} nested episodes"
    if n := counts["probes"]:
        text += f", {counted(n, 'probe')} of the checks, which no number of this page counts as rollouts"
    return text


def _claims(card: Card) -> str:
    meaning = {
        "correctness": "the verdicts are right, by a check of one version",
        "trace": "the steps are what happened",
        "difficulty": "the tasks are as hard as their rates say, for one base",
        "coverage": "the contents and splits are as declared, without leaks",
    }
    rows = [
        (
            f"**{claim}**: {meaning[claim]}",
            f"{support['n']} of {support['n_episodes']}",
            escape(support["verdict"]),
        )
        for claim, support in card["claims"].items()
    ]
    return table(("claim", "episodes that support it", "verdict"), rows)


def _interfaces(card: Card) -> list[str]:
    shown = card["interfaces"][:MOST_ROWS]
    blocks = []
    for interface in shown:
        key = interface["interface_id"]
        title = code(key) if key else "**not recorded**"
        rows = [(name, _factor(value)) for name, value in interface["factors"].items()]
        heading = f"Interface {title}, {episodes(interface['episodes'])}:"
        blocks += [heading, table(("factor", "value"), rows)] if key else [heading[:-1] + "."]
    if len(card["interfaces"]) > MOST_ROWS:
        blocks.append(f"{len(card['interfaces']) - MOST_ROWS} more are in the table `interfaces`.")
    return blocks


def _factor(value: Value) -> str:
    if value is None:
        return "**unknown**"
    if isinstance(value, dict) and set(value) == {"missing"}:
        reason = str(value["missing"]).replace("_", " ")
        return reason if reason == "not applicable" else f"**{reason}**"
    return code(json.dumps(value, ensure_ascii=False))


def _tasks(card: Card) -> list[str]:
    tasks = card["tasks"]
    splits = [
        (
            escape(row["split"]) if row["split"] is not None else "**unknown**",
            str(row["n"]),
            str(row["tasks"]),
        )
        for row in tasks["splits"]
    ]
    envs = [
        (code(row["env_id"]) if row["env_id"] else "**unknown**", str(row["n"]))
        for row in tasks["environments"][:MOST_ROWS]
    ]
    return [
        f"{counted(tasks['tasks'], 'named task')}."
        + (
            f" {episodes(tasks['episodes_without_task']).capitalize()} without a name of the task: "
            "its environment and first state stand for it."
            if tasks["episodes_without_task"]
            else ""
        ),
        table(("split", "episodes", "tasks"), splits),
        table(("environment", "episodes"), envs),
    ]


def _checks(card: Card) -> str:
    rows = []
    for check in card["checks"]:
        flake = check["flake"]
        digest = check["code_digest"]
        name = f"{check['check_id']}@{check['version']}"
        rows.append(
            (
                code(name) + (" (primary)" if check["is_primary"] else ""),
                code(digest[:8]) if digest else "**unknown**",
                str(check["verdicts"]),
                str(check["passed"]),
                str(check["failed"]),
                str(check["errors"]),
                "not measured"
                if flake is None
                else f"{interval(flake['rate'])} on {flake['n_states']} states",
                _probes(check["health"]),
            )
        )
    names = (
        "check",
        "source",
        "verdicts",
        "passed",
        "failed",
        "errors",
        "contradicts itself",
        "probes",
    )
    return table(names, rows) or "No check graded these episodes."


def _probes(health: Mapping[str, Any]) -> str:
    """Return how many probes a check judged rightly, kind by kind."""
    told = []
    for name, probe in (("gold", "gold"), ("no-op", "noop"), ("attack", "attack")):
        if n := health[f"n_{probe}"]:
            told.append(f"{round(health[probe]['value'] * n)} of {n} {name} judged rightly")
    return ", ".join(told) or "none"


def interval(estimate: Mapping[str, float] | None) -> str:
    """Return a number with its interval."""
    if estimate is None:
        return ""
    value, low, high = spell(estimate["value"], estimate["ci_low"], estimate["ci_high"])
    return f"{value} [{low}, {high}]"


def _success(card: Card) -> list[str]:
    rows = [
        (
            code(row["interface_id"][:8]) if row["interface_id"] else "**unknown**",
            str(row["tasks"]),
            str(row["rollouts"]),
            _rate(row),
            counts_text(row["excluded"]) or "none",
        )
        for row in card["success"]
    ]
    names = ("interface", "tasks", "rollouts", "success, mean over tasks, 95 %", "without result")
    bands = card["bands"]
    text = f"Bands of tasks: {counts_text(bands['as_seen'])}"
    if bands["sure"]:
        text += f"; by the whole interval: {counts_text(bands['sure'])}"
    return [
        table(names, rows),
        f"{text}. A band says how often a task is solved (always, never, or in between: active). "
        f"It is unmeasured with fewer than {bands['min_n']} graded rollouts, or if a field that it "
        "depends on is unknown. The table `bands` has each with its dates."
        + (f" Note: {bands['note']}." if bands["note"] else ""),
    ]


def _rate(row: Mapping[str, Any]) -> str:
    """Return the success of an interface, or why it is refused."""
    if row["rate"] is None:
        return f"refused: {escape(row['reason'])}"
    return interval(row["rate"]) + (f" ({escape(row['note'])})" if row["note"] else "")


def _failures(card: Card) -> str:
    rows = [
        (
            code(kind["tool"]) if kind["tool"] else "",
            escape(kind["origin"]),
            escape(kind["failure_kind"]),
            str(kind["n"]),
            interval(kind["recovered"]),
        )
        for kind in card["failures"]["kinds"][:MOST_ROWS]
    ]
    text = table(("tool", "origin", "kind", "failures", "overcome"), rows)
    blocks = [text or "No failed call is recorded."]
    others = [
        f"{other['n']} of origin {other['origin']}, in phase {other['phase']} "
        f"({episodes(other['episodes'])})"
        for other in card["failures"]["others"]
    ]
    if others:
        blocks += ["Failures outside of calls:", bullets(others)]
    for run in card["failures"]["runs"]:
        if run["looks_cleaned"]:
            name = escape(run["run"] or "without a name")
            blocks.append(f"**Run {name} looks cleaned**: {escape(run['reason'])}.")
    return "\n\n".join(blocks)


def _fidelity(card: Card) -> str:
    rows = [
        (
            code(row["env_id"]) if row["env_id"] else "**unknown**",
            _against(row["against"]),
            str(row["n_episodes"]),
            str(row["n_replayed"]),
            counts_text(row["grades"]),
            interval(row["reproduced"]) or "not measured",
        )
        for row in card["fidelity"]
    ]
    names = ("environment", "replayed in", "episodes", "replayed", "grades", "reproduced")
    return table(names, rows)


def _against(name: str | None) -> str:
    """Return the environment of replays: that of the recording, or another one."""
    if name is None:
        return "none"
    return "the recorded one" if name == "recorded" else code(name)


def _comparisons(card: Card) -> list[str]:
    rows = [
        (
            escape(item["a"]["where"]),
            escape(item["b"]["where"]),
            interval(item["difference"]) or "refused",
            escape(item["statement"]),
        )
        for item in card["comparisons"]
    ]
    text = table(("a", "b", "difference", "claim"), rows)
    return ["## Comparisons", text] if text else []


def _query(tables: Sequence[TableFile]) -> str:
    name = tables[0].path if tables else "tables/episodes/unsplit.parquet"
    return f"""The logs in `logs/` have every step, state, attempt and message; the tables are derived from them.

```sh
pip install trajrec
trajrec sql logs "SELECT outcome, count(*) FROM episodes GROUP BY 1"
```

Any reader of Parquet takes the tables as they are:

```sql
SELECT count(*) FROM '{name}'
```

`card.json` has all numbers of this page, `croissant.json` describes the files, and `SHA256SUMS` has their digests."""
