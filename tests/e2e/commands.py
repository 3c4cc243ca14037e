"""Runs `zonal` commands one after the other in a process that stays, so that what they load is loaded once.

`python -m tests.e2e.commands`: the arguments of each as a JSON array in a line, [exit code, stdout, stderr] back.
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout

from shared import cli


def outcome(arguments: list[str]) -> tuple[int, str, str]:
    """What a process of its own would end with and have written."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = cli.run(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
        except Exception:  # noqa: BLE001 - as the interpreter would
            traceback.print_exc()
            code = 1
    told, erred = (one.buffer.getvalue().decode() for one in (out, err))
    return code, told, erred


def main() -> None:
    """Until standard input ends."""
    asked, said = sys.stdin, sys.stdout
    with open(os.devnull) as nothing:  # noqa: PTH123 - what commands read
        sys.stdin = nothing
        for line in asked:
            said.write(json.dumps(outcome(json.loads(line))) + "\n")
            said.flush()


if __name__ == "__main__":
    main()
