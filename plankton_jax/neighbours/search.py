"""Finds the nearest rows of each query, exactly, for any two sets of rows."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from plankton_jax.neighbours import spaces

ENTRIES = 2**21  # float32 products of a tile of queries and rows, 8 MiB
WIDTH = 2**13  # rows of a tile
GROUPS = 8  # of rows, for each neighbour sought
MAX_THREADS = 8  # More threads would wait for Python.


def nearest(
  queries: np.ndarray, gallery: np.ndarray | None, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the `count` nearest gallery rows of each query, nearest first.

  Orders by the float64 Euclidean distance of the rows as given, equal distances
  by the lower row. Float32 products only choose which rows are compared.
  Besides the result, memory holds one more copy of the gallery, and a tile of
  products for each thread.

  Args:
    queries: [Q, D].
    gallery: [N, D]; None takes the queries, none of which is then its own
      neighbour.
    count: neighbours of each query; fewer if there are fewer rows.

  Returns:
    Distances float64 [Q, K] and rows [Q, K].
  """
  alone = gallery is None
  rows = queries if gallery is None else gallery
  count = min(count, len(rows) - alone)
  distance = np.zeros((len(queries), max(count, 0)))
  found = np.zeros(distance.shape, int)
  if not distance.size:
    return distance, found
  placed = _place(rows, None if alone else queries, count)
  step = max(1, ENTRIES // placed.columns[0].shape[1])

  def search(own: np.ndarray) -> int:
    distance[own], found[own] = _nearest_of(queries, own, placed, count)
    return len(own)

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


class _Gallery(NamedTuple):
  """Rows in parts, of which part p of n holds rows p, p + n, p + 2n, ...

  So the nearest of one part tell how near the others must be, in any order.
  """

  rows: np.ndarray  # [N, D], as given
  units: spaces.Units
  columns: list[np.ndarray]  # float32 [D + 2, W] of each part
  longest: float  # length of any row
  alone: bool  # whether queries are its rows, none its own neighbour


def _place(
  rows: np.ndarray, queries: np.ndarray | None, count: int
) -> _Gallery:
  """Places rows [N, D] among which `count` are sought for each query.

  The queries are rows of their own [Q, D], or these rows if None.
  """
  units = spaces.units(rows) if queries is None else spaces.units(rows, queries)
  parts = -(-len(rows) // max(WIDTH, GROUPS * count))
  columns, longest = [], 0.0
  for part in range(parts):
    placed = spaces.place(rows[part::parts], units)
    columns.append(np.ascontiguousarray(placed.gallery.T))
    longest = max(longest, placed.lengths.max())
  return _Gallery(rows, units, columns, longest, queries is None)


def _nearest_of(
  queries: np.ndarray, own: np.ndarray, gallery: _Gallery, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the nearest rows of the queries at `own` [B], as `nearest` does.

  Returns:
    Distances float64 [B, count] and rows [B, count].
  """
  placed = spaces.place(queries[own], gallery.units)

  def limit(bound: np.ndarray) -> np.ndarray:
    error = spaces.rounding(
      placed.lengths,
      bound,
      longest=gallery.longest,
      width=placed.query.shape[1],
    )
    return np.nextafter((bound + error).astype(np.float32), np.float32(np.inf))

  entries = _Entries(len(own), count, limit)
  parts = len(gallery.columns)
  buffer = np.empty(len(own) * gallery.columns[0].shape[1], np.float32)
  for part, columns in enumerate(gallery.columns):
    shape = len(own), columns.shape[1]
    out = buffer[: shape[0] * shape[1]].reshape(shape)
    dists = np.matmul(placed.query, columns, out=out)
    if gallery.alone:
      here = np.flatnonzero(own % parts == part)
      dists[here, own[here] // parts] = np.inf
    which, column = entries.near(dists)
    entries.add(which, column * parts + part, dists[which, column])
  which, column = entries.least()
  exact = spaces.between(queries, own[which], gallery.rows, column)
  order = np.lexsort((column, exact, which))
  starts = np.searchsorted(which, np.arange(len(own)))
  first = order[starts[:, None] + np.arange(count)]
  return np.sqrt(exact[first]), column[first]


class _Entries:
  """Keeps, of the products seen so far, those that may be among the least."""

  def __init__(
    self, queries: int, count: int, limit: Callable[[np.ndarray], np.ndarray]
  ):
    self._queries, self._count, self._limit = queries, count, limit
    self._limits: np.ndarray | None = None  # [Q] float32
    self._which, self._column = np.empty((2, 0), np.int64)
    self._dists = np.empty(0, np.float32)
    self._settled = 0  # entries when the limits were last lowered

  def near(self, dists: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the query and column of each product that counts, of [Q, W]."""
    if self._limits is None:
      # The k-th smallest of the minima of groups has k products up to it.
      size = dists.shape[1]
      fold = int(np.clip(size // (GROUPS * self._count), 1, 32))
      whole = dists[:, : size // fold * fold]
      minima = whole.reshape(len(dists), fold, -1).min(axis=1)
      place = self._count - 1
      self._limits = self._limit(np.partition(minima, place, axis=1)[:, place])
    near = np.flatnonzero(dists <= self._limits[:, None])
    which, column = np.divmod(near, dists.shape[1])
    return which, column

  def add(
    self, which: np.ndarray, column: np.ndarray, dists: np.ndarray
  ) -> None:
    """Adds entries, and lowers the limits once there are twice as many."""
    self._which = np.concatenate([self._which, which])
    self._column = np.concatenate([self._column, column])
    self._dists = np.concatenate([self._dists, dists])
    if len(self._which) > 2 * self._settled:
      self._settle()

  def least(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns query and column of whatever may be nearest, by query."""
    self._settle()
    return self._which, self._column

  def _settle(self) -> None:
    order = np.lexsort((self._dists, self._which))
    which, dists = self._which[order], self._dists[order]
    starts = np.searchsorted(which, np.arange(self._queries))
    self._limits = self._limit(dists[starts + self._count - 1])
    keep = dists <= self._limits[which]
    self._which, self._dists = which[keep], dists[keep]
    self._column = self._column[order[keep]]
    self._settled = len(self._which)
