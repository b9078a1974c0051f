"""Packs near pairs into integers that sort by query, product and column."""

from collections.abc import Iterator

import numpy as np

from plankton_jax.neighbours import spaces
from plankton_jax.neighbours.order import Nearest
from plankton_jax.neighbours.spaces import Space

DIST_BITS = 31  # of a float32 without its sign
GROUP = 2**16  # Entries ranked at a time, to stay in cache.


def column_bits(count: int) -> int:
  """Counts the bits of a column among `count`."""
  return int(count - 1).bit_length()


def most_queries(count: int) -> int:
  """Counts the queries that the remaining bits tell apart."""
  return 2 ** (64 - DIST_BITS - column_bits(count))


def pack(
  query: np.ndarray, dists: np.ndarray, column: np.ndarray, *, count: int
) -> np.ndarray:
  """Packs int64 query, float32 product and int64 column of `count`; uint64 [K].

  A product that rounding put below zero counts as positive, which is no
  farther from the distance.
  """
  bits = column_bits(count)
  keys = _dist_bits(dists) << bits
  keys |= column.view(np.uint64)
  keys |= query.view(np.uint64) << (DIST_BITS + bits)
  return keys


def nearest(
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
  bits = column_bits(len(space.order))
  keys.sort()
  firsts = np.arange(len(rows), dtype=np.uint64) << (DIST_BITS + bits)
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
  queries: np.ndarray,
  parts: list[np.ndarray],
  tolerance: np.ndarray,
  bits: int,
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
    ((keys >> bits) & (2**DIST_BITS - 1)).astype(np.uint32).view(np.float32)
  )
