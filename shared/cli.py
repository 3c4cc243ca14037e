"""The `zonal` command: a tree of lazily imported commands, nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from shared import VERSION
from shared.commands.failure import CommandFailed
from shared.process.exit_code import ExitCode

# What a process forks becomes another program at once, an Envoy or a nats-server. gRPC's own handlers of forks have
# nothing to do there, and have been seen to end an agent (SIGABRT, its poller's file was closed).
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

COMMANDS = (
    ("global", "processes:run_global", "Run the global control plane."),
    ("zone", "processes:run_zone", "Run a zone control plane."),
    ("apply", "resources:apply", "Create or replace the resources of files, all or nothing."),
    ("whatif", "whatif:whatif", "Show what applying would change for every proxy, and apply nothing."),
    ("get", "resources:get", "Show resources, and what became of them."),
    ("delete", "resources:delete", "Delete a resource."),
    ("trace", "trace:trace", "Show how far one change has come, hop by hop, or wait for it."),
    ("events", "events:events", "Show what happened, from any origin's log."),
    ("show", "events:show", "Show one event: what it changed, why, and what it led to."),
    ("blame", "blame:blame", "Show who last set each field of a resource."),
    ("undo", "undo:undo", "Take back what one event changed."),
    ("inspect", "inspect:inspect", "List proxies, or show what one is served."),
    ("release", "release:release", "Let proxies have what is kept from them."),
    ("halted", "skip:halted", "Show what stands still, and how it goes on."),
    ("skip", "skip:skip", "Let readers pass over an event that they cannot read."),
    ("resume", "resume:resume", "Let zones try again what halted."),
    ("replay", "history:replay", "Show what a proxy was served at a moment, from the log alone."),
    ("diff", "diff:diff", "Show what differs between two moments: resources, views, proxies."),
    ("bisect", "bisect:bisect", "Find the event that made the difference, by halving history."),
    ("preflight", "preflight:preflight", "Compare what another version makes of the past, for every proxy."),
    ("compile", "compile:compile_", "Print digests of what every proxy should hold, for another version."),
    ("explain", "history:explain", "Name the events behind a proxy's resource."),
    ("verify", "verify:verify", "Check that every log is the one that was written."),
    ("repair", "verify:repair", "Make the hub's store anew from a zone's copy."),
    ("init", "processes:init", "Lay out a deployment: keys, tokens, configuration."),
    ("demo", "processes:demo", "One command, two zones: the story, every step checked."),
    ("up", "processes:up", "Start the demo's system and keep it running."),
    ("bench", "processes:bench", "Measure, and write bench.json."),
    ("version", "processes:version", "Show the version."),
)
CHECK_COMMANDS = (("tls", "check:tls", "Try an external service's TLS from the zone egress's place."),)
MIGRATE_COMMANDS = (("externalservice", "migrate:externalservice", "Print what replaces legacy ExternalServices."),)
BUNDLE_COMMANDS = (
    ("export", "bundle:export", "Write a system's past to one file, without its secrets."),
    ("import", "bundle:import_", "Check such a file and make it ready for --bundle."),
)
GENERATE_COMMANDS = (
    ("user-token", "generate_tokens:user_token", "Print a token for a person or a program that calls the API."),
    ("dataplane-token", "generate_tokens:dataplane_token", "Print a token for a sidecar or a builtin gateway."),
    ("zone-egress-token", "generate_tokens:zone_egress_token", "Print a token for a zone egress."),
    ("tls-certificate", "generate_tls:tls_certificate", "Make a self-signed TLS certificate and its key."),
    ("history", "generate:history", "Write the long past of a made-up deployment."),
)
PROXY_COMMANDS = (
    ("sidecar", "processes:sidecar", "Run Envoy and DNS beside an application."),
    ("egress", "processes:egress", "Run Envoy as the zone's egress."),
    ("gateway", "processes:gateway", "Run Envoy as a builtin gateway."),
    ("redirect", "processes:redirect", "Redirect traffic to VIPs into the sidecar (root)."),
)


def _tree() -> App:
    app = App(
        name="zonal",
        help="Zonal: an event-sourced, multi-zone control plane for Envoy.",
        version=VERSION,
        result_action="return_value",
    )
    proxy = App(name="proxy", help="Run a proxy and what belongs to it.", result_action="return_value")
    check = App(name="check", help="Try things out for real, step by step.", result_action="return_value")
    migrate = App(name="migrate", help="Print what replaces what is going away.", result_action="return_value")
    bundle = App(name="bundle", help="Take a system's past elsewhere.", result_action="return_value")
    generate = App(name="generate", help="Make tokens, and pasts to measure with.", result_action="return_value")
    trees = ((app, COMMANDS), (proxy, PROXY_COMMANDS), (check, CHECK_COMMANDS), (bundle, BUNDLE_COMMANDS))
    for tree, commands in (*trees, (generate, GENERATE_COMMANDS), (migrate, MIGRATE_COMMANDS)):
        for name, place, summary in commands:
            tree.command(f"shared.commands.{place}", name=name, help=summary)
    app.command(proxy)
    app.command(check)
    app.command(bundle)
    app.command(generate)
    app.command(migrate)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Messages of failures go to stderr."""
    try:
        code = int(_tree()(arguments, exit_on_error=False) or ExitCode.OK)
        sys.stdout.flush()
    except CycloptsError:
        return ExitCode.USAGE  # already told, with the usage
    except CommandFailed as failed:
        sys.stderr.write(failed.message + "\n")
        return failed.code
    except BrokenPipeError:
        # Whoever read our output has seen enough. What is still to be written must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    return code


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    raise SystemExit(int(run(sys.argv[1:] if arguments is None else arguments)))


if __name__ == "__main__":
    main()
