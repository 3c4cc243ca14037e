"""The language both planes speak."""

VERSION = "0.1.0"
"""Version of the whole; pyproject.toml says the same."""
