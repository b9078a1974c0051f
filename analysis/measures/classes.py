"""Computes class centres, distances, votes of neighbours, and samples."""

import numpy as np

SEED = 0


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


def stratified(label: np.ndarray, most: int) -> np.ndarray:
  """Draws rows by seed, of each class in proportion; all if `most` or fewer.

  Of a class with a share s of `label` [N] there are s · `most`, rounded up or
  down. Returns the rows in order.
  """
  count = len(label)
  if count <= most:
    return np.arange(count)
  order = np.random.default_rng(SEED).permutation(count)
  order = order[np.argsort(label[order], kind='stable')]
  places = (np.arange(most) + 0.5) * count / most
  return np.sort(order[places.astype(int)])


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
