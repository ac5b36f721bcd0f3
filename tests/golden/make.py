"""Make golden logs of the present format: `PYTHONPATH=tests python tests/golden/make.py FOLDER`.

Logs that are not sealed and have a journal get a folder of their own, `FOLDER-journal`.

Logs that were stored once are never made again: a later program must read what an earlier one
wrote. `--values FOLDER` writes the expected values of stored logs again, and nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path

from golden_logs import make, write_values

if __name__ == "__main__":
    folder = Path(sys.argv[-1])
    if "--values" in sys.argv:
        write_values(folder)
    else:
        make(folder)
