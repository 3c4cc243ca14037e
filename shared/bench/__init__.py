"""`zonal bench`, see `run`."""

import os

# Bare parts that things are measured against run on gRPC in this process, which starts others meanwhile. They become
# another program at once, so there is nothing for gRPC to do about a fork, or to say about one that it missed.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
