"""Retrieval measures of an embedding: exact, in tiles of queries.

Every row is a query against all others; it never matches itself. Gallery rows
are ranked by the float64 Euclidean distance of the rows as given, ties to the
lowest index. Most pairs never need that precision: a float32 product ranks
them, and only rows of the query's class and of others that lie closer together
than its rounding error are compared again in float64.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from plankton_jax.distances import checked
from plankton_jax.errors import InputError

BATCH = 128  # More rows do not make the product faster.
TILE_ENTRIES = 2**15  # Nearest rows ranked at a time, to stay in cache.
CHUNK = 2**8  # Pairs compared in float64 at a time, likewise.
MAX_THREADS = 8  # Each holds a product of BATCH × N; more wait for Python.
INF_BITS = 0x7F800000


class PerQuery(NamedTuple):
  """`rows` [Q] are the queries; `measures` maps a name to values [Q]."""

  rows: np.ndarray
  measures: dict[str, np.ndarray]


def evaluate(
  embeddings, labels, *, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
  """Recall@k, R-precision and MAP@R of `embeddings` [N, D], `labels` [N].

  Averages over queries (`recall_at_1`, …, `r_precision`, `map_at_r`) and over
  class means of queries (the same names after `macro_`), with the number of
  `queries`. A row that is alone in its class is no query, though it stays in
  the gallery; without any query the measures are NaN. See `per_query`.
  """
  rows, measures = per_query(embeddings, labels, ks=ks)
  return {'queries': len(rows), **averages(measures, np.asarray(labels)[rows])}


def averages(
  measures: dict[str, np.ndarray], labels: np.ndarray
) -> dict[str, float]:
  """Means of values [Q] over queries, and over class means as `macro_NAME`.

  NaN where there is no query.
  """
  if len(labels) == 0:
    return dict.fromkeys([*measures, *(f'macro_{m}' for m in measures)], np.nan)
  _, members, counts = np.unique(
    labels, return_inverse=True, return_counts=True
  )
  micro = {name: float(values.mean()) for name, values in measures.items()}
  macro = {
    f'macro_{name}': float((np.bincount(members, values) / counts).mean())
    for name, values in measures.items()
  }
  return micro | macro


def per_query(embeddings, labels, *, ks: Sequence[int]) -> PerQuery:
  """Each query's measures, for `embeddings` [N, D] and `labels` [N].

  With R other rows of the query's class, hits h(i) at rank i and precision
  P(i) = Σ_{j≤i} h(j) / i:
    recall_at_k  1 if any of the k nearest is a hit (all others, if fewer);
    r_precision  P(R);
    map_at_r     Σ_{i≤R} P(i) h(i) / R  (Musgrave, Belongie and Lim 2020,
                 arXiv:2003.08505).
  Rows that are alone in their class (R = 0) are not queries.

  Raises:
    InputError: for mismatched shapes, no rows, a row that is not finite or a
      k below 1.
  """
  embeddings, labels = checked(embeddings, labels)
  for k in ks:
    if k != int(k) or k < 1:
      raise InputError(f'k = {k} is no rank: give whole numbers from 1')
  _, members, counts = np.unique(
    labels, return_inverse=True, return_counts=True
  )
  relevant = counts[members] - 1
  rows = np.flatnonzero(relevant)
  names = [*(f'recall_at_{k}' for k in ks), 'r_precision', 'map_at_r']
  space = _space(embeddings)
  depths = np.maximum(relevant, min(max(ks, default=1), len(labels) - 1))
  results = np.empty((len(labels), len(names)))

  # Deepest first, so that the queries of a batch are alike.
  order = rows[np.argsort(-relevant[rows], kind='stable')]
  starts = range(0, len(order), BATCH)
  batches = [order[i : i + BATCH] for i in starts]
  threads = min(os.cpu_count(), MAX_THREADS)
  buffers = [np.empty((BATCH, len(labels)), np.float32) for _ in range(threads)]

  def work(batch):
    buffer = buffers.pop()
    dists = np.matmul(
      space.query[batch], space.gallery, out=buffer[: len(batch)]
    )
    for part in _parts(depths[batch]):
      tile = batch[part]
      hits = _ranked_hits(space, members, dists[part], tile, depths[tile[0]])
      results[tile] = _measures(hits, relevant[tile], ks)
    buffers.append(buffer)
    return len(batch)

  with (
    tqdm(
      total=len(rows), desc='retrieval', unit='query', delay=2, leave=False
    ) as progress,
    threadpool_limits(1),
    ThreadPoolExecutor(threads) as pool,
  ):
    for count in pool.map(work, batches):
      progress.update(count)
  return PerQuery(rows, dict(zip(names, results[rows].T, strict=True)))


class _Space(NamedTuple):
  rows: np.ndarray  # [N, D] float64, as given
  step: float
  query: np.ndarray  # [N, D + 2] float32: −2 z, 1, ‖z‖²
  gallery: np.ndarray  # [D + 2, N] float32: z, ‖z‖², 1


def _space(embeddings) -> _Space:
  """z = embeddings / step − centre: the same ranking, little cancellation.

  A row of `query` times a column of `gallery` is ‖z_q − z_g‖². The step is a
  power of two and the centre whole, so that few bits are lost.
  """
  z = embeddings.astype(np.float64)
  spread = z.std(axis=0).max()
  step = 2.0 ** np.floor(np.log2(spread)) if spread > 0 else 1.0
  z /= step
  z -= np.round(z.mean(axis=0))
  norms = (z * z).sum(axis=1, keepdims=True)
  ones = np.ones_like(norms)
  query = np.hstack([-2.0 * z, ones, norms], dtype=np.float32)
  gallery = np.hstack([z, norms, ones], dtype=np.float32)
  rows = embeddings.astype(np.float64, copy=False)
  return _Space(rows, step, query, np.ascontiguousarray(gallery.T))


def _parts(depths):
  """Slices of a batch, deepest first, whose rankings fit in cache."""
  start = 0
  while start < len(depths):
    stop = start + max(1, TILE_ENTRIES // depths[start])
    yield slice(start, stop)
    start = stop


def _ranked_hits(space, members, dists, queries, depth):
  """Whether each query's nearest rows are of its class, [T, depth] bool.

  `dists` [T, N] float32 are the squared distances of the queries.
  """
  dists[np.arange(len(queries)), queries] = np.inf
  bound = _upper_bound(dists, depth)
  # A sum of n products errs by about √n u times their magnitude (Higham and
  # Mary 2019), and rounding z by 4 u times it; twice that for two rows, which
  # are at most as far from 0 as the bound allows.
  length = np.sqrt(space.query[queries, -1:])
  reach = length + np.sqrt(np.maximum(bound, 0.0))
  unit = (4.0 + np.sqrt(len(space.gallery))) * 2.0**-24
  tolerance = 2.0 * unit * (reach + length) ** 2
  dists, index = _candidates(dists, bound + tolerance)
  hits = members[index] == members[queries, None]
  row, column = np.nonzero(_contested(dists, hits, tolerance))
  if len(row):
    dists = dists.astype(np.float64)
    exact = _exact(space.rows, queries[row], index[row, column])
    dists[row, column] = exact / space.step**2
    hits = _reordered(hits, dists, index)
  return hits[:, :depth]


def _upper_bound(dists, depth):
  """At least `depth` entries of each row are at most this, [T, 1].

  The depth-th smallest minimum of disjoint groups of columns: faster than,
  and where there are few groups equal to, the depth-th smallest entry.
  """
  count, size = dists.shape
  fold = int(np.clip(size // (4 * depth), 1, 32))
  width = size // fold
  groups = dists[:, : fold * width].reshape(count, fold, width)
  minima = groups.min(axis=1) if fold > 1 else groups[:, 0]
  return np.partition(minima, depth - 1, axis=1)[:, depth - 1 : depth]


def _candidates(dists, limit):
  """Entries up to the limit in ascending order, and their columns, [T, K].

  Shorter rows end in inf.
  """
  near = dists <= limit
  counts = np.count_nonzero(near, axis=1)
  flat = np.flatnonzero(near)
  columns = flat - np.repeat(np.arange(len(near)) * near.shape[1], counts)
  # Floats from 0 sort as their bits; one sort then orders pairs.
  bits = np.maximum(dists.ravel()[flat], 0.0).view(np.uint32)
  pairs = np.full((len(near), counts.max()), INF_BITS << 32, np.uint64)
  filled = np.arange(pairs.shape[1]) < counts[:, None]
  pairs[filled] = bits.astype(np.uint64) << 32 | columns.astype(np.uint64)
  pairs.sort(axis=1)
  sorted_dists = (pairs >> 32).astype(np.uint32).view(np.float32)
  return sorted_dists, (pairs & 0xFFFFFFFF).astype(np.intp)


def _contested(dists, hits, tolerance):
  """Entries within the tolerance of one of the other kind, [T, K] bool.

  Only hits and misses can change a measure by changing places. In ascending
  order the nearest of the other kind lie beside the run of one's own.
  """
  starting = np.ones(hits.shape, bool)
  starting[:, 1:] = hits[:, 1:] != hits[:, :-1]
  starts = np.flatnonzero(starting)
  lengths = np.diff(starts, append=hits.size)
  first = starts % hits.shape[1] == 0
  below = np.where(first, -np.inf, dists.ravel()[starts - 1])
  above = np.where(first, np.inf, dists.ravel()[starts])
  below = np.repeat(below, lengths).reshape(hits.shape)
  above = np.repeat(np.append(above[1:], np.inf), lengths).reshape(hits.shape)
  close = (dists <= below + tolerance) | (dists >= above - tolerance)
  return close & np.isfinite(dists)


def _exact(rows, a, b):
  """Squared distances of rows a and rows b, [P]."""
  dists = np.empty(len(a))
  for start in range(0, len(a), CHUNK):
    pairs = slice(start, start + CHUNK)
    gaps = rows.take(b[pairs], axis=0)  # Faster than indexing.
    gaps -= rows.take(a[pairs], axis=0)
    dists[pairs] = np.einsum('pd,pd->p', gaps, gaps)
  return dists


def _reordered(hits, dists, index):
  """Hits by distance, equal distances by index, [T, K]."""
  # As above, with the kind in the last bit.
  keys = dists.view(np.uint64) & ~np.uint64(1) | hits
  keys.sort(axis=1)
  ordered = (keys & 1).astype(bool)
  tied = (np.diff(keys, axis=1) == 1).any(axis=1)
  for row in np.flatnonzero(tied):
    ordered[row] = hits[row, np.lexsort((index[row], dists[row]))]
  return ordered


def _measures(hits, relevant, ks):
  """Recall@k for each k, R-precision and MAP@R, [T, len(ks) + 2]."""
  ranks = np.arange(1, hits.shape[1] + 1, dtype=np.int32)
  found = np.cumsum(hits, axis=1, dtype=np.int32)
  counted = hits & (ranks <= relevant[:, None])
  precision = np.where(counted, found / ranks, 0.0)
  return np.column_stack(
    [
      *(found[:, min(k, len(ranks)) - 1] > 0 for k in ks),
      counted.sum(axis=1) / relevant,
      precision.sum(axis=1) / relevant,
    ]
  )
