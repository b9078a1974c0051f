"""Names an image by the lowest node of a taxonomy at which that is sure.

A node's probability is the sum over the classes below it. For each level, a
place in the lineages, validation images set the probability from which a node
is taken; an image gets the node of the deepest level that reaches it. (Deng,
Krause, Berg and Fei-Fei 2012, CVPR, 'Hedging your bets', reward depth by one
multiplier for all nodes instead.)
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.files.taxa import Path, Taxa
from analysis.measures import labeller
from analysis.measures.fitted import Fitted
from plankton_jax.errors import InputError


class Tree(NamedTuple):
  """The classes' places in a taxonomy."""

  names: tuple[str, ...]  # of C classes
  paths: tuple[Path, ...]  # [C], no two equal; each ends in the class
  ranks: tuple[str, ...]  # of the levels, [L]

  def node(self, path: Path) -> str:
    """Names a node: as the class that it is, or by its own name."""
    if path in self.paths:
      return self.names[self.paths.index(path)]
    return path[-1]


class Placed(NamedTuple):
  """The node of an image; an empty path and no name where none is sure."""

  path: Path
  name: str
  rank: str
  confidence: float  # the node's probability


NOWHERE = Placed((), '', '', 0.0)


def check(sure: float) -> None:
  """Raises InputError for a share outside 0 … 1."""
  if not 0.0 < sure < 1.0:
    raise InputError(f'--sure={sure}: give a share such as 0.95')


def grow(
  names: Sequence[str],
  lineages: Mapping[str, Path],
  ranks: Sequence[str] = (),
) -> Tree | None:
  """Places classes by their lineages; None if not two classes have one.

  A class without a lineage is a root. Classes of one lineage are its children.
  Levels are called by `ranks`, and `level 1` and so on beyond them.
  """
  paths = [lineages.get(name) or (name,) for name in names]
  if sum(len(path) > 1 for path in paths) < 2:
    return None
  paths = [
    (*path, name) if paths.count(path) > 1 else path
    for name, path in zip(names, paths, strict=True)
  ]
  deepest = max(map(len, paths))
  levels = [*ranks, *(f'level {n + 1}' for n in range(len(ranks), deepest))]
  return Tree(tuple(names), tuple(paths), tuple(levels[:deepest]))


def nodes(tree: Tree, level: int) -> tuple[np.ndarray, list[Path]]:
  """Lists the nodes of a level, and which of them each class is in, [C].

  A class whose lineage ends above stands for itself.
  """
  cut = [path[: level + 1] for path in tree.paths]
  found = sorted(set(cut))
  place = {path: at for at, path in enumerate(found)}
  return np.array([place[path] for path in cut]), found


def summed(chance: np.ndarray, member: np.ndarray) -> np.ndarray:
  """Sums probabilities [N, C] over the classes of each node, to [N, nodes]."""
  return chance @ np.eye(member.max() + 1)[member]


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
  tree: Tree, chance: np.ndarray, true: np.ndarray, sure: float
) -> tuple[float, ...]:
  """Sets each level's threshold on images [N, C] of known classes [N].

  Deepest first: a level counts the images that no deeper one has named, as
  these are harder. A level of one node names nothing, and gets infinity.
  """
  limits = [np.inf] * len(tree.ranks)
  left = np.arange(len(true))
  for level in reversed(range(len(tree.ranks))):
    member, found = nodes(tree, level)
    if len(found) < 2:
      continue
    at_level = summed(chance[left], member)
    right = at_level.argmax(axis=1) == member[true[left]]
    top = at_level.max(axis=1)
    limits[level] = threshold(top, right, sure)
    left = left[top < limits[level]]
  return tuple(limits)


def place(
  tree: Tree, chance: np.ndarray, limits: Sequence[float]
) -> list[Placed]:
  """Gives each image, probabilities [N, C], its deepest sure node."""
  found = [NOWHERE] * len(chance)
  for level, limit in enumerate(limits):
    member, paths = nodes(tree, level)
    at_level = summed(chance, member)
    best = at_level.argmax(axis=1)
    for row in np.flatnonzero(at_level.max(axis=1) >= limit).tolist():
      path = paths[best[row]]
      found[row] = Placed(
        path,
        tree.node(path),
        tree.ranks[len(path) - 1],
        min(float(at_level[row, best[row]]), 1.0),
      )
  return found


def distances(tree: Tree) -> np.ndarray:
  """Counts the edges of the tree between each two classes, int [C, C]."""
  shared = np.array([[_shared(a, b) for b in tree.paths] for a in tree.paths])
  length = np.array([len(path) for path in tree.paths])
  return length[:, None] + length[None, :] - 2 * shared


def measure(
  tree: Tree,
  chance: np.ndarray,
  true: np.ndarray,
  limits: Sequence[float],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """Measures accuracy by level and the mistakes on test images.

  Args:
    tree: of the classes.
    chance: [N, C] of test images.
    true: [N] classes.
    limits: of the levels.

  Returns:
    A line a level: the accuracy of the likeliest node, the share of images that
    this level names, and the accuracy of these. And measures of all images:
    `taxonomic_distance`, the mean number of edges between the class of a wrong
    image and the one predicted; `named`, the share that gets a node, and
    `named_accuracy`, the share of these whose node holds the true class.
  """
  lines = []
  placed = place(tree, chance, limits)
  good = np.array(
    [
      tree.paths[label][: len(one.path)] == one.path
      for one, label in zip(placed, true.tolist(), strict=True)
    ]
  )
  left = np.ones(len(true), bool)
  for level in reversed(range(len(limits))):
    member, found = nodes(tree, level)
    at_level = summed(chance, member)
    right = at_level.argmax(axis=1) == member[true]
    named = left & (at_level.max(axis=1) >= limits[level])
    left &= ~named
    lines.append(
      {
        'rank': tree.ranks[level],
        'nodes': len(found),
        'accuracy': _mean(right),
        'threshold': limits[level] if np.isfinite(limits[level]) else np.nan,
        'named': _mean(named),
        'named_accuracy': _mean(good[named]),
      }
    )
  label = chance.argmax(axis=1)
  wrong = label != true
  return lines[::-1], {
    'mistakes': int(wrong.sum()),
    'taxonomic_distance': _mean(distances(tree)[label[wrong], true[wrong]]),
    'named': _mean(~left),
    'named_accuracy': _mean(good[~left]),
  }


class Ranks(NamedTuple):
  """How sure a labeller is at each rank; all empty without"""

  tree: Tree | None = None
  limits: Sequence[float] = ()  # of the levels; empty without val images
  lines: Sequence[Mapping[str, Any]] = ()  # of the levels, by test images
  measures: Mapping[str, Any] = {}
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
    return Ranks(tree, remarks=['No val images: names are not backed off.'])
  limits = calibrate(
    tree,
    labeller.probabilities(fitted.labeller, fitted.val.embedding),
    fitted.val.label,
    sure,
  )
  lacking = [name for name in names if not known_as.get(name)]
  remarks = []
  if lacking:
    more = ', ...' if len(lacking) > 5 else ''
    remarks.append(
      f'{len(lacking)} classes have no lineage: {", ".join(lacking[:5])}{more}.'
    )
  if fitted.held_out is None:
    return Ranks(tree, limits, remarks=remarks)
  lines, measures = measure(
    tree,
    labeller.probabilities(fitted.labeller, fitted.held_out.embedding),
    fitted.held_out.label,
    limits,
  )
  return Ranks(tree, limits, lines, measures, remarks)


def place_images(
  ranks: Ranks, fitted: Fitted, embedding: np.ndarray
) -> list[Placed]:
  """Gives each row [N, D] its lowest sure node; nothing without thresholds."""
  if ranks.tree is None or not ranks.limits:
    return []
  found: list[Placed] = []
  for start in range(0, len(embedding), labeller.BLOCK):
    chance = labeller.probabilities(
      fitted.labeller, embedding[start : start + labeller.BLOCK]
    )
    found += place(ranks.tree, chance, ranks.limits)
  return found


def _shared(a: Path, b: Path) -> int:
  count = 0
  for one, other in zip(a, b, strict=False):
    if one != other:
      break
    count += 1
  return count


def _mean(values: np.ndarray) -> float:
  return float(np.mean(values)) if len(values) else np.nan
