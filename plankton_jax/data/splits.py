"""Splits images into train, val, test, unseen and rare."""

import functools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from plankton_jax.errors import InputError

NAMES = ('train', 'val', 'test')
RARE = ('gallery', 'other', 'drop')  # fates of a class too small to be split
OTHER = 'other'  # the class that rare ones are merged into

FEWEST = 4  # images of a class: two to train on, one to validate, one to test
_TRIES = 16  # orders of groups tried, to get the most classes on every side


class Split(NamedTuple):
  """Sorted int64 rows of train, val, test, unseen and rare, and those left out.

  'rare' has rows only if there is such a class.
  """

  rows: dict[str, np.ndarray]
  dropped: np.ndarray  # copies of unseen images, and rare ones for 'drop'
  rare: dict[str, str]  # class -> why it is not trained on


class _Divided(NamedTuple):
  side: np.ndarray  # int [N], an index of NAMES, or -1 of rare classes
  rare: dict[int, str]  # label -> reason


def check(fractions: Sequence[float], group_regex: str, rare: str) -> None:
  """Raises InputError unless the fields can be used."""
  if rare not in RARE:
    known = ', '.join(map(repr, RARE))
    raise InputError(f'data.rare={rare!r} must be one of {known}')
  check_fractions(fractions)
  try:
    re.compile(group_regex)
  except (re.error, TypeError) as error:
    raise InputError(f'data.group_regex={group_regex!r}: {error}') from error


def check_fractions(value: Any) -> None:
  """Raises InputError unless a value is the three shares of a split."""
  good = (
    isinstance(value, tuple | list)
    and len(value) == 3
    and all(isinstance(share, float) and 0.0 < share < 1.0 for share in value)
  )
  if not good or abs(sum(value) - 1.0) > 1e-6:
    raise InputError(
      f'data.fractions={value!r} must be three positive numbers (train, val,'
      ' test) that sum to 1'
    )


def make(
  labels: np.ndarray,
  digests: np.ndarray,
  ids: np.ndarray,
  *,
  class_names: Sequence[str],
  num_seen: int,
  fractions: Sequence[float],
  group_regex: str,
  rare: str,
  seed: int,
) -> Split:
  """Splits rows by class and seed; identical images and groups stay together.

  Of each seen class, `fractions` of the images (rounded, at least one) go to
  train and val, the rest to test. `group_regex` is searched in each id: its
  first capture group, or the whole match, names the row's group; without a
  match, or with an empty one, the row is on its own. Groups bind seen rows
  only.

  A class that cannot have two images in train, one in val and one in test is
  rare: as `rare` says, its rows go to 'rare' ('gallery'), to the class 'other'
  ('other'), or to no split ('drop').

  Args:
    labels: int [N], seen classes first.
    digests: uint64 [N], equal for identical images.
    ids: str [N].

  Raises:
    InputError: fewer than two classes can be trained on.
  """
  unseen = labels >= num_seen
  copies = ~unseen & np.isin(digests, digests[unseen])
  rows = np.flatnonzero(~unseen & ~copies)
  groups = _groups(ids[rows], group_regex) if group_regex else None
  bound = _components(digests[rows], groups)
  divide = functools.partial(
    _divide, bound=bound, fractions=fractions, seed=seed
  )
  own, names = labels[rows], [*class_names]
  side, found = divide(own, num_classes=num_seen)
  reasons = {names[label]: why for label, why in found.items()}
  if rare == 'other' and OTHER in names[num_seen:]:
    raise InputError(
      f"data.rare='other': the class {OTHER!r} is unseen; take it off"
      ' data.unseen_classes'
    )
  if rare == 'other' and set(reasons) - {OTHER}:
    own, side, reasons = _with_other(divide, own, names, reasons)
  trained = np.unique(own[side >= 0])
  if len(trained) < 2:
    name, reason = next(iter(reasons.items()))
    raise InputError(
      f'{len(trained)} of {num_seen} seen classes can be trained on, two are'
      f' needed: class {name!r} has too few images to split ({reason}): two to'
      ' train on, one to validate and one to test are needed; add images, or'
      ' bind fewer of them by data.group_by or data.group_regex'
    )
  split = {name: rows[side == i] for i, name in enumerate(NAMES)}
  split['unseen'] = np.flatnonzero(unseen)
  left = rows[side < 0]
  if rare != 'drop' and len(left):
    split['rare'] = left
  dropped = copies.copy()
  dropped[left] = rare == 'drop'
  return Split(split, np.flatnonzero(dropped), reasons)


def take(
  labels: np.ndarray,
  digests: np.ndarray,
  sides: Sequence[str],
  *,
  class_names: Sequence[str],
  num_seen: int,
  rare: str,
) -> Split:
  """Takes a split as given.

  Args:
    labels: int [N], seen classes first.
    digests: uint64 [N], equal for identical images.
    sides: [N], each one of NAMES.
    class_names: of the labels.
    num_seen: how many classes are seen.
    rare: what becomes of classes with fewer than two images in train.

  Raises:
    InputError: a side has no images, or train fewer than two classes.
  """
  given = np.array(sides)
  for name in NAMES:
    if name not in given:
      raise InputError(
        f'data.own_split: there is no folder {name!r}; train, val and test are'
        ' needed'
      )
  if rare == 'other':
    raise InputError(
      "data.own_split does not go with data.rare='other'; set it to 'gallery'"
      " or 'drop'"
    )
  unseen = labels >= num_seen
  copies = ~unseen & np.isin(digests, digests[unseen])
  usable = ~unseen & ~copies
  trained = np.bincount(labels[usable & (given == 'train')], minlength=num_seen)
  few = np.isin(labels, np.flatnonzero(trained < 2)) & usable
  if (trained >= 2).sum() < 2:
    raise InputError('data.own_split: fewer than two classes in train')
  rows = {n: np.flatnonzero(usable & ~few & (given == n)) for n in NAMES}
  rows['unseen'] = np.flatnonzero(unseen)
  if rare == 'gallery' and few.any():
    rows['rare'] = np.flatnonzero(few)
  return Split(
    rows,
    np.flatnonzero(copies | (few if rare == 'drop' else False)),
    {
      class_names[label]: f'{trained[label]} in train'
      for label in np.flatnonzero(trained < 2).tolist()
    },
  )


def shared(digests: np.ndarray, split: Split) -> int:
  """Counts the images of val and test that train holds, too, pixel by pixel."""
  rows = np.concatenate([split.rows['val'], split.rows['test']])
  return int(np.isin(digests[rows], digests[split.rows['train']]).sum())


def contrary(digests: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
  """Finds images that several classes hold, pixel by pixel.

  Args:
    digests: uint64 [N], equal for identical images.
    labels: int [N].

  Returns:
    The rows of each such image, in the order of their labels.
  """
  _, image = np.unique(digests, return_inverse=True)
  pairs = np.unique(np.stack([image, labels]), axis=1)
  rows = np.flatnonzero((np.bincount(pairs[0]) > 1)[image])
  rows = rows[np.lexsort((labels[rows], image[rows]))]
  return np.split(rows, np.flatnonzero(np.diff(image[rows])) + 1)[: len(rows)]


def merge(
  labels: np.ndarray, rare: Collection[str], class_names: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
  """Relabels rows of rare classes as 'other'; returns labels and names."""
  names = [*class_names, *([] if OTHER in class_names else [OTHER])]
  labels_of_rare = [names.index(name) for name in rare]
  merged = np.isin(labels, labels_of_rare)
  return np.where(merged, names.index(OTHER), labels), names


def _with_other(
  divide: Callable[..., _Divided],
  labels: np.ndarray,
  class_names: Sequence[str],
  rare: dict[str, str],
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
  """Merges rare classes into 'other', and those that this makes rare.

  Args:
    divide: `_divide`, but for the labels and their number.
    labels: int [N].
    class_names: of the labels.
    rare: class -> reason.

  Returns:
    Labels int [N], their sides int [N], and every rare class with its reason.
  """
  while True:
    merged, names = merge(labels, set(rare) - {OTHER}, class_names)
    side, found = divide(merged, num_classes=len(names))
    present = set(np.unique(merged).tolist())
    lacking = {names[n]: why for n, why in found.items() if n in present}
    rare = {n: why for n, why in rare.items() if n != OTHER} | lacking
    if not set(lacking) - {OTHER}:
      return merged, side, rare


def _divide(
  labels: np.ndarray,
  *,
  num_classes: int,
  bound: np.ndarray,
  fractions: Sequence[float],
  seed: int,
) -> _Divided:
  """Assigns rows to sides so that the most classes have images on each."""
  counts = np.bincount(labels, minlength=num_classes)
  pairs = np.unique(np.stack([labels, bound]), axis=1)
  sets = np.bincount(pairs[0], minlength=num_classes)
  rare = {
    int(label): _describe(counts[label], sets[label])
    for label in np.flatnonzero((counts < FEWEST) | (sets < len(NAMES)))
  }
  while True:
    kept = ~np.isin(labels, list(rare))
    side = np.full(len(labels), -1)
    # Groups that are left out keep their numbers but have no row.
    present = np.where(np.isin(np.arange(num_classes), list(rare)), 0, counts)
    own, sides = labels[kept], np.unique(bound[kept], return_inverse=True)[1]
    side[kept], lacking = min(
      _attempts(own, sides, _quota(present, fractions), seed),
      key=lambda attempt: len(attempt[1]),
    )
    if not len(lacking):
      return _Divided(side, rare)
    for label in lacking.tolist():
      rare[label] = f'{counts[label]}, whose groups hold other classes too'


def _describe(images: int, sets: int) -> str:
  return (
    f'{images}' if sets == images else f'{images} in {sets} independent sets'
  )


def _attempts(
  labels: np.ndarray, bound: np.ndarray, quota: np.ndarray, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (sides, labels of classes that lack one); stops once none does."""
  for attempt in range(_TRIES):
    rng = np.random.default_rng(seed if not attempt else (seed, attempt))
    side = _assign(labels, bound, quota, rng, shuffle=0.5 if attempt else 0.0)
    on = np.zeros(quota.shape, int)
    np.add.at(on, (labels, side), 1)
    lacking = np.flatnonzero((on < (2, 1, 1)).any(1) & (quota.sum(1) > 0))
    yield side, lacking
    if not len(lacking):
      return


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
  """Numbers the sets of rows that must stay together, [N]."""
  _, digests = np.unique(digests, return_inverse=True)
  if groups is None or not len(digests):
    return digests
  from scipy import sparse

  # A bipartite graph of digests and groups; rows are its edges.
  ends = (digests, groups + digests.max() + 1)
  nodes = ends[1].max() + 1
  graph = sparse.coo_array((np.ones(len(digests)), ends), (nodes, nodes))
  _, component = sparse.csgraph.connected_components(graph, directed=False)
  return np.unique(component[digests], return_inverse=True)[1]


def _quota(counts: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
  """Allots each class's images to sides, int [C, 3]; val and test get one.

  A class without images gets none.
  """
  train = np.rint(counts * fractions[0]).astype(int)
  val = np.maximum(np.rint(counts * fractions[1]).astype(int), 1)
  train = np.minimum(train, counts - val - 1)
  quota = np.stack([train, val, counts - train - val], axis=1)
  return np.where(counts[:, None] > 0, quota, 0)


def _assign(
  labels: np.ndarray,
  bound: np.ndarray,
  quota: np.ndarray,
  rng: np.random.Generator,
  *,
  shuffle: float = 0.0,
) -> np.ndarray:
  """Assigns rows to sides, int [N]: sets of bound rows first, then single rows.

  Larger sets go first; `shuffle` is the standard deviation of noise on the
  logarithm of their sizes.
  """
  side = np.empty(len(labels), int)
  sizes = np.bincount(bound)
  left = quota.copy()
  single = sizes[bound] == 1
  together = np.flatnonzero(~single)
  together = together[np.argsort(bound[together], kind='stable')]
  starts = np.flatnonzero(np.diff(bound[together], prepend=-1))
  members = np.split(together, starts[1:]) if len(together) else []
  counted = [np.unique(labels[m], return_counts=True) for m in members]
  # Unassigned sets of rows that could still bring a class to a side.
  free = np.bincount(labels[single], minlength=len(quota))
  for classes, _ in counted:
    free[classes] += 1
  order = rng.permutation(len(members))
  size = np.array([len(rows) for rows in members])
  if shuffle:
    size = size * rng.lognormal(0.0, shuffle, len(members))
  for i in sorted(order, key=lambda i: -size[i]):
    classes, counts = counted[i]
    score = counts @ left[classes]
    # With no set to spare, a class must go where it is missing.
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

  They fill the rest of the quota. If bound rows overran a side, the largest
  gaps are reduced, those of sides without an image of the class last.
  """
  fill = np.maximum(left, 0)
  for label in np.flatnonzero(fill.sum(1) > count):
    while fill[label].sum() > count[label]:
      spare = np.where(fill[label] > 0, fill[label] - missing[label], -1)
      fill[label, np.argmax(spare)] -= 1
  return fill
