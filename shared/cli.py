"""The `zonal` command: a tree of lazily imported commands, nothing else."""


def main() -> None:
    """Entry point of the console script."""
    raise SystemExit("not built yet")
