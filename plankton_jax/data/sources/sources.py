"""What the records are written from: files in folders, or drawn plankton."""

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from plankton_jax.data.pixels import images, threads
from plankton_jax.data.sources import folder
from plankton_jax.errors import InputError


class Example(NamedTuple):
  """One image on its way into the records, or why there is none."""

  id: str
  label: int
  image: bytes | None
  reason: str = ''


class Source(NamedTuple):
  """A set of labelled images known by content, not yet encoded."""

  place: str  # For messages.
  fingerprint: str
  class_names: tuple[str, ...]
  examples: Callable[[], Iterator[Example]]
  skipped: tuple[tuple[str, str], ...]  # (name, reason), known beforehand


def from_folder(path: str) -> Source:
  """One folder a class; see `folder.scan_classes` for what it refuses."""
  listing = folder.scan_classes(path)

  def read(row: int) -> Example:
    name, label = listing.ids[row], int(listing.labels[row])
    try:
      data = (listing.root / name).read_bytes()
      return Example(name, label, images.normalise(data))
    except (OSError, ValueError) as error:
      return Example(name, label, None, folder.describe(error))

  return Source(
    place=str(listing.root),
    fingerprint=folder.fingerprint(listing),
    class_names=listing.class_names,
    examples=lambda: threads.in_order(
      read, range(len(listing.ids)), desc='ingest'
    ),
    skipped=listing.skipped,
  )


def from_drawings(per_class: int, seed: int) -> Source:
  """`per_class` drawn images of every class in `synthetic.CLASS_NAMES`.

  Raises:
    InputError: `per_class` below one.
  """
  from plankton_jax.data.drawn import synthetic

  if per_class < 1:
    raise InputError(f'data.per_class must be at least 1, not {per_class}')
  names = synthetic.CLASS_NAMES

  def draw(row: int) -> Example:
    label, index = divmod(row, per_class)
    pixels = synthetic.draw(names[label], index, seed=seed)
    return Example(f'{names[label]}/{index:06d}', label, images.encode(pixels))

  # The first of each class stand for all: they change with seed and code.
  state = hashlib.blake2b(
    repr((names, per_class, seed)).encode(), digest_size=16
  )
  for label in range(len(names)):
    state.update(draw(label * per_class).image)
  return Source(
    place='the drawn images',
    fingerprint=state.hexdigest(),
    class_names=names,
    examples=lambda: threads.in_order(
      draw, range(len(names) * per_class), desc='draw'
    ),
    skipped=(),
  )
