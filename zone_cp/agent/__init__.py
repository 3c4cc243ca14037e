"""The proxy agent: `zonal proxy sidecar|egress` runs one Envoy, answers DNS beside it and reports what it sees."""
