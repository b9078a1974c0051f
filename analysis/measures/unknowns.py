"""Scores how unlike every labelled class an image is.

Three distances in the whitened embedding, each for another kind of stranger:

- to the nearest class mean (Mahalanobis; Lee, Lee, Lee and Shin 2018,
  arXiv:1807.03888), for what lies beyond all classes;
- 1 - cos of the angle to the nearest class mean, seen from the mean of all
  rows, for what lies between classes, too near the middle;
- to the k-th nearest labelled row, by directions, over the mean of that among
  these k rows, for what lies at the rim of a dense class (after the local
  outlier factor of Breunig, Kriegel, Ng and Sander 2000). A class of fewer rows
  is a smaller k.

The score is their sum, each over its standard deviation on held-out images.
docs/unknowns.md compares it with others.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.measures import calibration, classes, whitened
from analysis.measures.openset import Judged
from analysis.measures.whitened import Whitened
from plankton_jax.neighbours import search

# Labelled rows among which neighbours are sought: the time is that by the
# number of images, and more rows hardly change the density.
MOST = 20_000
# Added to both distances of a ratio; directions are up to 2 apart.
APART = 1e-3
# Least standard deviations of the three: one that hardly varies among held-out
# images, as an angle in few dimensions, would outweigh the others.
LEAST = (0.5, 0.05, 0.05)
FOLDS = 5  # parts of the labelled rows, each held out in turn


class Distances(NamedTuple):
  """The three distances of N rows, and the class of the nearest mean."""

  label: np.ndarray  # [N]
  mean: np.ndarray  # [N] to the nearest class mean
  angle: np.ndarray  # [N] 1 - cos
  density: np.ndarray  # [N] a ratio


class ToMeans(NamedTuple):
  """A sample of labelled rows, by their squared distances to the means."""

  rows: np.ndarray  # [T]
  squared: np.ndarray  # [T, C]


class Seen(NamedTuple):
  """The labelled rows, and the scale of each distance."""

  space: Whitened
  sample: np.ndarray  # [M] rows among which neighbours are sought
  directions: np.ndarray  # [M, D] float32 of unit norm, or zero
  reach: np.ndarray  # [M, K] the distances of each to its neighbours
  neighbours: int  # k; K is less where rows are fewer
  scale: np.ndarray  # [3] standard deviations


def fit(
  embedding: np.ndarray,
  label: np.ndarray,
  held_out: np.ndarray | None,
  *,
  neighbours: int,
) -> Seen:
  """Fits the score to labelled rows [N, D], one or more.

  Args:
    embedding: [N, D].
    label: [N].
    held_out: [V, D], images of these classes that no encoder was trained on.
    neighbours: k; with fewer rows, k is less.
  """
  seen = fit_rows(embedding, label, neighbours=neighbours)
  return scaled(seen, None if held_out is None else distances(seen, held_out))


def fit_rows(
  embedding: np.ndarray, label: np.ndarray, *, neighbours: int
) -> Seen:
  """Fits to labelled rows [N, D] as `fit` does, with the least scale."""
  space = whitened.fit(embedding, label)
  sample = np.arange(len(embedding))
  if len(sample) > MOST:
    rng = np.random.default_rng(0)
    sample = np.sort(rng.choice(sample, MOST, replace=False))
  directions = classes.directions(space.rows[sample]).astype(np.float32)
  distance, _ = search.nearest(directions, None, neighbours)
  reach = distance if distance.size else np.zeros((len(sample), 1))
  return Seen(space, sample, directions, reach, neighbours, np.array(LEAST))


def scaled(seen: Seen, held_out: Distances | None) -> Seen:
  """Sets the scale by the distances of held-out images.

  With fewer than two of them the labelled rows give it, each left out of its
  own class.
  """
  if held_out is None or len(held_out.label) < 2:
    _, held_out = distances_without(seen, np.arange(len(seen.space.rows)))
  if not len(held_out.label):
    return seen
  return seen._replace(scale=np.maximum(np.std(held_out[1:], axis=1), LEAST))


def fit_crosswise(
  embedding: np.ndarray, label: np.ndarray, *, neighbours: int
) -> tuple[Seen, np.ndarray, Distances, ToMeans]:
  """Fits the score where all that is known are the labelled rows [N, D].

  Each class is dealt out to `FOLDS` parts; the rows of a part are judged by a
  fit to the others, as new images will be. (To leave a row out of its mean is
  not enough: the whitening knows it, and with fewer rows than dimensions makes
  it far nearer to its class than a new image.) Rows alone in their class are
  never held out.

  Returns:
    The fit to all rows, with the scale of the held out ones; the rows that were
    held out, [S], and their distances; and a sample of them, by their squared
    distances to the means.
  """
  _, members, count = np.unique(label, return_inverse=True, return_counts=True)
  # The k-th neighbour of a row is of its class with every part left out; beyond
  # it the fits of a part and of all rows would not measure the same.
  least = int(count.min())
  least -= -(-least // FOLDS)
  neighbours = int(np.clip(least - 1, 1, neighbours))
  seen = fit_rows(embedding, label, neighbours=neighbours)
  part = np.empty(len(label), int)
  for c in range(len(count)):
    part[members == c] = np.arange(count[c]) % FOLDS
  part[count[members] == 1] = -1
  shown = np.zeros(len(label), bool)
  shown[calibration.sample(len(label), len(count))] = True
  held_out, sampled, to_means, found = [], [], [], []
  for own in range(FOLDS):
    rest = part != own
    rows = np.flatnonzero(~rest)
    others = fit_rows(embedding[rest], label[rest], neighbours=neighbours)
    held_out.append(rows)
    found.append(distances(others, embedding[rows]))
    some = rows[shown[rows]]
    white = whitened.whiten(others.space, embedding[some])
    sampled.append(some)
    to_means.append(whitened.squared(others.space, white))
  every = Distances(*map(np.concatenate, zip(*found, strict=True)))
  return (
    scaled(seen, every),
    np.concatenate(held_out),
    every,
    ToMeans(np.concatenate(sampled), np.concatenate(to_means)),
  )


def distances(seen: Seen, embedding: np.ndarray) -> Distances:
  """Computes the distances of embeddings [N, D]."""
  space = seen.space
  means = classes.directions(space.means)
  found = []
  for block in classes.blocks(len(embedding), max(means.shape)):
    rows = whitened.whiten(space, embedding[block])
    unit = classes.directions(rows)
    found.append(_nearest(unit, whitened.squared(space, rows), unit @ means.T))
  return _distances(seen, found, None)


def distances_without(
  seen: Seen, which: np.ndarray
) -> tuple[np.ndarray, Distances]:
  """Computes the distances of labelled rows `which` [R], each left out.

  A row counts neither for the mean of its class nor as its own neighbour. Rows
  alone in their class are dropped.

  Returns:
    The rows that remain, [S], and their distances.
  """
  space = seen.space
  means = classes.directions(space.means)
  which, own_means = whitened.means_without(space, which)
  found = []
  for block in classes.blocks(len(which), max(means.shape)):
    rows, own = which[block], own_means[block]
    unit = classes.directions(space.rows[rows])
    cosines = unit @ means.T
    cosines[np.arange(len(rows)), space.members[rows]] = np.sum(
      unit * classes.directions(own), axis=1
    )
    to_means = whitened.squared_without(space, rows, own)
    found.append(_nearest(unit, to_means, cosines))
  return which, _distances(seen, found, which)


class _Nearest(NamedTuple):
  """Keeps of all means what a block of rows needs."""

  directions: np.ndarray  # [N, D] float32
  member: np.ndarray  # [N] the nearest mean
  mean: np.ndarray  # [N] the distance to it
  angle: np.ndarray  # [N] 1 - cos


def _nearest(
  unit: np.ndarray, to_means: np.ndarray, cosines: np.ndarray
) -> _Nearest:
  return _Nearest(
    unit.astype(np.float32),
    to_means.argmin(axis=1),
    np.sqrt(to_means.min(axis=1)),
    1.0 - cosines.max(axis=1),
  )


def _distances(
  seen: Seen, found: Sequence[_Nearest], own: np.ndarray | None
) -> Distances:
  """Puts blocks together; `own` is as in `_density`."""
  every = _Nearest(*map(np.concatenate, zip(*found, strict=True)))
  return Distances(
    seen.space.classes[every.member],
    every.mean,
    every.angle,
    _density(seen, every.directions, every.member, own),
  )


def _density(
  seen: Seen,
  directions: np.ndarray,
  nearest: np.ndarray,
  own: np.ndarray | None,
) -> np.ndarray:
  """Divides the distance to the k-th neighbour by the mean of the k rows'.

  Args:
    seen: the labelled rows.
    directions: [N, D].
    nearest: [N] the class of each, as a row of the means; where it has fewer
      rows than k, k is their number.
    own: [N] the labelled rows that the directions belong to, which are not
      their own neighbours; None for others.
  """
  alone = own is not None
  count = min(seen.neighbours, len(seen.sample) - alone, seen.reach.shape[1])
  if not count or not len(directions):
    return np.ones(len(directions))
  distance, rows = search.nearest(directions, seen.directions, count + alone)
  members = seen.space.members
  size = np.bincount(members[seen.sample], minlength=len(seen.space.classes))
  size = size[nearest]
  if own is not None:
    itself = seen.sample[rows] == own[:, None]
    order = np.argsort(itself, axis=1, kind='stable')[:, :count]
    distance = np.take_along_axis(distance, order, axis=1)
    rows = np.take_along_axis(rows, order, axis=1)
    size = size - (members[own] == nearest)
  k = np.clip(size, 1, count)[:, None]
  reached = np.take_along_axis(distance, k - 1, axis=1)[:, 0]
  among = np.mean(seen.reach[rows, k - 1], axis=1, where=np.arange(count) < k)
  return (reached + APART) / (among + APART)


def score(seen: Seen, found: Distances) -> Judged:
  """Adds the distances up; the larger the sum, the more unlike all classes."""
  terms = np.stack(found[1:], axis=1) / seen.scale
  return Judged(found.label, terms.sum(axis=1))


def judge(seen: Seen, embedding: np.ndarray) -> Judged:
  """Scores embeddings [N, D], and takes the class of the nearest mean."""
  return score(seen, distances(seen, embedding))
