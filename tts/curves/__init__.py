"""Accuracy against compute: estimators, intervals over problems, fits, tables and figures.

Works on plain arrays and knows nothing of stores or strategies:

    values = pass_at_k(n, c, ks)                          # problems x ks
    curve = Curve.from_values("gpt", "pass@k", ks, values)  # mean and interval
    curve.compute_to_reach(0.8)
    plot_curves([curve], "coverage.png")
"""

from tts.curves.curve import Curve, affordable, caps_over, powers_of_two, replay, taken
from tts.curves.estimators import (
    CurveError,
    FirstPassEstimate,
    TooFewSamples,
    best_of_k,
    filtered_pass_at_k,
    first_pass_at_k,
    mean_ranks,
    pass_at_k,
)
from tts.curves.fits import CoverageLaw, fit_coverage_law
from tts.curves.intervals import Interval, SuccessRates, mean_interval, paired_difference, pass_until
from tts.curves.majority import MajorityEstimate, majority_at_k
from tts.curves.plot import curve_rows, draw_curves, plot_curves, write_csv, write_parquet, writing

__all__ = [
    "CoverageLaw",
    "Curve",
    "CurveError",
    "FirstPassEstimate",
    "Interval",
    "MajorityEstimate",
    "SuccessRates",
    "TooFewSamples",
    "affordable",
    "best_of_k",
    "caps_over",
    "curve_rows",
    "draw_curves",
    "filtered_pass_at_k",
    "first_pass_at_k",
    "fit_coverage_law",
    "majority_at_k",
    "mean_interval",
    "mean_ranks",
    "paired_difference",
    "pass_at_k",
    "pass_until",
    "plot_curves",
    "powers_of_two",
    "replay",
    "taken",
    "write_csv",
    "write_parquet",
    "writing",
]
