"""Keys: sealing of secrets, certificate authorities, tokens and what `zonal init` lays out."""
