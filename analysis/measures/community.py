"""Compares counts of classes, with a bin for what is of none.

Whoever counts plankton asks for the numbers in each class, in which mistakes
either way cancel: the threshold that separates best may count badly.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.measures.thresholds import threshold

# Shares of seen images to accept that are tried.
SHARES = tuple(np.round(np.arange(0.50, 0.9951, 0.005), 3).tolist())


class Best(NamedTuple):
  """The acceptance at which counts of classes are nearest the true ones."""

  acceptance: float
  dissimilarity: float  # on images that did not choose it


def dissimilarity(
  true: np.ndarray, predicted: np.ndarray, size: int
) -> np.ndarray:
  """Computes the Bray-Curtis dissimilarity of counts of classes.

  Sum |t - p| / sum (t + p) over classes (Bray and Curtis 1957, Ecol. Monogr.
  27): 0 where all counts are right, 1 where no class is in both.

  Args:
    true: [N] classes 0 ... size - 1; N is 1 or more.
    predicted: [..., N] classes.
    size: how many classes there are.

  Returns:
    [...].
  """
  want = np.bincount(true, minlength=size)
  found = np.stack(
    [
      np.bincount(one, minlength=size)
      for one in predicted.reshape(-1, len(true))
    ]
  )
  gaps = np.abs(found - want).sum(axis=1) / (2.0 * len(true))
  return gaps.reshape(predicted.shape[:-1])


def best(
  true: np.ndarray,
  nearest: np.ndarray,
  distance: np.ndarray,
  val: np.ndarray,
  *,
  unknown: int,
  shares: Sequence[float] = SHARES,
) -> Best | None:
  """Chooses the acceptance at which counts of classes are nearest the truth.

  It is chosen on all images; its dissimilarity is the mean over halves, of the
  acceptance that the other half chooses. Of equal ones the largest is taken.

  Args:
    true: [N] classes 0 ... unknown.
    nearest: [N] the class that each has if it is accepted.
    distance: [N].
    val: [V] distances of validation images, which set thresholds.
    unknown: the class of images beyond the threshold; the last.
    shares: to choose from; those that `val` is too small for are left out.

  Returns:
    None if there are fewer than two images or no share has a threshold.
  """
  limits = np.array([threshold(val, share) for share in shares])
  able = np.flatnonzero(np.isfinite(limits))[::-1]
  if len(true) < 2 or not able.size:
    return None
  limits = limits[able]
  named = np.where(distance <= limits[:, None], nearest, unknown)

  def by_share(rows: slice) -> np.ndarray:
    return dissimilarity(true[rows], named[:, rows], unknown + 1)

  halves = [by_share(slice(start, None, 2)) for start in (0, 1)]
  apart = [one[np.argmin(other)] for one, other in (halves, reversed(halves))]
  place = np.argmin(by_share(slice(None)))
  return Best(float(shares[able[place]]), float(np.mean(apart)))
