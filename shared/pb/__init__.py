"""Code generated from `proto/`; the command is at the top of `proto/discovery.proto`."""
