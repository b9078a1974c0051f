"""Sets thresholds on how far a seen image may lie, from validation images.

One threshold holds for all classes: those of each class alone, or drawn towards
the common one, found fewer of the unseen (docs/unknowns.md).
"""

import math

import numpy as np

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
