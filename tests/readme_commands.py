"""Runs a set-up command of the README as it is written: `python tests/readme_commands.py NAME CLONE`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(name: str, clone: str) -> None:
    """Clone the checkout, and run in the clone the command that the README marks with a name."""
    readme = (ROOT / "README.md").read_text()
    commands = dict(re.findall(r"<!-- command: (\w+) -->\n```sh\n(.*?)```", readme, re.DOTALL))
    assert set(commands) == {"demo", "test"}, set(commands)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), clone], check=True)
    print(f"$ {commands[name].strip()}", flush=True)
    subprocess.run(["sh", "-euc", commands[name]], cwd=clone, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
