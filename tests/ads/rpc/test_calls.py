"""What a call is given."""

from __future__ import annotations

import pytest

from zone_cp.ads.rpc.calls import seconds_of


@pytest.mark.parametrize(
    "said, seconds",
    [
        (b"1H", 3_600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"6n", 6e-9),
        (b"99999999S", 99_999_999),
        (b"", None), (b"S", None), (b"1", None), (b"1s", None), (b"-1S", None), (b"123456789S", None), (b"1S ", None),
    ],
)  # fmt: skip
def test_how_long_a_client_gives_a_call(said: bytes, seconds: float | None) -> None:
    """Eight digits and a unit; what is none says nothing."""
    wanted = None if seconds is None else pytest.approx(seconds)
    assert seconds_of(((b"te", b"trailers"), (b"grpc-timeout", said))) == wanted


def test_a_client_that_gives_it_for_ever() -> None:
    """As xDS does."""
    assert seconds_of(()) is None
