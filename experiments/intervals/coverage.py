"""How often nominal 95 % intervals hold the truth: those of the library, and others that it might use.

    python experiments/intervals/coverage.py > experiments/intervals/coverage.md     # about a minute

Counts and pairs are exact (every outcome with its probability), shares are simulated from the seed in `SEED`. Rates run
from .005 to .995. `unavoidable` is the share of rates at which no set of consecutive outcomes has a probability from
.93 to .98, so that no interval that is the same for the same outcome covers as often.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations_with_replacement
from math import lgamma

import numpy as np
from numpy.typing import NDArray

from tts.curves import mean_interval, paired_difference, pass_at_k
from tts.curves.intervals import beta_quantiles

Array = NDArray[np.float64]
Bounds = tuple[Array, Array]

PROBLEMS = (10, 20, 50, 164)
RATES = np.arange(0.005, 0.9951, 0.001)
PAIRED_RATES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
SHARED = (0.0, 0.5, 0.9)
"""The share of problems on which both give the same."""
Z = 1.959964
SEED = 0
BENCHMARKS = 2000
LOG_FACTORIALS = np.array([lgamma(x + 1) for x in range(max(PROBLEMS) + 1)])


def main() -> None:
    print("Made by `python experiments/intervals/coverage.py`; what the columns say is at its head.")
    tables = {
        "Counts": {name: partial(counts, method) for name, method in COUNTS.items()},
        "Pairs": {name: partial(pairs, method) for name, method in PAIRS.items()},
        "Shares": {name: partial(shares, method) for name, method in SHARES.items()},
    }
    for title, methods in tables.items():
        print(f"\n## {title}\n\n| method | problems | least | mean | below .93 | above .98 | unavoidable | width |")
        print("|---|--:|--:|--:|--:|--:|--:|--:|")
        for name, covered in methods.items():
            for n in PROBLEMS:
                found, unavoidable, width = covered(n)
                parts = (float(np.mean(found < 0.93)), float(np.mean(found > 0.98)), unavoidable)
                told = " | ".join("" if part is None else f"{part:.1%}" for part in parts)
                print(f"| {name} | {n} | {found.min():.3f} | {found.mean():.3f} | {told} | {width:.3f} |")


# -- counts -----------------------------------------------------------------------------------------------------------


def counts(method: Callable[[Array, int], Bounds], n: int) -> tuple[Array, float, float]:
    x = np.arange(n + 1)
    low, high = method(x.astype(float), n)
    ways = LOG_FACTORIALS[n] - LOG_FACTORIALS[x] - LOG_FACTORIALS[n - x]
    rates = RATES[:, np.newaxis]
    chances = np.exp(ways + x * np.log(rates) + (n - x) * np.log1p(-rates))
    found = np.where((low <= rates) & (rates <= high), chances, 0).sum(axis=1)
    below = np.cumsum(np.pad(chances, ((0, 0), (1, 0))), axis=1)
    between = below[:, np.newaxis, :] - below[:, :, np.newaxis]
    attainable = ((between >= 0.93) & (between <= 0.98)).any(axis=(1, 2))
    return found, float(np.mean(~attainable)), float((chances @ (high - low)).mean())


def library(x: Array, n: int) -> Bounds:
    found = mean_interval((np.arange(n)[:, np.newaxis] < x).astype(float))
    return found.low, found.high


def beta(far: float) -> Callable[[Array, int], Bounds]:
    """Quantiles of a beta distribution with one pseudo-problem: .5 is Jeffreys, 1 is Clopper and Pearson."""

    def bounds(x: Array, n: int) -> Bounds:
        low = beta_quantiles(0.025, np.maximum(x + 1 - far, 0.4), n - x + far)
        high = beta_quantiles(0.975, x + far, np.maximum(n - x + 1 - far, 0.4))
        return np.where(x == 0, 0, low), np.where(x == n, 1, high)

    return bounds


def wilson(x: Array, n: int) -> Bounds:
    middle = (x + Z**2 / 2) / (n + Z**2)
    half = Z / (n + Z**2) * np.sqrt(x * (n - x) / n + Z**2 / 4)
    return middle - half, middle + half


COUNTS = {
    "library (Blaker at 94 %)": library,
    "Jeffreys": beta(0.5),
    "beta, FAR 0.6": beta(0.6),
    "Clopper-Pearson": beta(1.0),
    "Wilson": wilson,
}


# -- pairs ------------------------------------------------------------------------------------------------------------


def pairs(method: Callable[[Array, Array, int], Bounds], n: int) -> tuple[Array, None, float]:
    wins, losses = (count.ravel() for count in np.indices((n + 1, n + 1)))
    wins, losses = (count[wins + losses <= n] for count in (wins, losses))
    equal = n - wins - losses
    low, high = method(wins.astype(float), losses.astype(float), n)
    ways = LOG_FACTORIALS[n] - LOG_FACTORIALS[wins] - LOG_FACTORIALS[losses] - LOG_FACTORIALS[equal]
    found, widths = [], []
    for one, other in combinations_with_replacement(PAIRED_RATES, 2):
        for shared in SHARED:
            win = (1 - shared) * one * (1 - other)
            lose = shared * (other - one) + (1 - shared) * other * (1 - one)
            if not 0 < win < 1 - lose or lose <= 0:
                continue
            chances = np.exp(ways + wins * np.log(win) + losses * np.log(lose) + equal * np.log1p(-win - lose))
            found.append(chances[(low <= win - lose + 1e-12) & (win - lose - 1e-12 <= high)].sum())
            widths.append(chances @ (high - low))
    return np.array(found), None, float(np.mean(widths))


def library_pairs(wins: Array, losses: Array, n: int) -> Bounds:
    place = np.arange(n)[:, np.newaxis]
    found = paired_difference(place < wins, (place >= wins) & (place < wins + losses))
    return found.low, found.high


def bonett_price(wins: Array, losses: Array, n: int) -> Bounds:
    """Two more pairs, one each way (2012)."""
    won, lost = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    half = Z * np.sqrt((won + lost - (won - lost) ** 2) / (n + 2))
    return (won - lost - half).clip(-1), (won - lost + half).clip(max=1)


def tango(wins: Array, losses: Array, n: int) -> Bounds:
    """The differences that a score test does not reject (1998)."""

    def score(at: Array) -> Array:
        b = (2 * n - wins + losses) * at - wins - losses
        lost = (np.sqrt(np.maximum(b**2 + 8 * n * losses * at * (1 - at), 0)) - b) / (4 * n)
        return (wins - losses - n * at) / np.sqrt(np.maximum(n * (2 * lost + at * (1 - at)), 1e-300))

    def cross(low: Array, high: Array, height: float) -> Array:
        for _ in range(50):
            middle = (low + high) / 2
            above = score(middle) > height
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return (low + high) / 2

    mean = (wins - losses) / n
    return cross(-np.ones_like(mean), mean, Z), cross(mean, np.ones_like(mean), -Z)


PAIRS = {
    "library (Zou-Donner of Blaker)": library_pairs,
    "Tango's score": tango,
    "Bonett-Price": bonett_price,
}


# -- shares -----------------------------------------------------------------------------------------------------------


def shares(method: Callable[[Array], Bounds], n: int) -> tuple[Array, None, float]:
    """Mean solve rate and pass@4 from 16 samples, over problems that are much or little alike; rare odd problems."""
    found, widths = [], []
    for truth, values in benchmarks(n):
        low, high = method(values)
        found.append(np.mean((low <= truth + 1e-12) & (truth - 1e-12 <= high)))
        widths.append(np.mean(high - low))
    return np.array(found), None, float(np.mean(widths))


def benchmarks(n: int) -> Iterator[tuple[float, Array]]:
    generator = np.random.default_rng([SEED, n])
    table = pass_at_k(np.full(17, 16), np.arange(17), [1, 4])
    for spread in (0.2, 1.0, 5.0, 50.0):
        for rate in (0.005, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.995):
            solve = generator.beta(rate * spread, (1 - rate) * spread, size=(n, BENCHMARKS))
            right = generator.binomial(16, solve)
            missed = np.prod([((1 - rate) * spread + i) / (spread + i) for i in range(4)])
            yield rate, table[right, 0]
            yield float(1 - missed), table[right, 1]
    for odd, unlike, like in ((0.03, 0.95, 0.03), (0.1, 0.9, 0.02), (0.01, 0.9, 0.01), (0.05, 0.05, 0.97)):
        solve = np.where(generator.random((n, BENCHMARKS)) < odd, unlike, like)
        yield odd * unlike + (1 - odd) * like, generator.binomial(16, solve) / 16


def library_shares(values: Array) -> Bounds:
    found = mean_interval(values)
    return found.low, found.high


def student(values: Array) -> Bounds:
    """Mean and standard error, with Student's quantile for the number of problems."""
    quantile = {10: 2.2622, 20: 2.0930, 50: 2.0096, 164: 1.9747}[len(values)]
    half = quantile * values.std(axis=0, ddof=1) / len(values) ** 0.5
    return values.mean(axis=0) - half, values.mean(axis=0) + half


def percentile_bootstrap(values: Array) -> Bounds:
    """Of 400 resamples of the problems."""
    weights = np.random.default_rng(SEED).multinomial(len(values), np.full(len(values), 1 / len(values)), size=400)
    low, high = np.quantile(weights @ values / len(values), [0.025, 0.975], axis=0)
    return low, high


SHARES = {
    "library (beta, FAR 0.6)": library_shares,
    "Student's t": student,
    "percentile bootstrap": percentile_bootstrap,
}


if __name__ == "__main__":
    main()
