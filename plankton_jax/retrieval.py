"""Measures the retrieval of an embedding, exactly.

Every row is a query against all others and never matches itself. Gallery rows
are ranked by float64 Euclidean distance, ties by the lowest index. Most pairs
never need that precision: a float32 product ranks them, and only a row of the
query's class and one of another class that lie closer together than its
rounding error are compared again in float64.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from plankton_jax.distances import checked
from plankton_jax.errors import InputError
from plankton_jax.neighbours import device, spaces, tiles
from plankton_jax.neighbours.spaces import Nearest, Space


class PerQuery(NamedTuple):
  """`rows` [Q] are the queries; `measures` maps a name to values [Q]."""

  rows: np.ndarray
  measures: dict[str, np.ndarray]


def evaluate(
  embeddings: np.ndarray, labels: np.ndarray, *, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
  """Measures Recall@k, R-precision and MAP@R of rows [N, D], labels [N].

  Averages over queries (`recall_at_1`, …, `r_precision`, `map_at_r`) and over
  class means of queries (the same names after `macro_`), and counts `queries`.
  A row alone in its class is not a query but stays in the gallery; without any
  query the measures are NaN. See `per_query`.
  """
  rows, measures = per_query(embeddings, labels, ks=ks)
  return {'queries': len(rows), **averages(measures, np.asarray(labels)[rows])}


def averages(
  measures: dict[str, np.ndarray], labels: np.ndarray
) -> dict[str, float]:
  """Averages values [Q] over queries, and over class means as `macro_NAME`.

  NaN if there is no query.
  """
  if len(labels) == 0:
    return dict.fromkeys([*measures, *(f'macro_{m}' for m in measures)], np.nan)
  _, members, counts = np.unique(
    labels, return_inverse=True, return_counts=True
  )
  micro = {name: float(values.mean()) for name, values in measures.items()}
  macro = {
    f'macro_{name}': float((np.bincount(members, values) / counts).mean())
    for name, values in measures.items()
  }
  return micro | macro


def per_query(
  embeddings: np.ndarray,
  labels: np.ndarray,
  *,
  ks: Sequence[int],
  queries: np.ndarray | None = None,
) -> PerQuery:
  """Measures each query, for `embeddings` [N, D] and `labels` [N].

  With R other rows of the query's class, hits h(i) at rank i and precision
  P(i) = Σ_{j≤i} h(j) / i:
    recall_at_k  1 if any of the k nearest is a hit (all others, if fewer);
    r_precision  P(R);
    map_at_r     Σ_{i≤R} P(i) h(i) / R  (Musgrave, Belongie and Lim 2020,
                 arXiv:2003.08505).
  Rows that are alone in their class (R = 0) are not queries. `queries` are the
  rows to measure, against all others; None takes all.

  Raises:
    InputError: for mismatched shapes, no rows, a row that is not finite or a
      k below 1.
  """
  embeddings, labels = checked(embeddings, labels)
  for k in ks:
    if k != int(k) or k < 1:
      raise InputError(f'k = {k} is no rank: give whole numbers from 1')
  _, members, counts = np.unique(
    labels, return_inverse=True, return_counts=True
  )
  relevant = counts[members] - 1
  if queries is not None:
    relevant[np.setdiff1d(np.arange(len(labels)), queries)] = 0
  rows = np.flatnonzero(relevant)
  names = [*(f'recall_at_{k}' for k in ks), 'r_precision', 'map_at_r']
  deepest_k = int(min(max(ks, default=1), len(labels) - 1))
  depths = np.where(relevant, np.maximum(relevant, deepest_k), 0)
  results = np.empty((len(labels), len(names)))

  def use(space: Space, nearest: Nearest) -> None:
    hits = _hits(space, nearest)
    of = space.order[nearest.queries]
    results[of] = _measures(nearest, hits, relevant[of], ks)

  visit = device.visit if device.serves(len(labels)) else tiles.visit
  with _bar(len(rows)) as update:
    if len(rows):
      for count in visit(spaces.make(embeddings, members), depths, use):
        update(count)
  return PerQuery(rows, dict(zip(names, results[rows].T, strict=True)))


def _hits(space: Space, nearest: Nearest) -> np.ndarray:
  """Tells which entries are of their query's class, exactly ordered; bool [K].

  Only products of a hit and a miss within the tolerance are compared again in
  float64. Equal distances go by row as given.
  """
  own = np.repeat(space.classes[nearest.queries], np.diff(nearest.starts))
  found = space.classes.take(nearest.columns) == own
  entries = _contested(nearest, found)
  if len(entries):
    # Whatever lies between two entries within the tolerance is contested too,
    # so that their exact order is found among their own places.
    which, columns = nearest.which[entries], nearest.columns[entries]
    exact = spaces.exact(space, nearest.queries[which], columns)
    order = np.argsort(exact)
    order = order[np.argsort(which[order], kind='stable')]
    placed = found[entries]
    again = (exact[order[1:]] == exact[order[:-1]]) & (
      which[order[1:]] == which[order[:-1]]
    )
    if (again & (placed[order[1:]] != placed[order[:-1]])).any():
      order = np.lexsort((space.order[columns], exact, which))
    found[entries] = placed[order]
  return found


def _contested(nearest: Nearest, found: np.ndarray) -> np.ndarray:
  """Finds entries within the tolerance of one of the other kind.

  Only hits and misses can change a measure by changing places. In ascending
  order the nearest of the other kind lie beside the run of one's own.
  """
  _, _, which, _, dists, tolerance = nearest
  starting = np.ones(len(found), bool)
  np.not_equal(found[1:], found[:-1], out=starting[1:])
  starting[nearest.starts[:-1]] = True
  starts = np.flatnonzero(starting)
  lengths = np.diff(starts, append=len(found))
  owner = which[starts]
  # Compare each run with the next one of the same query.
  last, first = dists[starts[1:] - 1], dists[starts[1:]]
  margin = tolerance[owner[1:]]
  close = (first - last <= margin) & (owner[1:] == owner[:-1])
  below, above = np.full((2, len(starts)), [[-np.inf], [np.inf]])
  below[1:][close] = (last + margin)[close]
  above[:-1][close] = (first - margin)[close]
  runs = np.flatnonzero((below > -np.inf) | (above < np.inf))
  lengths = lengths[runs]
  offsets = starts[runs] - np.cumsum(lengths) + lengths
  entries = np.repeat(offsets, lengths) + np.arange(lengths.sum())
  within = dists[entries] <= np.repeat(below[runs], lengths)
  within |= dists[entries] >= np.repeat(above[runs], lengths)
  return entries[within]


def _measures(
  nearest: Nearest,
  hits: np.ndarray,
  relevant: np.ndarray,
  ks: Sequence[int],
) -> np.ndarray:
  """Computes recall@k for each k, R-precision and MAP@R, [Q, len(ks) + 2]."""
  at = np.flatnonzero(hits)
  starts = nearest.starts[:-1]
  first = np.searchsorted(at, starts)
  each = np.diff(first, append=len(at))  # hits of a query
  some = each > 0
  ranks = at - np.repeat(starts - 1, each)
  found = np.arange(1, len(at) + 1) - np.repeat(first, each)
  counted = ranks <= np.repeat(relevant, each)

  def total(values: np.ndarray) -> np.ndarray:
    """Sums values of the hits [H] by query, [Q]."""
    sums = np.zeros(len(starts))
    sums[some] = np.add.reduceat(values, first[some], dtype=np.float64)
    return sums

  nearest_hit = np.append(at, len(hits))[first] - starts + 1
  return np.column_stack(
    [
      *(nearest_hit <= k for k in ks),
      total(counted) / relevant,
      total(counted * found / ranks) / relevant,
    ]
  )


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
  """Yields `update(count)` of a bar that is shown after two seconds.

  Shows none without tqdm, which training does without.
  """
  try:
    from tqdm import tqdm
  except ImportError:
    yield lambda count: None
    return
  with tqdm(
    total=total, desc='retrieval', unit='query', delay=2, leave=False
  ) as progress:
    yield progress.update
