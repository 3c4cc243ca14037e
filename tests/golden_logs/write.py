"""Write the golden logs of a new schema; see `written`."""

from __future__ import annotations

from shared.events.upcast import SCHEMA
from tests.golden_logs.written import HERE, keep

if __name__ == "__main__":
    keep(HERE / f"v{SCHEMA}")
