"""Reads raw bins of the Imaging FlowCytobot: .roi regions, .adc tables.

Reads two generations, recognised by the names of their bins. Those of the
first, IFCBn_YYYY_DDD_HHMMSS, may cut a cell into two adjacent regions of a
trigger, which are stitched; those of the second, DYYYYMMDDTHHMMSS_IFCBnnn, do
not. The formats follow pyifcb, https://github.com/joefutrelle/pyifcb.
"""

import collections
import datetime
import functools
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from plankton_jax.data.pixels import images
from plankton_jax.data.sources import files
from plankton_jax.data.sources.objects import Object, Objects
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
  _Format(re.compile(r'IFCB\d+_(\d{4}_\d{3}_\d{6})'), '%Y_%j_%H%M%S', 9, True),
  _Format(re.compile(r'D(\d{8}T\d{6})_IFCB\d+'), '%Y%m%dT%H%M%S', 13, False),
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


class Cell(NamedTuple):
  """One region, or two to be stitched."""

  bin: Path  # without ending
  regions: tuple[Region, ...]

  @property
  def id(self) -> str:
    """Names the cell as the community does: bin, then number."""
    return f'{self.bin.name}_{self.regions[0].number:05d}'


def is_bin(path: Path) -> bool:
  """Tells by its name whether a file belongs to a bin."""
  known = any(form.name.fullmatch(path.stem) for form in _FORMATS)
  return known and path.suffix.lower() in ('.adc', '.hdr', '.roi')


def objects(path: str) -> Objects:
  """Lists the cells of a bin, named by any of its files, or of a folder's bins.

  Raises:
    InputError: there is no bin.
  """
  place = Path(path).expanduser()
  every = [*files.walk(place)] if place.is_dir() else [place]
  parts = collections.Counter(
    file.with_suffix('') for file in every if is_bin(file)
  )
  if not parts:
    raise InputError(f'{place} holds no IFCB bin (.adc, .hdr and .roi)')
  bins: dict[str, Path] = {}
  skipped: list[tuple[str, str]] = []
  for bin in sorted(parts, key=lambda bin: (-parts[bin], bin)):
    first = bins.setdefault(bin.name, bin)
    if first != bin:
      name, other = (x.relative_to(place).as_posix() for x in (bin, first))
      skipped.append((name, f'a copy of {other}'))
  cells: list[Cell] = []
  left_aside = dict.fromkeys((EMPTY, STITCHED, BESIDE), 0)
  left_aside[BESIDE] = sum(files.is_image(file.name) for file in every)
  for bin in sorted(bins.values()):
    try:
      regions = list(_regions(bin, skipped))
    except OSError as error:
      skipped.append((bin.name, f'.adc: {describe(error)}'))
      continue
    filled = [region for region in regions if region.width * region.height]
    left_aside[EMPTY] += len(regions) - len(filled)
    own = [Cell(bin, pair) for pair in _pairs(filled, _format(bin).stitches)]
    left_aside[STITCHED] += len(filled) - len(own)
    cells += own
  return Objects(
    place=str(place),
    ids=tuple(cell.id for cell in cells),
    read=functools.partial(_read, cells),
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
    ValueError: the file ends too early, and where; or two regions stitched
      are too large.
  """
  left = min(region.x for region in cell.regions)
  top = min(region.y for region in cell.regions)
  width = max(region.x + region.width for region in cell.regions) - left
  height = max(region.y + region.height for region in cell.regions) - top
  if width * height > images.MAX_PIXELS:
    raise ValueError(f'{width} x {height} px of two regions: too large')
  image = np.zeros((height, width), np.uint8)
  known = np.zeros((height, width), bool)
  with _file(cell.bin, '.roi').open('rb') as file:
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
  of_bin: dict[Path, float] = {}
  for bin in dict.fromkeys(cell.bin for cell in cells):
    try:
      text = _file(bin, '.hdr').read_text(encoding='latin-1')
    except OSError:
      text = ''
    of_bin[bin] = pixel_um(text)
  values = np.array([[of_bin[cell.bin]] for cell in cells], np.float32)
  if not np.isfinite(values).any():
    return NO_MEASURES
  return Measures(('pixel_um',), tuple(cell.id for cell in cells), values)


def _item(cell: Cell) -> Object:
  """Describes a cell: its bin is the sample, whose name tells the time."""
  date, time = _moment(cell.bin)
  return Object(
    cell.id, f'{cell.id}.png', sample=cell.bin.name, date=date, time=time
  )


def _moment(bin: Path) -> tuple[str, str]:
  """Reads date and time (UTC) from a bin's name; '' if it has no such day."""
  form = _format(bin)
  found = form.name.fullmatch(bin.name)
  assert found
  try:
    moment = datetime.datetime.strptime(found[1], form.moment)
  except ValueError:
    return '', ''
  return f'{moment:%Y%m%d}', f'{moment:%H%M%S}'


def _read(cells: list[Cell], row: int) -> bytes:
  try:
    return images.encode(pixels(cells[row]))
  except OSError as error:
    raise ValueError(f'.roi: {describe(error)}') from error


def _regions(bin: Path, skipped: list[tuple[str, str]]) -> Iterator[Region]:
  """Yields the regions of an .adc, with and without pixels.

  A line of fewer columns than the first region's was cut off.
  """
  first, columns = _format(bin).x, 0
  text = _file(bin, '.adc').read_text(encoding='latin-1')
  for number, line in enumerate(text.splitlines(), start=1):
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


def _pairs(
  regions: list[Region], stitches: bool
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


def _format(bin: Path) -> _Format:
  return next(form for form in _FORMATS if form.name.fullmatch(bin.name))


def _file(bin: Path, ending: str) -> Path:
  """Finds a bin's file, whose extension may be in capitals."""
  path = bin.with_name(bin.name + ending)
  capital = bin.with_name(bin.name + ending.upper())
  return capital if capital.exists() and not path.exists() else path
