"""Runs the README's two set-up commands as they are written, in a fresh clone: `python tests/readme_commands.py FOLDER`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Clone the checkout, run each command in a clone of its own."""
    found = re.findall(
        r"<!-- command: (\w+) -->\n```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert [name for name, _ in found] == ["demo", "test"], found
    for name, command in found:
        clone = Path(sys.argv[1]) / f"clone-{name}"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        print(f"$ {command.strip()}", flush=True)
        subprocess.run(["sh", "-euc", command], cwd=clone, check=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
