"""Batches that every objective must survive: (embeddings, labels, valid)."""

import numpy as np


def unit(x):
  """Rows of length 1, float32."""
  x = np.asarray(x, np.float64)
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def random(rows=14, dim=5, seed=0):
  return unit(np.random.default_rng(seed).normal(size=(rows, dim)))


def _cases():
  rng = np.random.default_rng(1)
  x, everything = random(), np.ones(14, bool)
  labels = rng.integers(0, 3, 14)
  half = rng.random(14) < 0.5
  return {
    'random': (x, labels, everything),
    'duplicated': (x[rng.integers(0, 4, 14)], labels, everything),
    'identical': (np.tile(x[:1], (14, 1)), labels, everything),
    'one class': (x, np.zeros(14, int), everything),
    'all distinct': (x, np.arange(14), everything),
    'padded': (x, np.where(half, labels, -1), half),
    'nothing': (x, labels, ~everything),
    'zero rows': (x * (labels > 0)[:, None], labels, everything),
  }


CASES = _cases()
