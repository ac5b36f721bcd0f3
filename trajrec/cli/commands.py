"""The commands. Each is thin: it calls the library and prints. What is heavy is imported where it is used."""

from __future__ import annotations

import argparse
import importlib
import secrets
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trajrec.cli.output import Progress, print_json, print_table, say
from trajrec.errors import CorpusError, EnvMissingError, LogError, QueryError, TrajrecError

LISTED = (
    "episode_id",
    "env_id",
    "n_steps",
    "total_reward",
    "ending",
    "outcome",
    "n_failures",
    "started_at",
)


def record(arguments: argparse.Namespace) -> int:
    """Record episodes with a policy; 1 where the environment raised: that is recorded, and the next episode is begun."""
    import trajrec

    bare = make_env(arguments.env_id, arguments.env_kwargs)
    policy = load_policy(arguments.policy, bare, arguments.seed)
    env = trajrec.record(bare, arguments.output, keep_states=arguments.keep_states)
    n_steps = 0
    failures: list[str] = []
    try:
        with Progress("recording", " episodes") as progress:
            for k in range(arguments.episodes):
                n_taken, failure = run_episode(env, policy, arguments.seed if k == 0 else None)
                n_steps += n_taken
                if failure:
                    failures.append(f"episode {k + 1}: {failure} (it is recorded)")
                progress(k + 1, arguments.episodes)
    finally:
        env.close()
        for failure in failures:
            say(failure)
    say(
        f"{arguments.episodes} episodes, {n_steps} steps in {env.path}; look at them: trajrec ls {arguments.output}"
    )
    return 1 if failures else 0


def run_episode(env: Any, policy: Callable[[Any], Any], seed: int | None) -> tuple[int, str]:
    """Run one episode; return how many steps it took, and what the environment raised, "" where nothing."""
    try:
        observation, _ = env.reset(seed=seed)
    except TrajrecError:  # what could not be recorded
        raise
    except Exception as exc:
        return 0, f"the reset raised {_raised(exc)}"
    n_steps = 0
    while True:
        action = policy(observation)  # what this raises is the caller's own
        try:
            observation, _, terminated, truncated, _ = env.step(action)
        except TrajrecError:
            raise
        except Exception as exc:
            return n_steps, f"step {n_steps} raised {_raised(exc)}"
        n_steps += 1
        if terminated or truncated:
            return n_steps, ""


def _raised(exc: BaseException) -> str:
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def make_env(env_id: str, kwargs: dict[str, Any]) -> Any:
    """Make an environment that the user named, importing the package that registers it where that is known."""
    import gymnasium

    from trajrec.replay.execute.factories import make_by_id

    module = env_id.partition(":")[0] if ":" in env_id else ""
    if module:
        sys.path.insert(0, "")
    try:
        return make_by_id(env_id, **kwargs)
    except gymnasium.error.DependencyNotInstalled as exc:
        raise EnvMissingError(
            f"{env_id} needs a package that is not installed: {exc}", episode_id="-"
        ) from exc
    except ModuleNotFoundError as exc:
        if module and exc.name in (None, module.partition(".")[0]):
            raise ValueError(
                f"the module {module} of {env_id} is neither in this folder nor installed"
            ) from exc
        name = (exc.name or env_id).partition(".")[0].replace("_", "-")
        raise ValueError(
            f"the environment {env_id} needs the package {name}, which is not installed: pip install {name}"
        ) from exc
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as exc:
        hint = "" if module else f"; one that a module registers is named module:{env_id}"
        raise ValueError(f"no such environment: {exc}{hint}") from exc
    except TypeError as exc:
        raise ValueError(f"the environment {env_id} does not take these arguments: {exc}") from exc


def load_policy(name: str, env: Any, seed: int | None) -> Callable[[Any], Any]:
    """Return the random policy, or the one that is named, as a function of an observation."""
    if name == "random":
        env.action_space.seed(seed)
        return lambda _: env.action_space.sample()
    from trajrec.replay.forks.policies import seed_policy

    return seed_policy(load_acting(name), secrets.randbits(31) if seed is None else seed)


def load_acting(name: str) -> Any:
    """Return a policy that is not random, named module:name: a function, or what has a method act."""
    found = load_object(name, "--policy", "random or ")
    if not callable(found) and not hasattr(found, "act"):
        raise ValueError(f"--policy {name} is neither a function nor has a method act")
    return found


def load_function(name: str, flag: str, also: str = "") -> Callable[..., Any]:
    """Return a function named module:function; the working folder's modules are found too."""
    found = load_object(name, flag, also)
    if not callable(found):
        raise ValueError(f"{flag} {name} is not callable")
    wanted: Callable[..., Any] = found
    return wanted


def load_object(name: str, flag: str, also: str = "") -> Any:
    """Return what is named module:name; the working folder's modules are found too."""
    module, _, function = name.partition(":")
    if not function:
        raise ValueError(f"{flag} must be {also}module:function, got {name!r}")
    sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as exc:
        raise ValueError(f"{flag} {name}: {exc}") from exc


def kind_condition(has_forks: bool) -> str:
    """Return the SQL condition for the kinds of episodes that a command takes."""
    return "kind <> 'copy'" if has_forks else "kind = 'rollout'"


def ls(arguments: argparse.Namespace) -> int:
    """List episodes."""
    with open_corpus(arguments.dir) as corpus:
        rows = corpus.sql(
            f"SELECT {', '.join(LISTED)} FROM all_episodes WHERE {kind_condition(arguments.forks)} "
            f"AND ({arguments.where}) ORDER BY started_at, log, number"
        ).fetchall()
        if arguments.json:
            for row in rows:
                print_json(dict(zip(LISTED, row, strict=True)))
        else:
            shown = [
                (*row[:-1], None if row[-1] is None else f"{row[-1]:%Y-%m-%d %H:%M:%S}")
                for row in rows
            ]
            print_table(LISTED, shown, is_list=True)
        return tell_problems(corpus)


def show(arguments: argparse.Namespace) -> int:
    """Show an episode or a step."""
    from trajrec.cli.show import print_episode, print_step

    with open_corpus(arguments.dir) as corpus:
        episode = corpus.episode(arguments.episode)
        if arguments.step is None:
            print_episode(episode, as_json=arguments.json)
        else:
            print_step(episode, arguments.step, as_json=arguments.json)
    return 0


def sql(arguments: argparse.Namespace) -> int:
    """Ask SQL."""
    with open_corpus(arguments.dir) as corpus:
        relation = corpus.sql(arguments.query)
        if arguments.format in ("csv", "parquet"):
            _copy(corpus, arguments.query, arguments.format)
            return tell_problems(corpus)
        try:
            names, rows = relation.columns, relation.fetchall()
        except Exception as exc:  # DuckDB finds some errors only when it runs
            raise QueryError(str(exc).splitlines()[0]) from exc
        if arguments.format == "json":
            for row in rows:
                print_json(dict(zip(names, row, strict=True)))
        else:
            print_table(names, rows)
        return tell_problems(corpus)


def _copy(corpus: Any, query: str, kind: str) -> None:
    """Let DuckDB write to stdout: CSV as text, Parquet as bytes (into a pipe or a file)."""
    import tempfile

    if kind == "parquet" and sys.stdout.isatty():
        raise ValueError("parquet is bytes: send it to a file, e.g. > steps.parquet")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"answer.{kind}"
        relation = corpus.sql(query)
        relation.write_parquet(str(file)) if kind == "parquet" else relation.write_csv(str(file))
        sys.stdout.flush()
        sys.stdout.buffer.write(file.read_bytes())
        sys.stdout.buffer.flush()


def schema(arguments: argparse.Namespace) -> int:
    """Describe the tables."""
    from trajrec.corpus.index.tables import TABLES
    from trajrec.corpus.index.views import EPISODES, VIEWS

    counts: dict[str, int] = {}
    if arguments.dir is not None:
        with open_corpus(arguments.dir) as corpus:
            counts = {
                t.name: corpus.sql(f"SELECT count(*) FROM {t.name}").fetchall()[0][0]
                for t in TABLES
            }
    for table in TABLES:
        if arguments.json:
            for name, kind, meaning in table.columns:
                print_json({"table": table.name, "column": name, "type": kind, "meaning": meaning})
            continue
        rows = f", {counts[table.name]} rows" if table.name in counts else ""
        print(f"{table.name}: one row is {table.row}; key ({', '.join(table.key)}){rows}")
        for name, kind, meaning in table.columns:
            print(f"    {name:<14} {kind:<10} {meaning}")
        print()
    for view in VIEWS:
        if arguments.json:
            for name, meaning in view.columns:
                print_json({"view": view.name, "column": name, "meaning": meaning})
            continue
        print(f"{view.name} (a view): one row is {view.row}")
        if view.columns == EPISODES.columns:
            print("    the columns of all_episodes\n")
            continue
        for name, meaning in view.columns:
            print(f"    {name:<20} {meaning}")
        print()
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Run a verifier on the states that episodes ended in; 1 where it raised."""
    from trajrec.corpus.recheck import recheck as check_episodes

    verifier = load_function(arguments.verifier, "--verifier")
    counts: Counter[str] = Counter()
    with open_corpus(arguments.dir) as corpus:
        for graded in check_episodes(
            corpus, verifier, where=arguments.where, append=not arguments.dry_run
        ):
            passed = graded.verdict.passed
            said = (
                graded.status
                if graded.status != "ok" or passed is None
                else "passed"
                if passed
                else "failed"
            )
            counts[said] += 1
            if arguments.json:
                print_json(
                    {
                        "episode_id": graded.episode_id,
                        "status": graded.status,
                        "verdict": passed,
                        "score": graded.verdict.score,
                        "message": graded.message or None,
                    }
                )
            elif graded.message:
                print(f"{graded.episode_id} {said}: {graded.message}")
        if not arguments.json:
            found = ", ".join(f"{n} {said}" for said, n in counts.most_common())
            kept = (
                "nothing was appended"
                if arguments.dry_run
                else "appended to the table checks as post-hoc"
            )
            print(f"{counts.total()} episodes: {found or 'none to check'}; {kept}")
        if counts["error"]:
            say(
                "trajrec: a verifier is called with the recorded state as plain data here, not with the environment or world"
            )
        return 1 if counts["error"] else tell_problems(corpus)


def index(arguments: argparse.Namespace) -> int:
    """Bring the index up to date."""
    from trajrec.corpus.index.file import update_index

    open_corpus(arguments.dir).close()
    with Progress("indexing", " bytes") as progress:
        written = update_index(arguments.dir, rebuild=arguments.rebuild, progress=progress)
    if not written:
        say(
            f"trajrec: {arguments.dir}: the index is in use or cannot be written; queries read what it lacks from the logs"
        )
    with open_corpus(arguments.dir) as corpus:
        for table in ("logs", "episodes", "steps"):
            print(f"{table:<9} {corpus.sql(f'SELECT count(*) FROM {table}').fetchall()[0][0]}")
        return tell_problems(corpus)


def recover(arguments: argparse.Namespace) -> int:
    """Seal what can be sealed."""
    from trajrec.log.repair import recover as recover_log

    return _each_log(arguments, recover_log)


def compact(arguments: argparse.Namespace) -> int:
    """Compact what is sealed."""
    from trajrec.log.compaction import compact as compact_log

    return _each_log(arguments, compact_log)


def _each_log(arguments: argparse.Namespace, work: Callable[[Path], Any]) -> int:
    path: Path = arguments.path
    if not path.exists():
        raise CorpusError(f"{path}: no such file or folder")
    logs = sorted(path.rglob("*.trj")) if path.is_dir() else [path]
    if not logs:
        raise CorpusError(f"{path}: no logs (*.trj) in this folder")
    status = 0
    with Progress("working", " logs") as progress:
        for done, log in enumerate(logs, 1):
            try:
                result = work(log)
            except LogError as exc:
                say(f"trajrec: {exc}")
                status = 3
                continue
            finally:
                progress(done, len(logs))
            if arguments.json:
                print_json({"log": str(log), **result.as_dict()})
            else:
                print(result)
    return status


def open_corpus(folder: Path) -> Any:
    """Open a corpus with a progress bar for the index."""
    from trajrec.corpus.corpus import open as open_folder

    with Progress("indexing", " bytes") as progress:
        return open_folder(folder, progress=progress)


def tell_problems(corpus: Any) -> int:
    """Say what could not be read; return the exit status."""
    problems = corpus.problems()
    for log, what, is_tail in problems:
        todo = (
            f"; its writer was killed there; `trajrec recover {corpus.path / log}` seals it"
            if is_tail
            else ""
        )
        say(f"trajrec: {corpus.path / log}: {what}{todo}; the rest was read")
    return 3 if any(not problem.is_tail for problem in problems) else 0
