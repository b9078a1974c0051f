"""Estimates the share of each class in a sample from a classifier's answers.

A classifier that errs counts too many of one class and too few of another, and
by how much depends on the sample. Five ways from answers to shares are here:
two that take the answers as they are, and three that correct them by what the
classifier does to images whose class is known. All of them assume that images
of a class look the same in the sample and among those (label shift).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

TOLERANCE = 1e-6  # of shares, at which expectation-maximisation stops
STEPS = 1000  # and the most it takes


class Answers(NamedTuple):
  """Holds a classifier's answers on N images, for C classes."""

  label: np.ndarray  # [N] the class each is counted as
  chance: np.ndarray  # [N, C] probabilities

  def take(self, rows: np.ndarray) -> 'Answers':
    """Selects images."""
    return Answers(self.label[rows], self.chance[rows])


class Errors(NamedTuple):
  """Holds a classifier's errors on images whose class is known.

  A column of the matrices [C, C] holds the shares of one true class's images.
  """

  prior: np.ndarray  # [C] shares of the classes among the images, all positive
  counted: np.ndarray  # by the class that they are counted as
  expected: np.ndarray  # mean probabilities


Method = Callable[[Errors, Answers, np.ndarray], np.ndarray]


def errors(known: Answers, true: np.ndarray, weights: np.ndarray) -> Errors:
  """Measures a classifier on images of classes `true` [N].

  `weights` [N] count an image several times, or not at all. A class that is
  left without any, of which a single image is labelled, counts as one image
  that is answered rightly.
  """
  classes = known.chance.shape[1]
  absent = np.flatnonzero(np.bincount(true, weights, classes) == 0.0)
  known = Answers(
    np.append(known.label, absent),
    np.concatenate([known.chance, np.eye(classes)[absent]]),
  )
  true = np.append(true, absent)
  weights = np.append(weights, np.ones(len(absent)))
  prior = np.bincount(true, weights, classes) / weights.sum()
  return Errors(
    prior,
    confusion(_one_hot(known), true, weights),
    confusion(known.chance, true, weights),
  )


def confusion(
  values: np.ndarray, true: np.ndarray, weights: np.ndarray
) -> np.ndarray:
  """Averages values [N, C] over the images of each class: columns of [C, C]."""
  classes = values.shape[1]
  members = np.zeros((len(true), classes))
  members[np.arange(len(true)), true] = weights
  return values.T @ members / members.sum(axis=0)


def count(found: Errors, sample: Answers, weights: np.ndarray) -> np.ndarray:
  """Counts the answers: no correction."""
  return _mean(_one_hot(sample), weights)


def average(found: Errors, sample: Answers, weights: np.ndarray) -> np.ndarray:
  """Averages the probabilities (Bella et al. 2010, equation 4)."""
  return _mean(sample.chance, weights)


def adjust(found: Errors, sample: Answers, weights: np.ndarray) -> np.ndarray:
  """Solves counted shares = confusion · true shares (Forman 2008, section 2.3).

  The confusion matrix is that of the known images.
  """
  return unmix(count(found, sample, weights), found.counted)


def adjust_average(
  found: Errors, sample: Answers, weights: np.ndarray
) -> np.ndarray:
  """Solves it for mean probabilities (Bella et al. 2010, section III.B)."""
  return unmix(average(found, sample, weights), found.expected)


def maximise(found: Errors, sample: Answers, weights: np.ndarray) -> np.ndarray:
  """Maximises the likelihood of the shares by expectation-maximisation.

  Saerens, Latinne and Decaestecker 2002, equation 2.9: each step averages the
  probabilities as they would be under the shares of the step before.
  """
  drawn = weights > 0.0  # a bootstrap leaves out a third
  ratio = sample.chance[drawn] / found.prior
  share = found.prior
  weights = weights[drawn] / weights.sum()
  for _ in range(STEPS):
    before = share
    share = share * (ratio.T @ (weights / (ratio @ share)))
    if np.abs(share - before).max() < TOLERANCE:
      break
  return share / share.sum()


METHODS: dict[str, Method] = {
  'classify and count': count,
  'probabilistic count': average,
  'adjusted count': adjust,
  'adjusted probabilistic': adjust_average,
  'expectation-maximisation': maximise,
}


def unmix(observed: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """Finds shares p [C] that minimise ‖columns · p − observed‖².

  They are at least 0 and sum to 1, which a row of a large weight sees to.
  """
  from scipy import optimize

  weight = 1e3
  found, _ = optimize.nnls(
    np.vstack([columns, np.full(columns.shape[1], weight)]),
    np.append(observed, weight),
    maxiter=100 * columns.shape[1],  # its own three a class may not do
  )
  return found / found.sum()


def adapt(
  chance: np.ndarray, prior: np.ndarray, share: np.ndarray
) -> np.ndarray:
  """Turns probabilities [N, C] under `prior` into those under other shares.

  Saerens, Latinne and Decaestecker 2002, equation 2.4.
  """
  joint = chance * (share / prior)
  total = joint.sum(axis=1, keepdims=True)
  # No class that the shares allow may be possible: then they alone decide.
  return np.where(total > 0.0, joint / np.where(total > 0.0, total, 1.0), share)


def bray_curtis(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Computes Σ|a − b| / Σ(a + b) over the last axis: 0 equal, 1 disjoint.

  The dissimilarity of Bray and Curtis 1957, Ecol. Monogr. 27.
  """
  return np.abs(one - other).sum(axis=-1) / (one + other).sum(axis=-1)


def _one_hot(answers: Answers) -> np.ndarray:
  return np.eye(answers.chance.shape[1])[answers.label]


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
  return weights @ values / weights.sum()
