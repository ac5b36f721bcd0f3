"""axe-core finds nothing wrong with any page of the viewer."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from chromium import Chromium
from test_view_browser import COMMAND, DESKTOP, PHONE, Site, chromium, folder, opened, site
from tiers import deep

import trajrec
from trajrec.view.report import make_report

__all__ = ["chromium", "folder", "site"]

pytestmark = [
    deep("pages"),
    pytest.mark.skipif(COMMAND is None, reason="no Chromium is installed"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="no npm is installed"),
]

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
RUN = f"""axe.run(document, {{runOnly: {RULES}}}).then(
    ({{violations}}) => violations.map(({{id, nodes}}) => `${{id}}: ${{nodes[0].html.slice(0, 200)}}`)
)"""


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of axe-core, a script: it is installed for the test and part of nothing."""
    at = tmp_path_factory.mktemp("axe")
    done = subprocess.run(
        ["npm", "pack", "axe-core@4", "--silent"], cwd=at, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"npm cannot install axe-core: {done.stderr.strip()[-200:]}")
    (archive,) = at.glob("*.tgz")
    with tarfile.open(archive) as file:
        script = file.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode("utf-8")


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_axe_finds_no_violation_on_any_page(
    chromium: Chromium, site: Site, axe: str, size: tuple[int, int], is_dark: bool
) -> None:
    with opened(chromium, site, size, is_dark=is_dark) as page:
        for name, path in site.pages.items():
            page.goto(site.base + path)
            page.evaluate(f"{axe};0")
            assert page.evaluate(RUN) == [], name


@pytest.mark.parametrize("is_dark", [False, True])
def test_axe_finds_no_violation_in_a_report(
    chromium: Chromium, site: Site, folder: Path, axe: str, is_dark: bool, tmp_path: Path
) -> None:
    with trajrec.open(folder) as corpus:
        text = make_report(corpus, site.pages["agent"].rpartition("/")[2])
    (tmp_path / "report.html").write_text(text, "utf-8")
    with opened(chromium, site, is_dark=is_dark) as page:
        for width, height in (DESKTOP, PHONE):
            page.resize(width, height)
            page.goto((tmp_path / "report.html").as_uri())
            page.evaluate(f"{axe};0")
            assert page.evaluate(RUN) == []
