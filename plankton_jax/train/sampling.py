"""Chooses the images of a batch: pure functions of (seed, step)."""

import functools
import logging

import numpy as np

from plankton_jax.errors import InputError

log = logging.getLogger(__name__)

# A class's share of the draws is its size to this power.
SAMPLING = {'images': 1.0, 'sqrt': 0.5, 'uniform': 0.0}


class Sampler:
  """Draws batches of row numbers from labels [N]; no row twice in a batch.

  Args:
    labels: [N] integers of the training rows.
    size: rows in a batch, or all rows if there are fewer.
    classes: P, classes in a batch, or all if there are fewer; 0 draws from all
      images alike.
    per_class: K, images of each of the P classes, with P K = `size`; 0 shares
      `size` among them. A class with fewer than K gives all it has. The other
      classes of the batch share its places, and those of missing classes. If P
      classes hold fewer than `size` images, further classes join.
    sampling: 'images' draws all images with equal chance, 'uniform' all
      classes, 'sqrt' classes by the square root of their size.
    seed: of every draw.

  Raises:
    InputError: a batch cannot be filled so.
  """

  def __init__(
    self,
    labels: np.ndarray,
    *,
    size: int,
    classes: int,
    per_class: int,
    sampling: str,
    seed: int,
  ):
    if sampling not in SAMPLING:
      raise InputError(
        f'batch.sampling={sampling!r} is not one of {tuple(SAMPLING)}'
      )
    present, counts = np.unique(labels, return_counts=True)
    if classes and per_class and classes * per_class != size:
      raise InputError(
        f'batch.classes={classes} times batch.per_class={per_class} is not'
        f' batch.size={size}; batch.per_class=0 shares them out'
      )
    classes = min(classes, len(present))
    if size > len(labels):
      log.warning(
        'batch.size=%d is more than the %d training images: batches are of %d',
        size,
        len(labels),
        len(labels),
      )
      size = len(labels)
    self.size = size
    # Each epoch leaves out another remainder that fills no batch.
    self.steps_per_epoch = len(labels) // size
    self._num_images = len(labels)
    share = counts ** SAMPLING[sampling]
    share = share / share.sum()
    labels, steps = np.asarray(labels), self.steps_per_epoch
    if classes:
      choose = functools.partial(
        _classes_by_images, share=share, classes=classes
      )
    else:
      choose = functools.partial(_class_counts, share=share)

    def plan(rng):
      if not classes and sampling == 'images':
        return rng.permutation(len(labels))[: steps * size].reshape(-1, size)
      return _walk(labels, rng, choose, size=size, steps=steps)

    # An epoch is planned as a whole, and the plan cached.
    self._plan = functools.lru_cache(maxsize=2)(
      lambda epoch: plan(np.random.default_rng((seed, epoch)))
    )

  def __call__(self, step: int) -> np.ndarray:
    """Returns the rows of batch `step`, [size] int64."""
    epoch, position = divmod(step, self.steps_per_epoch)
    return self._plan(epoch)[position]

  def coverage(self, epoch: int) -> float:
    """Measures the share of the images that the epoch visits."""
    shown = np.zeros(self._num_images, bool)
    shown[self._plan(epoch)] = True
    return float(shown.mean())


def _walk(labels, rng, choose, *, size, steps):
  """Walks through each class in a shuffled circle, [steps, size].

  `choose(rng, counts, shown, size=size)` returns how many of each class are in
  the next batch, at most all of them, so that no row is in it twice.
  """
  counts = np.unique(labels, return_counts=True)[1]
  by_class = np.split(np.argsort(labels, kind='stable'), np.cumsum(counts)[:-1])
  members = [rng.permutation(rows) for rows in by_class]
  shown = np.zeros(len(members), int)
  plan = np.empty((steps, size), np.int64)
  for step in range(steps):
    quota = choose(rng, counts, shown, size=size)
    rows = []
    for c in np.flatnonzero(quota):
      circle = np.arange(shown[c], shown[c] + quota[c]) % counts[c]
      rows.append(members[c][circle])
    shown += quota
    plan[step] = np.concatenate(rows)
  return plan


def _classes_by_images(rng, counts, shown, *, size, share, classes):
  """Takes as many images of each of P classes, or all of a small one.

  Draws classes in proportion to the images that an epoch still has to show of
  them, so that the epoch covers as many images as its batches can hold.
  """
  left = np.maximum(share * counts.sum() - shown, 0) + 1e-3
  order = np.argsort(rng.exponential(size=len(counts)) / left)
  enough = np.searchsorted(np.cumsum(counts[order]), size) + 1
  chosen = order[: max(classes, enough)]
  quota = np.zeros(len(counts), int)
  while (missing := size - quota.sum()) > 0:
    room = counts[chosen] - quota[chosen]
    roomy = np.argsort(-room, kind='stable')[: min(missing, (room > 0).sum())]
    each = missing // len(roomy)
    quota[chosen[roomy]] += np.minimum(each, room[roomy])
  return quota


def _class_counts(rng, counts, shown, *, size, share):
  """Draws classes by their share, and no class beyond its size."""
  del shown
  quota = np.zeros(len(counts), int)
  while (missing := size - quota.sum()) > 0:
    open_share = np.where(quota < counts, share, 0.0)
    drawn = rng.multinomial(missing, open_share / open_share.sum())
    quota = np.minimum(quota + drawn, counts)
  return quota
