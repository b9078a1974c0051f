"""Finds the images that tables name, however they write the names.

Systems differ in letter case, in how Unicode composes characters, and in how
they escape blanks; archives are unpacked in place or not; endings are lost.
"""

import contextlib
import functools
import posixpath
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from plankton_jax.data.ecotaxa.table import mend
from plankton_jax.data.pixels import images
from plankton_jax.data.sources import archives
from plankton_jax.data.sources.files import is_image

_SCHEME = re.compile(r'[a-z]+:', re.IGNORECASE)  # of drives and of the web
_GONE = 'no such file in the export'


class Finders(NamedTuple):
  """Finds files of an export; both raise ValueError with the reason."""

  find: Callable[[str], str]  # the file that a name means
  # (table, image as it names it) -> name of the image
  locate: Callable[[str, str], str]


def finders(found: Collection[str], tables: Sequence[str]) -> Finders:
  """Makes functions that find files, for the names of all and of tables."""
  zips = (name for name in found if name.lower().endswith('.zip'))
  packed = sorted(zips, key=len, reverse=True)  # the inner ones first
  bare = [name for name in packed if not _holds(name, tables)]
  named = {name: _unpacked_names(name, bare) for name in found}
  alike = _alike(named, _fold)
  stems = functools.cache(lambda: _stems(filter(is_image, found)))
  alike_without = functools.cache(
    lambda: _alike({n: named[n] for n in found if is_image(n)}, _without_ending)
  )

  def near(name: str) -> str:
    other = stems().get(_stem(name))
    return f', but {other}: write this into img_file_name' if other else ''

  def find(name: str) -> str:
    if name in found:
      return name
    others = alike.get(_fold(name), ()) or alike_without().get(
      _without_ending(name), ()
    )
    if not others:
      raise ValueError(f'{_GONE}{near(name)}')
    if len(others) > 1:
      raise ValueError(f'{_GONE}, but several alike: {", ".join(others[:3])}')
    return others[0]

  def locate(table: str, image: str) -> str:
    names, leads_out = _places(table, image, packed, tables)
    for name in names:
      with contextlib.suppress(ValueError):
        return find(name)
    if leads_out:
      raise ValueError(f'{_GONE}{near(archives.tidy(image))}')
    return names[0]

  return Finders(find, locate)


def beside(table: str, image: str) -> str:
  """Resolves the path of an image, which starts at the table that names it.

  Raises:
    ValueError: the path leads outside the export.
  """
  image = archives.tidy(image)
  name = posixpath.normpath(posixpath.join(posixpath.dirname(table), image))
  absolute = image.startswith('/') or _SCHEME.match(image)
  if reason := archives.refusal('/' if absolute else name):
    raise ValueError(reason)
  return name


def _places(
  table: str, image: str, packed: Sequence[str], tables: Sequence[str]
) -> tuple[list[str], bool]:
  """Lists the names that a table may mean by an image, the likeliest first.

  The table of an archive may name images beside the archive, unless another
  table lies there. Of a path that leads out of the export, the end may lie
  beside the table.

  Returns:
    The names, and whether the path itself leads out.
  """
  bases = [table]
  for base in _unpacked_names(table, packed)[1:]:
    if posixpath.dirname(base) not in map(posixpath.dirname, tables):
      bases.append(base)
  with contextlib.suppress(ValueError):
    return [beside(base, image) for base in bases], False
  parts = archives.tidy(image).split('/')
  names = []
  for at in range(1, len(parts)):
    for base in bases:
      with contextlib.suppress(ValueError):
        names.append(beside(base, '/'.join(parts[at:])))
  return names, True


def _holds(archive: str, names: Iterable[str]) -> bool:
  return any(name.startswith(f'{archive}/') for name in names)


def _unpacked_names(name: str, packed: Sequence[str]) -> list[str]:
  """Names a file, and as if more and more archives were unpacked in place.

  The archives that hold others come after these, in `packed` and as unpacked.
  """
  names = [name]
  for archive in packed:
    if names[-1].startswith(f'{archive}/'):
      rest = names[-1][len(archive) + 1 :]
      names.append(posixpath.join(posixpath.dirname(archive), rest))
  return names


def _fold(name: str) -> str:
  """Writes a name in one way.

  Systems differ in letter case, in how Unicode composes characters, in whether
  %20 stands for a blank, and may take UTF-8 for something else.
  """
  name = mend(urllib.parse.unquote(name))
  return unicodedata.normalize('NFC', name).casefold()


def _stem(name: str) -> str:
  return _fold(posixpath.splitext(posixpath.basename(name))[0])


def _stems(names: Iterable[str]) -> dict[str, str]:
  """Finds the first file of each name, whatever its folder and ending."""
  found: dict[str, str] = {}
  for name in names:
    found.setdefault(_stem(name), name)
  return found


def _without_ending(name: str) -> str:
  """Writes a name in one way, without the ending of an image."""
  root, ending = posixpath.splitext(name)
  return _fold(root if ending.lower() in images.EXTENSIONS else name)


def _alike(
  names: Mapping[str, Sequence[str]], fold: Callable[[str], str]
) -> dict[str, list[str]]:
  """Groups the files of which a name is one by `fold`.

  Args:
    names: file -> its names.
    fold: writes names in one way.
  """
  alike: dict[str, list[str]] = {}
  for name, own in sorted(names.items()):
    for form in {*map(fold, own)}:
      alike.setdefault(form, []).append(name)
  return alike
