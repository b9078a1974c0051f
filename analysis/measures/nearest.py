"""Nearest rows and class centres of an embedding: exact, Euclidean."""

import numpy as np
from tqdm import tqdm

BLOCK = 1024  # queries searched at a time; no N × N matrix is ever held


def nearest(
  queries: np.ndarray, gallery: np.ndarray | None, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """The `count` nearest gallery rows of each query, nearest first.

  Queries [Q, D] and gallery [N, D]; without a gallery, of the other queries,
  never of the row itself. Distances and rows, [Q, K] each; K is less where
  there are fewer rows.
  """
  from sklearn.neighbors import NearestNeighbors

  others = gallery is None
  gallery = queries if others else gallery
  count = min(count, len(gallery) - others)
  distance = np.zeros((len(queries), max(count, 0)))
  rows = np.zeros(distance.shape, int)
  if not distance.size:
    return distance, rows
  search = NearestNeighbors(algorithm='brute').fit(gallery)
  with tqdm(
    total=len(queries), desc='neighbours', unit='image', delay=2, leave=False
  ) as bar:
    for start in range(0, len(queries), BLOCK):
      block = slice(start, start + BLOCK)
      found = search.kneighbors(
        queries[block], count + others, return_distance=False
      )
      if others:
        own = np.arange(start, start + len(found))[:, None]
        keep = found != own
        # Among more duplicates than the search returns, itself may be missing.
        keep[:, -1] &= ~keep.all(axis=1)
        found = found[keep].reshape(-1, count)
      # Again without ‖x‖² + ‖y‖² − 2x·y, which cancels: equal rows are at 0.
      gaps = queries[block, None].astype(np.float64) - gallery[found]
      far = np.sqrt(np.einsum('qkd,qkd->qk', gaps, gaps))
      order = np.argsort(far, axis=1, kind='stable')
      distance[block] = np.take_along_axis(far, order, axis=1)
      rows[block] = np.take_along_axis(found, order, axis=1)
      bar.update(len(found))
  return distance, rows


def centroids(
  embedding: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Classes present [C], their images [C] and means [C, D] in float64."""
  present, members, counts = np.unique(
    label, return_inverse=True, return_counts=True
  )
  sums = np.zeros((len(present), embedding.shape[1]))
  np.add.at(sums, members, embedding)
  return present, counts, sums / counts[:, None]


def votes(rows: np.ndarray, members: np.ndarray, classes: int) -> np.ndarray:
  """How many of each line's rows [Q, K] are of each class, [Q, classes].

  `members` [N] are the classes 0 … classes − 1 of the rows.
  """
  flat = np.arange(len(rows))[:, None] * classes + members[rows]
  counted = np.bincount(flat.ravel(), minlength=len(rows) * classes)
  return counted.reshape(len(rows), classes)
