"""The documentation holds: its Python runs, its commands parse, its pages are up to date, its site builds."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import types
from functools import cache
from pathlib import Path

import pytest

from trajrec.cli.main import build_parser

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TOP = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in [*map(ROOT.joinpath, TOP), *sorted(DOCS.rglob("*.md"))]
    if path.exists()  # beside an installed wheel there are only some of them
}
GENERATED = {
    f"docs/reference/{name}"
    for name in ("command-line.md", "sql-tables.md", "python-api.md", "secret-rules.md")
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

NEEDS = {
    "docs/how-to/find-the-decisive-step.md": "matplotlib",
    "docs/how-to/record-pettingzoo.md": "pettingzoo",
    "docs/how-to/record-tool-agents.md": "time_machine",
}
"""Page -> the optional package that its Python imports."""

TRAINERS = {
    "docs/how-to/record-cleanrl.md": "torch",
    "docs/how-to/record-rllib.md": "ray.rllib",
    "docs/how-to/record-stable-baselines3.md": "stable_baselines3",
    "docs/how-to/record-torchrl.md": "torchrl",
}
"""Pages that tests/test_trainers.py runs, since trainers warn, and the package of each."""

FRAMEWORKS = {
    "docs/how-to/record-langgraph.md": "langgraph",
    "docs/how-to/record-openai-agents.md": "openai_agents",
    "docs/how-to/record-pydantic-ai.md": "pydantic_ai",
    "docs/how-to/record-smolagents.md": "smolagents",
}
"""Pages that tests/test_frameworks.py runs against a scripted server, and the agent of each there."""

SLOW = {
    "docs/explanation/credit.md",
    "docs/how-to/damaged-logs.md",
    "docs/how-to/find-the-decisive-step.md",
    "docs/how-to/record-gymnasium.md",
    "docs/how-to/record-vector-environments.md",
    "docs/how-to/replay-episodes.md",
    "docs/tutorial.md",
}
"""Pages whose Python takes longer than a few seconds, most of them in processes that it starts."""

COMMAND = re.compile(r"^\$ (.*)\n", re.MULTILINE)
"""A command of a console block; the other lines are printed by it."""

FILE = re.compile(r"# (\w+\.py)\n")
"""The first line of a block that is a file to save."""

NEXT = "\x1e"
"""Printed after each Python block: the record separator, which no page prints itself."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the language and the text of each fenced block of a page."""
    return BLOCK.findall(PAGES[page].read_text())


def python_pages() -> list[object]:
    """Return the pages with Python, slow ones marked."""
    return [
        pytest.param(page, marks=pytest.mark.slow if page in SLOW else ())
        for page in PAGES
        if page not in {*GENERATED, *TRAINERS, *FRAMEWORKS, "README.md"}
        and any(language == "python" for language, _ in blocks(page))
    ]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("page", python_pages())
def test_the_python_of_a_page_runs_as_written(page: str, tmp_path: Path) -> None:
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    run_page(page, tmp_path, "-W", "error")


SUPPORT = ROOT / "sample_trajectories" / "support"

SESSION = """
trap 'kill $(jobs -p) 2> /dev/null' EXIT
trajrec() { python -m trajrec "$@"; }
"""
FIND_ID = """
id=$(python -c 'import trajrec; print(next(trajrec.open("support").episodes()).id)')
echo $id > id
"""


@pytest.mark.slow
@pytest.mark.sources
@pytest.mark.skipif(sys.platform == "win32", reason="there is no bash")
def test_the_commands_of_the_tutorial_print_what_it_says(tmp_path: Path) -> None:
    fenced = blocks("docs/tutorial.md")
    (agent,) = [text for _, text in fenced if FILE.match(text)]
    assert agent == (SUPPORT / "agent.py").read_text()
    (tmp_path / "agent.py").write_text(agent)
    shutil.copy(SUPPORT / "model.py", tmp_path)
    # The commands start `python`.
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = str(free.getsockname()[1])
    commands = [COMMAND.findall(text) for language, text in fenced if language == "console"]
    n_commands = sum(line.startswith("trajrec ") for lines in commands for line in lines)
    assert n_commands == 5
    script = [SESSION, f"export PATH={tmp_path / 'bin'}:$PATH"]
    for lines in commands:
        script += [line.replace("8011", port).replace("3f2a", "$id") for line in lines]
        if any("model.py" in line for line in lines):
            wait = f"until (: < /dev/tcp/127.0.0.1/{port}) 2> /dev/null; do sleep 0.05; done"
            script.append(wait)
        if any(line.startswith("trajrec capture") for line in lines):
            script.append(FIND_ID)
        script.append(f"printf '%s\\n' '{NEXT}'")
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    own = (tmp_path / "id").read_text().strip()
    printed = done.stdout.split(f"{NEXT}\n")
    texts = [text for language, text in fenced if language == "console"]
    for text, got in zip(texts, printed, strict=False):
        expected = COMMAND.sub("", text).strip()
        if expected:
            compare(expected.replace("3f2a...", f"{own[:4]}..."), got)


def compare(expected: str, got: str) -> None:
    """Compare a printed text with that of a page."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    checker = doctest.OutputChecker()
    example = doctest.Example("", expected)
    assert checker.check_output(example.want, got, flags), checker.output_difference(
        example, got, flags
    )


def run_page(page: str, folder: Path, *options: str) -> None:
    """Run the Python of a page in a folder, and compare what it prints with the page."""
    fenced = [(language, text) for language, text in blocks(page) if not FILE.match(text)]
    code = [text for language, text in fenced if language == "python"]
    (folder / "page.py").write_text(f"\nprint({NEXT!r})\n".join([*code, ""]))
    done = subprocess.run(
        [sys.executable, *options, "page.py"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = iter(done.stdout.split(f"{NEXT}\n"))
    got = ""
    for language, text in fenced:
        if language == "python":
            got = next(printed)
        elif language == "text":
            compare(text, got)


def commands() -> list[tuple[str, str]]:
    """Return every command line of trajrec in a page, with its page."""
    lines = [
        (page, line)
        for page in PAGES
        for language, text in blocks(page)
        if language == "sh"
        for line in text.splitlines()
        if line.startswith("trajrec ")
    ]
    assert len(lines) > 40
    return lines


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_line_of_a_page_is_understood(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    if ">" in words:
        words = words[: words.index(">")]
    build_parser().parse_args(words)


def test_the_reference_names_every_command() -> None:
    choices = next(action.choices for action in build_parser()._actions if action.choices)
    assert choices is not None
    text = PAGES["docs/reference/command-line.md"].read_text()
    for command in choices:
        assert f"## trajrec {command}\n" in text


@cache
def generator() -> types.ModuleType:
    """Return docs/generate.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        # It imports its neighbours, as a script does.
        patch.syspath_prepend(str(DOCS))
        return importlib.import_module("generate")


@pytest.mark.parametrize("page", sorted(GENERATED))
def test_a_generated_page_is_that_of_the_program(page: str) -> None:
    expected = generator().pages()[Path(page).name]()
    if PAGES[page].read_text() != expected:
        pytest.fail(
            f"{page} is not what the program says: run `python docs/generate.py` and commit the result"
        )


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.sources
@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    # A regular expression in code may look like a link.
    text = re.sub(r"`[^`\n]+`", "", BLOCK.sub("", PAGES[page].read_text()))
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
        linked = (PAGES[page].parent / target).resolve() if target else PAGES[page]
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"


@pytest.mark.sources
def test_the_index_lists_every_page_once_as_a_link_and_once_in_its_tree() -> None:
    text = PAGES["docs/index.md"].read_text()
    for path in DOCS.rglob("*.md"):
        name = str(path.relative_to(DOCS))
        if name != "index.md":
            assert f"]({name})" in text, name
            assert f"\n{name.removesuffix('.md')}\n" in text, name


@pytest.mark.parametrize("page", [page for page in PAGES if page not in GENERATED])
def test_a_page_has_one_sentence_a_line(page: str) -> None:
    for line in BLOCK.sub("", PAGES[page].read_text()).splitlines():
        prose = re.sub(r"`[^`]*`", "code", line)
        if not prose.startswith("|"):
            assert not re.search(
                r"[a-z)%*][.!?] [A-Z]", re.sub(r"\b(e\.g|i\.e|vs)\. ", "", prose)
            ), line


@pytest.mark.sources
def test_the_readme_is_short() -> None:
    text = PAGES["README.md"].read_text()
    assert text.count("\n") <= 120
    assert len(text.split()) <= 880


@pytest.mark.sources
def test_the_architecture_page_names_functions_that_exist() -> None:
    named = re.findall(r"`(trajrec(?:\.\w+)+)(?::([\w.]+))?`", PAGES["ARCHITECTURE.md"].read_text())
    assert len(named) > 15
    for module, path in named:
        value: object = importlib.import_module(module) if path or module.count(".") > 1 else None
        for part in path.split(".") if path else ():
            value = getattr(value, part)
    files = re.findall(r"`([\w/]+\.py)`", PAGES["ARCHITECTURE.md"].read_text())
    assert len(files) > 20
    for file in files:
        # Those of `replay` begin at the top.
        assert any((ROOT / room / file).exists() for room in ("", "trajrec")), file


@pytest.mark.sources
def test_the_architecture_page_names_methods_that_exist() -> None:
    named = re.findall(r"`([A-Z]\w+)\.(\w+)`", PAGES["ARCHITECTURE.md"].read_text())
    assert len(named) > 3
    modules = {
        node.name: ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "trajrec").glob("*/**/*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    for name, method in named:
        assert hasattr(getattr(importlib.import_module(modules[name]), name), method), (
            name,
            method,
        )


@pytest.mark.sources
def test_the_architecture_page_has_the_rooms_and_arrows_of_the_layer_test() -> None:
    from test_project import ROOMS

    rows = re.findall(
        r"^\| (?:base|`([\w.]+)`) [^|]*\| [^|]* \| ([^|]*)\|$",
        PAGES["ARCHITECTURE.md"].read_text(),
        re.MULTILINE,
    )
    shown: dict[str, set[str]] = {}
    for room, arrows in rows:
        allowed: set[str] = set()
        for name in filter(None, arrows.strip().split(", ")):
            room_of = name.removeprefix("all of ")
            allowed |= {room_of} | (shown[room_of] if room_of != name else set())
        shown[room or "base"] = allowed
    assert shown == {room: allowed - {room} for room, allowed in ROOMS.items()}


@pytest.mark.slow
@pytest.mark.sources
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip(
        "sphinx", reason="the site needs the extra docs: pip install 'trajrec[docs]'"
    )
    pytest.importorskip("myst_parser")
    pytest.importorskip("furo")
    command = re.search(
        r"\.venv/bin/(sphinx-build .*) docs/_build", PAGES["CONTRIBUTING.md"].read_text()
    )
    assert command is not None
    build = [sys.executable, "-m", "sphinx", *command.group(1).split()[1:], str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "how-to" / "record-gymnasium.html").exists()


def test_the_pages_python_is_valid() -> None:
    for page in PAGES:
        for language, text in blocks(page):
            if language == "python" and page not in GENERATED:
                ast.parse(text)
