"""The proxy agent: `zonal proxy sidecar|egress|gateway` runs one Envoy, answers DNS beside it, reports what it sees."""
