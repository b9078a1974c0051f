"""Cuts the particles of a FlowCam out of the collages that it saves.

VisualSpreadsheet keeps the particles of a run side by side in a few images, and
says in the run's .lst where each one lies. Lists that name their columns are
read as MorphoCut does, https://github.com/morphocut/morphocut; earlier ones are
refused.
"""

import collections
import functools
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from plankton_jax.data.pixels import images
from plankton_jax.data.sources import files
from plankton_jax.data.sources.objects import Object, Objects, unlabelled
from plankton_jax.data.sources.source import describe, one_line
from plankton_jax.errors import InputError

BESIDE = 'image file that is no collage of a list'
EMPTY = 'particle without an image'

_NAMED = re.compile(r'\s*\d+\s*\n\s*num-fields\|(\d+)\s*\n')
_COLONS = 40  # at least, in a row of a list that does not name its columns
_COLUMNS = ('id', 'collage_file', 'image_x', 'image_y', 'image_w', 'image_h')
START = 2**13  # bytes that tell what a list is
_DAY = re.compile(r'(\d{4})-(\d\d)-(\d\d)')
_KEPT = 4  # collages decoded at a time


class Particle(NamedTuple):
  """A rectangle of a collage."""

  id: str
  run: str  # the list's name
  collage: Path
  box: tuple[int, int, int, int]  # left, top, right and bottom, px
  date: str  # YYYYMMDD by the instrument's clock


def is_list(path: Path) -> bool:
  """Tells whether a file is a FlowCam's list, of whatever version."""
  if path.suffix.lower() != '.lst' or not path.is_file():
    return False
  try:
    with path.open('rb') as file:
      return begins_list(file.read(START))
  except OSError:
    return False


def begins_list(start: bytes) -> bool:
  """Tells by its first bytes whether a file is a FlowCam's list."""
  lines = _lines(start[:START])
  return bool(_NAMED.match('\n'.join(lines[:3]))) or any(
    row.count(':') >= _COLONS for row in lines[2:]
  )


def collages(path: Path) -> set[Path]:
  """Finds the images that a list calls collages.

  Raises:
    InputError: the list cannot be read.
  """
  return {particle.collage for particle in _particles(path, path.stem, [])[0]}


def objects(path: str, *, field: str = 'data.path') -> Objects:
  """Lists the particles of one .lst, or of all in a folder.

  Raises:
    InputError: there is no list, or one cannot be read.
  """
  place = files.expanded(path, field)
  every = [*files.walk(place)] if place.is_dir() else [place]
  lists = [file for file in every if is_list(file)]
  if not lists:
    raise InputError(f'{field}: {place} holds no list (.lst) of a FlowCam')
  root = place if place.is_dir() else place.parent
  names = collections.Counter(file.stem for file in lists)
  found: list[Particle] = []
  skipped: list[tuple[str, str]] = []
  empty = 0
  for file in lists:
    name = file.relative_to(root).with_suffix('').as_posix()
    run = name if names[file.stem] > 1 else file.stem
    own, without = _particles(file, run, skipped)
    found += own
    empty += without
  used = {particle.collage for particle in found}
  beside = sum(files.is_image(x.name) and x not in used for x in every)
  left_aside = {EMPTY: empty, BESIDE: beside}
  return Objects(
    place=str(place),
    ids=tuple(particle.id for particle in found),
    read=_reader(found),
    labels=unlabelled(len(found)),
    skipped=tuple(skipped),
    left_aside={reason: n for reason, n in left_aside.items() if n},
    items=tuple(
      Object(x.id, f'{x.id}.png', sample=x.run, date=x.date) for x in found
    ),
  )


def _particles(
  path: Path, run: str, skipped: list[tuple[str, str]]
) -> tuple[list[Particle], int]:
  """Reads a list; counts the particles without an image.

  Names in `skipped` the lines that say nothing of use.
  """
  found: list[Particle] = []
  ids: set[int] = set()
  empty = 0
  there = {file.name.lower(): file for file in sorted(path.parent.iterdir())}
  for line, row in _rows(path):
    place = f'{run}.lst:{line}'
    try:
      number, left, top, width, height = (
        _whole(row[name]) for name in _COLUMNS if name != 'collage_file'
      )
      named = PureWindowsPath(row['collage_file'].strip())
      if min(number, left, top) < 0 or not named.name or '..' in named.parts:
        raise ValueError
    except (KeyError, ValueError):
      skipped.append((place, 'not a line of a list'))
      continue
    if number in ids:
      skipped.append((place, f'particle {number} comes again'))
      continue
    ids.add(number)
    if min(width, height) <= 0:
      empty += 1
      continue
    day = _DAY.match(row.get('timestamp', '').strip())
    found.append(
      Particle(
        f'{run}_{number:05d}',
        run,
        there.get(named.name.lower(), path.with_name(named.name)),
        (left, top, left + width, top + height),
        ''.join(day.groups()) if day else '',
      )
    )
  return found, empty


def _whole(text: str) -> int:
  """Parses a whole number, which a program may have made 45.0."""
  number = float(text)
  if not number.is_integer():
    raise ValueError
  return int(number)


def _lines(data: bytes) -> list[str]:
  """Splits a list into lines, whatever ends them."""
  return re.split('\r\n|\n|\r', files.decode_text(data))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
  """Yields (line, cells by column) of a list; {} for a line of other length.

  Raises:
    InputError: the list cannot be read, or lacks a column.
  """
  try:
    lines = _lines(path.read_bytes())
  except OSError as error:
    raise InputError(f'{one_line(path)}: {describe(error)}') from None
  remedy = (
    'open the run in a newer VisualSpreadsheet and save it, or export its'
    ' particles singly'
  )
  named = _NAMED.match('\n'.join(lines[:3]))
  if not named:
    raise InputError(
      f'{one_line(path)}: a list of an earlier version, whose columns have no'
      f' names: {remedy}'
    )
  first = 2 + int(named[1][:4])
  head = [line.split('|') for line in lines[2:first]]
  if len(head) < first - 2 or any(len(cells) != 2 for cells in head):
    raise InputError(
      f'{one_line(path)}: num-fields, in its second line, is not how many'
      ' columns it names: copy it from the instrument again'
    )
  columns = [name.strip() for name, _ in head]
  missing = [name for name in _COLUMNS if name not in columns]
  if missing:
    raise InputError(
      f'{one_line(path)}: no column {missing[0]} among its {len(columns)}:'
      f' {remedy}'
    )
  for number, line in enumerate(lines[first:], start=first + 1):
    if line.strip():
      cells = line.split('|')
      whole = len(cells) >= len(columns) and not any(cells[len(columns) :])
      yield number, dict(zip(columns, cells, strict=False)) if whole else {}


def _reader(found: list[Particle]) -> Callable[[str], bytes]:
  """Returns a function that cuts a particle out, as PNG; see `Objects.read`."""
  by_id = {particle.id: particle for particle in found}
  lock = threading.Lock()

  @functools.lru_cache(maxsize=_KEPT)
  def collage(path: Path) -> Image.Image | str:
    try:
      return images.Picture.decode(path.read_bytes()).image
    except (OSError, ValueError) as error:
      return describe(error)

  def read(id: str) -> bytes:
    particle = by_id[id]
    with lock:
      whole = collage(particle.collage)
    if isinstance(whole, str):
      raise ValueError(f'{particle.collage.name}: {whole}')
    _, _, right, bottom = particle.box
    if right > whole.width or bottom > whole.height:
      raise ValueError(f'it lies beyond the edge of {particle.collage.name}')
    return images.encode(np.asarray(whole.crop(particle.box)))

  return read
