"""Predicts undecided images from what is decided, without training.

A class is known by prototypes: the mean of its labelled images and the mean of
those that the review gave it. Each decision moves the second, or makes it, and
every prediction follows. Confidence is the softmax of −d² over a temperature,
as in analysis.measures.labeller, over the nearest prototype of each class.
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
  means: np.ndarray  # [C, D]
  temperature: float


class Prototypes(NamedTuple):
  """Means, and the class of each."""

  names: tuple[str, ...]  # [C] every class, those without prototypes too
  means: np.ndarray  # [P, D] float32
  owner: np.ndarray  # [P] index into names, ascending


class Predicted(NamedTuple):
  """Predictions of N rows."""

  names: tuple[str, ...]
  first: np.ndarray  # [N] index into names; −1 without any class
  confidence: np.ndarray  # [N] its probability
  margin: np.ndarray  # [N] confidence less that of the next class


def prototypes(known: Known, embedding: np.ndarray, state: State) -> Prototypes:
  """Computes the means that predictions follow."""
  names = list(known.names)
  names += [name for name in state.names if name not in known.names]
  index = {name: i for i, name in enumerate(names)}
  means, owner = [known.means], list(range(len(known.names)))
  teaches = np.array([name != UNKNOWN for name in state.names], bool)
  taught, centres = _means(embedding, state.label, teaches)
  means.append(centres)
  owner += [index[state.names[name]] for name in taught]
  order = np.argsort(owner, kind='stable')
  return Prototypes(
    tuple(names),
    np.concatenate(means)[order].astype(np.float32),
    np.array(owner, int)[order],
  )


def _means(
  embedding: np.ndarray, label: np.ndarray, teaches: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Averages the rows of each name that teaches: names [T], means [T, D]."""
  rows = np.flatnonzero(label != UNDECIDED)
  rows = rows[teaches[label[rows]]]
  shape = (len(teaches), len(embedding))
  ones = np.ones(len(rows))
  # Far faster than numpy.add.at, and float64 too.
  sums = sparse.csr_array((ones, (label[rows], rows)), shape) @ embedding
  counts = np.bincount(label[rows], minlength=len(teaches))
  names = np.flatnonzero(counts)
  return names, sums[names] / counts[names, None]


def scores(embedding: np.ndarray, of: Prototypes) -> np.ndarray:
  """Computes ‖x‖² − d² to the nearest prototype of each class, [N, C].

  −inf for a class without prototypes. ‖x‖² is the same for all classes.
  """
  found = 2.0 * (embedding @ of.means.T)
  found -= np.sum(of.means**2, axis=1)
  nearest = np.full((len(embedding), len(of.names)), -np.inf, np.float32)
  present, starts = np.unique(of.owner, return_index=True)
  if present.size:
    nearest[:, present] = np.maximum.reduceat(found, starts, axis=1)
  return nearest


def predict(
  embedding: np.ndarray,
  of: Prototypes,
  temperature: float,
  refused: Mapping[int, set[int]],
  names: Sequence[str],
) -> Predicted:
  """Predicts rows [N, D] float32.

  Args:
    embedding: the rows.
    of: what is known of the classes.
    temperature: of the softmax.
    refused: rows that a person said are not of a class, by index into `names`.
    names: the names that the review has used.
  """
  count = len(embedding)
  first = np.full(count, -1, np.int32)
  confidence, margin = np.zeros((2, count), np.float32)
  if not len(of.means):
    return Predicted(of.names, first, confidence, margin)
  barred = [
    (row, of.names.index(names[name]))
    for name, rows in refused.items()
    for row in rows
  ]
  bars = np.array(sorted(barred), int).reshape(-1, 2)
  for start in range(0, count, BLOCK):
    found = scores(embedding[start : start + BLOCK], of) / temperature
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
