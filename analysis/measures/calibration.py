"""Calibrates confidence by temperature scaling, and measures its error.

Of images with a confidence of 0.8, 8 in 10 should be right (Guo, Pleiss, Sun
and Weinberger 2017, arXiv:1706.04599).
"""

from typing import NamedTuple

import numpy as np

BINS = 15  # of equal width, as in the paper
WIDEST = 1e3  # temperatures are at most so far off the logits' own scale
HALVINGS = 20  # of the widest temperature, down to as far below that scale
THIRDS = 3  # steps of the grid of temperatures in each
CACHED = 2**16  # float64 logits that stay in cache, 512 KiB
MOST = 2**23  # images times classes that a temperature is fitted on
SEED = 0


class Reliability(NamedTuple):
  """Images in bins of equal width over their confidence, 0 … 1."""

  images: np.ndarray  # [BINS]
  confidence: np.ndarray  # [BINS] mean; NaN in an empty bin
  accuracy: np.ndarray  # [BINS] share that is right; NaN in an empty bin
  error: float  # expected calibration error; NaN without images


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
  """Computes probabilities [N, C] of logits [N, C] over the temperature."""
  from scipy import special

  return special.softmax(logits / temperature, axis=1)


def confidence(logits: np.ndarray, temperature: float) -> np.ndarray:
  """Computes the largest [N] of the probabilities of `softmax`."""
  gaps = logits - logits.max(axis=1, keepdims=True)
  gaps /= temperature
  return 1.0 / np.exp(gaps, out=gaps).sum(axis=1)


def sample(images: int, classes: int) -> np.ndarray:
  """Draws the images, in order, that a temperature is fitted on.

  All of them, unless they by the classes are more than `MOST`. It is a single
  number, and a thousand images tell it.
  """
  some = max(1, MOST // max(classes, 1))
  if images <= some:
    return np.arange(images)
  rng = np.random.default_rng(SEED)
  return np.sort(rng.choice(images, some, replace=False))


def temperature(logits: np.ndarray, label: np.ndarray) -> float:
  """Fits the temperature that best tells if the likeliest class is right.

  Takes logits [N, C] for `label` [N]; minimises the binary cross-entropy of the
  largest probability: temperature scaling (Guo et al. 2017, section 4.2) of top
  versus all (Le Coz, Herbin and Adjed 2024, NeurIPS). If all images were right,
  every confidence would become 1; hence the targets of Platt (1999, section
  2.2), (n + 1) / (n + 2) for n right ones, 1 / (n + 2) for n wrong ones.
  Returns 1 if there is nothing to fit.
  """
  from scipy import optimize

  right = logits.argmax(axis=1) == label
  gaps = logits - logits.max(axis=1, keepdims=True)
  scale = -gaps.mean() if logits.size else 0.0
  if not scale > 0.0:
    return 1.0
  hits = np.sum(right)
  target = np.where(right, (hits + 1) / (hits + 2), 1 / (len(right) - hits + 2))
  gaps[np.arange(len(gaps)), logits.argmax(axis=1)] = -np.inf
  second = gaps.max(axis=1)
  gaps -= second[:, None]

  parts = np.array_split(gaps, -(-gaps.size // CACHED))

  def loss(ratio: float, log_sums: np.ndarray) -> float:
    others = log_sums + second / ratio
    every = np.logaddexp(0.0, others)  # the gap of the top is 0
    return np.mean(target * every + (1 - target) * (every - others))

  def exact(log_ratio: float) -> float:
    ratio = scale * np.exp(log_ratio)
    sums = [np.exp(part / ratio).sum(axis=1) for part in parts]
    return loss(ratio, np.log(np.concatenate(sums)))

  # It may have several minima: take the lowest of a grid, then refine it. To
  # halve a temperature squares the terms, which is faster than to compute them.
  step = np.log(2.0) / THIRDS
  grid = np.log(WIDEST) - step * np.arange(THIRDS * HALVINGS + 1)
  sums = np.empty((len(grid), len(gaps)))
  done = 0
  for part in parts:
    rows = slice(done, done := done + len(part))
    for first in range(THIRDS):
      terms = np.exp(part / (scale * np.exp(grid[first])))
      for at in range(first, len(grid), THIRDS):
        sums[at, rows] = terms.sum(axis=1)
        terms *= terms
  losses = [
    loss(scale * np.exp(x), np.log(one))
    for x, one in zip(grid, sums, strict=True)
  ]
  near = grid[np.argmin(losses)]
  found = optimize.minimize_scalar(
    exact,
    bounds=(near - step, near + step),
    method='bounded',
    options={'xatol': 1e-6},
  )
  return float(scale * np.exp(found.x))


def reliability(confidence: np.ndarray, right: np.ndarray) -> Reliability:
  """Bins images by confidence [N] in 0 … 1; `right` [N] bool marks the correct.

  The error is Σ images · |accuracy − confidence| / N (Guo et al. 2017,
  equation 3). A confidence on an edge counts in the bin below.
  """
  place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
  images = np.bincount(place, minlength=BINS)
  sums, hits = (
    np.bincount(place, weights, BINS) for weights in (confidence, right)
  )
  with np.errstate(invalid='ignore'):
    means, shares = sums / images, hits / images
    error = float(np.sum(np.abs(hits - sums)) / np.float64(len(confidence)))
  return Reliability(images, means, shares, error)


def wilson(share: float, count: int) -> tuple[float, float]:
  """Computes Wilson's 95 % interval of a share of `count` images."""
  from scipy import stats

  right = round(share * count)
  return tuple(stats.binomtest(right, count).proportion_ci(method='wilson'))
