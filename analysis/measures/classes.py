"""Class centres, distances to them, and the votes of neighbours."""

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


def votes(rows: np.ndarray, members: np.ndarray, classes: int) -> np.ndarray:
  """Counts how many of each line's rows [Q, K] are of each class, [Q, classes].

  `members` [N] are the classes 0 … classes − 1 of the rows.
  """
  flat = np.arange(len(rows))[:, None] * classes + members[rows]
  counted = np.bincount(flat.ravel(), minlength=len(rows) * classes)
  return counted.reshape(len(rows), classes)
