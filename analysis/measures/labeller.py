"""What new images are taken for: nearest class centre, how sure, or unknown.

A class's centre is the mean of its labelled rows, so that a class of a few
examples is one more centre and nothing is trained. Confidence is the softmax
of −d² over a temperature, d the Euclidean distances to the centres (Snell,
Swersky and Zemel 2017, arXiv:1703.05175, equation 2).
"""

from typing import NamedTuple

import numpy as np

from analysis.files.inputs import Embeddings
from analysis.measures import calibration, nearest, thresholds
from analysis.measures.openset import Judged
from analysis.measures.thresholds import Limits

BLOCK = 8192  # images whose probabilities are held at a time


class Labeller(NamedTuple):
  """Labelled rows and what was fitted on validation images."""

  gallery: Embeddings  # label c is row c of the means; each class has rows
  means: np.ndarray  # [C, D] float64
  temperature: float  # 1 where there are no validation images
  limits: Limits | None  # None where there are too few


class Labels(NamedTuple):
  """What a labeller says of N images."""

  nearest: np.ndarray  # [N] class whose centre is nearest
  confidence: np.ndarray  # [N] its probability, were it one of the classes
  second: np.ndarray  # [N] class with the next centre; the same if it is alone
  second_confidence: np.ndarray  # [N]; 0 if it is alone
  distance: np.ndarray  # [N] to the nearest centre
  limit: np.ndarray  # [N] beyond which the image is unknown; inf without
  rows: np.ndarray  # [N, K] the nearest rows of the gallery
  row_distance: np.ndarray  # [N, K]


def squared(embedding: np.ndarray, means: np.ndarray) -> np.ndarray:
  """Squared Euclidean distances of rows [N, D] to means [C, D], [N, C]."""
  from scipy.spatial import distance

  # In float64 without ‖x‖² + ‖y‖² − 2x·y, which cancels.
  return distance.cdist(embedding.astype(np.float64), means, 'sqeuclidean')


def judge(distance: np.ndarray) -> Judged:
  """The nearest class of distances [N, C], and how far it is."""
  label = distance.argmin(axis=1)
  return Judged(label, np.take_along_axis(distance, label[:, None], 1)[:, 0])


def left_out(
  gallery: Embeddings, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Which of `rows` [R] are not alone in their class, and how far they are.

  Squared distances [K, C] of the K to the centres, to that of its own class
  without the row itself: ‖x − (n c − x) / (n − 1)‖ = n / (n − 1) ‖x − c‖.
  """
  _, counts, means = nearest.centroids(gallery.embedding, gallery.label)
  rows = rows[counts[gallery.label[rows]] > 1]
  own = np.arange(len(rows)), gallery.label[rows]
  count = counts[own[1]]
  distance = squared(gallery.embedding[rows], means)
  distance[own] *= (count / (count - 1)) ** 2
  return rows, distance


def fit(
  gallery: Embeddings,
  examples: np.ndarray,
  val: Embeddings | None,
  *,
  acceptance: float,
) -> Labeller:
  """Temperature and thresholds from images that no centre is made of.

  Those are the validation images and each of the gallery's rows `examples`
  [R], left out of its class; without validation images nothing is fitted.
  """
  classes, _, means = nearest.centroids(gallery.embedding, gallery.label)
  if val is None:
    return Labeller(gallery, means, 1.0, None)
  rows, apart = left_out(gallery, examples)
  distance = np.concatenate([squared(val.embedding, means), apart])
  true = np.concatenate([val.label, gallery.label[rows]])
  scale = calibration.temperature(-distance, true)
  limits = None
  if len(true) >= thresholds.fewest(acceptance):
    judged = judge(np.sqrt(distance))
    limits = thresholds.calibrate(judged, classes, acceptance=acceptance)
  return Labeller(gallery, means, scale, limits)


def label(labeller: Labeller, embedding: np.ndarray, *, count: int) -> Labels:
  """Labels rows [N, D], with the `count` nearest rows of the gallery."""
  found = []
  for start in range(0, len(embedding), BLOCK):
    distance = squared(embedding[start : start + BLOCK], labeller.means)
    chance = calibration.softmax(-distance, labeller.temperature)
    order = np.argsort(distance, axis=1, kind='stable')[:, :2]
    first, second = order[:, 0], order[:, -1]
    at = np.arange(len(order))
    found.append(
      (
        first,
        chance[at, first],
        second,
        chance[at, second] * (second != first),
        np.sqrt(distance[at, first]),
      )
    )
  first, sure, second, rest, distance = map(
    np.concatenate, zip(*found, strict=True)
  )
  limit = np.full(len(first), np.inf)
  if labeller.limits:
    limit = labeller.limits.of(first)
  row_distance, rows = nearest.nearest(
    embedding, labeller.gallery.embedding, count
  )
  return Labels(first, sure, second, rest, distance, limit, rows, row_distance)
