"""Names classes by the folders that images lie in."""

import collections
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from plankton_jax.data.sources.source import one_line
from plankton_jax.errors import InputError

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
_YEAR = re.compile(r'(18|19|20)\d\d')


class Named(NamedTuple):
  """The classes of N images, and what to say of them."""

  classes: list[str]  # of each image; '' in the root itself
  understood: str  # says what folders on top are, if they are no classes
  doubts: list[str]  # lines on classes that may not be meant so


def check(class_level: str) -> None:
  """Raises InputError unless there is such a way to read folders."""
  if class_level not in LEVELS:
    known = ', '.join(map(repr, LEVELS))
    raise InputError(f'data.class_level={class_level!r} must be one of {known}')


def name_classes(ids: Sequence[str], class_level: str, root: Path) -> Named:
  """Names the class of each image by its folders.

  Args:
    ids: paths of the images, with forward slashes.
    class_level: as `folder.scan` takes it.
    root: of the paths, for errors.

  Raises:
    InputError: by 'auto', images lie in folders train and test themselves.
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
  return Named(classes, understood, [*doubts, *joined])


def side(id: str) -> str:
  """Names the split that the topmost of an image's folders means, or ''."""
  folders = id.lower().split('/')[:-1]
  return next((_SIDES[name] for name in folders if name in _SIDES), '')


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
  classes = [form[n] if count[form[n]] > 1 else n for n in classes]
  return classes, [note]
