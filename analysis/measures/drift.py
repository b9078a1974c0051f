"""Tests whether new embeddings are of the kind of those outside of training.

The statistic is the squared maximum mean discrepancy (Gretton et al. 2012, JMLR
13, equation 2) of a Gaussian kernel. What is compared is not how many images of
each class there are, which differs between all samples: images outside of
training are weighted as the sample's are shared out over the classes that they
are predicted as, and permutations exchange images of one such class alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MOST = 400  # images of a side; more are sampled
MOVES = (0.125, 0.25, 0.5, 1.0, 2.0)  # that power is measured for
TRIALS = 40  # samples for each of them
CHECKS = 99  # permutations of a trial
POWER = 0.8
SEED = 0


class Rows(NamedTuple):
  """Embeddings and the class that each is predicted as."""

  embedding: np.ndarray  # [N, D]
  label: np.ndarray  # [N]

  def take(self, rows: np.ndarray) -> 'Rows':
    """Selects images."""
    return Rows(self.embedding[rows], self.label[rows])


class Tested(NamedTuple):
  """The outcome of one test."""

  compared: int  # images of the sample that have others to compare with
  p: float  # share of permutations that are as extreme; NaN if none compared


def test(
  reference: Rows, sample: Rows, *, permutations: int, rng: np.random.Generator
) -> Tested:
  """Tests whether a sample's images are of the kind of the reference's."""
  reference, sample = _thin(reference, rng), _thin(sample, rng)
  shared = np.intersect1d(reference.label, sample.label)
  reference = reference.take(np.isin(reference.label, shared))
  sample = sample.take(np.isin(sample.label, shared))
  count = len(sample.label)
  if count < 2:
    return Tested(count, np.nan)
  rows = np.concatenate([sample.embedding, reference.embedding])
  label = np.concatenate([sample.label, reference.label])
  found = statistics(
    kernel(rows),
    label,
    np.arange(len(label)) < count,
    permutations=permutations,
    rng=rng,
  )
  # Ties within rounding count as extreme, as where a class has two images.
  extreme = np.sum(found[1:] >= found[0] * (1.0 - 1e-9))
  return Tested(count, float((1 + extreme) / (1 + permutations)))


def kernel(rows: np.ndarray) -> np.ndarray:
  """Computes the Gaussian kernel [N, N], as wide as the median distance."""
  from scipy.spatial import distance

  squared = distance.pdist(rows.astype(np.float64), 'sqeuclidean')
  width = float(np.median(squared)) or 1.0
  return np.exp(-distance.squareform(squared) / width)


def statistics(
  similarity: np.ndarray,
  label: np.ndarray,
  new: np.ndarray,
  *,
  permutations: int,
  rng: np.random.Generator,
) -> np.ndarray:
  """Computes the statistic of the sample, then those of its permutations.

  Args:
    similarity: the kernel [N, N].
    label: predicted classes [N]; each has images of both sides.
    new: [N] bool, the images of the sample.
    permutations: of `new` within the classes.
    rng: of the permutations.
  """
  _, members = np.unique(label, return_inverse=True)
  of_new = np.bincount(members, new)
  of_others = np.bincount(members) - of_new
  # In order of class, a class's first images are the sample's.
  ranked = np.lexsort((~new, members))
  first = new[ranked]
  keys = members[:, None] + rng.random((len(label), permutations))
  order = np.hstack([ranked[:, None], np.argsort(keys, axis=0)])
  chosen = np.zeros(order.shape, bool)
  np.put_along_axis(chosen, order, first[:, None], axis=0)
  share = (of_new / of_new.sum() / of_others)[members]
  signed = np.where(chosen, 1.0 / new.sum(), -share[:, None])
  return np.einsum('nb,nb->b', signed, similarity @ signed)


def find_power(
  reference: Rows, size: int, *, level: float, rng: np.random.Generator
) -> float:
  """Finds the least move of a sample of `size` that the test notices.

  A move, of all images along one random direction between images, is given in
  the classes' own spread: the root mean square distance to the mean of the
  images predicted alike. Takes samples of the reference itself.

  Returns:
    The least of MOVES noticed in POWER of the trials; infinite if none is.
  """
  reference = _thin(reference, rng)
  size = min(size, len(reference.label) // 2)
  if size < 2:
    return np.inf
  gaps = reference.embedding.astype(np.float64)
  for label in np.unique(reference.label):
    own = reference.label == label
    gaps[own] -= gaps[own].mean(axis=0)
  spread = np.sqrt(np.mean(np.sum(gaps**2, axis=1)))
  if not spread > 0.0:
    return np.inf
  checks = max(CHECKS, int(np.ceil(1.0 / level)))
  for move in MOVES:
    noticed = 0
    for _ in range(TRIALS):
      rows = rng.permutation(len(reference.label))
      sample = reference.take(rows[:size])
      ends = reference.embedding[rng.choice(rows, 2, replace=False)]
      way = ends[0].astype(np.float64) - ends[1]
      way /= np.linalg.norm(way) or 1.0
      moved = sample._replace(embedding=sample.embedding + move * spread * way)
      tested = test(
        reference.take(rows[size:]), moved, permutations=checks, rng=rng
      )
      noticed += tested.p <= level
    if noticed >= POWER * TRIALS:
      return move
  return np.inf


def alarm(p: Sequence[float], level: float) -> np.ndarray:
  """Tells which of several tests alarm, [K] bool (Holm 1979).

  A false alarm anywhere has a probability of at most `level`. NaN never alarms.
  """
  values = np.where(np.isnan(p), 1.0, p)
  order = np.argsort(values, kind='stable')
  allowed = level / (len(values) - np.arange(len(values)))
  passed = np.logical_and.accumulate(values[order] <= allowed)
  found = np.zeros(len(values), bool)
  found[order] = passed
  return found


def farthest_first(
  labelled: np.ndarray, new: np.ndarray, count: int
) -> np.ndarray:
  """Chooses images to label: rows [count] of `new`, the most useful first.

  Each is the farthest from all that is labelled or chosen before it, so that
  they are unlike training and unlike each other (k-centre greedy: Sener and
  Savarese 2018, arXiv:1708.00489, algorithm 1).
  """
  from plankton_jax.neighbours import search

  nearest = search.nearest(new, labelled, 1)[0][:, 0].astype(np.float64)
  chosen: list[int] = []
  for _ in range(min(count, len(new))):
    row = int(nearest.argmax())
    chosen.append(row)
    gap = np.linalg.norm(new.astype(np.float64) - new[row], axis=1)
    nearest = np.minimum(nearest, gap)
    nearest[chosen] = -1.0
  return np.array(chosen, int)


def _thin(rows: Rows, rng: np.random.Generator) -> Rows:
  if len(rows.label) <= MOST:
    return rows
  return rows.take(rng.choice(len(rows.label), MOST, replace=False))
