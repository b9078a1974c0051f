"""Ninety rows each to search neighbours among, easy and hard to tell apart."""

import numpy as np


def spread_case(rng):
  return rng.normal(size=(90, 6))


def close_case(rng):
  """Distances that differ by about the tolerance, between any two rows."""
  rows, _ = np.linalg.qr(rng.normal(size=(90, 90)))
  return rows * (1.0 + 3e-6 * rng.normal(size=(90, 1)))
