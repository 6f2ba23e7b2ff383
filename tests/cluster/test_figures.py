"""The benchmark of clusters runs: the smallest workloads. No time is asserted."""

import math

import pytest

from benchmarks import cluster


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_the_figures_are_taken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PAUSE", 0.0)  # which is for figures that mean something
    figures = await cluster.run(cluster.QUICK, ("tiny_ops", "round_trip", "loss"))
    assert len(figures) == 3
    assert all(math.isfinite(figure.ours) and figure.ours >= 0 for figure in figures)
    assert len(capsys.readouterr().out.splitlines()) == len(figures) + 1
