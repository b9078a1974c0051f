"""Finds the nearest rows of every row on an accelerator, tile by tile.

A tile holds the float32 products of some queries with all rows. The nearest
rows of a query lie in the groups of columns with the least minima, so that
sorting the minima and then these groups' columns replaces sorting the whole
row. The exact order is left to float64 on the host, as for `tiles`.
"""

import collections
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from plankton_jax.neighbours import spaces
from plankton_jax.neighbours.spaces import Nearest, Space

LEAST_ROWS = 2**13  # fewer are found by the host while a tile is compiled
TILE = 2**28  # products, of 4 bytes
GROUP = 2**6  # columns
QUERIES = 2**13  # of a tile, at most
SPARE = 6  # entries beyond the depth, for rows that may be as near
_AHEAD = 2  # tiles computed while the host orders others
_THREADS = 8


def serves(count: int) -> bool:
  """Tells whether there is an accelerator, and `count` rows are worth it."""
  return jax.default_backend() != 'cpu' and count >= LEAST_ROWS


def visit(
  space: Space, depths: np.ndarray, use: Callable[[Space, Nearest], None]
) -> Iterator[int]:
  """Shows `use` the nearest of all rows, as `tiles.visit` does.

  Each row is shown with at least its `depths` [N] nearest others, and all that
  lie within the tolerance of them; rows of depth 0 are not shown. Calls `use`
  in threads. Yields how many rows it has seen.
  """
  count = len(depths)
  group = min(GROUP, count)
  padding = -count % group
  gallery = jax.device_put(np.pad(space.gallery, ((0, padding), (0, 0))))
  # Deepest last, so that the rows of a tile have similar depths.
  waiting = np.argsort(depths, kind='stable')[np.count_nonzero(depths == 0) :]
  spare = SPARE
  with ThreadPoolExecutor(_THREADS) as pool:
    while len(waiting):
      failed: list[np.ndarray] = []
      shown: collections.deque[tuple[Future[None], np.ndarray]]
      shown = collections.deque()
      search = _tiles(space, gallery, depths, waiting, spare, group)
      for rows, found in search:
        nearest, again = _complete(space, rows, depths[rows], *found)
        failed.append(again)
        if len(nearest.queries):
          shown.append((pool.submit(use, space, nearest), nearest.queries))
        while shown and (shown[0][0].done() or len(shown) > _THREADS):
          yield _seen(shown)
      while shown:
        yield _seen(shown)
      waiting, spare = np.concatenate(failed), 8 * spare


def nearest(embeddings: np.ndarray, count: int) -> np.ndarray:
  """Finds the `count` nearest others of each row of [N, D], [N, count] int64.

  Orders them by float64 distance of the rows as given, ties by the lowest
  index. The count is at most N - 1.
  """
  rows = len(embeddings)
  found = np.empty((rows, count), np.int64)

  def use(space, nearest):
    exact = spaces.exact(space, nearest.queries[nearest.which], nearest.columns)
    columns = space.order[nearest.columns]
    order = np.lexsort((columns, exact, nearest.which))
    places = nearest.starts[:-1, None] + np.arange(count)
    found[space.order[nearest.queries]] = columns[order][places]

  space = spaces.make(embeddings, np.zeros(rows))
  for _ in visit(space, np.full(rows, count), use):
    pass
  return found


def _seen(shown):
  task, queries = shown.popleft()
  task.result()
  return len(queries)


def _tiles(space, gallery, depths, waiting, spare, group):
  """Yields (rows [Q], (products, columns) [Q, K]), a few tiles ahead."""
  count = len(depths)
  size = max(1, min(QUERIES, TILE // len(gallery), len(waiting)))
  pending: collections.deque[tuple[np.ndarray, Any]] = collections.deque()
  for start in range(0, len(waiting), size):
    rows = waiting[start : start + size]
    # Only a few widths, as each one is compiled.
    width = 1 << int(depths[rows].max() + spare - 1).bit_length()
    padded = np.pad(rows, (0, size - len(rows)), mode='edge')
    found = _nearest_of(
      jax.device_put(space.query[padded]),
      jax.device_put(padded.astype(np.int32)),
      gallery,
      count=count,
      width=min(width, count - 1),
      group=group,
    )
    pending.append((rows, found))
    if len(pending) > _AHEAD:
      yield _fetched(*pending.popleft())
  while pending:
    yield _fetched(*pending.popleft())


def _fetched(rows, found):
  return rows, [x[: len(rows)] for x in jax.device_get(found)]


@functools.partial(jax.jit, static_argnames=('count', 'width', 'group'))
def _nearest_of(query, rows, gallery, *, count, width, group):
  """Finds the `width` least products of each query, ascending, with columns.

  Args:
    query: [Q, E] float32.
    rows: [Q] int32, the column of each query itself, which is left out.
    gallery: [M, E] float32, padded from `count` rows to groups.
    count: N.
    width: K, below N.
    group: columns in one.

  Returns:
    float32 [Q, K] and int32 [Q, K].
  """
  products = jnp.dot(query, gallery.T, precision='highest')
  columns = jnp.arange(products.shape[1], dtype=jnp.int32)
  others = (columns < count) & (columns != rows[:, None])
  products = jnp.where(others, products, jnp.inf)
  grouped = products.reshape(len(products), -1, group)
  minima = grouped.min(axis=2)
  _, groups = jax.lax.top_k(-minima, min(width, minima.shape[1]))
  near = jnp.take_along_axis(grouped, groups[:, :, None], axis=1)
  negated, at = jax.lax.top_k(-near.reshape(len(near), -1), width)
  chosen = jnp.take_along_axis(groups, at // group, axis=1)
  return -negated, chosen * group + at % group


def _complete(space, rows, depths, dists, columns):
  """Splits rows into entries that are surely complete, and rows to repeat."""
  reach = dists[np.arange(len(rows)), depths - 1]
  tolerance = spaces.tolerance(space, rows, reach)
  limit = (reach + tolerance).astype(np.float32)
  whole = dists.shape[1] == len(space.order) - 1
  sure = (dists[:, -1] > limit) | whole
  near = dists[sure] <= np.maximum(limit, reach)[sure, None]
  which = np.nonzero(near)[0]
  return Nearest(
    rows[sure],
    np.append(0, np.cumsum(near.sum(axis=1))),
    which,
    columns[sure][near].astype(np.int64),
    dists[sure][near],
    tolerance[sure],
  ), rows[~sure]
