"""Ranks images about the centres of classes."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from analysis.measures import classes

COUNT = 5  # images of each kind
MOST = 120  # the most classes shown of a split; of more, the largest
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
  points = embedding.astype(np.float64)
  ranked = []
  for this in np.unique(label):
    own = label == this
    distance = np.linalg.norm(points - points[own].mean(axis=0), axis=1)
    inside, outside = np.flatnonzero(own), np.flatnonzero(~own)
    kinds = {
      'nearest': inside[np.argsort(distance[inside], kind='stable')],
      'farthest': inside[np.argsort(-distance[inside], kind='stable')],
      'other': outside[np.argsort(distance[outside], kind='stable')],
    }
    rows = {kind: found[:COUNT] for kind, found in kinds.items()}
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


def largest(sizes: Mapping[str, int]) -> set[str]:
  """Selects the classes to show, by their numbers of images."""
  keep = classes.first(np.array(list(sizes.values()), int), MOST)
  names = list(sizes)
  return {names[i] for i in keep}
