"""Scores whether an image is of a class that training saw (open set).

A score is a distance to the train images: the larger, the more novel. It is
measured image by image, and by the counts of classes, with a bin for what is of
none: whoever counts plankton asks for the numbers in each class, in which
mistakes either way cancel, so that the threshold that separates best may count
badly.

One threshold, set on validation images, holds for all classes: those of each
class alone, or drawn towards the common one, found fewer of the unseen
(docs/unknowns.md).
"""

import math
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from analysis.files.inputs import Embeddings
from analysis.measures import classes, prevalence
from plankton_jax.data.classes import plain
from plankton_jax.neighbours import search

# Shares of seen images to accept that are tried.
SHARES = tuple(np.round(np.arange(0.50, 0.9951, 0.005), 3).tolist())
UNKNOWN = 'unknown'  # the label of images of no class
NO_CLASS = f'{UNKNOWN} (no class)'  # the same beside a class called unknown
WHITENED = 'whitened'  # the score of measures.unknowns
CENTROID = 'nearest centroid'
MEASURES = {
  'auroc': 'AUROC',
  'aupr_unseen': 'AUPR (unseen)',
  'aupr_seen': 'AUPR (seen)',
  'fpr_at_95': 'FPR at 95 % TPR',
  'oscr': 'OSCR',
  'accuracy': 'accuracy',
  'aurc': 'AURC',
  'seen_accepted': 'seen accepted',
  'unseen_unknown': 'unseen unknown',
  'bray_curtis': 'Bray-Curtis',
  'community_acceptance': 'best acceptance',
  'community_bray_curtis': 'its Bray-Curtis',
}


class Judged(NamedTuple):
  """The class that a score assigns to each row, and how far the row is."""

  label: np.ndarray  # [N] the seen class assigned to each
  distance: np.ndarray  # [N]


class Curve(NamedTuple):
  """A curve and the area under it; empty and NaN if it is undefined."""

  x: np.ndarray
  y: np.ndarray
  area: float


NO_CURVE = Curve(np.empty(0), np.empty(0), np.nan)


class Score(NamedTuple):
  """One source's images by one score."""

  source: str
  by: str
  seen: np.ndarray  # [S] distances of test
  unseen: np.ndarray  # [U]
  roc: Curve
  oscr: Curve
  risk: Curve
  limit: float | None  # the threshold, by validation images
  measures: dict[str, float]  # of MEASURES; NaN where a split is missing


class Best(NamedTuple):
  """The acceptance at which counts of classes are nearest the true ones."""

  acceptance: float
  dissimilarity: float  # on images that did not choose it


def no_class(names: Collection[str]) -> str:
  """Names images of no class, unlike a class of a project called unknown."""
  return NO_CLASS if UNKNOWN in map(plain, names) else UNKNOWN


def by_centroid(train: Embeddings, embedding: np.ndarray) -> Judged:
  """Takes the nearest class mean of train, and the distance to it."""
  from sklearn.metrics import pairwise_distances_argmin_min

  present, _, means = classes.centroids(train.embedding, train.label)
  found, distance = pairwise_distances_argmin_min(
    embedding.astype(np.float64), means
  )
  return Judged(present[found], distance)


def by_neighbour(train: Embeddings, embedding: np.ndarray, k: int) -> Judged:
  """Takes the vote of the k nearest train images, and the k-th's distance.

  Sun, Ming, Zhu and Li 2022, arXiv:2204.06507. A tied vote goes to the
  lowest label; with fewer train images, k is less.
  """
  distance, rows = search.nearest(embedding, train.embedding, k)
  return Judged(classes.voted(rows, train.label), distance[:, -1])


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


def detection(
  seen: np.ndarray, unseen: np.ndarray
) -> tuple[Curve, dict[str, float]]:
  """Computes the ROC of accepting `seen` [S] against `unseen` [U] distances.

  `x` is the share of unseen images accepted, `y` that of seen ones. Also
  returns the average precision with either side as positive, and x where y
  first reaches 0.95.
  """
  from sklearn import metrics

  positive = np.repeat([1, 0], [len(seen), len(unseen)])
  score = -np.concatenate([seen, unseen])
  x, y, _ = metrics.roc_curve(positive, score, drop_intermediate=False)
  return Curve(x, y, float(metrics.auc(x, y))), {
    'aupr_seen': float(metrics.average_precision_score(positive, score)),
    'aupr_unseen': float(metrics.average_precision_score(1 - positive, -score)),
    'fpr_at_95': float(x[np.argmax(y >= 0.95)]),
  }


def oscr(seen: np.ndarray, right: np.ndarray, unseen: np.ndarray) -> Curve:
  """Computes correct classification over false positive rate by threshold.

  Rates of seen images that are accepted and `right` [S] bool, and of unseen
  that are accepted (Dhamija, Günther and Boult 2018, arXiv:1811.04110).
  """
  if not right.any():
    return Curve(np.array([0.0, 1.0]), np.zeros(2), 0.0)
  # Wrong images never count: it is a scaled ROC of the others.
  curve, _ = detection(seen[right], unseen)
  accuracy = right.mean()
  return Curve(curve.x, accuracy * curve.y, accuracy * curve.area)


def risk_coverage(distance: np.ndarray, right: np.ndarray) -> Curve:
  """Computes the share of mistakes as more images are accepted.

  Accepts the nearest first; `x` is the share accepted. The area is the mean
  risk over the n coverages (Geifman and El-Yaniv 2017, arXiv:1705.08500; AURC:
  Geifman, Uziel and El-Yaniv 2019, arXiv:1805.08206). Equal distances share
  their mistakes equally, which is the mean over all their orders.
  """
  _, members, counts = np.unique(
    distance, return_inverse=True, return_counts=True
  )
  shared = np.bincount(members, ~right) / counts
  count = np.arange(1, len(distance) + 1)
  risk = np.cumsum(shared[np.sort(members)]) / count
  return Curve(count / len(distance), risk, float(risk.mean()))


def dissimilarity(
  true: np.ndarray, predicted: np.ndarray, size: int
) -> np.ndarray:
  """Computes the Bray-Curtis dissimilarity of counts of classes.

  0 where all counts are right, 1 where no class is in both.

  Args:
    true: [N] classes 0 ... size - 1; N is 1 or more.
    predicted: [..., N] classes.
    size: how many classes there are.

  Returns:
    [...].
  """
  want = np.bincount(true, minlength=size)
  found = [
    np.bincount(one, minlength=size) for one in predicted.reshape(-1, len(true))
  ]
  gaps = prevalence.bray_curtis(np.stack(found), want)
  return gaps.reshape(predicted.shape[:-1])


def best_acceptance(
  true: np.ndarray,
  nearest: np.ndarray,
  distance: np.ndarray,
  val: np.ndarray,
  *,
  unknown: int,
) -> Best | None:
  """Chooses the acceptance at which counts of classes are nearest the truth.

  It is one of SHARES for which `val` is large enough, of equal ones the
  largest. It is chosen on all images; its dissimilarity is the mean over
  halves, of the acceptance that the other half chooses.

  Args:
    true: [N] classes 0 ... unknown.
    nearest: [N] the class that each has if it is accepted.
    distance: [N].
    val: [V] distances of validation images, which set thresholds.
    unknown: the class of images beyond the threshold; the last.

  Returns:
    None if there are fewer than two images or no share has a threshold.
  """
  limits = np.array([threshold(val, share) for share in SHARES])
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
  return Best(float(SHARES[able[place]]), float(np.mean(apart)))
