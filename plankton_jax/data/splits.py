"""Splits images into train, val, test and unseen."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from plankton_jax.errors import InputError

NAMES = ('train', 'val', 'test')


class Split(NamedTuple):
  """Sorted int64 rows of train, val, test and unseen; and those in none."""

  rows: dict[str, np.ndarray]
  dropped: np.ndarray  # Seen images with the very pixels of an unseen one.


def check(fractions: Sequence[float], group_regex: str) -> None:
  """Raises InputError unless both fields can be used."""
  good = len(fractions) == 3 and all(0 < f < 1 for f in fractions)
  if not good or abs(sum(fractions) - 1) > 1e-6:
    raise InputError(
      f'data.fractions={tuple(fractions)} must be three positive numbers '
      '(train, val, test) that sum to 1'
    )
  try:
    re.compile(group_regex)
  except re.error as error:
    raise InputError(f'data.group_regex={group_regex!r}: {error}') from error


def make(
  labels: np.ndarray,
  digests: np.ndarray,
  ids: np.ndarray,
  *,
  class_names: Sequence[str],
  num_seen: int,
  fractions: Sequence[float],
  group_regex: str,
  seed: int,
) -> Split:
  """Splits rows by class and seed; identical images and groups stay together.

  Per seen class, `fractions` of its images (rounded, each at least one) go to
  train and val, the rest to test. `group_regex` is searched in each id: its
  first capture group, or the whole match, names the row's group; no or an
  empty match leaves the row on its own. Groups bind seen rows alone.

  Args:
    labels: int [N], seen classes first.
    digests: uint64 [N], equal for identical images.
    ids: str [N].

  Raises:
    InputError: a seen class with too few independent images.
  """
  unseen = labels >= num_seen
  dropped = ~unseen & np.isin(digests, digests[unseen])
  rows = np.flatnonzero(~unseen & ~dropped)
  groups = _groups(ids[rows], group_regex) if group_regex else None
  bound = _components(digests[rows], groups)
  labels = labels[rows]
  rng = np.random.default_rng(seed)
  quota = _quota(np.bincount(labels, minlength=num_seen), fractions)
  side = _assign(labels, bound, quota, rng)
  _check_sides(labels, bound, side, class_names[:num_seen])
  split = {name: rows[side == i] for i, name in enumerate(NAMES)}
  split['unseen'] = np.flatnonzero(unseen)
  return Split(split, np.flatnonzero(dropped))


def _groups(ids: np.ndarray, group_regex: str) -> np.ndarray:
  """Numbers the group of each row, [N]."""
  pattern = re.compile(group_regex)
  names: list[tuple[str, str | int]] = []
  for row, name in enumerate(ids):
    match = pattern.search(name)
    group = match and (match[1] if pattern.groups else match[0])
    names.append(('group', group) if group else ('row', row))
  numbers: dict[tuple[str, str | int], int] = {}
  return np.array([numbers.setdefault(n, len(numbers)) for n in names])


def _components(digests: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
  """Numbers the set of rows that each row must stay with, [N]."""
  _, digests = np.unique(digests, return_inverse=True)
  if groups is None or not len(digests):
    return digests
  from scipy import sparse

  # A graph of digests on one side, groups on the other; rows are its edges.
  ends = (digests, groups + digests.max() + 1)
  nodes = ends[1].max() + 1
  graph = sparse.coo_array((np.ones(len(digests)), ends), (nodes, nodes))
  _, component = sparse.csgraph.connected_components(graph, directed=False)
  return np.unique(component[digests], return_inverse=True)[1]


def _quota(counts: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
  """Shares images out, int [C, 3]; val and test get one at least."""
  train = np.rint(counts * fractions[0]).astype(int)
  val = np.maximum(np.rint(counts * fractions[1]).astype(int), 1)
  train = np.minimum(train, counts - val - 1)
  return np.stack([train, val, counts - train - val], axis=1)


def _assign(
  labels: np.ndarray,
  bound: np.ndarray,
  quota: np.ndarray,
  rng: np.random.Generator,
) -> np.ndarray:
  """Assigns rows to sides, int [N]: bound ones first, then single ones."""
  side = np.empty(len(labels), int)
  sizes = np.bincount(bound)
  left = quota.copy()
  single = sizes[bound] == 1
  together = np.flatnonzero(~single)
  together = together[np.argsort(bound[together], kind='stable')]
  starts = np.flatnonzero(np.diff(bound[together], prepend=-1))
  members = np.split(together, starts[1:]) if len(together) else []
  counted = [np.unique(labels[m], return_counts=True) for m in members]
  # Sets of rows not yet assigned that could still give a class to a side.
  free = np.bincount(labels[single], minlength=len(quota))
  for classes, _ in counted:
    free[classes] += 1
  order = rng.permutation(len(members))
  for i in sorted(order, key=lambda i: -len(members[i])):
    classes, counts = counted[i]
    score = counts @ left[classes]
    # With no set to spare, a class must go where it is still missing.
    missing = left[classes] == quota[classes]
    urgent = free[classes] <= missing.sum(1)
    if urgent.any():
      score = np.where(missing[urgent].any(0), score, score.min() - 1)
    side[members[i]] = choice = np.argmax(score)
    left[classes, choice] -= counts
    free[classes] -= 1
  alone = np.flatnonzero(single)
  alone = alone[np.lexsort((rng.random(len(alone)), labels[alone]))]
  count = np.bincount(labels[alone], minlength=len(quota))
  ends = np.cumsum(_fill(left, left == quota, count), axis=1)
  rank = np.arange(len(alone)) - (np.cumsum(count) - count)[labels[alone]]
  side[alone] = (rank[:, None] >= ends[labels[alone], :2]).sum(1)
  return side


def _fill(
  left: np.ndarray, missing: np.ndarray, count: np.ndarray
) -> np.ndarray:
  """Counts the single rows that go to each side, [C, 3] summing to count.

  That is what is left of the quota, unless bound rows overran a side; then the
  largest gaps give way, and sides without any image of the class last.
  """
  fill = np.maximum(left, 0)
  for label in np.flatnonzero(fill.sum(1) > count):
    while fill[label].sum() > count[label]:
      spare = np.where(fill[label] > 0, fill[label] - missing[label], -1)
      fill[label, np.argmax(spare)] -= 1
  return fill


def _check_sides(
  labels: np.ndarray,
  bound: np.ndarray,
  side: np.ndarray,
  class_names: Sequence[str],
) -> None:
  for label, name in enumerate(class_names):
    own = labels == label
    train, val, test = np.bincount(side[own], minlength=3)
    if train >= 2 and val >= 1 and test >= 1:
      continue
    sets = len(np.unique(bound[own]))
    note = '' if sets == own.sum() else f' in {sets} independent sets'
    raise InputError(
      f'class {name!r} has too few images to split ({own.sum()}{note}): two to '
      'train on, one to validate and one to test are needed; add images, '
      'remove the class or list it in data.unseen_classes'
    )
