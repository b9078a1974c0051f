"""Computes squared distances by float32 products with bounds, and exactly."""

from typing import NamedTuple

import numpy as np

CHUNK = 2**8  # Pairs compared in float64 at a time, to stay in cache.
ROWS = 2**13  # rows in float64 at a time, where there may be millions


class Space(NamedTuple):
  """N rows, reordered.

  A row of `query` times a row of `gallery` is ‖z_q − z_g‖², in units of z.
  """

  rows: np.ndarray  # [N, D], as given and in the order given
  order: np.ndarray  # [N], the row as given of each one here
  classes: np.ndarray  # int32 [N]
  query: np.ndarray  # [N, D + 2] float32: −2 z, 1, ‖z‖²
  gallery: np.ndarray  # [N, D + 2] float32: z, ‖z‖², 1
  lengths: np.ndarray  # [N] float64: ‖z‖


class Nearest(NamedTuple):
  """The nearest rows of Q queries, one query after another, K in all.

  In ascending order of the product, which is the distance up to the tolerance.
  """

  queries: np.ndarray  # [Q]
  starts: np.ndarray  # [Q + 1], of each query's entries
  which: np.ndarray  # [K], the query of each entry, 0 … Q − 1
  columns: np.ndarray  # [K], the row
  dists: np.ndarray  # float32 [K]
  tolerance: np.ndarray  # [Q]


class Units(NamedTuple):
  """z = rows / step − centre: same ranking, less cancellation.

  The step is a power of two and the centre whole, so that few bits are lost.
  """

  step: float
  centre: np.ndarray  # [D]


class Placed(NamedTuple):
  """Rows in units of z, as both sides of a product."""

  query: np.ndarray  # [N, D + 2] float32: −2 z, 1, ‖z‖²
  gallery: np.ndarray  # [N, D + 2] float32: z, ‖z‖², 1
  lengths: np.ndarray  # [N] float64: ‖z‖


def units(*sets: np.ndarray) -> Units:
  """Finds the units of all rows of some sets [N, D], a few rows at a time."""
  first = sets[0][0].astype(np.float64)
  count, total, squares = 0, np.zeros_like(first), np.zeros_like(first)
  for rows in sets:
    for start in range(0, len(rows), ROWS):
      gaps = rows[start : start + ROWS].astype(np.float64) - first
      count += len(gaps)
      total += gaps.sum(axis=0)
      squares += np.square(gaps).sum(axis=0)
  mean = total / count
  spread = np.sqrt(np.maximum(squares / count - mean**2, 0.0).max())
  step = 2.0 ** np.floor(np.log2(spread)) if spread > 0 else 1.0
  return Units(step, np.round((first + mean) / step))


def place(rows: np.ndarray, units: Units) -> Placed:
  """Expresses rows [N, D] in the units."""
  z = rows.astype(np.float64)
  z /= units.step
  z -= units.centre
  norms = np.vecdot(z, z)[:, None]
  ones = np.ones_like(norms)
  gallery = np.hstack([z, norms, ones], dtype=np.float32)
  z *= -2.0
  query = np.hstack([z, ones, norms], dtype=np.float32)
  return Placed(query, gallery, np.sqrt(norms[:, 0]))


def make(embeddings: np.ndarray, classes: np.ndarray) -> Space:
  """Makes the space of rows [N, D] of some classes [N]."""
  return Space(
    embeddings,
    np.arange(len(embeddings)),
    classes.astype(np.int32),
    *place(embeddings, units(embeddings)),
  )


def ordered(space: Space, order: np.ndarray) -> Space:
  """Reorders the rows: those at `order` [N] of this space."""
  return Space(space.rows, *(array[order] for array in space[1:]))


def tolerance(space: Space, rows: np.ndarray, bound: np.ndarray) -> np.ndarray:
  """Bounds how far apart two products must be to rank as the distances do.

  For products of `rows` [Q] up to about `bound` [Q], as float64 [Q].
  """
  longest, width = space.lengths.max(), space.query.shape[1]
  return rounding(space.lengths[rows], bound, longest=longest, width=width)


def rounding(
  lengths: np.ndarray, bound: np.ndarray, *, longest: float, width: int
) -> np.ndarray:
  """Bounds by how much products may err, in either direction, as float64 [Q].

  Args:
    lengths: [Q] of the queries.
    bound: [Q] about the largest product.
    longest: length of any row of the gallery.
    width: terms of a product, D + 2.
  """
  # A sum of n products errs by about √n u times their magnitude (Higham and
  # Mary 2019), and rounding z by 4 u times it; twice that for two rows, which
  # are at most as far from 0 as the bound allows.
  reach = np.minimum(lengths + np.sqrt(np.maximum(bound, 0.0)), longest)
  unit = (4.0 + np.sqrt(width)) * 2.0**-24
  return 2.0 * unit * (reach + lengths) ** 2


def exact(space: Space, a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Computes squared distances of rows a [P] and b [P] as given, in float64."""
  return between(space.rows, space.order[a], space.rows, space.order[b])


def between(
  left: np.ndarray, a: np.ndarray, right: np.ndarray, b: np.ndarray
) -> np.ndarray:
  """Computes squared distances of rows left[a] and right[b], float64 [P]."""
  dists = np.empty(len(a))
  for start in range(0, len(a), CHUNK):
    pairs = slice(start, start + CHUNK)
    gaps = right.take(b[pairs], axis=0).astype(np.float64)
    gaps -= left.take(a[pairs], axis=0)
    dists[pairs] = np.vecdot(gaps, gaps)
  return dists
