"""Reads a tree of image files, one folder a class."""

import collections
import functools
import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from plankton_jax.data import workers
from plankton_jax.data.pixels import images
from plankton_jax.data.sources import flowcam
from plankton_jax.data.sources.files import (
  PACKED,
  expanded,
  is_clutter,
  read,
  walk,
)
from plankton_jax.data.sources.objects import Objects, to_source
from plankton_jax.data.sources.source import Source, one_line
from plankton_jax.errors import InputError, shorten_list

log = logging.getLogger(__name__)

LEVELS = ('auto', 'path', 'last')  # ways to read the folders' names

# Top-level folders that are not classes, and what they are.
_SIDES = {
  'train': 'train',
  'training': 'train',
  'val': 'val',
  'valid': 'val',
  'validation': 'val',
  'test': 'test',
  'testing': 'test',
}
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
_AS_LIST = 'name its columns as EcoTaxa does (docs/ecotaxa.md)'
_LISTS = ('.csv', '.tsv', '.txt', '.xlsx')  # endings of lists of images
_ZARR = frozenset(('.zarray', '.zgroup', 'zarr.json'))  # files of such a store
_LONGEST = 500  # characters of a path that an error shows
_YEAR = re.compile(r'(18|19|20)\d\d')


class Listing(NamedTuple):
  """What lies below a folder: its images, sorted by id, and what to say."""

  images: Objects  # label -1 in the root itself
  others: Mapping[str, int]  # ending of files that are no images -> files
  empty: tuple[str, ...]  # folders without an image in or below them
  understood: str  # says what top-level folders are, if not classes
  doubts: tuple[str, ...]  # lines on classes that may not be meant so


def scan(
  path: str, *, class_level: str = 'path', field: str = 'data.path'
) -> Listing:
  """Lists every image below a folder, following links.

  Ignores hidden files, folders that systems make, such as `__MACOSX`, and other
  extensions; files without any are images if they begin as such. Folders whose
  names differ only by Unicode form are one class.

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
  if class_level not in LEVELS:
    known = ', '.join(map(repr, LEVELS))
    raise InputError(f'data.class_level={class_level!r} must be one of {known}')
  root = expanded(path, field, 'the folder of images')
  if not root.is_dir():
    remedy = _remedy([root.suffix.lower()]) if root.is_file() else ''
    if root.suffix.lower() in ('.zip', *PACKED, *_LISTS) and root.is_file():
      remedy = 'unpack it, or open it as an EcoTaxa export'
      if root.suffix.lower() in _LISTS:
        remedy = f'{_AS_LIST}, and open it as an export'
    instead = f': {remedy}' if remedy else ''
    raise InputError(f'{field}: {one_line(root)} is not a folder{instead}')
  found: list[str] = []
  empty: list[str] = []
  endings: collections.Counter[str] = collections.Counter()
  hidden: list[str] = []
  try:
    _walk(root, '', (), found, empty, hidden, endings)
  except RecursionError:
    raise InputError(f'{root}: folders are nested too deeply') from None
  if not found:
    raise InputError(
      f'{root} holds no image ({", ".join(sorted(images.EXTENSIONS))})'
      f'{_instead(endings)}'
    )
  ids, skipped = [], []
  for name in sorted(found):
    try:
      name.encode()
      ids.append(name)
    except UnicodeEncodeError:
      shown = os.fsencode(name).decode(errors='backslashreplace')
      skipped.append((shown, 'the file name is not UTF-8'))
  others = dict(sorted(endings.items()))
  _refuse_collages(root, ids, others, field)
  classes, understood, doubts = _name_classes(root, ids, class_level)
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
    tuple(sorted(empty)),
    understood,
    (*_passed_over(root, hidden), *doubts),
  )


def side(id: str) -> str:
  """Names the split that the topmost of an image's folders means, or ''."""
  folders = id.lower().split('/')[:-1]
  return next((_SIDES[name] for name in folders if name in _SIDES), '')


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
    listed = not listing.others.keys().isdisjoint(_LISTS)
    otherwise = f'; or, of a list of images, {_AS_LIST}' if listed else ''
    raise InputError(
      f'{one_line(place / loose)} lies in no class folder: move the images into'
      f' one folder per class{otherwise}'
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


def source(path: str, class_level: str = 'path') -> Source:
  """Makes a source of one folder a class; refuses what `scan_classes` does."""
  listing = scan_classes(path, class_level=class_level)
  found = listing.images
  if listing.understood:
    log.info('%s: %s', found.place, listing.understood)
  for doubt in listing.doubts:
    log.warning('%s: %s', found.place, doubt)
  return to_source(found, fingerprint(found))


def fingerprint(found: Objects) -> str:
  """Hashes every path, content and class to 32 hex digits."""

  def hash_file(name: str) -> bytes:
    try:
      with open(Path(found.place, name), 'rb') as file:
        return hashlib.file_digest(file, 'blake2b').digest()
    except OSError:
      return b''  # It is listed as skipped when the records are written.

  state = hashlib.blake2b(digest_size=16)
  hashes = workers.in_order(hash_file, found.ids, desc='read')
  for name, content in zip(found.ids, hashes, strict=True):
    state.update(f'{name}\0'.encode() + content + b'\0')
  paths = sorted({name.rpartition('/')[0] for name in found.ids} - {''})
  if list(found.class_names) != paths:  # not the reading of every folder
    state.update(repr((found.class_names, found.labels.tolist())).encode())
  return state.hexdigest()


def _read(root: Path, id: str) -> bytes:
  """Reads one file below a folder; pickled, unlike a lambda."""
  return read(root / id)


def _name_classes(
  root: Path, ids: Sequence[str], class_level: str
) -> tuple[list[str], str, list[str]]:
  """Names the class of each image by its folders; '' in the root itself.

  Returns:
    The names [N], what the folders on top are if they are no classes, and
    doubts.
  """
  classes = [name.rpartition('/')[0] for name in ids]
  understood, doubts = '', []
  if class_level == 'auto':
    _refuse_splits(root, classes)
    above, understood = _recognise(classes)
    classes = ['/'.join(name.split('/')[above:]) for name in classes]
    doubts = _repeated(classes)
  elif class_level == 'last':
    classes = [name.rpartition('/')[2] for name in classes]
  classes, joined = _composed(classes)
  return classes, understood, [*doubts, *joined]


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


def _passed_over(root: Path, hidden: Sequence[str]) -> list[str]:
  """Doubts hidden folders that hold images."""
  held = [name for name in hidden if any(map(_is_picture, walk(root / name)))]
  if not held:
    return []
  shown = shorten_list([one_line(name) for name in held])
  return [f'hidden folders with images are passed over: {shown}']


def _is_picture(file: Path) -> bool:
  return file.suffix.lower() in images.EXTENSIONS


def _recognise(classes: Sequence[str]) -> tuple[int, str]:
  """Finds folders on top that are no classes: splits or years.

  They may lie in a single folder that holds all.

  Returns:
    How many folders to drop from each path, and what they are; 0 and '' if all
    are classes.
  """
  paths = [name.split('/') for name in dict.fromkeys(classes)]
  for above in range(min(map(len, paths)) if paths else 0):
    tops = sorted({path[above] for path in paths})
    if not any(path[above + 1 :] for path in paths):
      break
    if kind := _no_classes(tops):
      named = ['/'.join([*paths[0][:above], top]) for top in tops]
      shown = ', '.join(named)
      if kind == 'years' and len(named) > 1:
        shown = f'{named[0]} to {named[-1]}'
      return above + 1, (
        f'{shown} are {kind}, the folders in them classes;'
        " data.class_level='path' reads each folder as a class"
      )
    if len(tops) > 1:
      break
  return 0, ''


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


def _refuse_splits(root: Path, classes: Sequence[str]) -> None:
  """Raises InputError if all images lie in folders such as train and test."""
  names = {name.rpartition('/')[2].lower() for name in classes}
  if len(names) > 1 and names <= _SIDES.keys():
    raise InputError(
      f'{root}: images lie in {" and ".join(sorted({*classes}))} themselves:'
      " put them in one folder a class there; data.class_level='path' takes"
      ' these for classes'
    )


def _no_classes(tops: Sequence[str]) -> str:
  sides = {_SIDES.get(top.lower()) for top in tops}
  if None not in sides and len(sides) > 1:
    return 'splits'
  return 'years' if all(map(_YEAR.fullmatch, tops)) else ''


def _repeated(classes: Sequence[str]) -> list[str]:
  """Doubts classes most of which share their innermost folder's name."""
  alike: dict[str, list[str]] = {}
  names = sorted({*classes} - {''})
  for name in names:
    alike.setdefault(name.rpartition('/')[2], []).append(name)
  several = [found for found in alike.values() if len(found) > 1]
  if 2 * sum(map(len, several)) <= len(names):
    return []
  shown = ' and '.join(map(one_line, several[0][:2]))
  return [
    f'{len(several):,} folders of one name are classes of their own in each'
    f" folder above, such as {shown}; data.class_level='last' joins them"
  ]


def _composed(classes: list[str]) -> tuple[list[str], list[str]]:
  """Joins classes whose names differ by Unicode form alone, and says so."""
  form = {name: unicodedata.normalize('NFC', name) for name in {*classes}}
  count = collections.Counter(form.values())
  joined = sorted(name for name, number in count.items() if number > 1)
  if not joined:
    return classes, []
  shown = ', '.join(map(one_line, joined[:3]))
  note = f'folders that differ by Unicode form alone are one class: {shown}'
  return [form[name] if count[form[name]] > 1 else name for name in classes], [
    note
  ]


def _walk(
  folder: Path,
  prefix: str,
  ancestors: tuple[tuple[int, int], ...],
  found: list[str],
  empty: list[str],
  hidden: list[str],
  others: collections.Counter[str],
) -> None:
  before = len(found), len(empty)
  try:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in ancestors:  # A link back up the tree.
      return
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
  except OSError as error:
    shown = one_line(folder)[:_LONGEST]
    raise InputError(f'{shown}: {error.strerror}') from error
  if not _ZARR.isdisjoint(entry.name for entry in entries):
    entries = []
    others['.zarr'] += 1
  for entry in entries:
    name = prefix + entry.name
    if is_clutter([entry.name]):
      if entry.name.startswith('.') and _is_folder(entry):
        hidden.append(name)
      continue
    if _is_folder(entry):
      inner = (*ancestors, here)
      _walk(
        folder / entry.name, f'{name}/', inner, found, empty, hidden, others
      )
    elif entry.is_file(follow_symlinks=False) or _links_to_file(entry):
      ending = os.path.splitext(name)[1].lower()
      if ending in images.EXTENSIONS or (
        ending in ('', '.') and images.is_known(entry.path)
      ):
        found.append(name)
      else:
        others[ending or 'no ending'] += 1
  if prefix and before == (len(found), len(empty)):
    empty.append(prefix[:-1])


def _is_folder(entry: os.DirEntry) -> bool:
  if entry.is_symlink():
    return os.path.isdir(entry.path)
  return entry.is_dir()


def _links_to_file(entry: os.DirEntry) -> bool:
  """Tells whether it leads to a file; counts dangling links, but not pipes."""
  if not entry.is_symlink():
    return False
  return os.path.isfile(entry.path) or not os.path.exists(entry.path)
