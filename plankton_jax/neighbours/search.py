"""Finds the nearest rows of each query, exactly, for any two sets of rows."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from plankton_jax.neighbours import spaces

ENTRIES = 2**21  # float32 products of a block of queries, 8 MiB
GROUPS = 8  # of columns, for each neighbour sought
MAX_THREADS = 8  # More threads would wait for Python.


def nearest(
  queries: np.ndarray, gallery: np.ndarray | None, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the `count` nearest gallery rows of each query, nearest first.

  Orders by the float64 Euclidean distance of the rows as given, equal distances
  by the lower row. Float32 products only choose which rows are compared.

  Args:
    queries: [Q, D].
    gallery: [N, D]; None takes the queries, none of which is then its own
      neighbour.
    count: neighbours of each query; fewer if there are fewer rows.

  Returns:
    Distances float64 [Q, K] and rows [Q, K].
  """
  alone = gallery is None
  rows = queries if gallery is None else np.concatenate([gallery, queries])
  size = len(rows) if alone else len(rows) - len(queries)
  count = min(count, size - alone)
  distance = np.zeros((len(queries), max(count, 0)))
  found = np.zeros(distance.shape, int)
  if not distance.size:
    return distance, found
  space = spaces.make(rows, np.zeros(len(rows), np.int32))
  columns = np.ascontiguousarray(space.gallery[:size].T)
  fold = int(np.clip(size // (GROUPS * count), 1, 32))

  def search(own: np.ndarray) -> int:
    at = own + (0 if alone else size)
    dists = space.query[at] @ columns
    if alone:
      dists[np.arange(len(own)), own] = np.inf
    # The k-th smallest of the minima of groups has k products up to it.
    whole = size // fold * fold
    minima = dists[:, :whole].reshape(len(own), fold, -1).min(axis=1)
    bound = np.partition(minima, count - 1, axis=1)[:, count - 1]
    limit = bound + spaces.tolerance(space, at, bound)
    limit = np.nextafter(limit.astype(np.float32), np.float32(np.inf))
    near = np.flatnonzero(dists <= limit[:, None])
    which, column = np.divmod(near, size)
    exact = spaces.exact(space, at[which], column)
    order = np.lexsort((column, exact, which))
    starts = np.searchsorted(which, np.arange(len(own)))
    first = order[starts[:, None] + np.arange(count)]
    distance[own] = np.sqrt(exact[first])
    found[own] = column[first]
    return len(own)

  step = max(1, ENTRIES // size)
  blocks = np.split(np.arange(len(queries)), range(step, len(queries), step))
  threads = min(os.cpu_count() or 1, MAX_THREADS)
  with (
    threadpool_limits(1),
    ThreadPoolExecutor(threads) as pool,
    tqdm(
      total=len(queries), desc='neighbours', unit='image', delay=2, leave=False
    ) as bar,
  ):
    for searched in pool.map(search, blocks):
      bar.update(searched)
  return distance, found
