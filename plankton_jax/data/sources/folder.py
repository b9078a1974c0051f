"""Reads a tree of image files, one folder a class."""

import collections
import functools
import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from plankton_jax.data.pixels import images
from plankton_jax.data.sources import contents, flowcam, levels
from plankton_jax.data.sources.files import (
  PACKED,
  expanded,
  is_clutter,
  read,
  walk,
  without_figures,
)
from plankton_jax.data.sources.objects import Objects, to_source
from plankton_jax.data.sources.source import Source, one_line
from plankton_jax.errors import InputError, shorten_list

log = logging.getLogger(__name__)

# What to do with files that are not read as images, by their endings.
_REMEDIES = (
  (
    'give IFCB bins, under their own names, as --export',
    ('.roi', '.adc', '.hdr'),
  ),
  ('unpack them', ('.zip', *PACKED)),
  (
    'convert them to PNG',
    ('.heic', '.heif', '.avif', '.jp2', '.j2k', '.pgm', '.ppm', '.raw', '.dng'),
  ),
  (
    'export their images as PNG files',
    ('.h5', '.hdf5', '.nc', '.zarr', '.npy', '.npz', '.mat', '.parquet',
     '.tfrecord', '.lmdb', '.pkl', '.czi', '.nd2', '.avi', '.mp4'),
  ),
)  # fmt: skip
# What to do with a list of images.
_AS_LIST = "data.source='ecotaxa' or --export takes it (docs/ecotaxa.md)"
_LISTS = ('.csv', '.tsv', '.txt', '.xlsx')  # endings of lists of images
_ZARR = frozenset(('.zarray', '.zgroup', 'zarr.json'))  # files of such a store
_LONGEST = 500  # characters of a path that an error shows


class Listing(NamedTuple):
  """Holds what lies below a folder: its images, sorted by id, and notes."""

  images: Objects  # label -1 in the root itself
  others: Mapping[str, int]  # ending of files that are no images -> files
  empty: tuple[str, ...]  # folders without an image in or below them
  understood: str  # says what top-level folders are, if not classes
  doubts: tuple[str, ...]  # lines on classes that may not be meant so


def scan(
  path: str, *, class_level: str = 'path', field: str = 'data.path'
) -> Listing:
  """Lists every image below a folder, following links.

  Ignores hidden files, folders that systems make, such as `__MACOSX`, figures
  in workdirs of runs, and other extensions; files without any are images if
  they begin as such. Folders whose names differ only by Unicode form are one
  class.

  Args:
    path: the folder.
    class_level: 'path' names a class by its folder's path from the root,
      'last' by the innermost folder alone. 'auto' is 'path', except that
      top-level folders, or those in the only one, are dropped from it if they
      are called train, val and test, or are all years.
    field: the name of the path in errors.

  Raises:
    InputError: there is no such folder, no image in it, or the level is
      unknown; or, by 'auto', images lie in folders train and test themselves.
  """
  levels.check(class_level)
  root = expanded(path, field, 'the folder of images')
  if not root.is_dir():
    raise InputError(
      f'{field}: {one_line(root)} is not a folder{_unfolded(root)}'
    )
  found = _Found([], [], [], collections.Counter())
  try:
    _walk(root, '', (), found)
  except RecursionError:
    raise InputError(f'{root}: folders are nested too deeply') from None
  if not found.images:
    passed = _passed_over(root, found.passed)
    raise InputError(
      f'{root} holds no image ({", ".join(sorted(images.EXTENSIONS))})'
      f'{"; ".join(["", *passed]) or _instead(found.others)}'
    )
  ids, skipped = [], []
  for name in sorted(found.images):
    try:
      name.encode()
      ids.append(name)
    except UnicodeEncodeError:
      shown = os.fsencode(name).decode(errors='backslashreplace')
      skipped.append((shown, 'the file name is not UTF-8'))
  others = dict(sorted(found.others.items()))
  _refuse_collages(root, ids, others, field)
  classes, understood, doubts = levels.name_classes(ids, class_level, root)
  class_names = sorted(set(classes) - {''})
  index = {name: i for i, name in enumerate(class_names)} | {'': -1}
  return Listing(
    Objects(
      place=str(root),
      ids=tuple(ids),
      read=functools.partial(_read, root),
      labels=np.array([index[name] for name in classes], np.int32),
      class_names=tuple(class_names),
      skipped=tuple(skipped),
      left_aside={f'file of {ending}': n for ending, n in others.items()},
      root=root,
    ),
    others,
    tuple(sorted(found.empty)),
    understood,
    (*_passed_over(root, found.passed), *doubts),
  )


def objects(path: str, *, field: str = 'data.path') -> Objects:
  """Lists every image below a folder as `scan` does; tells of its doubts."""
  listing = scan(path, field=field)
  _tell(listing)
  return listing.images


def scan_classes(
  path: str, *, class_level: str = 'path', field: str = 'data.path'
) -> Listing:
  """Lists a folder as `scan` does, insisting on one folder a class.

  Warns of folders without an image.

  Raises:
    InputError: an image lies outside any class folder, or a folder has none
      that can be read.
  """
  listing = scan(path, class_level=class_level, field=field)
  found, place = listing.images, Path(listing.images.place)
  if (found.labels < 0).any():
    loose = found.ids[int(np.argmin(found.labels))]
    raise InputError(
      f'{one_line(place / loose)} lies in no class folder: move the images into'
      f' one folder per class{_or_as_list(listing)}'
    )
  for name, held in unread(listing).items():
    raise InputError(f'{one_line(place / name)} holds no image{held}')
  if listing.empty:
    log.warning(
      '%s: %d folders hold no image, and are no class: %s',
      place,
      len(listing.empty),
      shorten_list([one_line(name) for name in listing.empty]),
    )
  return listing


def unread(listing: Listing) -> dict[str, str]:
  """Finds folders whose images are not read; says what they hold instead."""
  found = {}
  for name in listing.empty:
    files = walk(Path(listing.images.place, name))
    others = collections.Counter(file.suffix.lower() for file in files)
    if _remedy(others):
      found[name] = _instead(others)
  return found


def source(
  path: str, class_level: str = 'path', cache_dir: Path | None = None
) -> Source:
  """Makes a source of one folder a class; refuses what `scan_classes` does.

  With `cache_dir`, reads only the files that changed since the last time.
  """
  listing = scan_classes(path, class_level=class_level)
  found = listing.images
  if len(found.class_names) == 1 and (otherwise := _or_as_list(listing)):
    raise InputError(
      f'{found.place}: all images lie in {one_line(found.class_names[0])}: move'
      f' them into one folder per class{otherwise}'
    )
  if listing.understood:
    log.info('%s: %s', found.place, listing.understood)
  _tell(listing)
  return to_source(found, fingerprint(found, cache_dir))


def _tell(listing: Listing) -> None:
  for doubt in listing.doubts:
    log.warning('%s: %s', listing.images.place, doubt)


def fingerprint(found: Objects, cache_dir: Path | None = None) -> str:
  """Hashes every path, content and class to 32 hex digits."""
  root = Path(found.place)
  state = hashlib.blake2b(digest_size=16)
  # A file without a hash is listed as skipped when the records are written.
  hashes = contents.digests(root, found.ids, cache_dir)
  for name, content in zip(found.ids, hashes, strict=True):
    state.update(f'{name}\0'.encode() + content + b'\0')
  paths = sorted({name.rpartition('/')[0] for name in found.ids} - {''})
  if list(found.class_names) != paths:  # not the reading of every folder
    state.update(repr((found.class_names, found.labels.tolist())).encode())
  return state.hexdigest()


def _read(root: Path, id: str) -> bytes:
  """Reads one file below a folder; pickled, unlike a lambda."""
  return read(root / id)


def _unfolded(path: Path) -> str:
  """Says what to do with a file that is given as a folder; '' if nothing."""
  ending = path.suffix.lower()
  if not path.is_file():
    return ''
  if ending in _LISTS:
    return f': if it lists images, {_AS_LIST}'
  if ending in ('.zip', *PACKED):
    return ': unpack it, or open it as an EcoTaxa export'
  if _is_picture(path):
    return ': give the folder that the image lies in'
  remedy = _remedy([ending])
  return f': {remedy}' if remedy else ''


def _or_as_list(listing: Listing) -> str:
  """Says what to do with a list that lies beside images; '' if none does."""
  if listing.others.keys().isdisjoint(_LISTS):
    return ''
  return f'; or, of a list of images, {_AS_LIST}'


def _instead(others: Mapping[str, int]) -> str:
  """Says which files there are that are no images, and the remedy."""
  counts = collections.Counter(others).most_common(3)
  shown = ', '.join(f'{count:,} of {ending}' for ending, count in counts)
  held = f', but other files ({shown})' if shown else ''
  remedy = _remedy([ending for ending, _ in counts] + [*others])
  return f'{held}: {remedy}' if remedy else held


def _remedy(endings: Iterable[str]) -> str:
  """Says what to do with files that may hold images; '' if none does."""
  found = (do for ending in endings for do, of in _REMEDIES if ending in of)
  return next(found, '')


def _passed_over(root: Path, folders: Sequence[str]) -> list[str]:
  """Doubts folders passed over that hold images."""
  held = [name for name in folders if any(map(_is_picture, walk(root / name)))]
  if not held:
    return []
  shown = shorten_list([one_line(name) for name in held])
  return [f'hidden folders and figures of runs are passed over: {shown}']


def _is_picture(file: Path) -> bool:
  return file.suffix.lower() in images.EXTENSIONS


def _refuse_collages(
  root: Path, ids: Sequence[str], others: Mapping[str, int], field: str
) -> None:
  """Raises InputError if an image is a FlowCam's collage of many particles."""
  if '.lst' not in others:
    return
  there = {root / id for id in ids}
  for file in walk(root):
    if flowcam.is_list(file) and (held := flowcam.collages(file) & there):
      raise InputError(
        f'{field}: {one_line(min(held))} is a collage of many particles, as'
        f' {file.name} says: give --export={root} to cut them out, or export'
        ' them singly from VisualSpreadsheet to sort them into class folders'
      )


class _Found(NamedTuple):
  """Collects what a walk comes across, by paths below the root."""

  images: list[str]
  empty: list[str]  # folders without an image
  passed: list[str]  # hidden folders, and those of runs' analyses
  others: collections.Counter[str]  # ending -> files


def _walk(
  folder: Path,
  prefix: str,
  ancestors: tuple[tuple[int, int], ...],
  found: _Found,
) -> None:
  """Adds what lies in a folder, and below it, to what was found."""
  before = len(found.images), len(found.empty)
  try:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in ancestors:  # A link back up the tree.
      return
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
  except OSError as error:
    shown = one_line(folder)[:_LONGEST]
    raise InputError(f'{shown}: {error.strerror}') from error
  names = [entry.name for entry in entries]
  if not _ZARR.isdisjoint(names):
    entries = []
    found.others['.zarr'] += 1
  kept = {*without_figures(names)}
  for entry in entries:
    name = prefix + entry.name
    figures = entry.name not in kept
    if figures or is_clutter([entry.name]):
      if (figures or entry.name.startswith('.')) and _is_folder(entry):
        found.passed.append(name)
    elif _is_folder(entry):
      _walk(folder / entry.name, f'{name}/', (*ancestors, here), found)
    elif entry.is_file(follow_symlinks=False) or _links_to_file(entry):
      ending = os.path.splitext(name)[1].lower()
      bare = ending in ('', '.')
      if ending in images.EXTENSIONS or (bare and images.is_known(entry.path)):
        found.images.append(name)
      else:
        found.others[ending or 'no ending'] += 1
  if prefix and before == (len(found.images), len(found.empty)):
    found.empty.append(prefix[:-1])


def _is_folder(entry: os.DirEntry) -> bool:
  if entry.is_symlink():
    return os.path.isdir(entry.path)
  return entry.is_dir()


def _links_to_file(entry: os.DirEntry) -> bool:
  """Tells whether it leads to a file; counts dangling links, but not pipes."""
  if not entry.is_symlink():
    return False
  return os.path.isfile(entry.path) or not os.path.exists(entry.path)
