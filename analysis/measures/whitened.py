"""Whitens embeddings: within classes, every direction varies by one.

The covariance within classes is shrunk, as the encoder's own whitening does.
Distances to class means are then Mahalanobis distances, and the nearest mean
is the class by linear discriminant analysis.
"""

from typing import NamedTuple

import numpy as np

from analysis.measures import classes
from plankton_jax.nn import whitening

# Of the squared lengths that it is a difference of, a squared distance of less
# may have lost more than four of its sixteen digits.
CANCELS = 1e-4


class Whitened(NamedTuple):
  """Labelled rows, and the map that whitened them."""

  origin: np.ndarray  # [D] float64, their mean
  map: np.ndarray  # [D, D] float64
  rows: np.ndarray  # [N, D] float32
  members: np.ndarray  # [N] the class of each, as a row of the means
  classes: np.ndarray  # [C] labels
  counts: np.ndarray  # [C] rows of each class
  means: np.ndarray  # [C, D] float64


def fit(embedding: np.ndarray, label: np.ndarray) -> Whitened:
  """Whitens rows [N, D] with labels [N]; N is 1 or more.

  A class of one row says nothing of the covariance. Where no class has two
  different rows, embeddings are only centred.
  """
  _, members = np.unique(label, return_inverse=True)
  origin = embedding.mean(axis=0, dtype=np.float64)
  variances, directions = whitening.within_classes(embedding, label)
  map_ = directions / np.sqrt(variances)
  rows = ((embedding - origin) @ map_).astype(np.float32)
  present, counts, means = classes.centroids(rows, label)
  return Whitened(origin, map_, rows, members, present, counts, means)


def whiten(space: Whitened, embedding: np.ndarray) -> np.ndarray:
  """Maps embeddings [N, D] to the whitened space, float64 [N, D]."""
  return (embedding - space.origin) @ space.map


def squared(space: Whitened, rows: np.ndarray) -> np.ndarray:
  """Computes squared distances of whitened rows [N, D] to the means, [N, C].

  A mean of n rows varies by 1 / n itself: distances to it are divided by
  1 + 1 / n, so that a class of few examples is not too far from all.
  """
  from scipy.spatial import distance

  norms, of_means = (np.sum(x * x, axis=1) for x in (rows, space.means))
  found = rows @ (-2.0 * space.means.T)
  found += norms[:, None]
  found += of_means
  # |x|^2 + |y|^2 - 2 x.y cancels near a mean; cdist, which takes many times as
  # long, does not.
  near = found.min(axis=1) < CANCELS * (norms + of_means.max())
  found[near] = distance.cdist(rows[near], space.means, 'sqeuclidean')
  found /= 1.0 + 1.0 / space.counts
  return found


def means_without(
  space: Whitened, which: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Leaves each of the rows `which` [R] out of the mean of its class.

  Returns:
    Those not alone in their class, [S], and their class's mean, [S, D].
  """
  which = which[space.counts[space.members[which]] > 1]
  own = space.members[which]
  count = space.counts[own, None]
  rows = space.rows[which].astype(np.float64)
  return which, (count * space.means[own] - rows) / (count - 1)


def squared_without(
  space: Whitened, which: np.ndarray, own_means: np.ndarray
) -> np.ndarray:
  """Computes `squared` of the rows `which`, each left out of its own class.

  Takes what `means_without` returns; [S, C].
  """
  rows = space.rows[which].astype(np.float64)
  found = squared(space, rows)
  own = space.members[which]
  apart = np.sum((rows - own_means) ** 2, axis=1)
  others = space.counts[own] - 1
  found[np.arange(len(which)), own] = apart / (1.0 + 1.0 / others)
  return found
