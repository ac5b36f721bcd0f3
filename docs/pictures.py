"""Make the pictures of the documentation: `python docs/pictures.py`.

They show the corpus of `sample_trajectories/support` in the viewer, in a headless Chromium. Other
fonts make other pictures, so no test compares them; run it after a change of the pages.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trajrec

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
CORPUS = ROOT / "sample_trajectories" / "support"

sys.path.insert(0, str(ROOT / "tests"))

WIDTH = 1280

COLORS = 64
"""Pages have few colours: a palette makes the files a third as large."""


@contextmanager
def viewer(folder: Path) -> Iterator[str]:
    """Serve a folder, and give the address with its token."""
    command = [sys.executable, "-m", "trajrec", "view", folder.name, "--no-browser", "--port", "0"]
    # In the folder above, so that the pages show a short path.
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "cwd": folder.parent}
    with subprocess.Popen(command, **options) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def telling_episode(folder: Path) -> str:
    """Return the episode that has the most to show: failures, forks and a what-if experiment."""
    with trajrec.open(folder) as corpus:
        query = (
            "SELECT forks.parent_id FROM forks JOIN all_episodes AS e ON e.episode_id = forks.parent_id "
            "GROUP BY 1 ORDER BY max(e.n_failures) DESC, count(*) DESC, 1 LIMIT 1"
        )
        rows: list[Any] = corpus.sql(query).fetchall()
        return str(rows[0][0])


def pages(own: str) -> dict[str, tuple[str, int]]:
    """Return the address and the height of each picture."""
    return {
        "episode": (f"/e/{own}", 860),
        "corpus": ("/", 640),
        "failures": ("/failures", 300),
    }


def shrink(path: Path) -> None:
    """Store a picture with a palette."""
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").quantize(COLORS).save(path, optimize=True)


def main() -> int:
    """Write each picture."""
    from chromium import Chromium, find_chromium

    command = find_chromium()
    if command is None:
        print("no Chromium is installed", file=sys.stderr)
        return 2
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "support"
        shutil.copytree(CORPUS, folder)
        own = telling_episode(folder)
        browser = Chromium(command)
        try:
            with viewer(folder) as address:
                base = address.partition("/?")[0]
                page = browser.new_page(width=WIDTH, height=800)
                page.goto(address)
                for name, (path, height) in pages(own).items():
                    page.resize(WIDTH, height)
                    page.goto(base + path)
                    page.wait_until(
                        "document.readyState === 'complete' && !document.querySelector('[aria-busy=true]')"
                    )
                    file = PICTURES / f"{name}.png"
                    page.screenshot(file, is_whole=False)
                    shrink(file)
                    print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1000:.0f} kB")
        finally:
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
