"""Exit codes of the `zonal` command."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell sees."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    """The input is at fault: nothing was written."""
    CONFLICT = 4
    """Somebody else wrote first: nothing was written."""
    TIMEOUT = 5
