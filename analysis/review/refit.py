"""Predicts undecided images from what is decided, without training.

A class is known by the mean of its labelled images and of those that the review
gave it: each decision moves a mean, or makes one, and every prediction follows.
Means are compared in the whitened embedding (analysis.measures.whitened).
Confidence is the softmax of −d² over a temperature, as in
analysis.measures.labeller.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from analysis.review.store import UNDECIDED, State

UNKNOWN = 'unknown'  # a decision that teaches no class
BLOCK = 4096  # rows whose probabilities fit into a cache


class Known(NamedTuple):
  """The classes that labelled images made known before the review."""

  names: tuple[str, ...]  # [C]
  means: np.ndarray  # [C, D] whitened
  images: np.ndarray  # [C] how many images each mean is of
  temperature: float
  axes: np.ndarray  # [D, D] float32, by which rows are whitened


class Means(NamedTuple):
  """Holds the mean of every class after some decisions."""

  names: tuple[str, ...]  # [C] every class
  means: np.ndarray  # [C, D] float32
  present: np.ndarray  # [C] whether it has an image


class Predicted(NamedTuple):
  """Predictions of N rows."""

  names: tuple[str, ...]
  first: np.ndarray  # [N] index into names; −1 without any class
  confidence: np.ndarray  # [N] its probability
  margin: np.ndarray  # [N] confidence less that of the next class


def means(known: Known, white: np.ndarray, state: State) -> Means:
  """Computes the means that predictions follow, of whitened rows [N, D]."""
  names = list(known.names)
  names += [name for name in state.names if name not in known.names]
  index = {name: i for i, name in enumerate(names)}
  target = np.array([index[name] for name in state.names], int)
  teaches = np.array([name != UNKNOWN for name in state.names], bool)
  rows = np.flatnonzero(state.label != UNDECIDED)
  rows = rows[teaches[state.label[rows]]]
  of = target[state.label[rows]]
  ones = np.ones(len(rows))
  # Far faster than numpy.add.at, and float64 too.
  sums = sparse.csr_array((ones, (of, rows)), (len(names), len(white))) @ white
  counts = np.bincount(of, minlength=len(names)).astype(float)
  first = len(known.names)
  sums[:first] += known.means * known.images[:, None]
  counts[:first] += known.images
  found = sums / np.maximum(counts, 1)[:, None]
  return Means(tuple(names), found.astype(np.float32), counts > 0)


def scores(white: np.ndarray, of: Means) -> np.ndarray:
  """Computes ‖x‖² − d² to the mean of each class, [N, C].

  −inf for a class without images. ‖x‖² is the same for all classes.
  """
  found = 2.0 * (white @ of.means.T) - np.sum(of.means**2, axis=1)
  found[:, ~of.present] = -np.inf
  return found


def predict(
  white: np.ndarray,
  of: Means,
  temperature: float,
  refused: Mapping[int, set[int]],
  names: Sequence[str],
) -> Predicted:
  """Predicts whitened rows [N, D] float32.

  Args:
    white: the rows.
    of: what is known of the classes.
    temperature: of the softmax.
    refused: rows that a person said are not of a class, by index into `names`.
    names: the names that the review has used.
  """
  count = len(white)
  first = np.full(count, -1, np.int32)
  confidence, margin = np.zeros((2, count), np.float32)
  if not of.present.any():
    return Predicted(of.names, first, confidence, margin)
  barred = [
    (row, of.names.index(names[name]))
    for name, rows in refused.items()
    for row in rows
  ]
  bars = np.array(sorted(barred), int).reshape(-1, 2)
  for start in range(0, count, BLOCK):
    found = scores(white[start : start + BLOCK], of) / temperature
    low, high = np.searchsorted(bars[:, 0], [start, start + len(found)])
    found[bars[low:high, 0] - start, bars[low:high, 1]] = -np.inf
    best = found.argmax(axis=1)
    lines = np.arange(len(found))
    top = found[lines, best]
    some = np.isfinite(top)  # no class is left where all are refused
    chance = np.exp(found - np.where(some, top, 0.0)[:, None])
    total = np.where(some, chance.sum(axis=1), 1.0)
    chance[lines, best] = 0.0
    here = slice(start, start + len(found))
    first[here] = np.where(some, best, -1)
    confidence[here] = some / total
    margin[here] = some * (1.0 - chance.max(axis=1)) / total
  return Predicted(of.names, first, confidence, margin)
