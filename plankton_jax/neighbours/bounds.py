"""Bounds how far the nearest rows lie, from a sample of the rows."""

from concurrent.futures import Executor

import numpy as np

from plankton_jax.neighbours import spaces
from plankton_jax.neighbours.spaces import Space

SAMPLE = 2**10  # rows sampled, at least
SHARE = 2**5  # one row in so many is sampled, if that is more
MARGIN = 2.5  # Standard deviations of a sampled rank: one row in 160 fails.
BATCH = 2**8
GROUPS = 8  # of columns, for each that is nearest


def estimate(
  space: Space, depths: np.ndarray, pool: Executor
) -> tuple[np.ndarray, float]:
  """Estimates a bound that `depths` [N] products of each row likely keep.

  Returns bounds float64 [N], −inf where the depth is 0, and the mean share of a
  row's products that lie up to its bound or within the tolerance of it.
  """
  count = len(depths)
  size = min(count, max(SAMPLE, count // SHARE))
  chosen = np.random.default_rng(0).permutation(count)[:size]
  sample = np.ascontiguousarray(space.gallery[chosen].T)
  expected = depths * (size / count)
  # One more for the row itself, which may be in the sample.
  ranks = np.ceil(expected + MARGIN * np.sqrt(expected)).astype(int) + 2
  bounds = np.full(count, -np.inf)

  def batch_bounds(rows: np.ndarray) -> int:
    rank = ranks[rows[0]]
    if rank > size:
      bounds[rows] = np.inf
      return size * len(rows)
    dists = space.query[rows] @ sample
    # There are fewer minima of groups of columns to search.
    fold = int(np.clip(size // (GROUPS * rank), 1, 32))
    groups = dists[:, : size // fold * fold].reshape(len(rows), fold, -1)
    minima = groups.min(axis=1) if fold > 1 else groups[:, 0]
    bound = np.partition(minima, rank - 1, axis=1)[:, rank - 1]
    tolerance = spaces.tolerance(space, rows, bound)
    bounds[rows] = bound + tolerance
    limit = (bound + 2.0 * tolerance).astype(np.float32)
    return int(np.count_nonzero(dists <= limit[:, None]))

  # Deepest first, so that the rows of a batch have similar depths.
  rows = np.argsort(-depths, kind='stable')[: np.count_nonzero(depths)]
  starts = range(0, len(rows), BATCH)
  within = pool.map(batch_bounds, [rows[i : i + BATCH] for i in starts])
  return bounds, sum(within) / (size * max(len(rows), 1))
