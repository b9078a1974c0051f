"""Ranks images about the centres of classes."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from analysis.measures import classes

COUNT = 5  # images of each kind
KINDS = {
  'nearest': 'nearest the class centre',
  'farthest': 'farthest from it',
  'other': 'nearest of other classes',
}


class Ranked(NamedTuple):
  """One class of a split; rows index the split's embeddings, best first."""

  label: int
  size: int  # images
  rows: dict[str, np.ndarray]  # by kind, at most COUNT each
  distance: dict[str, np.ndarray]  # of these rows to the centre
  median: float  # distance of the class's own images


def rank(embedding: np.ndarray, label: np.ndarray) -> list[Ranked]:
  """Ranks rows [N, D] about the centre of each class in `label` [N].

  `other` rows are of other classes of the same split. Ties go to the first.
  """
  from scipy.spatial.distance import cdist

  points = embedding.astype(np.float64)
  ranked = []
  for this in np.unique(label):
    own = label == this
    # Without |x|^2 + |y|^2 - 2 x.y, which cancels.
    distance = cdist(points, points[own].mean(axis=0, keepdims=True))[:, 0]
    inside, outside = np.flatnonzero(own), np.flatnonzero(~own)
    rows = {
      'nearest': inside[_smallest(distance[inside])],
      'farthest': inside[_smallest(-distance[inside])],
      'other': outside[_smallest(distance[outside])],
    }
    ranked.append(
      Ranked(
        int(this),
        len(inside),
        rows,
        {kind: distance[found] for kind, found in rows.items()},
        float(np.median(distance[inside])),
      )
    )
  return ranked


def _smallest(values: np.ndarray) -> np.ndarray:
  """Finds the COUNT smallest of values [N], in order; ties go to the first."""
  if len(values) > COUNT:
    bound = np.partition(values, COUNT - 1)[COUNT - 1]
    few = np.flatnonzero(values <= bound)
  else:
    few = np.arange(len(values))
  return few[np.argsort(values[few], kind='stable')][:COUNT]


def largest(sizes: Mapping[str, int]) -> set[str]:
  """Selects the classes to show, by their numbers of images."""
  count = np.array(list(sizes.values()), int)
  keep = classes.first(count, classes.shown(len(count)))
  names = list(sizes)
  return {names[i] for i in keep}
