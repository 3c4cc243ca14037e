"""How much may be handed in: every limit on what comes from outside, by name.

They hold at the door: where a manifest or a request is read. What stands in a log already is folded, served, shown and
undone whatever its size, so a limit can be lowered without a log becoming unreadable. Numbers are ours unless a line
says whose; each leaves room of a factor of ten or more above what Kuma's and our own tests, benches and pages use.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# --- a file, a request ----------------------------------------------------------------------------------------

FILE_BYTES_MAX = 4 * 1024 * 1024
"""Largest file of manifests: a batch of about ten thousand small resources."""
BODY_BYTES_MAX = 16 * 1024 * 1024
"""Largest body of a request: room for the largest batch, which is written out whole."""
RESOURCES_MAX = 20_000
"""Resources of one file or one batch; also documents of a file, empty ones among them."""
RESOURCE_BYTES_MAX = 4 * 1024 * 1024
"""Largest resource, encoded: an event must stay below the 8 MB that nats-server takes."""
FAULTS_MAX = 1000
"""Faults that one answer tells; it says how many more there are."""

# --- the tree of a document -----------------------------------------------------------------------------------

DEPTH_MAX = 32
NODES_MAX = 1_000_000
"""Values of one file after aliases were followed: what keeps "billion laughs" short."""
NUMBER_DIGITS_MAX = 20
"""Whole numbers beyond it are no 64 bits."""
ITEMS_MAX = 1000
"""Entries of a list: endpoints, SANs, matches, rules, listeners, …"""
ENTRIES_MAX = 128
"""Entries of an object, which are labels, tags or headers: no kind has as many fields."""
KEY_MAX = 253 + 1 + 63
"""Characters of a key: the longest that Kubernetes allows as a label's, prefix and name."""
LABEL_VALUE_MAX = 63
"""Characters of a label's value, and so of what can select one (Kubernetes)."""
TAG_VALUE_MAX = 253
"""Characters of a tag's value: names of services are made of several labels."""
TEXT_MAX = 65_536
"""Characters of any other text."""
_SECRET_BYTES_MAX = 1024 * 1024
"""As Kubernetes: a Secret's data."""
_BASE64_MAX = 1_500_000
"""The same in base64, with room for how it is broken into lines."""
TEXTS: Mapping[str, int] = MappingProxyType(
    {"data": _BASE64_MAX, "inline": _BASE64_MAX, "inlineString": _SECRET_BYTES_MAX}
)
"""Texts that may be longer, by their field: a Secret's, and those of data sources in canonical form."""

# --- single values --------------------------------------------------------------------------------------------

SOCKET_PATH_BYTES_MAX = 107
"""sun_path of Linux, without the closing NUL."""
PATTERN_MAX = 200
"""Characters of a regular expression."""
