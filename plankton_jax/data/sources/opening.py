"""What config.data names: a source whose records are written when asked for."""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from plankton_jax.data import splits
from plankton_jax.data.pixels import images, threads
from plankton_jax.data.sources import sources
from plankton_jax.errors import InputError

if TYPE_CHECKING:  # TFDS is imported only where records are touched.
  from plankton_jax.data.pixels import records

log = logging.getLogger(__name__)

SOURCES = ('synthetic', 'folder', 'ecotaxa', 'tfds')


class Opened(NamedTuple):
  """A source whose records are written only if they are asked for."""

  class_names: tuple[str, ...]
  fingerprint: str
  records: Callable[
    [], tuple[Sequence['records.Record'], list[tuple[str, str]]]
  ]


def open_source(
  *,
  source: str,
  path: str,
  name: str,
  data_dir: str,
  per_class: int,
  labelled_status: Sequence[str],
  group_by: str,
  seed: int,
  cache_dir: Path,
) -> Opened:
  """The source of `config.data`.

  Raises:
    InputError: an unknown source, or one that cannot be read.
  """
  started = time.monotonic()
  if source == 'folder':
    opened = _from_source(sources.from_folder(path), cache_dir)
  elif source == 'synthetic':
    opened = _from_source(sources.from_drawings(per_class, seed), cache_dir)
  elif source == 'ecotaxa':
    from plankton_jax.data.ecotaxa import source as ecotaxa

    export = ecotaxa.from_export(path, labelled_status, group_by)
    opened = _from_source(export, cache_dir)
  elif source == 'tfds':
    opened = _from_tfds(name, data_dir)
  else:
    known = ', '.join(map(repr, SOURCES))
    raise InputError(f'data.source={source!r} must be one of {known}')
  log.info(
    'source %s: %d classes, content %s, read in %.1f s',
    {'synthetic': source, 'tfds': name}.get(source, path),
    len(opened.class_names),
    opened.fingerprint[:8],
    time.monotonic() - started,
  )
  return opened


def choose(opened: Opened, classes: Sequence[str]) -> Opened:
  """A source's images of some classes alone; of all if none is named.

  Raises:
    InputError: an unknown class.
  """
  if isinstance(classes, str):
    raise InputError(
      f'data.classes must be a tuple of names: write ({classes!r},)'
    )
  if not classes:
    return opened
  for name in classes:
    if name not in opened.class_names:
      raise splits.unknown_class('data.classes', name, opened.class_names)
  kept = tuple(name for name in opened.class_names if name in classes)
  content = repr((opened.fingerprint, kept)).encode()

  def read() -> tuple['_Chosen', list[tuple[str, str]]]:
    everything, skipped = opened.records()
    label = {opened.class_names.index(n): i for i, n in enumerate(kept)}
    return _Chosen(everything, label), skipped

  return Opened(
    kept, hashlib.blake2b(content, digest_size=16).hexdigest(), read
  )


def group_regex(source: str, group_by: str, regex: str) -> str:
  """The expression that finds an id's group.

  Raises:
    InputError: `group_by` is unknown, or does not go with the other fields.
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


class _Chosen:
  """The records whose label is among `label`, which maps it to its new one."""

  def __init__(self, everything, label: dict[int, int]):
    self._everything = everything
    self._label = label
    found = threads.in_order(
      lambda row: everything[row].label, range(len(everything)), desc='choose'
    )
    self._rows = np.flatnonzero([number in label for number in found])

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(
    self, at: int | slice
  ) -> 'records.Record | list[records.Record]':
    if isinstance(at, slice):
      return [self[row] for row in range(len(self))[at]]
    record = self._everything[int(self._rows[at])]
    return record._replace(label=self._label[record.label])


def _from_source(source: sources.Source, cache_dir: Path) -> Opened:
  directory = cache_dir / 'records' / f'{source.fingerprint}-{images.VERSION}'

  def read() -> tuple['records.Records', list[tuple[str, str]]]:
    from plankton_jax.data.pixels import records

    if not directory.is_dir():
      started = time.monotonic()
      records.write(directory, source)
      spent = time.monotonic() - started
      log.info('records written in %.1f s at %s', spent, directory)
    return records.read(directory), records.skipped(directory)

  return Opened(source.class_names, source.fingerprint, read)


def _from_tfds(name: str, data_dir: str) -> Opened:
  from plankton_jax.data.pixels import records
  from plankton_jax.data.sources import prepared

  builder = prepared.builder(name, data_dir)
  return Opened(
    prepared.class_names(builder),
    prepared.fingerprint(builder),
    lambda: (
      records.Records(builder),
      records.skipped(Path(builder.data_dir)),
    ),
  )
