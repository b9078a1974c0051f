"""Reads the images of any place on demand: to train, to embed, to predict."""

import datetime
import functools
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from plankton_jax.data import workers
from plankton_jax.data.pixels import images
from plankton_jax.data.sources import entries
from plankton_jax.data.sources.source import (
  NO_MEASURES,
  Example,
  Measures,
  Source,
)

# How files begin that may hold 16-bit images, whatever they are called.
_DEEP = (b'\x89PNG', b'II*\0', b'MM\0*')

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
  annotation_date: str = ''  # and when, as date and time
  annotation_time: str = ''

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
  """The N images of a folder, an export or an instrument, read on demand."""

  place: str  # where they are, for messages
  ids: tuple[str, ...]
  read: Callable[[str], bytes]  # of an id; raises ValueError with the reason
  labels: np.ndarray  # int32 [N], of class_names; -1 where none is known
  skipped: tuple[tuple[str, str], ...]  # (name, reason)
  class_names: tuple[str, ...] = ()
  # reason -> number of objects left out for it without a name
  left_aside: Mapping[str, int] = types.MappingProxyType({})
  measures: Measures = NO_MEASURES
  items: tuple[Object, ...] = ()  # one for each id, or none
  root: Path | None = None  # where ids are paths of files on disk, their folder

  @property
  def name(self) -> str:
    """Names the place for headings, and where ids of several places meet."""
    return entries.title(Path(self.place))

  def take(self, rows: Sequence[int]) -> 'Objects':
    """Selects some images, in this order; what is skipped is of the whole."""
    return self._replace(
      ids=tuple(self.ids[row] for row in rows),
      labels=self.labels[list(rows)],
      skipped=(),
      items=tuple(self.items[row] for row in rows) if self.items else (),
    )


def unlabelled(count: int) -> np.ndarray:
  """Makes the labels [N] of objects whose classes are not known."""
  return np.full(count, -1, np.int32)


def to_source(found: Objects, fingerprint: str) -> Source:
  """Makes a source of labelled objects, which are normalised as they are read.

  `fingerprint` is of their ids, contents and classes.
  """

  def example(row: int) -> Example:
    id, label = found.ids[row], int(found.labels[row])
    try:
      normal = images.ingest(found.read(id))
    except ValueError as error:
      return Example(id, label, None, str(error))
    return Example(
      id, label, normal.data, deepest=normal.deepest, note=normal.note
    )

  rows = range(len(found.ids))
  return Source(
    place=found.place,
    fingerprint=fingerprint,
    class_names=found.class_names,
    examples=lambda: workers.in_order(example, rows, desc='ingest'),
    total=len(rows),
    skipped=found.skipped,
    left_aside=found.left_aside,
    measures=found.measures,
  )


def decoded(
  found: Objects, settings: images.Preprocessing, *, desc: str
) -> Iterator[images.Fitted | str]:
  """Yields each image, fitted to [size, size, C], or why it is unreadable.

  Keeps the order, shows a progress bar called `desc`, and uses no cache. A
  white of 0 is found from the largest value of all images.
  """
  settings = settings._replace(white=settings.white or find_white(found))
  shape = settings.size, settings.size, settings.channels
  fitted = functools.partial(_fitted, found.read, settings)
  # What reads archives cannot be sent to other processes.
  sent = found.root is not None
  for one in workers.in_order(fitted, found.ids, desc=desc, processes=sent):
    if isinstance(one, str):
      yield one
      continue
    data, height, width = one
    pixels = np.frombuffer(data, np.uint8).reshape(shape)
    yield images.Fitted(pixels, height, width)


def find_white(found: Objects) -> int:
  """Finds the white of all 16-bit images by their depth."""

  def deepest(id: str) -> int:
    try:
      if found.root is not None and not _may_be_deep(found.root / id):
        return 0
      return images.deepest(found.read(id))
    except (OSError, ValueError):
      return 0

  depths = workers.in_order(deepest, found.ids, desc='depth')
  return images.white_of(max(depths, default=0))


def _may_be_deep(path: Path) -> bool:
  """Tells by the first bytes of a file, which cost less than all of it."""
  with path.open('rb') as file:
    return file.read(4) in _DEEP


def _fitted(
  read: Callable[[str], bytes], settings: images.Preprocessing, id: str
) -> tuple[bytes, int, int] | str:
  """Reads and fits one image; returns the reason if it cannot be read.

  Returns bytes, which are sent between processes for less than an array, and
  the height and width before.
  """
  try:
    picture, fitted = settings.apply(read(id))
  except ValueError as error:
    return str(error)
  return fitted.tobytes(), picture.image.height, picture.image.width
