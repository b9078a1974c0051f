"""Lists the contents and the faults of a folder of labelled images."""

import collections
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from plankton_jax.data import classes, workers
from plankton_jax.data.pixels.images import Picture
from plankton_jax.data.sources import folder
from plankton_jax.data.sources.objects import Objects
from plankton_jax.data.sources.source import describe
from plankton_jax.data.splits import FEWEST
from plankton_jax.errors import InputError

_FEW = 20  # below it a class's measures say little
_SHOWN = 5  # names given of a kind


class Inspection(NamedTuple):
  """Lines of text: contents, notes, and problems to fix."""

  contents: list[str]
  notes: list[str]
  problems: list[str]  # would stop a run, lose images or contradict labels


class _Image(NamedTuple):
  height: int
  width: int
  digest: int


def inspect(path: str) -> Inspection:
  """Reads every image below a folder, and reports what it finds.

  Problems are files that cannot be read, images outside any class, classes
  whose images are of formats that are not read, fewer than two classes to train
  on, and one image in several classes. Empty folders, small classes and copies
  within a class are only noted: data.rare covers small ones, and copies stay on
  one side of the split.
  """
  try:
    listing = folder.scan(path, class_level='auto')
  except InputError as error:
    return Inspection([], [], [str(error)])
  except OSError as error:
    return Inspection([], [], [f'{path}: {describe(error)}'])
  found, broken = _read_all(listing.images)
  ids, class_names = listing.images.ids, listing.images.class_names
  labels = dict(zip(ids, listing.images.labels.tolist(), strict=True))
  copies = _copies(found)
  within = [c for c in copies if len({labels[name] for name in c}) == 1]
  across = [c for c in copies if len({labels[name] for name in c}) > 1]
  distinct = collections.defaultdict(set)
  for name, image in found.items():
    distinct[labels[name]].add(image.digest)
  independent = {name: len(distinct[i]) for i, name in enumerate(class_names)}
  counts = collections.Counter(labels[name] for name in found)
  return Inspection(
    _contents(listing, counts, list(found.values())),
    _notes(listing, within, independent),
    _problems(listing, broken, across, independent),
  )


def _read_all(
  listed: Objects,
) -> tuple[dict[str, _Image], list[tuple[str, str]]]:
  """Reads every image; lists names and reasons of those that cannot be."""
  found, broken = {}, list(listed.skipped)
  read = workers.in_order(
    lambda id: _read(listed, id), listed.ids, desc='inspect'
  )
  for name, result in zip(listed.ids, read, strict=True):
    if isinstance(result, str):
      broken.append((name, result))
    else:
      found[name] = result
  return found, broken


def _read(listed: Objects, id: str) -> _Image | str:
  try:
    picture = Picture.decode(listed.read(id))
  except ValueError as error:
    return str(error)
  width, height = picture.image.size
  return _Image(height, width, picture.digest())


def _copies(found: dict[str, _Image]) -> list[list[str]]:
  """Groups the names of identical images, in sets of two or more."""
  same = collections.defaultdict(list)
  for name, image in found.items():
    same[image.digest].append(name)
  return [names for names in same.values() if len(names) > 1]


def _contents(
  listing: folder.Listing, counts: Mapping[int, int], found: list[_Image]
) -> list[str]:
  """Counts the images of each class, and describes their sizes."""
  class_names = listing.images.class_names
  lines = [f'{len(found):,} images in {len(class_names)} classes']
  if listing.understood:
    lines.append(listing.understood)
  if found:
    sides = np.array([max(image.height, image.width) for image in found])
    low, middle, high = np.percentile(sides, [0, 50, 100])
    lines.append(
      f'longer side {low:.0f} to {high:.0f} px, median {middle:.0f} px'
    )
  by_size = sorted(enumerate(class_names), key=lambda c: (-counts[c[0]], c[1]))
  lines += [f'{counts[i]:>9,}  {name}' for i, name in by_size]
  return lines + [
    f'{count:,} files of {ending} were left aside'
    for ending, count in listing.others.items()
  ]


def _problems(
  listing: folder.Listing,
  broken: list[tuple[str, str]],
  across: list[list[str]],
  independent: Mapping[str, int],
) -> list[str]:
  """Lists what would stop a run, lose images or contradict labels."""
  loose = [
    name
    for name, label in zip(
      listing.images.ids, listing.images.labels, strict=True
    )
    if label < 0
  ]
  problems = [
    *_listed('files cannot be read', [f'{n}: {why}' for n, why in broken]),
    *_listed('images lie in no class folder', loose),
    *_listed(
      'folders hold no image that is read', list(folder.unread(listing))
    ),
    *_listed(
      'images stand in several classes', [' = '.join(c) for c in across]
    ),
  ]
  if sum(count >= FEWEST for count in independent.values()) < 2:
    problems.append(
      f'at least two classes of {FEWEST} different images are needed, one'
      ' folder each'
    )
  return problems


def _notes(
  listing: folder.Listing,
  within: list[list[str]],
  independent: Mapping[str, int],
) -> list[str]:
  """Lists what a run copes with, but its owner should know."""
  lost = folder.unread(listing)
  return [
    *listing.doubts,
    *_listed(
      'folders hold no image, and are no class',
      [name for name in listing.empty if name not in lost],
    ),
    *classes.doubts(listing.images.class_names),
    *_listed(
      f'classes have fewer than {FEWEST} different images, too few to train'
      ' on (data.rare)',
      [f'{n} ({k})' for n, k in independent.items() if k < FEWEST],
    ),
    *_listed(
      'images have copies in their class', [' = '.join(c) for c in within]
    ),
    *_listed(
      f'classes have fewer than {_FEW} different images',
      [f'{n} ({k})' for n, k in independent.items() if FEWEST <= k < _FEW],
    ),
  ]


def _listed(what: str, names: list[str]) -> list[str]:
  """Makes a line that counts the names and gives a few, if there are any."""
  if not names:
    return []
  more = ', ...' if len(names) > _SHOWN else ''
  return [f'{len(names):,} {what}: {", ".join(names[:_SHOWN])}{more}']
