"""Makes the same inputs for every contestant, by NumPy alone."""

import itertools
import types
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np


class Data(NamedTuple):
  """The fields of data/pipeline.py's Data that a run's parts read."""

  images: np.ndarray
  labels: np.ndarray
  ids: np.ndarray
  num_seen: int
  splits: Mapping[str, np.ndarray]
  measures: Mapping[str, np.ndarray] = types.MappingProxyType({})


def data(
  images: np.ndarray, labels: np.ndarray, classes: int, **splits: np.ndarray
) -> Data:
  """Makes a run's data; every row is trained on unless splits are given."""
  rows = np.arange(len(images))
  return Data(images, labels, rows, classes, splits or {'train': rows})


def images(count: int, side: int) -> np.ndarray:
  """Draws noise, uint8 [N, side, side, 1]."""
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, side, side, 1), np.uint8)


def labels(count: int, classes: int, tail: float = 0.0) -> np.ndarray:
  """Draws classes uniformly, or the k-th by k^-tail; int32 [N]."""
  rng = np.random.default_rng(1)
  if not tail:
    return rng.integers(0, classes, count, np.int32)
  share = np.arange(1, classes + 1) ** -tail
  return rng.choice(classes, count, p=share / share.sum()).astype(np.int32)


def embeddings(
  count: int, dim: int, classes: int, tail: float = 0.0
) -> np.ndarray:
  """Draws unit rows in overlapping clusters of `labels`, float32 [N, D]."""
  rng = np.random.default_rng(2)
  centres = rng.normal(size=(classes, dim))
  rows = centres[labels(count, classes, tail)]
  rows += 2.0 * rng.normal(size=(count, dim))
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  return rows.astype(np.float32)


def square(side: int) -> np.ndarray:
  """Draws a matrix to multiply, float32 [side, side]."""
  return np.random.default_rng(3).normal(size=(side, side)).astype(np.float32)


def batches(rows: int, size: int) -> Iterator[np.ndarray]:
  """Yields indices of batches [size], all rows shuffled, again and again."""
  order = np.random.default_rng(4).permutation(rows)
  return itertools.cycle(order[: rows // size * size].reshape(-1, size))
