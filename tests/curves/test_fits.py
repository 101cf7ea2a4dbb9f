from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts.curves import CurveError, fit_coverage_law

ks = 2.0 ** np.arange(0, 13)


@settings(deadline=None)
@given(st.floats(0.2, 8), st.floats(-0.9, -0.1))
def test_the_fit_recovers_the_law_that_made_the_curve(a, b):
    law = fit_coverage_law(ks, np.exp(-a * ks**b))
    assert law.a == pytest.approx(-a, rel=1e-4)
    assert law.b == pytest.approx(b, rel=1e-4)
    assert law.r_squared == pytest.approx(1)
    assert law.k_range == (1, 4096)


def test_the_fit_minimises_the_error_in_coverage_not_in_its_logarithm():
    rng = np.random.default_rng(0)
    coverage = np.clip(np.exp(-6 * ks**-0.5) + rng.normal(0, 0.02, len(ks)), 1e-6, 1)
    law = fit_coverage_law(ks, coverage)

    def squares(a, b):
        return ((np.exp(a * ks**b) - coverage) ** 2).sum()

    best = squares(law.a, law.b)
    assert all(best <= squares(law.a * da, law.b * db) for da in (0.99, 1, 1.01) for db in (0.99, 1, 1.01))
    assert 0.99 < law.r_squared < 1


def test_points_at_zero_and_one_count_without_breaking_the_fit():
    coverage = np.exp(-20 * ks**-1.1)
    coverage[coverage > 0.999] = 1.0
    coverage[0] = 0.0
    law = fit_coverage_law(ks, coverage)
    assert law.a == pytest.approx(-20, rel=0.02)
    assert law.b == pytest.approx(-1.1, rel=0.02)
    np.testing.assert_allclose(law(ks), coverage, atol=0.002)


@pytest.mark.parametrize(
    ("k", "coverage"),
    [
        ([1, 2, 4], [0, 0, 1]),
        ([2, 2], [0.4, 0.5]),
        ([1, 2], [0.4, 1.2]),
        ([0, 1], [0.1, 0.2]),
        ([1, 2], [0.5]),
    ],
)
def test_curves_that_determine_no_law_are_refused(k, coverage):
    with pytest.raises(CurveError):
        fit_coverage_law(k, coverage)
