"""Metrics: what a scrape of a process says."""

from __future__ import annotations

from shared.process.metrics import gauges, new_registry, render


def test_a_gauge_is_read_when_it_is_scraped() -> None:
    """Values are those of the moment, each under its labels."""
    registry = new_registry("zone", "1.2.3")
    held = {"global": 1, "east": 2}
    gauges(
        registry,
        "zonal_log_sequence",
        "Last event.",
        [({"log": "global"}, lambda: held["global"]), ({"log": "east"}, lambda: held["east"])],
    )
    gauges(registry, "zonal_proxies_online", "Proxies.", [({}, lambda: len(held))])
    held["east"] = 57
    body, media_type = render(registry)
    text = body.decode()
    assert 'zonal_log_sequence{log="global"} 1.0' in text
    assert 'zonal_log_sequence{log="east"} 57.0' in text
    assert "zonal_proxies_online 2.0" in text
    assert 'zonal_build_info{component="zone",version="1.2.3"} 1.0' in text
    assert media_type.startswith("text/plain")
