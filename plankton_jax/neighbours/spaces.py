"""Computes squared distances by float32 products with bounds, and exactly."""

from typing import NamedTuple

import numpy as np

CHUNK = 2**8  # Pairs compared in float64 at a time, to stay in cache.


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


def make(embeddings: np.ndarray, classes: np.ndarray) -> Space:
  """Makes z = embeddings / step − centre: same ranking, less cancellation.

  The step is a power of two and the centre whole, so that few bits are lost.
  """
  z = embeddings.astype(np.float64)
  spread = z.std(axis=0).max()
  z /= 2.0 ** np.floor(np.log2(spread)) if spread > 0 else 1.0
  z -= np.round(z.mean(axis=0))
  norms = np.vecdot(z, z)[:, None]
  ones = np.ones_like(norms)
  gallery = np.hstack([z, norms, ones], dtype=np.float32)
  z *= -2.0
  query = np.hstack([z, ones, norms], dtype=np.float32)
  return Space(
    embeddings,
    np.arange(len(z)),
    classes.astype(np.int32),
    query,
    gallery,
    np.sqrt(norms[:, 0]),
  )


def ordered(space: Space, order: np.ndarray) -> Space:
  """Reorders the rows: those at `order` [N] of this space."""
  return Space(space.rows, *(array[order] for array in space[1:]))


def tolerance(space: Space, rows: np.ndarray, bound: np.ndarray) -> np.ndarray:
  """Bounds how far apart two products must be to rank as the distances do.

  For products of `rows` [Q] up to about `bound` [Q], as float64 [Q].
  """
  # A sum of n products errs by about √n u times their magnitude (Higham and
  # Mary 2019), and rounding z by 4 u times it; twice that for two rows, which
  # are at most as far from 0 as the bound allows.
  length = space.lengths[rows]
  reach = length + np.sqrt(np.maximum(bound, 0.0))
  reach = np.minimum(reach, space.lengths.max())
  unit = (4.0 + np.sqrt(space.query.shape[1])) * 2.0**-24
  return 2.0 * unit * (reach + length) ** 2


def exact(space: Space, a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Computes squared distances of rows a [P] and b [P] as given, in float64."""
  dists = np.empty(len(a))
  a, b = space.order[a], space.order[b]
  for start in range(0, len(a), CHUNK):
    pairs = slice(start, start + CHUNK)
    gaps = space.rows.take(b[pairs], axis=0).astype(np.float64)
    gaps -= space.rows.take(a[pairs], axis=0)
    dists[pairs] = np.vecdot(gaps, gaps)
  return dists
