"""`python -m tests.sim --seed N --zones 3 --steps 500`: run one seeded world, exit 1 where an invariant breaks."""

from __future__ import annotations

import argparse
import sys
import time

from tests.sim.world import Broken, World


def main() -> int:
    """Run; print what happened, or the seed and step that broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--zones", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    started = time.monotonic()
    world = World(options.seed, options.zones, poison=True)
    try:
        world.run(options.steps)
        world.converge()
    except Broken as error:
        print(f"seed {options.seed}, after {world.counts.total()} acts: {error}", file=sys.stderr)
        return 1
    acts = ", ".join(f"{name} {count}" for name, count in sorted(world.counts.items()))
    logs = ", ".join(f"{zone.name} {zone.state.n}" for zone in world.zones)
    seconds = time.monotonic() - started
    print(f"seed {options.seed}: {options.steps} steps, {options.zones} zones, {seconds:.1f} s: converged")
    print(f"acts: {acts}")
    print(f"events: global {world.hub.state.n}, {logs}; digest {world.digest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
