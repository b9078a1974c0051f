"""Reads a tree of images, one folder a class, on disk or in an archive."""

import collections
import contextlib
import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from plankton_jax.data.pixels import images
from plankton_jax.data.sources import (
  boxes,
  contents,
  entries,
  files,
  flowcam,
  levels,
  places,
)
from plankton_jax.data.sources.files import PACKED, expanded, is_clutter
from plankton_jax.data.sources.objects import Objects, to_source
from plankton_jax.data.sources.places import Place
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
_OTHER_LISTS = ('.xls', '.ods', '.parquet', '.feather')
_ARCHIVES = (*entries.ENDINGS, '.7z', '.rar')
_TEXTS = ('.json', '.xml', '.txt', '.lst')  # that say what images are


class Listing(NamedTuple):
  """Holds what lies below a folder: its images, sorted by id, and notes."""

  images: Objects  # label -1 in the root itself
  others: Mapping[str, int]  # ending of files that are no images -> files
  # Innermost folders without an image -> what they hold, as `others`.
  empty: Mapping[str, Mapping[str, int]]
  understood: str  # says what top-level folders are, if not classes
  doubts: tuple[str, ...]  # lines on what may not be meant so
  boxes: str  # says which files draw boxes within images, also in `doubts`


def scan(
  path: str, *, class_level: str = 'path', field: str = 'data.path'
) -> Listing:
  """Lists every image below a folder, following links.

  Ignores hidden files, folders that systems make, such as `__MACOSX`, figures
  in workdirs of runs, and other extensions; files without any are images if
  they begin as such. Folders whose names differ only by Unicode form are one
  class.

  An archive is read as if it were unpacked, and the folder given that holds all
  of its images, if one does. Zip archives in it, or in a folder, are read as
  folders of their names, if no image lies outside them.

  Args:
    path: the folder, or a zip or tar archive.
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
  if not (root.is_dir() or entries.is_archive(root)):
    raise InputError(
      f'{field}: {one_line(root)} is not a folder{_unfolded(root)}'
    )
  place = places.unpacked(root) if root.is_dir() else places.packed(root)
  found = _sort(place)
  if not found.images and found.archives and root.is_dir():
    place = places.packed(root)
    found = _sort(place)
  others = dict(sorted(found.others.items()))
  boxed = boxes.describe(found.texts, place.start)
  doubts = [*_passed_over(place, found), *filter(None, [boxed])]
  if not found.images:
    unread = [f'{name}: {reason}' for name, reason in place.skipped[:1]]
    raise InputError(
      f'{one_line(root)} holds no image'
      f' ({", ".join(sorted(images.EXTENSIONS))})'
      f'{"; ".join(["", *doubts, *unread]) or _instead(others)}'
    )
  ids, skipped = [], [*place.skipped]
  for name in sorted(found.images):
    try:
      name.encode()
      ids.append(name)
    except UnicodeEncodeError:
      shown = os.fsencode(name).decode(errors='backslashreplace')
      skipped.append((shown, 'the file name is not UTF-8'))
  _refuse_collages(place, ids, found.texts, field)
  try:
    classes, understood, doubted = levels.name_classes(ids, class_level, root)
  except InputError as error:
    raise InputError(f'{error}{boxed and "; "}{boxed}') from None
  class_names = sorted(set(classes) - {''})
  index = {name: i for i, name in enumerate(class_names)} | {'': -1}
  return Listing(
    Objects(
      place=str(root),
      ids=tuple(ids),
      read=place.read,
      labels=np.array([index[name] for name in classes], np.int32),
      class_names=tuple(class_names),
      skipped=tuple(skipped),
      left_aside={f'file of {ending}': n for ending, n in others.items()},
      root=place.root,
    ),
    others,
    dict(sorted(found.empty.items())),
    understood,
    (*doubts, *doubted),
    boxed,
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

  Warns of folders without an image, and of doubts.

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
  _tell(listing)
  return listing


def unread(listing: Listing) -> dict[str, str]:
  """Finds folders whose images are not read; says what they hold instead."""
  return {
    name: _instead(others)
    for name, others in listing.empty.items()
    if _remedy(others)
  }


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
  return to_source(found, fingerprint(found, cache_dir))


def _tell(listing: Listing) -> None:
  for doubt in listing.doubts:
    log.warning('%s: %s', listing.images.place, doubt)


def fingerprint(found: Objects, cache_dir: Path | None = None) -> str:
  """Hashes every path, content and class to 32 hex digits."""
  root, packed = Path(found.place), None
  if found.root is None:
    packed = found.read
    cache_dir = cache_dir if root.is_file() else None  # not of many archives
  state = hashlib.blake2b(digest_size=16)
  # A file without a hash is listed as skipped when the records are written.
  hashes = contents.digests(root, found.ids, cache_dir, packed)
  for name, content in zip(found.ids, hashes, strict=True):
    state.update(f'{name}\0'.encode() + content + b'\0')
  paths = sorted({name.rpartition('/')[0] for name in found.ids} - {''})
  if list(found.class_names) != paths:  # not the reading of every folder
    state.update(repr((found.class_names, found.labels.tolist())).encode())
  return state.hexdigest()


def _unfolded(path: Path) -> str:
  """Says what to do with a file that is given as a folder; '' if nothing."""
  ending = path.suffix.lower()
  if not path.is_file():
    return ''
  if ending in _LISTS:
    return f': if it lists images, {_AS_LIST}'
  if ending in _OTHER_LISTS:
    return f': if it lists images, save it as .xlsx or .csv: {_AS_LIST}'
  if ending in PACKED:
    return ': unpack it'
  if _is_picture(path.name):
    return ': give the folder that the image lies in'
  remedy = _remedy([ending])
  return f': {remedy}' if remedy else ''


def _or_as_list(listing: Listing) -> str:
  """Says what to do with what lies beside images; '' if nothing."""
  if listing.boxes:
    return f'; {listing.boxes}'
  if not listing.others.keys().isdisjoint(_LISTS):
    return f'; or, of a list of images, {_AS_LIST}'
  if not listing.others.keys().isdisjoint(_OTHER_LISTS):
    return f'; or, of a list of images, saved as .xlsx or .csv, {_AS_LIST}'
  return ''


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


def _is_picture(name: str) -> bool:
  return os.path.splitext(name)[1].lower() in images.EXTENSIONS


class _Found(NamedTuple):
  """Holds what lies in a place, by paths in it."""

  images: list[str]
  empty: dict[str, collections.Counter[str]]  # innermost, without an image
  passed: list[str]  # hidden folders, and those of runs' analyses
  others: collections.Counter[str]  # ending -> files
  texts: list[str]  # that may say what images are
  archives: list[str]


def _sort(place: Place) -> _Found:
  """Sorts the files of a place by what they are."""
  found = _Found([], {}, [], collections.Counter(), [], [])
  for folder in files.tree(place.listed):
    found.passed.extend(files.join(folder.name, n) for n in folder.passed)
    counts: collections.Counter[str] = collections.Counter()
    before = len(found.images)
    names = [name for name in folder.files if not is_clutter([name])]
    if not files.ZARR.isdisjoint(folder.files):
      counts['.zarr'], names = 1, []
    for file in names:
      name = files.join(folder.name, file)
      ending = os.path.splitext(file)[1].lower()
      bare = ending in ('', '.')
      if ending in images.EXTENSIONS or (
        bare and images.is_known(place.start(name, 4))
      ):
        found.images.append(name)
        continue
      counts[ending or 'no ending'] += 1
      if ending in _TEXTS:
        found.texts.append(name)
      if file.lower().endswith(_ARCHIVES):
        found.archives.append(name)
    found.others.update(counts)
    if folder.name and not folder.entered and before == len(found.images):
      found.empty[folder.name] = counts
  return found


def _passed_over(place: Place, found: _Found) -> list[str]:
  """Doubts folders passed over that hold images, and archives beside some."""
  doubts = []
  held = [name for name in found.passed if _holds_picture(place, name)]
  for what, names in (
    ('hidden folders and figures of runs are passed over', held),
    (
      'archives are not read, so unpack what others do not hold',
      found.images and found.archives,
    ),
  ):
    if names:
      shown = shorten_list([one_line(name) for name in names])
      doubts.append(f'{what}: {shown}')
  return doubts


def _holds_picture(place: Place, folder: str) -> bool:
  with contextlib.suppress(InputError):  # One that is not to be read.
    for inner in files.tree(place.listed, folder):
      if any(map(_is_picture, inner.files)):
        return True
  return False


def _refuse_collages(
  place: Place, ids: Sequence[str], texts: Sequence[str], field: str
) -> None:
  """Raises InputError if an image is a FlowCam's collage of many particles."""
  remedy = (
    'to cut them out, or export them singly from VisualSpreadsheet to sort them'
    ' into class folders'
  )
  lists = (name for name in texts if name.lower().endswith('.lst'))
  for name in lists:
    if not flowcam.begins_list(place.start(name, flowcam.START)):
      continue
    if place.root is None:
      raise InputError(
        f'{field}: {one_line(name)} is the list of a FlowCam, whose images are'
        ' collages of many particles: unpack the archive, and give its folder'
        f' as --export {remedy}'
      )
    there = {place.root / id for id in ids}
    if held := flowcam.collages(place.root / name) & there:
      raise InputError(
        f'{field}: {one_line(min(held))} is a collage of many particles, as'
        f' {Path(name).name} says: give --export={place.root} {remedy}'
      )
