"""Finds hits and misses among the nearest rows, in the exact order."""

from typing import NamedTuple

import numpy as np

from plankton_jax.neighbours import spaces
from plankton_jax.neighbours.spaces import Space


class Nearest(NamedTuple):
  """The nearest rows of Q queries, one query after another, K in all.

  In ascending order of the product, which is the distance up to the tolerance.
  """

  queries: np.ndarray  # [Q]
  starts: np.ndarray  # [Q + 1], of each query's entries
  which: np.ndarray  # [K], the query of each entry, 0 … Q − 1
  columns: np.ndarray  # [K], the row
  dists: np.ndarray  # float32 [K]
  tolerance: np.ndarray  # [Q]


def hits(space: Space, nearest: Nearest) -> np.ndarray:
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
