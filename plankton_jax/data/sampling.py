"""Which images make a batch: pure functions of (seed, step)."""

import functools

import numpy as np

from plankton_jax.errors import InputError


def steps_per_epoch(num_images: int, batch_size: int) -> int:
  """Full batches in one pass; the remainder differs from epoch to epoch.

  Raises:
    InputError: fewer training images than one batch holds.
  """
  if num_images < batch_size:
    raise InputError(
      f'batch.size={batch_size} is more than the {num_images} training'
      ' images; lower it'
    )
  return num_images // batch_size


class Sampler:
  """Batches of row numbers from labels [N]; no row twice in a batch.

  Args:
    labels: [N] integers of the training rows.
    size: rows in a batch.
    classes: P, classes in a batch; 0 draws from all images alike.
    per_class: K, images of each of the P classes; P K must be `size`. A class
      with fewer gives all it has, the others of the batch fill its place.
    seed: of every draw.

  Raises:
    InputError: a batch that cannot be filled so.
  """

  def __init__(
    self,
    labels: np.ndarray,
    *,
    size: int,
    classes: int,
    per_class: int,
    seed: int,
  ):
    present, counts = np.unique(labels, return_counts=True)
    if classes and classes * per_class != size:
      raise InputError(
        f'batch.classes={classes} times batch.per_class={per_class} is not'
        f' batch.size={size}'
      )
    if classes > len(present):
      raise InputError(
        f'batch.classes={classes} is more than the {len(present)} classes'
      )
    if classes and np.sort(counts)[:classes].sum() < size:
      raise InputError(
        f'batch.per_class={per_class} is more than the smallest classes hold'
        f' ({np.sort(counts)[:classes].sum()} images in {classes} classes);'
        ' lower it'
      )
    self.size = size
    self.steps_per_epoch = steps_per_epoch(len(labels), size)
    self._num_images = len(labels)
    plan = functools.partial(
      _shuffled_plan if not classes else _class_plan,
      np.asarray(labels),
      size=size,
      steps=self.steps_per_epoch,
      **({'classes': classes, 'per_class': per_class} if classes else {}),
    )
    # An epoch is planned as a whole and kept while it lasts.
    self._plan = functools.lru_cache(maxsize=2)(
      lambda epoch: plan(np.random.default_rng((seed, epoch)))
    )

  def __call__(self, step: int) -> np.ndarray:
    """The rows of batch `step`, [size] int64."""
    epoch, position = divmod(step, self.steps_per_epoch)
    return self._plan(epoch)[position]

  def coverage(self, epoch: int) -> float:
    """Share of the images that the epoch visits."""
    return len(np.unique(self._plan(epoch))) / self._num_images


def _shuffled_plan(labels, rng, *, size, steps):
  return rng.permutation(len(labels))[: steps * size].reshape(steps, size)


def _class_plan(labels, rng, *, size, steps, classes, per_class):
  """P x K batches that walk through each class in a shuffled circle.

  Classes are drawn in proportion to the images they have not yet shown, so
  that an epoch covers as much as its batches can hold.
  """
  members = [
    rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)
  ]
  counts = np.array([len(rows) for rows in members])
  shown = np.zeros(len(members), int)
  plan = np.empty((steps, size), np.int64)
  for step in range(steps):
    left = np.maximum(counts - shown, 0) + 1e-3
    draws = rng.exponential(size=len(members)) / left
    chosen = np.argsort(draws)[:classes]
    quota = np.minimum(per_class, counts[chosen])
    while (missing := size - quota.sum()) > 0:
      room = counts[chosen] - quota
      quota[np.argmax(room)] += min(missing, room.max())
    rows = []
    for c, k in zip(chosen, quota, strict=True):
      circle = np.arange(shown[c], shown[c] + k) % counts[c]
      rows.append(members[c][circle])
      shown[c] += k
    plan[step] = np.concatenate(rows)
  return plan
