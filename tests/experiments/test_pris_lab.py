"""The experiment on the lab models reads its run as the library does."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.pris.lab import name_of, prefixes, run
from tts.runs.analysis import track_curves


def test_what_is_selected_from_every_prefix_is_what_a_report_shows(tmp_path: Path):
    tracks = run(2, tmp_path / "run").tracks
    assert len({name_of(track.method) for track in tracks}) == 5
    for track in tracks:
        shares, tokens = prefixes(track)
        (curve,) = track_curves(track, "total_tokens", ks=range(1, 21))
        assert np.allclose(shares.mean(axis=0), curve.y)
        assert np.allclose(tokens.mean(axis=0), curve.x)
        rows = sorted(zip(track.rows, track.correct, strict=True), key=lambda one: one[0].problem)
        assert [row.selected is not None and flags[row.selected] for row, flags in rows] == list(shares[:, -1])
