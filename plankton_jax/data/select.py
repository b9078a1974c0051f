"""Selects the source, the classes and the groups that config.data names."""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from plankton_jax.data import classes, workers
from plankton_jax.data.pixels import images
from plankton_jax.data.sources import entries, flowcam, folder, ifcb
from plankton_jax.data.sources.files import expanded, walk
from plankton_jax.data.sources.objects import Objects
from plankton_jax.data.sources.source import NO_MEASURES, Measures, Source
from plankton_jax.errors import InputError

if TYPE_CHECKING:  # TFDS is imported only when records are used.
  from plankton_jax.data.records import Record

log = logging.getLogger(__name__)

SOURCES = ('synthetic', 'folder', 'ecotaxa', 'ifcb', 'tfds')


class Read(NamedTuple):
  """A source's records."""

  records: Sequence['Record']
  skipped: list[tuple[str, str]]  # (name, reason) of each image left out
  deepest: int  # the largest 16-bit value; 0 if there is none


class Selected(NamedTuple):
  """A source whose records are written only on demand."""

  class_names: tuple[str, ...]
  fingerprint: str  # of the images and their classes
  cached: str  # names records and caches, which list what is left out, too
  records: Callable[[], Read]
  read: int  # objects that the source read, kept or not
  left_aside: Mapping[str, int]  # reason -> objects left out without a name
  measures: Measures = NO_MEASURES


def source(
  *,
  source: str,
  path: str,
  name: str,
  data_dir: str,
  class_level: str,
  per_class: int,
  labelled_status: Sequence[str],
  image_rank: str | int,
  group_by: str,
  seed: int,
  cache_dir: Path,
) -> Selected:
  """Selects the source of `config.data`.

  Raises:
    InputError: the source is unknown, or cannot be read.
  """
  started = time.monotonic()
  if source == 'folder':
    selected = _from_source(
      folder.source(path, class_level, cache_dir), cache_dir
    )
  elif source == 'synthetic':
    from plankton_jax.data.drawn import plankton

    selected = _from_source(plankton.source(per_class, seed), cache_dir)
  elif source == 'ecotaxa':
    from plankton_jax.data.ecotaxa import source as ecotaxa

    export = ecotaxa.from_export(
      path, labelled_status, group_by, image_rank, cache_dir
    )
    selected = _from_source(export, cache_dir)
  elif source == 'ifcb':
    found = ifcb.objects(path)
    raise InputError(
      f'data.source={source!r}: the {len(found.ids):,} images of {found.place}'
      ' have no labels to train on; embed or predict them'
    )
  elif source == 'tfds':
    selected = _from_tfds(name, data_dir)
  else:
    known = ', '.join(map(repr, SOURCES))
    raise InputError(f'data.source={source!r} must be one of {known}')
  for doubt in classes.doubts(selected.class_names):
    log.warning('%s', doubt)
  log.info(
    'source %s: %d classes, content %s, read in %.1f s',
    {'synthetic': source, 'tfds': name}.get(source, path),
    len(selected.class_names),
    selected.fingerprint[:8],
    time.monotonic() - started,
  )
  return selected


def objects(
  path: str, image_rank: str | int = 'lowest', *, field: str = 'data.path'
) -> Objects:
  """Opens anything that holds images, labelled or not, as objects.

  Takes an IFCB bin, a folder or archive of them, runs of a FlowCam, an EcoTaxa
  export, packed or not, one of its tables, or any folder of images, packed or
  not.

  Args:
    path: the place.
    image_rank: which image of an export's object; see `data.image_rank`.
    field: the name of the path in errors.

  Raises:
    InputError: it is none of these.
  """
  found = described(path, image_rank, field=field)
  if found is not None:
    return found
  return folder.objects(path, field=field)


def described(
  path: str, image_rank: str | int = 'lowest', *, field: str = 'data.path'
) -> Objects | None:
  """Opens what says something of each object: bins, lists, or an export.

  Takes the arguments of `objects`. Returns None for any other place, such as a
  folder of images, which it does not list.

  Raises:
    InputError: a file that is neither, or an export that cannot be read.
  """
  from plankton_jax.data.ecotaxa import files
  from plankton_jax.data.ecotaxa import source as ecotaxa

  place = expanded(path, field)
  inside = [*walk(place)] if place.is_dir() else [place]
  archived = entries.is_archive(place) or any(
    file.suffix.lower() == '.zip' for file in inside
  )
  names: Sequence[PurePath] = inside
  if archived:
    names = [PurePath(name) for name in entries.find(place).files]
  table = next(filter(files.is_table, inside), None)
  bins = ifcb.find(place) if any(map(ifcb.is_bin, names)) else None
  if bins is not None:
    _say_unread(table, 'IFCB bins')
    return bins
  if any(map(flowcam.is_list, inside)):
    _say_unread(table, 'runs of a FlowCam')
    return flowcam.objects(path, field=field)
  texts = {name.suffix.lower() for name in names}.intersection(files.READ)
  if texts if archived else table or place.is_file():
    try:
      return ecotaxa.objects(path, image_rank, field=field)
    except files.NoTable as error:  # Archives may hold anything else.
      readme = texts == {'.txt'}
      log.log(logging.INFO if readme else logging.WARNING, '%s', error)
  return None


def _say_unread(table: Path | None, instead: str) -> None:
  """Warns of an EcoTaxa table that is passed over for raw data beside it."""
  if table is not None:
    log.warning(
      '%s: the %s beside it are read; to read it, give it', table, instead
    )


def choose(selected: Selected, wanted: Sequence[str]) -> Selected:
  """Keeps a source's images of the wanted classes, or all if none is named.

  Raises:
    InputError: an unknown class.
  """
  kept = classes.choose(selected.class_names, wanted)
  if not wanted:
    return selected

  def read() -> Read:
    everything = selected.records()
    label = {selected.class_names.index(n): i for i, n in enumerate(kept)}
    return everything._replace(records=_Chosen(everything.records, label))

  return selected._replace(
    class_names=kept,
    fingerprint=_digest((selected.fingerprint, kept)),
    cached=_digest((selected.cached, kept)),
    records=read,
  )


def _digest(content: tuple) -> str:
  return hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()


def group_regex(source: str, group_by: str, regex: str) -> str:
  """Selects the regular expression that finds an id's group.

  Raises:
    InputError: `group_by` is unknown, or conflicts with other fields.
  """
  if not group_by:
    return regex
  from plankton_jax.data.ecotaxa import read

  if group_by not in read.GROUPS:
    known = ' or '.join(map(repr, read.GROUPS))
    raise InputError(f"data.group_by={group_by!r} must be '' or {known}")
  if source != 'ecotaxa':
    raise InputError(
      f"data.group_by={group_by!r} needs data.source='ecotaxa': use"
      ' data.group_regex'
    )
  if regex:
    raise InputError('data.group_by and data.group_regex exclude each other')
  return read.GROUPS[group_by]


class _Chosen(Sequence['Record']):
  """The records whose label is a key of `label`, with the new label."""

  def __init__(self, everything: Sequence['Record'], label: dict[int, int]):
    self._everything = everything
    self._label = label
    found = workers.in_order(
      lambda row: everything[row].label, range(len(everything)), desc='choose'
    )
    self._rows = np.flatnonzero([number in label for number in found])

  def __len__(self) -> int:
    return len(self._rows)

  @overload
  def __getitem__(self, at: int) -> 'Record': ...

  @overload
  def __getitem__(self, at: slice) -> list['Record']: ...

  def __getitem__(self, at: int | slice) -> 'Record | list[Record]':
    if isinstance(at, slice):
      return [self[row] for row in range(len(self))[at]]
    record = self._everything[int(self._rows[at])]
    return record._replace(label=self._label[record.label])


def _from_source(source: Source, cache_dir: Path) -> Selected:
  cached = source.fingerprint
  if source.skipped:
    cached = _digest((cached, source.skipped))
  directory = cache_dir / 'records' / f'{cached}-{images.VERSION}'

  def read() -> Read:
    from plankton_jax.data import records

    if not directory.is_dir():
      started = time.monotonic()
      records.write(directory, source)
      spent = time.monotonic() - started
      log.info('records written in %.1f s at %s', spent, directory)
    return Read(
      records.read(directory),
      records.skipped(directory),
      records.deepest(records.folder_of(directory)),
    )

  return Selected(
    source.class_names,
    source.fingerprint,
    cached,
    read,
    source.read,
    source.left_aside,
    source.measures,
  )


def _from_tfds(name: str, data_dir: str) -> Selected:
  from plankton_jax.data import records

  builder = records.prepared(name, data_dir)
  skipped = records.skipped(Path(builder.data_dir))
  return Selected(
    records.class_names(builder),
    fingerprint := records.fingerprint(builder),
    fingerprint,
    lambda: Read(
      records.Records(builder), skipped, records.deepest(Path(builder.data_dir))
    ),
    records.count(builder) + len(skipped),
    {},
  )
