"""pass@k without bias, and how sure we are of it: confidence intervals by bootstrap over problems.

Letters: M problems, B bootstrap samples.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
_CHUNK = 1 << 22  # problems drawn at one time; bounds the memory of the bootstrap to some 64 MiB


def pass_at_k(answers: npt.ArrayLike, passed: npt.ArrayLike, k: int) -> FloatArray:
    """Probability that at least one of k answers drawn without replacement passes, for each problem.

    The unbiased estimator 1 - C(n-c, k) / C(n, k) of Chen et al. 2021 (arXiv 2107.03374, Eq. 1) with n answers of
    which c passed, as a product of k ratios in [0, 1]: no binomial coefficient is formed, so nothing overflows.

    Args:
        answers, passed: (M,) counts n and c.
        k: at least 1.

    Returns: (M,) float64, NaN where a problem has fewer than k answers.
    Errors: ValueError for k < 1 or counts outside 0 <= c <= n.
    """
    n = np.atleast_1d(np.asarray(answers, dtype=np.int64))
    c = np.atleast_1d(np.asarray(passed, dtype=np.int64))
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if n.shape != c.shape or np.any(c < 0) or np.any(c > n):
        raise ValueError("passed answers must be counted between 0 and the number of answers, problem by problem")
    enough = n >= k
    total = np.where(enough, n, k)
    failed = np.where(enough, n - c, 0)
    none_passes = np.ones(n.shape, dtype=np.float64)
    for i in range(k):
        none_passes *= np.maximum(failed - i, 0) / (total - i)
    return np.where(enough, 1.0 - none_passes, np.nan)


def mean_interval(
    values: npt.ArrayLike, *, seed: int, lowest: float = 0.0, level: float = LEVEL, resamples: int = RESAMPLES
) -> FloatArray:
    """Mean over problems and its confidence interval.

    Method: bias-corrected and accelerated bootstrap (BCa; Efron 1987) that resamples whole problems, so that the
    answers of one problem stay together; of differences after - before, problem by problem, it is the paired
    bootstrap. The acceleration of a mean is known in closed form from the jackknife. Where all values are alike a
    bootstrap has no width and would claim certainty; there the exact binomial bound on the share s of problems that
    could have been otherwise, s = 1 - ((1 - level) / 2)^(1/M), widens the interval towards `lowest` and 1.

    Args:
        values: (M,) one number a problem. NaN values are left out.
        seed: of the bootstrap's random stream.
        lowest: the least value possible, 0 for rates and -1 for differences; the greatest is 1.
        level: coverage.
        resamples: B.

    Returns: (3,) float64: value, low, high; NaN where there is no problem.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x[~np.isnan(x)]
    if not len(x):
        return np.full(3, np.nan)
    mean = float(x.mean())
    if np.ptp(x) == 0.0:
        share = 1.0 - ((1.0 - level) / 2) ** (1.0 / len(x))
        return np.array([mean, mean + share * (lowest - mean), mean + share * (1.0 - mean)])
    means = _resampled_means(x, seed, resamples)
    normal = NormalDist()
    below = (np.mean(means < mean) + np.mean(means <= mean)) / 2  # ties count half: pass rates are discrete
    bias = normal.inv_cdf(float(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples)))
    deviation = x - mean
    acceleration = float((deviation**3).sum() / (6.0 * (deviation**2).sum() ** 1.5))
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        z = bias + normal.inv_cdf(share)
        ends.append(normal.cdf(bias + z / (1.0 - acceleration * z)))
    low, high = np.quantile(means, ends)
    return np.array([mean, low, high])


def sign_test(better: int, worse: int) -> float:
    """Two-sided exact sign test: the chance of a split at least this uneven if better and worse were equally likely.

    Returns: the p-value, 1.0 where nothing changed. Problems that did not change are left out, as in McNemar's test.
    """
    changed = better + worse
    fewer = min(better, worse)
    tail = sum(math.comb(changed, i) for i in range(fewer + 1))
    return min(1.0, 2 * tail / 2**changed)


def _resampled_means(x: FloatArray, seed: int, resamples: int) -> FloatArray:
    """(B,) means of M values drawn with replacement."""
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // len(x))
    parts = [
        x[rng.integers(0, len(x), size=(min(step, resamples - done), len(x)))].mean(axis=1)
        for done in range(0, resamples, step)
    ]
    return np.concatenate(parts)
