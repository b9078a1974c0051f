"""Names an image by the lowest node of a taxonomy at which that is sure.

A node's probability is the sum over the classes below it. For each level, a
place in the lineages, validation images set the probability from which a node
is taken; an image gets the node of the deepest level that reaches it. (Deng,
Krause, Berg and Fei-Fei 2012, CVPR, 'Hedging your bets', reward depth by one
multiplier for all nodes instead.)
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.files.taxa import Path, Taxa
from analysis.measures import calibration, labeller
from analysis.measures.fitted import Fitted


class Level(NamedTuple):
  """The nodes of one level; a class that ends above stands for itself."""

  rank: str
  member: np.ndarray  # [C] the node that each class is in
  nodes: list[Path]


class Tree(NamedTuple):
  """The classes' places in a taxonomy."""

  names: tuple[str, ...]  # of C classes
  paths: tuple[Path, ...]  # [C], no two equal; each ends in the class
  levels: tuple[Level, ...]  # [L], the root's first


class Likeliest(NamedTuple):
  """The likeliest class of N images, and the likeliest node of each level."""

  label: np.ndarray  # [N]
  node: np.ndarray  # [N, L]
  chance: np.ndarray  # [N, L] its probability


class Placed(NamedTuple):
  """The node of an image; an empty path and no name where none is sure."""

  path: Path
  name: str
  rank: str
  confidence: float  # the node's probability


NOWHERE = Placed((), '', '', 0.0)


def grow(
  names: Sequence[str], lineages: Mapping[str, Path], ranks: Sequence[str] = ()
) -> Tree | None:
  """Places classes by their lineages; None if not two classes have one.

  A class without a lineage is a root. Classes of one lineage are its children.
  Levels are called by `ranks`, and `level 1` and so on beyond them.
  """
  paths = [lineages.get(name) or (name,) for name in names]
  if sum(len(path) > 1 for path in paths) < 2:
    return None
  times = collections.Counter(paths)
  paths = [
    (*path, name) if times[path] > 1 else path
    for name, path in zip(names, paths, strict=True)
  ]
  levels = []
  for depth in range(1, max(map(len, paths)) + 1):
    cut = [path[:depth] for path in paths]
    nodes = sorted(set(cut))
    place = {path: at for at, path in enumerate(nodes)}
    rank = ranks[depth - 1] if depth <= len(ranks) else f'level {depth}'
    levels.append(Level(rank, np.array([place[path] for path in cut]), nodes))
  return Tree(tuple(names), tuple(paths), tuple(levels))


def likeliest(tree: Tree, chance: np.ndarray) -> Likeliest:
  """Finds the likeliest node of each level by probabilities [N, C]."""
  node = np.empty((len(chance), len(tree.levels)), int)
  top = np.empty(node.shape)
  for at, level in enumerate(tree.levels):
    sums = summed(chance, level.member)
    node[:, at], top[:, at] = sums.argmax(axis=1), sums.max(axis=1)
  return Likeliest(chance.argmax(axis=1), node, top)


def summed(chance: np.ndarray, member: np.ndarray) -> np.ndarray:
  """Sums probabilities [N, C] over the classes of each node, to [N, nodes]."""
  order = np.argsort(member, kind='stable')
  starts = np.searchsorted(member[order], np.arange(member.max() + 1))
  return np.add.reduceat(chance[:, order], starts, axis=1)


def threshold(chance: np.ndarray, right: np.ndarray, sure: float) -> float:
  """Finds the lowest probability from which images are right often enough.

  Of the k images with at least this `chance` [N], e are wrong, and
  (e + 1) / (k + 1) ≤ 1 − sure. Infinite if there is no such probability.
  """
  order = np.argsort(-chance, kind='stable')
  wrong = np.cumsum(~right[order]) + 1
  enough = wrong / (np.arange(len(order)) + 2) <= 1.0 - sure + 1e-12
  ends = np.append(np.diff(chance[order]) != 0, True)  # equal ones go together
  good = np.flatnonzero(enough & ends)
  return float(chance[order][good[-1]]) if good.size else np.inf


def calibrate(
  tree: Tree, found: Likeliest, true: np.ndarray, sure: float
) -> tuple[float, ...]:
  """Sets each level's threshold on N images of known classes [N].

  Deepest first: a level counts the images that no deeper one has named, as
  these are harder. A level of one node names nothing, and gets infinity.
  """
  limits = [np.inf] * len(tree.levels)
  left = np.arange(len(true))
  for at in reversed(range(len(limits))):
    _, member, nodes = tree.levels[at]
    if len(nodes) < 2:
      continue
    right = found.node[left, at] == member[true[left]]
    top = found.chance[left, at]
    limits[at] = threshold(top, right, sure)
    left = left[top < limits[at]]
  return tuple(limits)


def place(
  tree: Tree, found: Likeliest, limits: Sequence[float]
) -> list[Placed]:
  """Gives each image its deepest sure node, called as the class that it is."""
  names = dict(zip(tree.paths, tree.names, strict=True))
  placed = [NOWHERE] * len(found.label)
  for at, limit in enumerate(limits):
    for row in np.flatnonzero(found.chance[:, at] >= limit).tolist():
      path = tree.levels[at].nodes[found.node[row, at]]
      placed[row] = Placed(
        path,
        names.get(path, path[-1]),
        tree.levels[len(path) - 1].rank,
        min(float(found.chance[row, at]), 1.0),
      )
  return placed


def edges(tree: Tree, one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Counts the edges of the tree between pairs of classes, [N] and [N]."""
  length = np.array([len(path) for path in tree.paths])
  shared = np.zeros(len(one), int)
  for _, member, _ in tree.levels:
    shared += member[one] == member[other]
  # A class stands for itself below the end of its lineage, too.
  shared = np.minimum(shared, length[one])
  return length[one] + length[other] - 2 * shared


def measure(
  tree: Tree, found: Likeliest, true: np.ndarray, limits: Sequence[float]
) -> tuple[list[dict[str, Any]], dict[str, Any], np.ndarray]:
  """Measures accuracy by level and the mistakes on test images.

  Args:
    tree: of the classes.
    found: of N test images.
    true: [N] classes.
    limits: of the levels.

  Returns:
    A line a level: the accuracy of the likeliest node, the share of images that
    this level names, and the accuracy of these. And measures of all images:
    `taxonomic_distance`, the mean number of edges between the class of a wrong
    image and the one predicted; `named`, the share that gets a node, and
    `named_accuracy`, the share of these whose node holds the true class. And
    the edges of each mistake.
  """
  lines = []
  placed = place(tree, found, limits)
  good = np.array(
    [
      tree.paths[label][: len(one.path)] == one.path
      for one, label in zip(placed, true.tolist(), strict=True)
    ]
  )
  left = np.ones(len(true), bool)
  for at in reversed(range(len(limits))):
    rank, member, nodes = tree.levels[at]
    named = left & (found.chance[:, at] >= limits[at])
    left &= ~named
    lines.append(
      {
        'rank': rank,
        'nodes': len(nodes),
        'accuracy': _mean(found.node[:, at] == member[true]),
        'threshold': limits[at] if np.isfinite(limits[at]) else np.nan,
        'named': _mean(named),
        'named_accuracy': _mean(good[named]),
      }
    )
  wrong = found.label != true
  far = edges(tree, found.label[wrong], true[wrong])
  return (
    lines[::-1],
    {
      'mistakes': int(wrong.sum()),
      'taxonomic_distance': _mean(far),
      'named': _mean(~left),
      'named_accuracy': _mean(good[~left]),
    },
    far,
  )


class Ranks(NamedTuple):
  """Holds how sure a labeller is at each rank; empty without lineages."""

  tree: Tree | None = None
  limits: Sequence[float] = ()  # of its levels; empty without val images
  lines: Sequence[Mapping[str, Any]] = ()  # of the levels, by test images
  measures: Mapping[str, Any] = {}
  far: np.ndarray | None = None  # edges to the true class, of each mistake
  remarks: Sequence[str] = ()


def fit(fitted: Fitted, known: Taxa, sure: float) -> Ranks:
  """Sets the thresholds of ranks on val images, and tests them on test images.

  `sure` is the share of right names to reach at a rank.
  """
  names = fitted.labeller.gallery.class_names
  known_as = {name: taxon.lineage for name, taxon in known.of.items()}
  tree = grow(names, known_as, known.ranks)
  if tree is None:
    return Ranks()
  if fitted.val is None:
    remarks = ['No val images: names are not backed off.']
    return Ranks(tree, remarks=remarks)
  limits = calibrate(
    tree,
    _likeliest_of(tree, fitted, fitted.val.embedding),
    fitted.val.label,
    sure,
  )
  lacking = [name for name in names if not known_as.get(name)]
  remarks = []
  if lacking:
    more = ', ...' if len(lacking) > 5 else ''
    remarks.append(
      f'{len(lacking)} of {len(names)} classes without a lineage:'
      f' {", ".join(lacking[:5])}{more}.'
    )
  if fitted.held_out is None:
    return Ranks(tree, limits, remarks=remarks)
  tested = _likeliest_of(tree, fitted, fitted.held_out.embedding)
  found = measure(tree, tested, fitted.held_out.label, limits)
  return Ranks(tree, limits, *found, remarks)


def place_images(
  ranks: Ranks, fitted: Fitted, embedding: np.ndarray
) -> list[Placed]:
  """Gives each row [N, D] its lowest sure node; nothing without thresholds."""
  if ranks.tree is None or not ranks.limits:
    return []
  found = _likeliest_of(ranks.tree, fitted, embedding)
  return place(ranks.tree, found, ranks.limits)


def _likeliest_of(
  tree: Tree, fitted: Fitted, embedding: np.ndarray
) -> Likeliest:
  """Finds the likeliest nodes of rows [N, D], some rows at a time."""
  parts = [
    likeliest(tree, calibration.softmax(-apart, fitted.labeller.temperature))
    for apart in labeller.squared_in_blocks(fitted.labeller.seen, embedding)
  ]
  return Likeliest(*map(np.concatenate, zip(*parts, strict=True)))


def _mean(values: np.ndarray) -> float:
  return float(np.mean(values)) if len(values) else np.nan
