"""What is measured on: made alike for every contestant, by NumPy alone."""

import itertools
from collections.abc import Iterator

import numpy as np


def images(count: int, side: int) -> np.ndarray:
  """Noise, uint8 [N, side, side, 1]."""
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, side, side, 1), np.uint8)


def labels(count: int, classes: int, tail: float = 0.0) -> np.ndarray:
  """Classes drawn alike, or the k-th in proportion to k^-tail; int32 [N]."""
  rng = np.random.default_rng(1)
  if not tail:
    return rng.integers(0, classes, count, np.int32)
  share = np.arange(1, classes + 1) ** -tail
  return rng.choice(classes, count, p=share / share.sum()).astype(np.int32)


def embeddings(
  count: int, dim: int, classes: int, tail: float = 0.0
) -> np.ndarray:
  """Unit rows in overlapping clusters of `labels`, float32 [N, D]."""
  rng = np.random.default_rng(2)
  centres = rng.normal(size=(classes, dim))
  rows = centres[labels(count, classes, tail)]
  rows += 2.0 * rng.normal(size=(count, dim))
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  return rows.astype(np.float32)


def square(side: int) -> np.ndarray:
  """A matrix to multiply, float32 [side, side]."""
  return np.random.default_rng(3).normal(size=(side, side)).astype(np.float32)


def batches(rows: int, size: int) -> Iterator[np.ndarray]:
  """Indices of batches [size], all rows in random order, over and over."""
  order = np.random.default_rng(4).permutation(rows)
  return itertools.cycle(order[: rows // size * size].reshape(-1, size))
