"""Finds groups of like images by the density of their embeddings.

Rows are reduced by PCA, drawn towards their neighbours (blurring mean shift,
Carreira-Perpiñán 2006), and grouped by HDBSCAN (Campello, Moulavi and Sander
2013) on the graph of their nearest neighbours, so that memory grows with the
rows and not with their pairs. Groups are then joined to a tree by average
linkage.
"""

import itertools
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.cluster import hierarchy

from analysis.measures import classes
from plankton_jax.neighbours import choice

DIMENSIONS = 32  # of PCA; of 16, 32 and 256 the least for the same groups
SHIFTS = 3  # rounds in which rows move to the mean of their neighbours
NEAR = 5  # neighbours in that mean, besides the row itself
CANDIDATES = 50  # nearest rows among which the neighbours are sought
BLOCK = 4096  # rows whose candidates are in memory at a time
EDGES = 10  # neighbours of a row in the graph
SMALLEST = 5  # rows in a group
CORE = 2  # rows, itself included, that make a row dense
LEAST = 1e-9  # distance of copies; the graph has no edge where it is 0
COPY = 1e-6  # rows that differ by less are all one image
PURE = 0.9  # of a group's rows in one class, to call it pure
NONE = -1  # group of a row that lies in no dense place


class Groups(NamedTuple):
  """Groups of N rows; the largest is group 0."""

  of: np.ndarray  # [N] the group of each row, or NONE
  centres: np.ndarray  # [G, D] means of the rows as given
  cohesion: np.ndarray  # [G] mean cosine of the rows to their centre
  order: list[np.ndarray]  # rows of each group, the most central first
  density: np.ndarray  # [N] likeness to the nearest EDGES rows, in (0, 1]
  tree: np.ndarray  # [G − 1, 4] SciPy's linkage of the groups
  near: np.ndarray  # [N, CANDIDATES] rows near each row, int32
  how: str = ''  # the way of the search for neighbours


def find(
  embedding: np.ndarray, *, smallest: int = SMALLEST, way: str = 'auto'
) -> Groups:
  """Groups rows [N, D]; a group has at least `smallest` rows.

  `way` is that of `choice.nearest`.
  """
  points = reduced(embedding)
  # The one search of all rows: what moves with a row is nearly always among
  # these.
  distance, near, how, _ = choice.nearest(points, None, CANDIDATES, way=way)
  candidates = near.astype(np.int32)
  moved = shifted(points, candidates)
  found = describe(embedding, _dense(moved, candidates, smallest), moved)
  apart = np.mean(distance[:, :EDGES] ** 2, axis=1) if distance.size else 0.0
  return found._replace(
    density=found.density - apart / 4, near=candidates, how=how
  )


def reduced(embedding: np.ndarray) -> np.ndarray:
  """Projects rows [N, D] on their first principal axes, at unit length."""
  centred = (embedding - embedding.mean(axis=0)).astype(np.float32)
  _, axes = np.linalg.eigh(centred.T @ centred)  # the largest last
  first = centred @ axes[:, ::-1][:, :DIMENSIONS]
  return classes.directions(first).astype(np.float32)


def closest(
  points: np.ndarray, candidates: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Finds each row's `count` nearest among its candidates [N, K].

  Returns:
    Distances [N, count] and rows [N, count], nearest first.
  """
  distances, rows = [], []
  for start in range(0, len(points), BLOCK):
    near = candidates[start : start + BLOCK]
    apart = points[near] - points[start : start + BLOCK, None]
    distance = np.linalg.norm(apart, axis=2)
    first = np.argsort(distance, axis=1, kind='stable')[:, :count]
    distances.append(np.take_along_axis(distance, first, 1))
    rows.append(np.take_along_axis(near, first, 1))
  return np.concatenate(distances), np.concatenate(rows)


def shifted(points: np.ndarray, candidates: np.ndarray) -> np.ndarray:
  """Moves unit rows [N, d] to the mean of their neighbours, SHIFTS times."""
  for _ in range(SHIFTS):
    mean = points.copy()
    for column in closest(points, candidates, NEAR)[1].T:
      mean += points[column]
    points = classes.directions(mean).astype(np.float32)
  return points


def graph(points: np.ndarray, candidates: np.ndarray) -> sparse.csr_array:
  """Links rows [N, d] with their nearest ones, and what is apart by one edge.

  Returns:
    Symmetric distances [N, N], connected.
  """
  distance, near = closest(points, candidates, EDGES)
  size = len(points)
  start = np.repeat(np.arange(size), near.shape[1])
  weight = np.maximum(distance.ravel(), LEAST)
  links = sparse.csr_array((weight, (start, near.ravel())), (size, size))
  links = links.maximum(links.T).tocsr()
  count, part = sparse.csgraph.connected_components(links, directed=False)
  if count == 1:
    return links
  # HDBSCAN refuses a graph in parts. Each part is tied to a part before it, by
  # their first rows, with an edge longer than any other: no group forms across.
  _, first = np.unique(part, return_index=True)
  heads = points[first]
  ends, gaps = [], []
  for i in range(1, count):
    apart = np.linalg.norm(heads[:i] - heads[i], axis=1)
    ends.append(first[apart.argmin()])
    gaps.append(apart.min())
  gap = links.max() + np.array(gaps)
  ties = sparse.csr_array((gap, (first[1:], np.array(ends))), links.shape)
  return links.maximum(ties.maximum(ties.T)).tocsr()


def _dense(
  points: np.ndarray, candidates: np.ndarray, smallest: int
) -> np.ndarray:
  """Runs HDBSCAN on the graph of rows [N, d]; labels [N], or NONE."""
  from sklearn.cluster import HDBSCAN

  if len(points) < max(smallest, 2):
    return np.full(len(points), NONE)
  if np.ptp(points, axis=0).max() < COPY:  # HDBSCAN would find no group
    return np.zeros(len(points), int)
  found = HDBSCAN(
    min_cluster_size=max(smallest, 2),
    min_samples=min(CORE, len(points)),
    metric='precomputed',
    allow_single_cluster=len(points) < 2 * smallest,
    copy=False,
  ).fit(sparse.csr_matrix(graph(points, candidates)))
  return found.labels_


def describe(
  embedding: np.ndarray, of: np.ndarray, points: np.ndarray
) -> Groups:
  """Numbers groups [N] by their size, and finds centres, order and tree.

  The tree joins the groups' means of `points` [N, d]; density is 1, and no
  row is near.
  """
  counts = np.bincount(of[of != NONE])
  rank = np.argsort(-counts, kind='stable')
  number = np.empty(len(rank) + 1, int)
  number[rank], number[NONE] = np.arange(len(rank)), NONE
  of = number[of]
  centres = np.zeros((len(rank), embedding.shape[1]))
  middles = np.zeros((len(rank), points.shape[1]))
  cohesion, order = np.zeros(len(rank)), []
  by_group = np.argsort(of, kind='stable')
  ends = np.cumsum([np.sum(of == NONE), *counts[rank]])
  for g, (start, end) in enumerate(itertools.pairwise(ends)):
    rows = by_group[start:end]
    members = embedding[rows].astype(np.float64)
    centres[g] = members.mean(axis=0)
    middles[g] = points[rows].mean(axis=0)
    length = np.linalg.norm(members, axis=1) * np.linalg.norm(centres[g])
    cosine = members @ centres[g] / np.maximum(length, LEAST)
    cohesion[g] = cosine.mean()
    order.append(rows[np.argsort(-cosine, kind='stable')])
  tree = np.zeros((0, 4))
  if len(centres) > 1:
    tree = hierarchy.linkage(middles, 'average')
  near = np.zeros((len(of), 0), np.int32)
  return Groups(of, centres, cohesion, order, np.ones(len(of)), tree, near)


def branches(groups: Groups, count: int) -> np.ndarray:
  """Cuts the tree into at most `count` branches; the one of each group [G]."""
  if len(groups.centres) < 2:
    return np.zeros(len(groups.centres), int)
  return hierarchy.fcluster(groups.tree, count, 'maxclust') - 1


def agreement(groups: Groups, truth: np.ndarray) -> dict[str, float]:
  """Compares groups with the true classes [N] of their rows.

  Returns:
    The share of rows in a group, the share in groups of PURE purity, and the
    adjusted mutual information (Vinh, Epps and Bailey 2010) of the groups, rows
    without one as a group of their own, and of as many branches as there are
    classes, rows without a group put to the nearest.
  """
  from sklearn.metrics import adjusted_mutual_info_score

  grouped = groups.of != NONE
  cut = branches(groups, len(np.unique(truth)))
  coarse = cut[groups.of] if len(cut) else groups.of
  return {
    'groups': len(groups.centres),
    'grouped': float(grouped.mean()),
    'pure': pure(groups.of, truth),
    'ami': float(adjusted_mutual_info_score(truth, groups.of)),
    'branches_ami': float(adjusted_mutual_info_score(truth, coarse)),
  }


def pure(of: np.ndarray, truth: np.ndarray) -> float:
  """Returns the share of rows [N] in groups of at least PURE of one class."""
  rows = 0
  for g in np.unique(of[of != NONE]):
    counts = np.unique(truth[of == g], return_counts=True)[1]
    if counts.max() >= PURE * counts.sum():
      rows += counts.sum()
  return float(rows / max(len(of), 1))
