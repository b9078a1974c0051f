"""Opens folders and archives to look for images in."""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from plankton_jax.data.sources import entries, files


class Place(NamedTuple):
  """Reads the files of a folder or an archive by their paths in it."""

  listed: files.List
  read: Callable[[str], bytes]  # raises ValueError with the reason
  start: Callable[[str, int], bytes]  # the first bytes; b'' if unreadable
  skipped: Sequence[tuple[str, str]]  # (name, reason)
  root: Path | None  # None of an archive


def unpacked(root: Path) -> Place:
  """Opens a folder."""
  return Place(
    files.on_disk(root),
    functools.partial(_read, root),
    lambda name, size: entries.of_file(root / name).start(size),
    (),
    root,
  )


def _read(root: Path, id: str) -> bytes:
  """Reads one file below a folder; pickled, unlike a lambda."""
  return files.read(root / id)


def packed(path: Path) -> Place:
  """Opens an archive, or a folder of archives, as if it were unpacked.

  A single folder that holds all images is left out of the paths. Zip archives
  inside are read if no image lies outside them, as folders of their names.

  Raises:
    InputError: the archive is damaged.
  """
  found, skipped = entries.find(path)
  archived = {n for n in found if n.lower().endswith('.zip')}

  def within(name: str) -> bool:
    return any(part.lower().endswith('.zip') for part in name.split('/')[:-1])

  loose = [name for name in found if not within(name)]
  if any(map(files.is_image, loose)):
    names = {name: name for name in loose}
    skipped = [s for s in skipped if not within(s[0]) and s[0] not in archived]
  else:
    names = {}
    for name in sorted(found.keys() - archived):
      id = _without_archives(name)
      if names.setdefault(id, name) != name:
        skipped.append((name, f'a second file {id}'))
  top = _wrapping(names)
  names = {id.removeprefix(top): name for id, name in names.items()}

  return Place(
    files.in_archive(names),
    lambda id: found[names[id]].read(),
    lambda id, size: found[names[id]].start(size),
    skipped,
    None,
  )


def _without_archives(name: str) -> str:
  """Names a file of an archive in another as if this were unpacked.

  That is into a folder of its name, unless it holds one itself.
  """
  parts: list[str] = []
  for part in name.split('/'):
    above = parts[-1] if parts else ''
    if above.lower().endswith('.zip'):
      parts[-1] = above[:-4]
      if part == parts[-1]:
        continue
    parts.append(part)
  return '/'.join(parts)


def _wrapping(names: Iterable[str]) -> str:
  """Finds the one folder that all images of an archive lie in, or ''."""
  tops = {name.partition('/')[0] for name in filter(files.is_image, names)}
  top = tops.pop() if len(tops) == 1 else ''
  return '' if top in names else f'{top}/'
