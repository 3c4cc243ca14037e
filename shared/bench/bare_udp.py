"""`python -m shared.bench.bare_udp PORT`: a loop that sends every datagram back, and takes TCP to be seen.

What the DNS responder is measured against: what the machine and Python allow.
"""

from __future__ import annotations

import socket
import sys


def main(port: int) -> None:
    """For ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)):
            while True:
                data, client = server.recvfrom(4096)
                server.sendto(data, client)


if __name__ == "__main__":
    main(int(sys.argv[1]))
