"""Accuracy against compute: estimators, intervals over problems, fits, tables and figures.

Works on plain arrays and knows nothing of stores or strategies. The way through:

    values = pass_at_k(n, c, ks)                          # problems x ks
    curve = Curve.from_values("gpt", "pass@k", ks, values)  # mean and bootstrap interval
    curve.compute_to_reach(0.8)
    plot_curves([curve], "coverage.png")
"""

from tts.curves.bootstrap import Interval, bootstrap, paired_difference
from tts.curves.compute import ModelCard
from tts.curves.curve import Curve, powers_of_two, replay, replay_curve
from tts.curves.diversity import (
    Line,
    fit_line,
    group_diversity,
    pair_diversity,
    relative_gain,
    vector_diversity,
)
from tts.curves.diversity_plot import plot_gain
from tts.curves.errors import CurveError, TooFewSamples, writing
from tts.curves.estimators import FirstPass, best_of_k, filtered_pass_at_k, first_pass_at_k, pass_at_k
from tts.curves.export import curve_rows, write_csv, write_parquet
from tts.curves.fits import CoverageLaw, fit_coverage_law
from tts.curves.judging import Calibration, Decisions, auroc, calibration, decisions, rank_correlation, within_problems
from tts.curves.majority import MajorityEstimate, majority_at_k
from tts.curves.plot import draw_curves, plot_curves
from tts.curves.ranks import mean_ranks
from tts.curves.timeline import Call, calls_of, draw_timeline, plot_timeline, utilisation, waiting

__all__ = [
    "Calibration",
    "Call",
    "CoverageLaw",
    "Curve",
    "CurveError",
    "Decisions",
    "FirstPass",
    "Interval",
    "Line",
    "MajorityEstimate",
    "ModelCard",
    "TooFewSamples",
    "auroc",
    "best_of_k",
    "bootstrap",
    "calibration",
    "calls_of",
    "curve_rows",
    "decisions",
    "draw_curves",
    "draw_timeline",
    "filtered_pass_at_k",
    "first_pass_at_k",
    "fit_coverage_law",
    "fit_line",
    "group_diversity",
    "majority_at_k",
    "mean_ranks",
    "pair_diversity",
    "paired_difference",
    "pass_at_k",
    "plot_curves",
    "plot_gain",
    "plot_timeline",
    "powers_of_two",
    "rank_correlation",
    "relative_gain",
    "replay",
    "replay_curve",
    "utilisation",
    "vector_diversity",
    "waiting",
    "within_problems",
    "write_csv",
    "write_parquet",
    "writing",
]
