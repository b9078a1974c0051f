"""Computes class centres, distances, directions, votes and samples."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse

from plankton_jax.errors import shorten_list

SEED = 0
ENTRIES = 2**22  # float64 values of a block of rows by columns, 32 MiB
NO_DIRECTION = 1e-6  # rows that are shorter have none
MOST_SHOWN = 96  # in a figure, which is then a few thousand pixels wide
FEW_SHOWN = 60  # of more, as some are left out in any case
LISTED = 3  # notes of one class each; of more classes, one note on all


def distances(embedding: np.ndarray, means: np.ndarray) -> np.ndarray:
  """Computes Euclidean distances [N, D], [C, D] -> [N, C] in float64."""
  from sklearn.metrics import pairwise_distances

  return pairwise_distances(embedding.astype(np.float64), means)


def blocks(rows: int, columns: int) -> Iterator[slice]:
  """Cuts so many rows into blocks of at most `ENTRIES` values each.

  There is at least one block, which is empty where there are no rows.

  Args:
    rows: N of the array [N, C] that is not to be in memory at once.
    columns: C, or the largest of several.
  """
  step = max(1, ENTRIES // max(columns, 1))
  for start in range(0, max(rows, 1), step):
    yield slice(start, min(start + step, rows))


def directions(rows: np.ndarray) -> np.ndarray:
  """Scales rows [N, D] to unit norm, float64; those at the origin become 0."""
  rows = rows.astype(np.float64)
  norms = np.linalg.norm(rows, axis=1, keepdims=True)
  near = norms < NO_DIRECTION
  return np.where(near, 0.0, rows / np.where(near, 1.0, norms))


def centroids(
  embedding: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Finds classes present [C], their images [C] and float64 means [C, D]."""
  present, members, counts = np.unique(
    label, return_inverse=True, return_counts=True
  )
  entries = np.ones(len(members)), (members, np.arange(len(members)))
  of_class = sparse.csr_array(entries, (len(present), len(members)))
  sums = of_class @ embedding.astype(np.float64)
  return present, counts, sums / counts[:, None]


def first(importance: np.ndarray, most: int) -> np.ndarray:
  """Selects the `most` entries that matter most, in their own order.

  Entries of larger `importance` [C] matter more; ties go to the first.
  """
  return np.sort(np.argsort(-importance, kind='stable')[:most])


def shown(count: int) -> int:
  """Tells how many of so many classes a figure or a gallery shows."""
  return count if count <= MOST_SHOWN else FEW_SHOWN


def sample(label: np.ndarray, most: int) -> np.ndarray:
  """Draws about `most` of the labels [N] by seed, in their own order.

  Each class keeps its share, and at least two rows if it has them.
  """
  present, counts = np.unique(label, return_counts=True)
  rng = np.random.default_rng(SEED)
  share = most / len(label)
  keep = np.clip(np.round(share * counts).astype(int), 2, counts)
  return np.sort(
    np.concatenate(
      [
        rng.choice(np.flatnonzero(label == one), count, replace=False)
        for one, count in zip(present, keep, strict=True)
      ]
    )
  )


def alone(names: Sequence[str], where: str, so: str) -> list[str]:
  """Says which classes have one image, and what follows; `where` comes first.

  Many classes share a note that names the first of them.
  """
  if len(names) <= LISTED:
    return [f'{where}{name} has one image{so}' for name in names]
  listed = shorten_list(names)
  return [f'{where}{len(names):,} classes have one image{so} ({listed})']


def voted(rows: np.ndarray, label: np.ndarray) -> np.ndarray:
  """Takes the label that most of each line's rows [Q, K] have, [Q].

  `label` [N] are the labels of the rows; a tied vote goes to the lowest. Memory
  does not grow with the number of classes.
  """
  near = np.sort(label[rows], axis=1)
  length = np.zeros(near.shape, int)  # of the run of equal labels, so far
  for k in range(1, near.shape[1]):
    same = near[:, k] == near[:, k - 1]
    length[:, k] = np.where(same, length[:, k - 1] + 1, 0)
  longest = length.argmax(axis=1)  # the first of the longest ends lowest
  return np.take_along_axis(near, longest[:, None], axis=1)[:, 0]
