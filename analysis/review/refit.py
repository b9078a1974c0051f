"""Predicts undecided images from what is decided, without training.

A class is known by the mean of its labelled images and of those that the review
gave it: each decision moves a mean, or makes one, and every prediction follows.
Means are compared in the whitened embedding (analysis.measures.whitened): the
softmax of −d² over a temperature, as in analysis.measures.labeller, times how
often the review has met the class. These chances then spread along links
between like images, from decided ones above all (Zhou et al. 2004, Learning
with local and global consistency, section 2), as images of a class that nobody
trained on lie beside each other, and not about one mean.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy import sparse

from analysis.measures import groups
from analysis.measures.openset import no_class
from analysis.review.store import UNDECIDED, State

BLOCK = 4096  # rows whose probabilities fit into a cache
LINKS = 5  # nearest images that an image is linked with
SPREAD = 0.9  # share of a row's chances that its links give
ROUNDS = 10  # of spreading that begins with the means' chances
MORE = 4  # of spreading that begins with the last prediction's chances
MET = 2.0  # images by which a class counts as met before it is


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
  chance: np.ndarray  # [N, C] float32 probabilities


def link(embedding: np.ndarray, candidates: np.ndarray) -> sparse.csr_array:
  """Links each row [N, D] with its nearest among candidates [N, K].

  Returns:
    Weights [N, N] float32: exp(−d²) in units of its mean, both ways, a row's
    summing to 1; no weights if there is one row.
  """
  distance, near = groups.closest(embedding, candidates, LINKS)
  size, count = near.shape
  squared = distance**2
  unit = max(float(squared.mean()) if squared.size else 0.0, groups.LEAST)
  start = np.repeat(np.arange(size), count)
  weight = np.exp(-squared / unit).ravel()
  one_way = sparse.csr_array((weight, (start, near.ravel())), (size, size))
  both = (one_way + one_way.T).tocsr()
  total = both.sum(axis=1)
  found = sparse.diags_array(1.0 / np.where(total > 0, total, 1.0)) @ both
  return sparse.csr_array(found, dtype=np.float32)


def means(known: Known, white: np.ndarray, state: State) -> Means:
  """Computes the means that predictions follow, of whitened rows [N, D]."""
  names = list(known.names)
  names += [name for name in state.names if name not in known.names]
  index = {name: i for i, name in enumerate(names)}
  target = np.array([index[name] for name in state.names], int)
  # That it is unknown teaches no class.
  none = no_class(known.names)
  teaches = np.array([name != none for name in state.names], bool)
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
  links: sparse.csr_array,
  state: State,
  before: Predicted | None = None,
) -> Predicted:
  """Predicts whitened rows [N, D] float32.

  Args:
    white: the rows.
    of: what is known of the classes.
    temperature: of the softmax.
    links: between the rows, as `link` makes them.
    state: what is decided, and which rows are not of a class.
    before: predictions after nearly the same decisions, from which fewer rounds
      lead to nearly the same chances.

  Returns:
    The predictions. While there is one class, undecided rows have none: nothing
    tells what is not of it.
  """
  rest = state.label == UNDECIDED
  if before is not None and (before.first[rest] < 0).all():
    before = None  # nothing was predicted
  index = {name: i for i, name in enumerate(of.names)}
  target = np.array([index[name] for name in state.names], int)
  decided = np.flatnonzero(~rest)
  label = target[state.label[decided]]
  decided, label = (part[of.present[label]] for part in (decided, label))
  barred = np.array(
    [
      (row, index[state.names[name]])
      for name, rows in state.refused.items()
      for row in rows
    ],
    int,
  ).reshape(-1, 2)
  bars = tuple(barred.T)

  met = np.bincount(label, minlength=len(of.names)) + MET
  own = _chances(white, of, temperature, met * of.present)
  own[bars] = 0.0
  own = _shares(own)
  chance = own.copy() if before is None else _carried(before, own, of.names)
  chance[bars] = 0.0
  chance[decided] = 0.0
  chance[decided, label] = 1.0
  with ThreadPoolExecutor(os.cpu_count()) as pool:
    averaged = _averages(links, pool)
    for _ in range(ROUNDS if before is None else MORE):
      chance = averaged(chance)
      chance *= SPREAD
      chance += (1.0 - SPREAD) * own
      chance[bars] = 0.0
      chance[decided] = 0.0
      chance[decided, label] = 1.0
  if np.sum(of.present) < 2:
    chance[rest] = 0.0
  chance = _shares(chance)
  return _summary(of.names, chance)


def _averages(
  links: sparse.csr_array, pool: ThreadPoolExecutor
) -> Callable[[np.ndarray], np.ndarray]:
  """Returns a function that multiplies links by rows [N, C], in threads.

  SciPy's own takes one thread, and is most of a prediction's time.
  """
  size = links.shape[0]
  step = max(-(-size // (os.cpu_count() or 1)), BLOCK)
  parts = [links[start : start + step] for start in range(0, size, step)]

  def product(rows: np.ndarray) -> np.ndarray:
    return np.concatenate(list(pool.map(lambda part: part @ rows, parts)))

  return product


def _chances(
  white: np.ndarray, of: Means, temperature: float, weight: np.ndarray
) -> np.ndarray:
  """Computes the softmax of −d² to means, times weights [C]; [N, C] float32."""
  found = np.zeros((len(white), len(of.names)), np.float32)
  if not of.present.any():
    return found
  for start in range(0, len(white), BLOCK):
    rows = scores(white[start : start + BLOCK], of) / temperature
    rows -= rows.max(axis=1, keepdims=True)
    found[start : start + BLOCK] = np.exp(rows) * weight
  return found


def _shares(rows: np.ndarray) -> np.ndarray:
  """Divides rows [N, C] by their sums; rows of zeros stay."""
  total = rows.sum(axis=1, keepdims=True)
  return rows / np.where(total > 0.0, total, 1.0)


def _carried(
  before: Predicted, own: np.ndarray, names: tuple[str, ...]
) -> np.ndarray:
  """Takes the chances of before, where a class was there already."""
  found = own.copy()
  for i, name in enumerate(names):
    if name in before.names:
      found[:, i] = before.chance[:, before.names.index(name)]
  return found


def _summary(names: tuple[str, ...], chance: np.ndarray) -> Predicted:
  """Finds the first class and what sets it apart."""
  count = len(chance)
  first = np.full(count, -1, np.int32)
  confidence, margin = np.zeros((2, count), np.float32)
  for start in range(0, count if names else 0, BLOCK):
    rows = chance[start : start + BLOCK].copy()
    lines = np.arange(len(rows))
    best = rows.argmax(axis=1)
    here = slice(start, start + len(rows))
    confidence[here] = rows[lines, best]
    first[here] = np.where(confidence[here] > 0.0, best, -1)
    rows[lines, best] = 0.0
    margin[here] = confidence[here] - rows.max(axis=1)
  return Predicted(names, first, confidence, margin, chance)
