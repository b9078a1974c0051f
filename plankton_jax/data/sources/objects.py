"""Reads objects that need no label: to embed, to search, to predict."""

import datetime
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from plankton_jax.data import workers
from plankton_jax.data.pixels.images import (
  NO_CROP,
  Fitted,
  Picture,
  deepest,
  white_of,
)
from plankton_jax.data.sources.source import NO_MEASURES, Measures

# Spreadsheets write 20210503.0, and seconds with decimals.
_DATE = re.compile(r'(\d{4})([-/.]?)(\d\d)\2(\d\d)(?:\.0)?')
_TIME = re.compile(r'(\d{1,6})(?:\.0*)?|(\d{1,2}):(\d\d)(?::(\d\d)(?:\.\d*)?)?')


class Object(NamedTuple):
  """Holds what a source says of an object, as text; '' if it says nothing."""

  object_id: str
  image: str  # where it lies in the source
  status: str = ''  # EcoTaxa's of its annotation, or 'unclassified'
  taxon: str = ''  # object_annotation_category; '' if unclassified
  lineage: str = ''  # object_annotation_hierarchy, root>...>taxon
  sample: str = ''
  acquisition: str = ''
  category_id: str = ''  # EcoTaxa's number of the taxon
  number: str = ''  # EcoTaxa's own of the object, objid
  latitude: str = ''  # degrees
  longitude: str = ''
  date: str = ''  # YYYYMMDD or YYYY-MM-DD
  time: str = ''  # hhmmss or hh:mm:ss, UTC
  depth_min: str = ''  # m
  depth_max: str = ''
  person: str = ''  # who annotated it

  @property
  def id(self) -> str:
    """Joins sample/acquisition/object, with / and % escaped in each."""
    return '/'.join(
      part.replace('%', '%25').replace('/', '%2F')
      for part in (self.sample, self.acquisition, self.object_id)
    )

  @property
  def moment(self) -> str:
    """Formats date and time (UTC) by ISO 8601; '' if there is no such day.

    Years come first and times are hhmmss or h:mm: of other forms, such as
    10/11/12, nobody can tell which day they mean.
    """
    day, clock = _DATE.fullmatch(self.date), _TIME.fullmatch(self.time)
    if not day or (self.time and not clock):
      return ''
    try:
      date = datetime.date(int(day[1]), int(day[3]), int(day[4]))
      if not clock:
        return date.isoformat()
      digits = clock[1] or ''.join(part or '00' for part in clock.groups()[1:])
      digits = digits.zfill(6)
      hours, minutes, seconds = digits[:2], digits[2:4], digits[4:]
      time = datetime.time(int(hours), int(minutes), int(seconds))
    except ValueError:
      return ''
    return f'{date.isoformat()}T{time.isoformat()}Z'


class Objects(NamedTuple):
  """Images that are read on demand."""

  place: str  # for messages
  ids: tuple[str, ...]
  read: Callable[[int], bytes]  # of a row; raises ValueError with the reason
  skipped: tuple[tuple[str, str], ...]  # (name, reason)
  # reason -> number of objects left out for it without a name
  left_aside: Mapping[str, int] = types.MappingProxyType({})
  measures: Measures = NO_MEASURES
  items: tuple[Object, ...] = ()  # one for each id, or none

  @property
  def total(self) -> int:
    """Counts all that was read, kept or not."""
    return len(self.ids) + len(self.skipped) + sum(self.left_aside.values())


def decoded(
  objects: Objects,
  *,
  size: int,
  resize: str,
  channels: int,
  white: int = 0,
  crop: Sequence[int] = NO_CROP,
  desc: str,
) -> Iterator[Fitted | str]:
  """Yields each image, fitted to [size, size, C], or why it is unreadable.

  Keeps the order, shows a progress bar called `desc`, and uses no cache.
  `white` and `crop` are as in `images.decode`, but a white of 0 is found from
  the largest value of all images.
  """
  rows = range(len(objects.ids))
  white = white or find_white(objects)

  def fitted(row: int) -> Fitted | str:
    try:
      picture = Picture.decode(objects.read(row), white, crop)
    except ValueError as error:
      return str(error)
    image = picture.fit(size=size, resize=resize, channels=channels)
    pixels = np.asarray(image).reshape(size, size, channels)
    return Fitted(pixels, picture.image.height, picture.image.width)

  yield from workers.in_order(fitted, rows, desc=desc)


def find_white(objects: Objects) -> int:
  """Finds the white of all 16-bit images by their depth."""

  def depth(row: int) -> int:
    try:
      return deepest(objects.read(row))
    except ValueError:
      return 0

  found = workers.in_order(depth, range(len(objects.ids)), desc='depth')
  return white_of(max(found, default=0))
