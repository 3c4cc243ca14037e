"""`zonal generate tls-certificate`: a self-signed certificate and its key, as kumactl makes them."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from shared.commands import output as printing
from shared.commands.failure import CommandFailed
from shared.process.exit_code import ExitCode

STANDARD_OUTPUT = "-"


def tls_certificate(
    *,
    certificate_type: Annotated[
        Literal["server", "client"], Parameter(name="--type", help="Who shows it: a server or a client.")
    ],
    hostname: Annotated[
        tuple[str, ...], Parameter(negative="", help="A DNS name (or IP) that it is good for; repeatable.")
    ],
    key_file: Annotated[str, Parameter(help="Where the key is written; - is standard output.")] = "key.pem",
    cert_file: Annotated[str, Parameter(help="Where the certificate is written; - is standard output.")] = "cert.pem",
    key_type: Annotated[Literal["rsa", "ecdsa"], Parameter(help="A gateway can serve one of each.")] = "rsa",
) -> int:
    """Make a self-signed TLS certificate. With - for both files, key and certificate are what a Secret holds."""
    from shared.keys import files
    from shared.keys.self_signed import self_signed

    try:
        key, certificate = self_signed(hostname, datetime.now(UTC), certificate_type, key_type)
    except ValueError as error:
        raise CommandFailed(f"--hostname: {error}", ExitCode.USAGE) from None
    for name, text, write in ((key_file, key, files.write_private), (cert_file, certificate, files.write_public)):
        if name == STANDARD_OUTPUT:
            sys.stdout.write(text)
            continue
        try:
            write(Path(name), text)
        except OSError as error:
            raise CommandFailed(f"cannot write {name}: {error.strerror}") from None
        printing.say(f"wrote {name}")
    return ExitCode.OK
