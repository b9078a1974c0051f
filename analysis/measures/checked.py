"""Corrects a sample's counts by images of it that a person checked.

The classifier's probabilities of all images are added up, and corrected by the
mean mistake that the person found in a random draw of them: the difference
estimator of surveys (Särndal, Swensson and Wretman 1992, equation 6.3.1), as
prediction-powered inference has it for a classifier (Angelopoulos, Bates,
Fannjiang, Jordan and Zrnic 2023). It is without bias however wrong the
classifier is; a good one makes the intervals narrow. Probabilities count
`weight` times, so that bad ones do no harm (Angelopoulos, Duchi and Zrnic 2023,
section 6, PPI++).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from plankton_jax.data.classes import meant

Z = 1.959964  # of a normal distribution's 95 %
FEWEST = 10  # checked images of a sample, below which it is not corrected
# Images of each kind of mistake that an interval is widened by, so that it is
# right where no mistake was found: a class missed, and one named wrongly
# (Bonett and Price 2012, section 2, of the difference of paired proportions).
ADDED = 1.0
METHOD = 'checked'


class Checks(NamedTuple):
  """The images of one sample of N that a person checked, drawn at random."""

  rows: np.ndarray  # [n] of the sample's images, each once
  true: np.ndarray  # [n] the class that the person gave


class Corrected(NamedTuple):
  """Objects of each class in a sample, with a 95 % interval."""

  objects: np.ndarray  # [C]
  low: np.ndarray
  high: np.ndarray


def by_sample(
  found: dict[int, str], groups: np.ndarray, names: Sequence[str]
) -> tuple[dict[str, Checks], tuple[str, ...]]:
  """Splits checked images by sample.

  Args:
    found: class by row.
    groups: [N] the sample of each image.
    names: of the classes; other spellings of these are these.

  Returns:
    The checks of each sample that has any, whose rows count within the sample,
    and the names with those that a person added.
  """
  spelt = {name: meant(name, names) for name in set(found.values())}
  every = (*names, *sorted(set(spelt.values()) - set(names)))
  at = {name: i for i, name in enumerate(every)}
  rows = np.array(sorted(found), int)
  true = np.array([at[spelt[found[row]]] for row in rows.tolist()], int)
  checks = {}
  for name in np.unique(groups[rows]):
    own = np.flatnonzero(groups == name)
    mine = groups[rows] == name
    checks[str(name)] = Checks(np.searchsorted(own, rows[mine]), true[mine])
  return checks, every


def weigh(samples: Iterable[tuple[np.ndarray, Checks]]) -> float:
  """Chooses how much probabilities count, from 0 to 1, for the least variance.

  The slope of the regression of the checked classes on their probabilities,
  over all classes and samples together, each about its own mean; 1 where
  nothing is to learn.

  Args:
    samples: probabilities [N, C] of a sample's images, and its checks.
  """
  both = own = 0.0
  for chance, checks in samples:
    rows = chance[checks.rows]
    truth = np.eye(chance.shape[1])[checks.true]
    rows = rows - rows.mean(axis=0)
    both += float(np.sum(rows * (truth - truth.mean(axis=0))))
    own += float(np.sum(rows**2))
  return float(np.clip(both / own, 0.0, 1.0)) if own > 0.0 else 1.0


def correct(
  chance: np.ndarray, checks: Checks, weight: float, each: np.ndarray
) -> Corrected:
  """Counts the objects of a sample of N images.

  What was checked is counted; of the rest, probabilities are added up and
  corrected by the checked images' mean mistake. The interval is that of the
  mean mistake, of a draw without replacement: it holds what these images show,
  not the chance by which they were caught.

  Args:
    chance: [N, C] probabilities.
    checks: at least one image.
    weight: of the probabilities, see `weigh`.
    each: [N] objects that an image stands for; NaN if that is not known.
  """
  count, drawn = len(chance), len(checks.rows)
  left = np.ones(count, bool)
  left[checks.rows] = False
  rest = count - drawn
  truth = np.eye(chance.shape[1])[checks.true] * each[checks.rows, None]
  guess = weight * chance * each[:, None]
  seen, total = truth.sum(axis=0), each[left].sum()
  if not rest:
    return Corrected(seen, seen.copy(), seen.copy())

  mistakes = truth - guess[checks.rows]
  found = guess[left].sum(axis=0) + rest * mistakes.mean(axis=0)
  one = each.mean()
  size = drawn + 2 * ADDED
  mean = (mistakes.sum(axis=0) + ADDED * one * (1.0 - weight)) / size
  square = np.sum(mistakes**2, axis=0) + ADDED * one**2 * (1.0 + weight**2)
  variance = np.maximum(square / size - mean**2, 0.0)
  middle = guess[left].sum(axis=0) + rest * mean
  reach = Z * np.sqrt(variance / size * count * rest)

  # No class has fewer objects than were seen, nor more than the rest beside.
  found = np.maximum(found, 0.0)
  found *= total / found.sum()
  low = np.minimum(np.clip(middle - reach, 0.0, total), found)
  high = np.maximum(np.clip(middle + reach, 0.0, total), found)
  return Corrected(seen + found, seen + low, seen + high)
