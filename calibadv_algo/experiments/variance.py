"""Components of the variance of a mean over clustered questions and seeds.

A score of a seed s on a question of cluster c is ``mean + seed + cluster + rest``. Seeds and
clusters are crossed: every seed answers the same questions. Questions of a cluster (they end at
the same entity) are not independent, so what counts is the number of clusters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import special


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """Variance of a mean, or of a difference of means, by where it comes from.

    Attributes:
        seeds: Variance that more seeds make smaller: of each side the variance of its seeds'
            means over their number, added up.
        clusters: Variance over the choice of questions, each cluster averaged over the seeds.
        rest: Part of both that is counted twice: what a seed does with a cluster alone.
        seed_df: Degrees of freedom of ``seeds``; 0 with a single seed.
        cluster_df: Those of ``clusters``; 0 with a single cluster.
        num_seeds: Seeds of each side.
    """

    seeds: float
    clusters: float
    rest: float
    seed_df: float
    cluster_df: float
    num_seeds: int

    @property
    def variance(self) -> float:
        """Variance of the estimate; with one seed that over questions alone."""
        return max(self.seeds + self.clusters - self.rest, self.seeds, self.clusters)

    @property
    def standard_error(self) -> float:
        """Square root of the variance."""
        return math.sqrt(self.variance)

    @property
    def says_something(self) -> bool:
        """False with one seed or cluster, or where no score varies: nothing can be judged."""
        return self.seed_df > 0.0 and self.cluster_df > 0.0 and self.variance > 0.0

    @property
    def df(self) -> float:
        """Degrees of freedom of the variance (Satterthwaite); at least 1 where one is known."""
        parts = ((self.seeds, self.seed_df), (self.clusters, self.cluster_df))
        noise = sum(part**2 / df for part, df in parts if df > 0)
        if noise == 0.0:
            return max(self.seed_df, self.cluster_df, 1.0)
        return max(self.variance**2 / noise, 1.0)

    def with_seeds(self, num_seeds: int) -> Components:
        """The components that another number of seeds would have, by what was measured."""
        ratio = self.num_seeds / num_seeds
        common = max(self.clusters - self.rest, 0.0)
        df = self.seed_df * (num_seeds - 1) / (self.num_seeds - 1) if self.num_seeds > 1 else 0.0
        return Components(
            seeds=self.seeds * ratio,
            clusters=common + self.rest * ratio,
            rest=self.rest * ratio,
            seed_df=df,
            cluster_df=self.cluster_df,
            num_seeds=num_seeds,
        )


def components(
    sides: Sequence[tuple[int, Float[np.ndarray, "seed question"]]],
    clusters: Int[np.ndarray, " question"],
) -> Components:
    """Components of the variance of a signed sum of means.

    With ``w_c`` the share of the questions in cluster c, ``u_sc`` the weighted deviation of seed
    s in cluster c, S seeds and the model above:

    - seeds: ``Σ_s (mean_s - mean)² / (S (S - 1))`` of each side, since seeds of two methods are
      independent: they share the order of training questions and nothing else;
    - clusters: ``Σ_c u_c²`` of the difference, over its expectation's share ``tr M / Σ w²``;
    - rest: the same of what is left when both means are taken out.

    The variance is their sum less the rest: what a seed does with a cluster alone is in both.

    **Source:** Cameron, Gelbach and Miller 2011, Robust inference with multiway clustering;
    Bell and McCaffrey 2002, Bias reduction in standard errors for linear regression with
    multi-stage samples (correction and degrees of freedom); Satterthwaite 1946.

    **Differs:** the rest is estimated after both means are taken out, so that the sum is unbiased.

    Args:
        sides: Sign (1 or -1) and scores of each mean, all of the same questions.
        clusters: Number of each question's cluster, from 0.

    Returns:
        The components; parts that a single seed or cluster cannot show are 0.

    Raises:
        ValueError: if shapes do not fit.
    """
    num_questions = len(clusters)
    if not sides or any(s.ndim != 2 or s.shape[1] != num_questions for _, s in sides):
        raise ValueError(
            f"scores must be [seed, question] with {num_questions} questions, got "
            f"{[s.shape for _, s in sides]}"
        )
    num_clusters = int(clusters.max()) + 1
    weights = np.bincount(clusters, minlength=num_clusters) / num_questions
    inflation, cluster_df = _small_sample(weights)
    seeds, rest, num_seeds = 0.0, 0.0, [len(scores) for _, scores in sides]
    total = np.zeros(num_clusters)
    for sign, scores in sides:
        sums = _cluster_sums(scores, clusters, num_clusters) / num_questions
        deviations = sums - weights * sums.sum(axis=1, keepdims=True)
        total += sign * deviations.mean(axis=0)
        size = len(scores)
        if size > 1:
            seeds += float(sums.sum(axis=1).var(ddof=1)) / size
            alone = deviations - deviations.mean(axis=0)
            rest += float((alone**2).sum()) * inflation / (size * (size - 1))
    return Components(
        seeds=seeds,
        clusters=float((total**2).sum()) * inflation,
        rest=min(rest, seeds + float((total**2).sum()) * inflation),
        seed_df=_pooled_df([s for _, s in sides]),
        cluster_df=cluster_df,
        num_seeds=min(num_seeds),
    )


def _cluster_sums(
    scores: Float[np.ndarray, "seed question"],
    clusters: Int[np.ndarray, " question"],
    num_clusters: int,
) -> Float[np.ndarray, "seed cluster"]:
    sums = np.zeros((num_clusters, len(scores)))
    np.add.at(sums, clusters, scores.T)
    return sums.T


def _pooled_df(sides: Sequence[Float[np.ndarray, "seed question"]]) -> float:
    """Degrees of freedom of the seeds' part (Welch), 0 if no side has two seeds."""
    variances = [
        (float(side.mean(axis=1).var(ddof=1)) / len(side), len(side) - 1)
        for side in sides
        if len(side) > 1
    ]
    noise = sum(variance**2 / df for variance, df in variances)
    if not variances:
        return 0.0
    if noise == 0.0:
        return float(sum(df for _, df in variances))
    return sum(variance for variance, _ in variances) ** 2 / noise


def _small_sample(weights: Float[np.ndarray, " cluster"]) -> tuple[float, float]:
    """Correction of a sum of squared deviations of clusters, and its degrees of freedom.

    ``(Σ w² / tr M, tr(M)² / tr(M²))`` with ``M = P' diag(w²) P``, ``P = 1 - 1 w'``; for G equal
    clusters ``(G / (G - 1), G - 1)``. A single cluster shows nothing: ``(0, 0)``.
    """
    if len(weights) < 2:
        return 0.0, 0.0
    square = weights**2
    sum_2, sum_3 = float(square.sum()), float((weights**3).sum())
    # P' D P = D - w d' - d w' + (Σ d) w w', D = diag(d), d = w².
    trace = sum_2 - 2.0 * sum_3 + sum_2 * sum_2
    matrix = (
        np.diag(square)
        - np.outer(weights, square)
        - np.outer(square, weights)
        + sum_2 * np.outer(weights, weights)
    )
    if trace <= 0.0:
        return 0.0, 0.0
    return sum_2 / trace, trace**2 / float((matrix**2).sum())


def effective_clusters(clusters: Int[np.ndarray, " question"]) -> float:
    """Inverse Simpson number of clusters: how many equal ones would weigh the same."""
    shares = np.bincount(clusters) / len(clusters)
    return float(1.0 / (shares**2).sum())


def t_quantile(probability: float, df: float) -> float:
    """Quantile of Student's t."""
    return float(special.stdtrit(df, probability))


def detectable_difference(found: Components, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true difference that a two-sided t-test shows with the wanted power.

    ``ncp · standard error``, ncp the noncentrality at which the test's power is reached. It
    depends on the design and on how much scores vary, not on the difference that was seen.

    Args:
        found: Components of the variance of the difference.
        alpha: Chance of a false alarm, between 0 and 1.
        power: Wanted chance of showing the difference, between 0 and 1.

    Returns:
        The difference; NaN with a single seed, which says nothing of others, a single cluster,
        or scores that do not vary at all.
    """
    if not found.says_something:
        return math.nan
    critical = t_quantile(1.0 - alpha / 2.0, found.df)
    shift = float(special.nctdtrinc(found.df, 1.0 - power, critical))
    return shift * found.standard_error


def t_pvalue(estimate: float, found: Components) -> float:
    """Two-sided p-value of a difference against 0; 1 where nothing can be said."""
    if not found.says_something:
        return 1.0
    return float(2.0 * special.stdtr(found.df, -abs(estimate) / found.standard_error))


def equivalence_pvalue(estimate: float, found: Components, margin: float) -> float:
    """p-value of two one-sided tests: small if the true difference lies within the margin.

    **Source:** Schuirmann 1987, A comparison of the two one-sided tests procedure and the power
    approach for assessing the equivalence of average bioavailability.

    Args:
        estimate: The difference that was seen.
        found: Components of its variance.
        margin: Largest difference, either way, that does not matter; positive.

    Returns:
        The larger of both p-values; 1 where nothing can be said.
    """
    if not found.says_something:
        return 1.0
    distance = (margin - abs(estimate)) / found.standard_error
    return float(special.stdtr(found.df, -distance))
