"""Computes class centres, distances to them, and the votes of neighbours."""

import numpy as np


def distances(embedding: np.ndarray, means: np.ndarray) -> np.ndarray:
  """Computes Euclidean distances [N, D], [C, D] -> [N, C] in float64."""
  from sklearn.metrics import pairwise_distances

  return pairwise_distances(embedding.astype(np.float64), means)


def centroids(
  embedding: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Finds classes present [C], their images [C] and float64 means [C, D]."""
  present, members, counts = np.unique(
    label, return_inverse=True, return_counts=True
  )
  sums = np.zeros((len(present), embedding.shape[1]))
  np.add.at(sums, members, embedding)
  return present, counts, sums / counts[:, None]


def first(importance: np.ndarray, most: int) -> np.ndarray:
  """Selects the `most` entries that matter most, in their own order.

  Entries of larger `importance` [C] matter more; ties go to the first.
  """
  return np.sort(np.argsort(-importance, kind='stable')[:most])


def votes(rows: np.ndarray, members: np.ndarray, classes: int) -> np.ndarray:
  """Counts how many of each line's rows [Q, K] are of each class, [Q, classes].

  `members` [N] are the classes 0 … classes − 1 of the rows.
  """
  flat = np.arange(len(rows))[:, None] * classes + members[rows]
  counted = np.bincount(flat.ravel(), minlength=len(rows) * classes)
  return counted.reshape(len(rows), classes)


def voted(rows: np.ndarray, label: np.ndarray) -> np.ndarray:
  """Takes the label that most of each line's rows [Q, K] have, [Q].

  `label` [N] are the labels of the rows; a tied vote goes to the lowest.
  """
  present, members = np.unique(label, return_inverse=True)
  return present[votes(rows, members, len(present)).argmax(axis=1)]
