"""What pure functions remember of what they made: the newest so many results, in a mapping of the caller's.

Where a key is made of identities, the value has to hold what they are of, so that they cannot become another's.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def keep(known: OrderedDict[K, V], most: int, key: K, value: V) -> V:
    """Remember a value, and let go of the oldest where there are `most` already.

    Threads may do so at once (questions about the past have threads of their own): the oldest is found and removed in
    one step. In a plain dict it would also be searched for among all keys that were removed before it.
    """
    if len(known) >= most and key not in known:
        known.popitem(last=False)
    known[key] = value
    return value
