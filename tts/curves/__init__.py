"""Accuracy against compute: estimators, intervals over problems, fits, tables and figures.

Works on plain arrays and knows nothing of stores or strategies. The way through:

    values = pass_at_k(n, c, ks)                          # problems x ks
    curve = Curve.from_values("gpt", "pass@k", ks, values)  # mean and bootstrap interval
    curve.compute_to_reach(0.8)
    plot_curves([curve], "coverage.png")
"""

from tts.curves.bootstrap import Interval, bootstrap, paired_difference
from tts.curves.curve import Curve, powers_of_two, replay, replay_curve
from tts.curves.errors import CurveError, TooFewSamples, writing
from tts.curves.estimators import FirstPass, best_of_k, filtered_pass_at_k, first_pass_at_k, pass_at_k
from tts.curves.export import curve_rows, write_csv, write_parquet
from tts.curves.fits import CoverageLaw, fit_coverage_law
from tts.curves.majority import MajorityEstimate, majority_at_k
from tts.curves.plot import draw_curves, plot_curves
from tts.curves.ranks import mean_ranks

__all__ = [
    "CoverageLaw",
    "Curve",
    "CurveError",
    "FirstPass",
    "Interval",
    "MajorityEstimate",
    "TooFewSamples",
    "best_of_k",
    "bootstrap",
    "curve_rows",
    "draw_curves",
    "filtered_pass_at_k",
    "first_pass_at_k",
    "fit_coverage_law",
    "majority_at_k",
    "mean_ranks",
    "paired_difference",
    "pass_at_k",
    "plot_curves",
    "powers_of_two",
    "replay",
    "replay_curve",
    "write_csv",
    "write_parquet",
    "writing",
]
