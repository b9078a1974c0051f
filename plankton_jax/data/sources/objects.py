"""Reads objects that need no label: to embed, to search, to predict."""

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from plankton_jax.data import workers
from plankton_jax.data.pixels.images import (
  NO_CROP,
  Picture,
  deepest,
  white_of,
)
from plankton_jax.data.sources.source import NO_MEASURES, Measures


class Objects(NamedTuple):
  """Images that are read on demand."""

  place: str  # for messages
  ids: tuple[str, ...]
  read: Callable[[int], bytes]  # of a row; raises ValueError with the reason
  skipped: tuple[tuple[str, str], ...]  # (name, reason)
  # reason -> number of objects left out for it without a name
  left_aside: Mapping[str, int] = types.MappingProxyType({})
  measures: Measures = NO_MEASURES

  @property
  def total(self) -> int:
    """Counts all that was read, kept or not."""
    return len(self.ids) + len(self.skipped) + sum(self.left_aside.values())


def decoded(
  objects: Objects,
  *,
  size: int,
  resize: str,
  channels: int,
  white: int = 0,
  crop: Sequence[int] = NO_CROP,
  desc: str,
) -> Iterator[np.ndarray | str]:
  """Yields each image, uint8 [size, size, C], or why it is unreadable.

  Keeps the order, shows a progress bar called `desc`, and uses no cache.
  `white` and `crop` are as in `images.decode`, but a white of 0 is found from
  the largest value of all images.
  """
  rows = range(len(objects.ids))

  def depth(row: int) -> int:
    try:
      return deepest(objects.read(row))
    except ValueError:
      return 0

  if not white:
    found = workers.in_order(depth, rows, desc='depth')
    white = white_of(max(found, default=0))

  def fitted(row: int) -> np.ndarray | str:
    try:
      picture = Picture.decode(objects.read(row), white, crop)
    except ValueError as error:
      return str(error)
    image = picture.fit(size=size, resize=resize, channels=channels)
    return np.asarray(image).reshape(size, size, channels)

  yield from workers.in_order(fitted, rows, desc=desc)
