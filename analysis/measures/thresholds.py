"""Sets thresholds on how far a seen image may lie, from validation images."""

import math
from typing import NamedTuple

import numpy as np

from analysis.measures.openset import Judged
from plankton_jax.errors import InputError


def check(acceptance: float) -> None:
  """Raises InputError for a share outside 0 … 1."""
  if not 0.0 < acceptance < 1.0:
    raise InputError(f'--acceptance={acceptance}: give a share such as 0.95')


def fewest(acceptance: float) -> int:
  """Counts the fewest images that bound a share `acceptance` of new ones."""
  return math.ceil(round(acceptance / (1.0 - acceptance), 9))


def threshold(distance: np.ndarray, acceptance: float) -> float:
  """Takes the ⌈(n + 1) · acceptance⌉-th smallest of n distances.

  A new distance of the same kind is at most this with probability of at least
  `acceptance` (split conformal prediction: Angelopoulos and Bates 2021,
  arXiv:2107.07511). Infinite where n < `fewest(acceptance)`.
  """
  rank = math.ceil(round((len(distance) + 1) * acceptance, 9))
  if rank > len(distance):
    return math.inf
  return float(np.sort(distance)[rank - 1])


class Limit(NamedTuple):
  """The threshold of one class."""

  images: int  # validation images predicted as the class
  own: bool  # set on these, or on all validation images if they are too few
  threshold: float


class Limits(NamedTuple):
  """One score's thresholds."""

  every: float  # over all validation images
  by_class: dict[int, Limit]

  def of(self, label: np.ndarray) -> np.ndarray:
    """Looks up the threshold [N] of each predicted label [N]."""
    return np.array([self.by_class[i].threshold for i in label.tolist()])


def calibrate(
  judged: Judged, classes: np.ndarray, *, acceptance: float
) -> Limits:
  """Sets thresholds of classes [C] from validation images.

  Each image counts for the class predicted, right or wrong: that class's
  threshold will decide. A class with fewer than `fewest` images takes the
  threshold over all of them.
  """
  every = threshold(judged.distance, acceptance)
  by_class = {}
  for label in classes.tolist():
    distance = judged.distance[judged.label == label]
    own = len(distance) >= fewest(acceptance)
    limit = threshold(distance, acceptance) if own else every
    by_class[label] = Limit(len(distance), own, limit)
  return Limits(every, by_class)
