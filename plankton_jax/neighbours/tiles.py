"""Finds the nearest rows of every row, from square tiles of products.

A tile of rows I × J tells which rows J are near the rows I and which rows I are
near the rows J, so that half of all tiles suffice. The near ones wait until
every tile of their query has been computed, each packed into an integer that
sorts by query, product and column. How near is near is estimated from
a sample of the rows; the few that it fails are searched alone.
"""

import collections
import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np

from plankton_jax.neighbours import spaces
from plankton_jax.neighbours.spaces import Nearest, Space

BLOCK = 2**9  # Rows of a tile, which then fits in cache.
WAITING = 2**26  # Entries, of 8 bytes, that may wait for other tiles.
MAX_THREADS = 8  # More threads would wait for Python.

SAMPLE = 2**10  # rows sampled, at least
SHARE = 2**5  # one row in so many is sampled, if that is more
MARGIN = 2.5  # Standard deviations of a sampled rank: one row in 160 fails.
BATCH = 2**8  # rows whose bounds are found at a time
MINIMA = 8  # of groups of columns, for each that is nearest
GROUP = 2**16  # Entries ranked at a time, to stay in cache.
_DIST_BITS = 31  # of a float32 without its sign


def visit(
  space: Space, depths: np.ndarray, use: Callable[[Space, Nearest], None]
) -> Iterator[int]:
  """Shows `use` the nearest of all rows; yields how many it has seen.

  Each row is shown with at least its `depths` [N] nearest others, and all that
  lie within the tolerance of them; rows of depth 0 are not shown. Calls `use`
  in threads, with rows of the space that is given.
  """
  threads = min(os.cpu_count() or 1, MAX_THREADS)
  with _one_thread_a_product(), ThreadPoolExecutor(threads) as pool:
    bound, share = estimate_bounds(space, depths, pool)
    order = np.argsort(bound, kind='stable')
    search = _Search(
      spaces.ordered(space, order), depths[order], bound[order], share, use
    )
    low = []
    for seen, again in _in_order(pool, search, threads):
      low.append(again)
      yield seen
    failed = np.concatenate(low)
    size = max(1, BLOCK**2 * threads // len(depths))
    parts = [failed[i : i + size] for i in range(0, len(failed), size)]
    yield from pool.map(search.scan_alone, parts)


def estimate_bounds(
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
    fold = int(np.clip(size // (MINIMA * rank), 1, 32))
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


def _one_thread_a_product() -> contextlib.AbstractContextManager[object]:
  """Leaves the cores to our own threads, if threadpoolctl is installed."""
  try:
    from threadpoolctl import threadpool_limits
  except ImportError:
    return contextlib.nullcontext()
  return threadpool_limits(1)


def _in_order(
  pool: Executor, search: '_Search', threads: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Settles every block once those before are scanned; yields each result."""
  scans: collections.deque[tuple[int, Future]] = collections.deque()
  settled: collections.deque[Future] = collections.deque()
  for block in range(len(search.blocks)):
    scans.append((block, pool.submit(search.scan, block)))
    if len(scans) > threads:
      scanned, scan = scans.popleft()
      scan.result()
      settled.append(pool.submit(search.settle, scanned))
    while settled and settled[0].done():
      yield settled.popleft().result()
  for block, scan in scans:
    scan.result()
    settled.append(pool.submit(search.settle, block))
  for settle in settled:
    yield settle.result()


class _Search:
  """Finds what is near the rows of a space, which are sorted by `bound`."""

  def __init__(
    self,
    space: Space,
    depths: np.ndarray,
    bound: np.ndarray,
    share: float,
    use: Callable[[Space, Nearest], None],
  ):
    self._space, self._depths, self._bound = space, depths, bound
    self._use = use
    count = len(depths)
    near = max(1.0, share * count)  # entries of a row
    most = _most_queries(count)
    size = max(1, int(min(BLOCK, most, WAITING / 16 / near)))
    self.blocks = [
      slice(start, min(start + size, count)) for start in range(0, count, size)
    ]
    # Blocks share tiles up to this far apart.
    self._band = int(np.sqrt(2 * WAITING / near * count)) // size
    # The deepest neighbour may be at the bound, with others within tolerance.
    limit = bound + spaces.tolerance(space, np.arange(count), bound)
    self._limits = [limit[block].max() for block in self.blocks]
    self._near: list[list[np.ndarray]] = [[] for _ in self.blocks]

  def scan(self, i: int) -> None:
    """Finds rows near those of block i, and which of these are near others.

    Rows of later blocks reach farther: they see whatever is near.
    """
    rows = self.blocks[i]
    height = rows.stop - rows.start
    buffer = np.empty(BLOCK * height, np.float32)
    marks = np.empty(BLOCK * height, bool)
    for j, columns in enumerate(self.blocks):
      if i - self._band <= j < i:
        continue  # Block j has already shared this tile.
      shared = i < j <= i + self._band
      limit = self._limits[j if shared else i]
      if limit == -np.inf:
        continue
      width = columns.stop - columns.start
      tile = np.matmul(
        self._space.query[rows],
        self._space.gallery[columns].T,
        out=buffer[: height * width].reshape(height, width),
      )
      if i == j:
        np.fill_diagonal(tile, np.nan)
      tile = tile.ravel()
      near = np.less_equal(tile, np.float32(limit), out=marks[: tile.size])
      near = np.flatnonzero(near)
      dists = tile.take(near)
      a = near // width
      b = near - a * width
      if shared:
        self._near[j].append(self._pack(b, dists, a + rows.start))
        own = np.flatnonzero(dists <= np.float32(self._limits[i]))
        a, b, dists = a.take(own), b.take(own), dists.take(own)
      self._near[i].append(self._pack(a, dists, b + columns.start))

  def settle(self, i: int) -> tuple[int, np.ndarray]:
    """Shows the rows of block i; returns how many, and those to scan alone."""
    keys = np.concatenate([np.empty(0, np.uint64), *self._near[i]])
    self._near[i] = []
    return self._show(np.arange(len(self._bound))[self.blocks[i]], keys)

  def scan_alone(self, rows: np.ndarray) -> int:
    """Shows rows whose bound was too low to find all neighbours in tiles."""
    dists = self._space.query[rows] @ self._space.gallery.T
    dists[np.arange(len(rows)), rows] = np.nan
    depths = self._depths[rows] - 1
    bound = np.array(
      [np.partition(d, k)[k] for d, k in zip(dists, depths, strict=True)]
    )
    self._bound[rows] = bound
    limit = bound + spaces.tolerance(self._space, rows, bound)
    query, column = np.nonzero(dists <= limit[:, None])
    seen, _ = self._show(rows, self._pack(query, dists[query, column], column))
    return seen

  def _show(self, rows: np.ndarray, keys: np.ndarray) -> tuple[int, np.ndarray]:
    groups, failed = _nearest_of(
      self._space,
      rows,
      keys,
      depths=self._depths[rows],
      bound=self._bound[rows],
    )
    seen = 0
    for nearest in groups:
      self._use(self._space, nearest)
      seen += len(nearest.queries)
    return seen, failed

  def _pack(
    self, query: np.ndarray, dists: np.ndarray, column: np.ndarray
  ) -> np.ndarray:
    return _pack(query, dists, column, count=len(self._bound))


def _column_bits(count: int) -> int:
  """Counts the bits of a column among `count`."""
  return int(count - 1).bit_length()


def _most_queries(count: int) -> int:
  """Counts the queries that the remaining bits tell apart."""
  return 2 ** (64 - _DIST_BITS - _column_bits(count))


def _pack(
  query: np.ndarray, dists: np.ndarray, column: np.ndarray, *, count: int
) -> np.ndarray:
  """Packs int64 query, float32 product and int64 column of `count`; uint64 [K].

  A product that rounding put below zero counts as positive, which is no
  farther from the distance.
  """
  bits = _column_bits(count)
  keys = _dist_bits(dists) << bits
  keys |= column.view(np.uint64)
  keys |= query.view(np.uint64) << (_DIST_BITS + bits)
  return keys


def _nearest_of(
  space: Space,
  rows: np.ndarray,
  keys: np.ndarray,
  *,
  depths: np.ndarray,
  bound: np.ndarray,
) -> tuple[Iterator[Nearest], np.ndarray]:
  """Finds the nearest of `rows` [Q] among their keys, a cacheful at a time.

  Sorts the keys in place: one long sort is vectorized, many short ones are not.
  Leaves out rows of depth 0, and those with fewer entries up to `bound` [Q]
  than `depths` [Q], which it returns.
  """
  bits = _column_bits(len(space.order))
  keys.sort()
  firsts = np.arange(len(rows), dtype=np.uint64) << (_DIST_BITS + bits)
  starts = np.append(np.searchsorted(keys, firsts), len(keys))
  deepest = starts[:-1] + depths - 1
  enough = (depths > 0) & (deepest < starts[1:])
  reach = np.zeros(len(rows), np.float32)
  reach[enough] = _dists(keys[deepest[enough]], bits)
  enough &= reach <= bound
  tolerance = spaces.tolerance(space, rows, reach)
  # Entries within the tolerance of the deepest may belong before it.
  last = _dist_bits((reach + tolerance).astype(np.float32)) + 1
  stops = np.searchsorted(keys, firsts | (last << bits))
  used = np.flatnonzero(enough)
  groups = np.cumsum(stops[used] - starts[used]) // GROUP
  parts = np.split(used, np.flatnonzero(np.diff(groups)) + 1)
  return (
    _decoded(
      rows[part],
      [keys[a:b] for a, b in zip(starts[part], stops[part], strict=True)],
      tolerance[part],
      bits,
    )
    for part in parts
    if len(part)
  ), rows[(depths > 0) & ~enough]


def _decoded(
  queries: np.ndarray, parts: list[np.ndarray], tolerance: np.ndarray, bits: int
) -> Nearest:
  """Unpacks the keys of each query, sorted, to one `Nearest`."""
  lengths = [len(part) for part in parts]
  keys = np.concatenate(parts)
  return Nearest(
    queries,
    np.append(0, np.cumsum(lengths)),
    np.repeat(np.arange(len(queries)), lengths),
    (keys & (2**bits - 1)).view(np.int64),
    _dists(keys, bits),
    tolerance,
  )


def _dist_bits(dists: np.ndarray) -> np.ndarray:
  return np.abs(dists).view(np.uint32).astype(np.uint64)


def _dists(keys: np.ndarray, bits: int) -> np.ndarray:
  return (
    ((keys >> bits) & (2**_DIST_BITS - 1)).astype(np.uint32).view(np.float32)
  )
