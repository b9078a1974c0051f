"""Computes pairwise distances, and mean distances between classes."""

import collections
import os
from concurrent.futures import Future, ThreadPoolExecutor

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from plankton_jax.errors import InputError

METRICS = ('euclidean', 'squared', 'cosine', 'angular')
ZERO_NORM = 1e-12  # Shorter rows have no direction; 1/norm³ stays finite.
TILE = 768  # Rows of a float64 tile: 4.5 MiB, which stays in cache.
_PART = 64  # Columns whose products are added up in one go.


def unit_norm(x: jax.Array) -> jax.Array:
  """Scales rows [..., D] to length 1; zero stays zero, gradient finite."""
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  return x * lax.rsqrt(jnp.maximum(square, 1e-12))


def squared(x: jax.Array, y: jax.Array | None = None) -> jax.Array:
  """Computes squared Euclidean distances, [M, D], [N, D] -> [M, N] float32.

  Without `y`, of `x` with itself: symmetric with an exactly zero diagonal.
  ‖x‖² + ‖y‖² − 2x·y cancels, so the absolute error is about 1e-7 (‖x‖² + ‖y‖²)
  and results below zero are clamped: unit vectors closer than about 5e-4
  (3e-7 squared) cannot be told from duplicates. Gradients are finite.
  """
  _check(x, y)
  gram = _gram(x, y)
  if y is None:
    # Norms from the same product, so that duplicates cancel to zero as well.
    rows = columns = jnp.diagonal(gram)
  else:
    rows, columns = jnp.sum(x * x, axis=1), jnp.sum(y * y, axis=1)
  return jnp.maximum(rows[:, None] + columns[None, :] - 2.0 * gram, 0.0)


def euclidean(x: jax.Array, y: jax.Array | None = None) -> jax.Array:
  """Computes Euclidean distances, [M, D], [N, D] -> [M, N] float32.

  The root of `squared`: for unit vectors the absolute error is about 1e-7 at
  distance 1 and at most about 5e-4 near 0. The gradient at 0 is 0.
  """
  return root(squared(x, y))


def root(dists: jax.Array) -> jax.Array:
  """Takes the square root, of any shape, with gradient 0 at 0."""
  zero = dists == 0.0
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, dists)))


def cosine(x: jax.Array, y: jax.Array | None = None) -> jax.Array:
  """Computes distances 1 − cos in [0, 2], [M, D], [N, D] -> [M, N] float32.

  Absolute error about 3e-7. A row shorter than 1e-12 has no direction: it is 1
  from every row but itself, and its gradient is finite.
  """
  _check(x, y)
  gram = _gram(_unit(x), None if y is None else _unit(y))
  dists = jnp.clip(1.0 - gram, 0.0, 2.0)
  if y is not None:
    return dists
  return jnp.where(jnp.eye(x.shape[0], dtype=bool), 0.0, dists)


def class_means(
  embeddings: ArrayLike,
  labels: ArrayLike,
  num_classes: int,
  *,
  metric: str,
  include_self: bool = False,
) -> np.ndarray:
  """Averages distances between the rows of every two classes, [C, C] float64.

  `embeddings` [N, D] and `labels` [N] in 0 … C−1; `metric` is one of
  'euclidean', 'squared', 'cosine' (1 − cos) or 'angular' (radians). The
  diagonal is the mean over ordered pairs within the class, without each row's
  zero distance to itself unless `include_self`. A class without rows gives
  NaN throughout, a class of one row NaN on the diagonal (0 if `include_self`).
  Computed in float64 (pairs are exact to about 1e-8), never N × N in memory,
  of which it takes twice that of its result. As in `cosine`, a zero row is 1
  and π/2 rad from every other.

  Raises:
    InputError: the shapes do not fit, a row is not finite, a label is outside
      0 … C−1 or the metric is unknown.
  """
  embeddings, labels = checked(embeddings, labels)
  if metric not in METRICS:
    raise InputError(f'metric {metric!r} is unknown: use one of {METRICS}')
  outside = (labels < 0) | (labels >= num_classes)
  if outside.any():
    row = int(outside.argmax())
    raise InputError(
      f'label {labels[row]} of row {row} is not in 0 … {num_classes - 1}: '
      'give num_classes above the highest label'
    )
  order = np.argsort(labels, kind='stable')
  labels, rows = labels[order], embeddings[order].astype(np.float64)
  if metric in ('euclidean', 'squared'):
    rows -= rows.mean(axis=0)  # Distances stay, cancellation shrinks.
  else:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(norms < ZERO_NORM, np.inf, norms)
  counts = np.bincount(labels, minlength=num_classes)
  if metric in ('squared', 'cosine'):
    sums = _closed_form_sums(rows, labels, counts, metric)
  else:
    sums = _tiled_sums(rows, labels, num_classes, metric)
  for own, line in enumerate(sums):  # a class at a time, to need no more room
    pairs = counts[own] * counts
    if not include_self:
      pairs[own] -= counts[own]
    line /= np.where(pairs > 0, pairs, np.nan)
  return sums


def checked(
  embeddings: ArrayLike, labels: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
  """Returns finite embeddings [N, D] and labels [N], or raises InputError."""
  embeddings, labels = np.asarray(embeddings), np.asarray(labels)
  # NumPy does not count bfloat16 among its floating-point types, JAX does.
  floating = jnp.issubdtype(embeddings.dtype, jnp.floating)
  if embeddings.ndim != 2 or not floating:
    raise InputError(
      f'embeddings of shape {embeddings.shape} and type {embeddings.dtype}: '
      'give one row of floating-point numbers an image, [N, D]'
    )
  if labels.shape != embeddings.shape[:1]:
    raise InputError(
      f'labels of shape {labels.shape} for {embeddings.shape[0]} embeddings: '
      'give one label a row'
    )
  if embeddings.size == 0:
    raise InputError(
      f'embeddings of shape {embeddings.shape} are empty: '
      'give at least one row and one column'
    )
  finite = np.isfinite(embeddings).all(axis=1)
  if not finite.all():
    raise InputError(
      f'embeddings row {int(finite.argmin())} is not finite (the first of '
      f'{int((~finite).sum())}): remove it or embed the image again'
    )
  return embeddings, labels


def _check(x, y):
  arrays = [x] if y is None else [x, y]
  chex.assert_rank(arrays, 2)
  chex.assert_type(arrays, jnp.float32)


def _gram(x, y):
  if y is not None:
    return _products(x, y)
  gram = _products(x, x)
  # Backends may round [i, j] and [j, i] differently.
  return 0.5 * (gram + gram.T)


def _products(x, y):
  """Multiplies all rows, [M, D], [N, D] -> [M, N], by parts of the columns.

  XLA may add up hundreds of products one after another, whose rounding errors
  reach 1e-6 for unit vectors of 512 columns; in parts they stay below 3e-7.
  """
  starts = range(0, max(x.shape[1], 1), _PART)
  return sum(
    jnp.dot(
      x[:, start : start + _PART],
      y[:, start : start + _PART].T,
      precision='highest',
    )
    for start in starts
  )


def _unit(x):
  norms = jnp.sum(x * x, axis=1, keepdims=True)
  zero = norms < ZERO_NORM**2
  return jnp.where(zero, 0.0, x * jax.lax.rsqrt(jnp.where(zero, 1.0, norms)))


def _closed_form_sums(rows, labels, counts, metric):
  """Sums over ordered pairs from class sums, [C, C]; self-pairs add 0."""
  totals = np.zeros((counts.size, rows.shape[1]))
  np.add.at(totals, labels, rows)
  norms = np.bincount(labels, (rows * rows).sum(axis=1), counts.size)
  sums = totals @ totals.T
  if metric == 'squared':  # Σ‖x − y‖² = n_y Σ‖x‖² + n_x Σ‖y‖² − 2 Σx·Σy
    sums *= -2.0
    sums += np.outer(norms, counts)
    sums += np.outer(counts, norms)
  else:  # Σ1 − x·y = n_x n_y − Σx·Σy
    np.subtract(np.outer(counts, counts), sums, out=sums)
    sums[np.diag_indices_from(sums)] -= counts - norms
  return np.maximum(sums, 0.0, out=sums)


def _tiled_sums(rows, labels, num_classes, metric):
  """Sums over ordered pairs, by tiles of the upper triangle, [C, C]."""
  # Training needs neither of them.
  from threadpoolctl import threadpool_limits
  from tqdm import tqdm

  starts = range(0, len(rows), TILE)
  norms = (rows * rows).sum(axis=1)

  def tile_sums(corner):
    i, j = corner
    a, b = slice(i, i + TILE), slice(j, j + TILE)
    tile = rows[a] @ rows[b].T
    if metric == 'euclidean':
      tile *= -2.0
      tile += norms[a, None]
      tile += norms[b]
      np.sqrt(np.maximum(tile, 0.0, out=tile), out=tile)
    else:
      np.arccos(np.clip(tile, -1.0, 1.0, out=tile), out=tile)
    if i == j:
      np.fill_diagonal(tile, 0.0)
    # Rows are sorted by class, so that each class is one run.
    row_classes, row_runs = np.unique(labels[a], return_index=True)
    column_classes, column_runs = np.unique(labels[b], return_index=True)
    # Named alike, so that the whole tile is freed before the next sum.
    tile = np.add.reduceat(tile, column_runs, axis=1)
    tile = np.add.reduceat(tile, row_runs, axis=0)
    return np.ix_(row_classes, column_classes), tile, i == j

  corners = [(i, j) for i in starts for j in starts if j >= i]
  sums = np.zeros((num_classes, num_classes))
  tiles: collections.deque[Future] = collections.deque()

  def add_oldest():
    where, tile, diagonal = tiles.popleft().result()
    sums[where] += tile
    if not diagonal:
      sums.T[where] += tile  # (y, x) beside (x, y).

  # One thread a tile: the root and the sums then run in parallel too. Tiles are
  # added in order, for the same rounding, and few of them wait for it.
  threads = os.cpu_count() or 1
  with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
    for corner in tqdm(
      corners, f'{metric} distances', unit='tile', delay=2, leave=False
    ):
      if len(tiles) == 2 * threads:
        add_oldest()
      tiles.append(pool.submit(tile_sums, corner))
    while tiles:
      add_oldest()
  return sums
