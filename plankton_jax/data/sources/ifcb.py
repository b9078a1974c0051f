"""Reads raw bins of the Imaging FlowCytobot: .roi regions, .adc tables.

Reads two generations, recognised by the names of their bins. Those of the
first, IFCBn_YYYY_DDD_HHMMSS, may cut a cell into two adjacent regions of a
trigger, which are stitched; those of the second, DYYYYMMDDTHHMMSS_IFCBnnn, do
not. The formats follow pyifcb, https://github.com/joefutrelle/pyifcb.
Bins in archives are read there, two files in memory at most.
"""

import collections
import datetime
import errno
import functools
import glob
import io
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np

from plankton_jax.data.pixels import images
from plankton_jax.data.sources import entries, files
from plankton_jax.data.sources.entries import Found
from plankton_jax.data.sources.objects import Object, Objects, unlabelled
from plankton_jax.data.sources.source import NO_MEASURES, Measures, describe
from plankton_jax.errors import InputError

EMPTY = 'trigger without a region'
STITCHED = 'second region of a stitched pair'
BESIDE = 'image file beside the bins'

_OVERLAP = 2  # px that the regions of a cell overlap at least, plus one


# A line of an .hdr: its name and number.
_SETTING = re.compile(
  r'^\W*([A-Za-zµ][\w µ/()-]*?)"?\s*[:=]\s*"?(\d+(?:\.\d+)?|\.\d+)',
  re.MULTILINE,
)
_UM_PER_PIXEL = re.compile(r'(microns?|um|µm)per(pixel|px)|pixelsize(um|µm)?')
_PIXELS_PER_UM = re.compile(r'(pixels?|px)per(microns?|um|µm)')


class _Format(NamedTuple):
  """A generation: its bins' names, and columns of its .adc, from 0."""

  name: re.Pattern
  moment: str  # in the name, as strptime takes it
  x: int  # y, width, height and the offset in .roi follow
  stitches: bool


_FORMATS = (
  _Format(
    re.compile(r'IFCB\d+_(\d{4}_\d{3}_\d{6})', re.IGNORECASE),
    '%Y_%j_%H%M%S',
    9,
    True,
  ),
  _Format(
    re.compile(r'D(\d{8}T\d{6})_IFCB\d+', re.IGNORECASE),
    '%Y%m%dT%H%M%S',
    13,
    False,
  ),
)


class Region(NamedTuple):
  """A rectangle of the camera's frame, in px, and where its pixels lie."""

  number: int  # line in the .adc, from 1
  trigger: int
  x: int
  y: int
  width: int
  height: int
  offset: int  # bytes in the .roi


class File(NamedTuple):
  """A file of a bin; both raise OSError, or ValueError with the reason."""

  open: Callable[[], BinaryIO]
  size: Callable[[], int]  # bytes, without reading them


class Bin(NamedTuple):
  """A bin, wherever its files lie."""

  name: str
  place: str  # relative, without ending
  files: Mapping[str, File]  # by their endings in lower case

  def file(self, ending: str) -> File:
    """Finds one of its files; raises OSError if it is missing."""
    if ending not in self.files:
      raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return self.files[ending]


class Cell(NamedTuple):
  """One region, or two to be stitched."""

  bin: Bin
  regions: tuple[Region, ...]

  @property
  def id(self) -> str:
    """Names the cell as the community does: bin, then number."""
    return f'{self.bin.name}_{self.regions[0].number:05d}'


def is_bin(path: PurePath) -> bool:
  """Tells by its name whether a file belongs to a bin."""
  return path.suffix.lower() in ('.adc', '.hdr', '.roi') and any(
    form.name.fullmatch(path.stem) for form in _FORMATS
  )


def objects(path: str, *, field: str = 'data.path') -> Objects:
  """Lists the cells as `find` does.

  Raises:
    InputError: there is no bin.
  """
  place = files.expanded(path, field)
  found = find(place)
  if found is None:
    raise InputError(
      f'{place} holds no IFCB bin (.adc, .hdr and .roi); give its files the'
      ' name that the instrument gave them'
    )
  return found


def find(place: Path) -> Objects | None:
  """Lists the cells of a bin, named by any of its files, or of many bins.

  These lie in a folder, in an archive, or in zip archives in a folder. Returns
  None if there is no bin.
  """
  listed = _listed(place)
  every = _files(listed)
  parts: dict[str, dict[str, File]] = collections.defaultdict(dict)
  skipped = [*listed.skipped]
  for name in sorted(every):  # .ADC before .adc, which counts
    file = PurePosixPath(name)
    if is_bin(file):
      stem = file.with_name(file.stem.upper()).as_posix()
      parts[stem][file.suffix.lower()] = every[name]
    elif file.suffix.lower() == '.roi':
      skipped.append((name, 'not the name that the instrument gives a bin'))
  if not parts:
    return None
  bins: dict[str, Bin] = {}
  for stem in sorted(parts, key=lambda stem: (-len(parts[stem]), stem)):
    bin = Bin(PurePosixPath(stem).name, stem, parts[stem])
    first = bins.setdefault(bin.name, bin)
    if first is not bin:
      skipped.append((stem, f'a copy of {first.place}'))
  cells: list[Cell] = []
  left_aside = dict.fromkeys((EMPTY, STITCHED, BESIDE), 0)
  left_aside[BESIDE] = sum(map(files.is_image, every))
  for _, bin in sorted(bins.items()):
    named = len(skipped)
    try:
      regions = list(_regions(bin, skipped))
    except (OSError, ValueError) as error:
      skipped.append((bin.name, f'.adc: {describe(error)}'))
      continue
    filled = [region for region in regions if region.width * region.height]
    if len(skipped) == named and (unknown := _beyond(bin, filled)):
      why = f'{unknown:,} bytes of .roi are of no line of .adc: copy it again'
      skipped.append((bin.name, why))
    left_aside[EMPTY] += len(regions) - len(filled)
    stitches = _format(bin.name).stitches
    own = [Cell(bin, pair) for pair in _pairs(filled, stitches=stitches)]
    left_aside[STITCHED] += len(filled) - len(own)
    cells += own
  return Objects(
    place=str(place),
    ids=tuple(cell.id for cell in cells),
    read=functools.partial(_read, {cell.id: cell for cell in cells}),
    labels=unlabelled(len(cells)),
    skipped=tuple(skipped),
    left_aside={reason: n for reason, n in left_aside.items() if n},
    items=tuple(_item(cell) for cell in cells),
    measures=_measures(cells),
  )


def pixels(cell: Cell) -> np.ndarray:
  """Reads a cell's image, uint8 [H, W].

  Pixels of a stitched image outside both regions get the mean of those beside
  them.

  Raises:
    OSError: the file cannot be read.
    ValueError: the file is damaged or ends too early, and where; or two regions
      stitched are too large.
  """
  left = min(region.x for region in cell.regions)
  top = min(region.y for region in cell.regions)
  width = max(region.x + region.width for region in cell.regions) - left
  height = max(region.y + region.height for region in cell.regions) - top
  if width * height > images.MAX_PIXELS:
    raise ValueError(f'{width} x {height} px of two regions: too large')
  image = np.zeros((height, width), np.uint8)
  known = np.zeros((height, width), bool)
  with cell.bin.file('.roi').open() as file:
    end = file.seek(0, os.SEEK_END)
    for region in cell.regions:
      area = region.width * region.height
      if region.offset + area > end:
        raise ValueError(f'.roi ends within region {region.number}')
      file.seek(region.offset)
      data = file.read(area)
      at = np.s_[
        region.y - top : region.y - top + region.height,
        region.x - left : region.x - left + region.width,
      ]
      image[at] = np.frombuffer(data, np.uint8).reshape(
        region.height, region.width
      )
      known[at] = True
  if not known.all():
    image[~known] = round(float(image[known & _beside(~known)].mean()))
  return image


def pixel_um(header: str) -> float:
  """Finds the side of a pixel, µm, in the text of an .hdr; NaN if it has none.

  Takes a line such as `micronsPerPixel: 0.36` or `pixelsPerMicron = 2.77`.
  """
  for key, number in _SETTING.findall(header):
    name = re.sub(r'[^a-zµ]', '', key.lower())
    value = float(number)
    if value > 0 and _UM_PER_PIXEL.fullmatch(name):
      return value
    if value > 0 and _PIXELS_PER_UM.fullmatch(name):
      return 1.0 / value
  return math.nan


def _measures(cells: list[Cell]) -> Measures:
  """Gathers the pixel's side of each cell, if a header gives any."""
  of_bin: dict[str, float] = {}
  for bin in {cell.bin.name: cell.bin for cell in cells}.values():
    try:
      text = _text(bin, '.hdr')
    except (OSError, ValueError):
      text = ''
    of_bin[bin.name] = pixel_um(text)
  values = np.array([[of_bin[cell.bin.name]] for cell in cells], np.float32)
  if not np.isfinite(values).any():
    return NO_MEASURES
  return Measures(('pixel_um',), tuple(cell.id for cell in cells), values)


def _item(cell: Cell) -> Object:
  """Describes a cell: its bin is the sample, whose name tells the time."""
  date, time = _moment(cell.bin.name)
  return Object(
    cell.id, f'{cell.id}.png', sample=cell.bin.name, date=date, time=time
  )


def _moment(bin: str) -> tuple[str, str]:
  """Reads date and time (UTC) from a bin's name; '' if it has no such day."""
  form = _format(bin)
  found = form.name.fullmatch(bin)
  assert found
  try:
    moment = datetime.datetime.strptime(found[1], form.moment)
  except ValueError:
    return '', ''
  return f'{moment:%Y%m%d}', f'{moment:%H%M%S}'


def _read(cells: Mapping[str, Cell], id: str) -> bytes:
  try:
    return images.encode(pixels(cells[id]))
  except OSError as error:
    raise ValueError(f'.roi: {describe(error)}') from error


def _regions(bin: Bin, skipped: list[tuple[str, str]]) -> Iterator[Region]:
  """Yields the regions of an .adc, with and without pixels.

  A line of fewer columns than the first region's was cut off.
  """
  first, columns = _format(bin.name).x, 0
  lines = _text(bin, '.adc').splitlines()
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    values = line.split(',')
    try:
      region = Region(
        number,
        int(float(values[0])),
        *(int(float(value)) for value in values[first : first + 5]),
      )
      if len(values) < columns:
        raise ValueError
      columns = columns or len(values)
      if min(region.width, region.height, region.offset) < 0:
        raise ValueError
      if region.width * region.height > images.MAX_PIXELS:
        raise ValueError
    except (ValueError, TypeError, OverflowError):
      skipped.append((f'{bin.name}_{number:05d}', 'not a line of an .adc'))
      continue
    yield region


def _beyond(bin: Bin, regions: Sequence[Region]) -> int:
  """Counts the bytes of a .roi beyond all regions, of lines that are lost.

  Offsets of the first generation may begin at 1, and leave a byte.
  """
  try:
    size = bin.file('.roi').size()
  except OSError:  # It is named when its cells are read.
    return 0
  ends = (region.offset + region.width * region.height for region in regions)
  left = size - max(ends, default=0)
  return left if left > 1 else 0


def _pairs(
  regions: list[Region], *, stitches: bool
) -> Iterator[tuple[Region, ...]]:
  """Joins adjacent regions of one trigger that overlap, two at a time."""
  row = 0
  while row < len(regions):
    pair = tuple(regions[row : row + 2])
    if not (stitches and len(pair) == 2 and _overlap(*pair)):
      pair = pair[:1]
    yield pair
    row += len(pair)


def _overlap(a: Region, b: Region) -> bool:
  across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
  down = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
  return a.trigger == b.trigger and min(across, down) > _OVERLAP


def _beside(mask: np.ndarray) -> np.ndarray:
  """Marks the pixels above, below, left and right of marked ones."""
  wide = np.pad(mask, 1)
  return wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]


def _format(bin: str) -> _Format:
  return next(form for form in _FORMATS if form.name.fullmatch(bin))


def _text(bin: Bin, ending: str) -> str:
  with bin.file(ending).open() as file:
    return files.decode_text(file.read())


def _files(listed: Found) -> dict[str, File]:
  """Returns the files of a place by their names, with functions to open them.

  The last two files read from archives are kept, so that a .roi is unpacked
  once for all of its cells.
  """
  lock = threading.Lock()

  @functools.lru_cache(maxsize=2)
  def unpack(name: str) -> bytes:
    return listed.files[name].read()

  def opened(name: str, path: Path | None) -> BinaryIO:
    if path is not None:
      return path.open('rb')
    with lock:
      return io.BytesIO(unpack(name))

  return {
    name: File(functools.partial(opened, name, entry.path), entry.size)
    for name, entry in listed.files.items()
    if not files.is_clutter(name.split('/'))
  }


def _listed(place: Path) -> Found:
  """Lists a folder or an archive, or the files of a bin beside one of them."""
  if place.is_dir() or entries.is_archive(place):
    return entries.find(place)
  beside = place.parent.glob(f'{glob.escape(place.stem)}.*')
  return Found({file.name: entries.of_file(file) for file in beside}, [])
