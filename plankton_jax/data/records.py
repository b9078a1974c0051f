"""Stores encoded images with class and id as TFDS sets of array_record files.

All use of TFDS is here, and none of it needs TensorFlow.
"""

import bisect
import collections
import contextlib
import functools
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import tensorflow_datasets as tfds
from absl import logging as absl_logging
from tensorflow_datasets.core import dataset_info, sequential_writer

from plankton_jax.data.public import catalogue
from plankton_jax.data.sources.source import Source, none_readable
from plankton_jax.errors import InputError
from plankton_jax.files import atomic, home

log = logging.getLogger(__name__)

VERSION = '1.0.0'

_NAME = 'plankton_images'  # of the sets written for a run
_SPLIT = 'images'
_DEEPEST = 'deepest.txt'  # the largest 16-bit value, beside the records
_SHARD = 2**14  # images in a file
_BLOCK = 1024  # images written at once


class Record(NamedTuple):
  """One image, still encoded."""

  id: str
  label: int
  image: bytes


class Records(Sequence[Record]):
  """Random access to the images of a prepared TFDS data set.

  Joins all its splits, in the order of their names. An id is the feature `id`,
  or 'split/row' if the set has none.
  """

  def __init__(self, builder: tfds.core.DatasetBuilder):
    self._splits = sorted(builder.info.splits)
    with _quiet():
      self._sources = [
        builder.as_data_source(
          split=split, decoders={'image': tfds.decode.SkipDecoding()}
        )
        for split in self._splits
      ]
    self._starts = [0, *itertools.accumulate(map(len, self._sources))]

  def __len__(self) -> int:
    return self._starts[-1]

  @overload
  def __getitem__(self, at: int) -> Record: ...

  @overload
  def __getitem__(self, at: slice) -> list[Record]: ...

  def __getitem__(self, at: int | slice) -> Record | list[Record]:
    """Reads a record, or those of a slice together."""
    if isinstance(at, slice):
      return self._read(range(len(self))[at])
    return self._read([range(len(self))[at]])[0]

  def _read(self, rows: Sequence[int]) -> list[Record]:
    records = []
    split_of = functools.partial(bisect.bisect_right, self._starts)
    for number, own in itertools.groupby(rows, split_of):
      start, split = self._starts[number - 1], self._splits[number - 1]
      places = [row - start for row in own]
      source = self._sources[number - 1]
      # Several are read by threads, which take longer to start than one record.
      several = len(places) > 1
      found = source.__getitems__(places) if several else [source[places[0]]]
      for place, fields in zip(places, found, strict=True):
        id = fields.get('id', f'{split}/{place}')
        id = id.decode() if isinstance(id, bytes) else str(id)
        records.append(Record(id, int(fields['label']), fields['image']))
    return records


def store(
  folder: Path,
  source: Source,
  *,
  name: str,
  texts: Sequence[str] = (),
  **about: str,
) -> list[tuple[str, str]]:
  """Writes a source's images as a TFDS data set into an empty folder.

  Args:
    folder: the folder to make.
    source: the images; its examples are read once.
    name: of the data set.
    texts: names of further text fields of the examples.
    **about: description, homepage, citation and license for TFDS.

  Returns:
    (name, reason) of every image left out.

  Raises:
    InputError: not one image is readable.
  """
  skipped = list(source.skipped)
  deepest = 0
  notes: collections.Counter[str] = collections.Counter()

  def fields() -> Iterator[dict[str, Any]]:
    for example in source.examples():
      if example.image is None:
        skipped.append((example.id, example.reason))
        continue
      nonlocal deepest
      deepest = max(deepest, example.deepest)
      notes[example.note] += 1
      known = {field: example.texts.get(field, '') for field in texts}
      yield {
        'image': example.image,
        'label': example.label,
        'id': example.id,
        **known,
      }

  rows = fields()
  first = next(rows, None)
  if first is None:
    raise none_readable(source.place, skipped)
  folder.mkdir(parents=True, exist_ok=True)
  with _quiet():
    writer = sequential_writer.SequentialWriter(
      _info(folder, name, source.class_names, texts, about),
      max_examples_per_shard=_SHARD,
      file_format='array_record',
    )
    writer.initialize_splits([_SPLIT])
    rows = itertools.chain([first], rows)
    while block := list(itertools.islice(rows, _BLOCK)):
      writer.add_examples({_SPLIT: block})
    writer.close_all()
  del notes['']
  for note, count in notes.items():
    log.warning('%d images have %s', count, note)
  (folder / _DEEPEST).write_text(f'{deepest}\n')
  return skipped


def write(directory: Path, source: Source) -> None:
  """Writes a source's images, and skipped.json, to a new directory.

  Raises:
    InputError: not one image is readable.
  """
  with atomic.directory(directory) as building:
    left_out = store(folder_of(building), source, name=_NAME)
    (building / 'skipped.json').write_text(json.dumps(left_out))


def folder_of(directory: Path) -> Path:
  """Finds the data set in a directory that `write` wrote."""
  return directory / _NAME / VERSION


def read(directory: Path) -> Records:
  """Opens the images that `write` wrote."""
  with _quiet():
    builder = tfds.builder_from_directory(folder_of(directory))
  return Records(builder)


def deepest(folder: Path) -> int:
  """Reads the largest 16-bit value of a stored set; 0 if it has none.

  Sets prepared by others do not record it: they count as 65,535.
  """
  file = folder / _DEEPEST
  return int(file.read_text()) if file.exists() else 2**16 - 1


def skipped(directory: Path) -> list[tuple[str, str]]:
  """Lists (name, reason) of images left out; [] for sets prepared by others."""
  file = directory / 'skipped.json'
  pairs = json.loads(file.read_text()) if file.exists() else []
  return [(name, reason) for name, reason in pairs]


def prepared(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
  """Opens a TFDS data set that was prepared before, by us or by others.

  Raises:
    InputError: it is not found, is not stored as array_record files, or lacks
      an image or a class label.
  """
  if not name:
    raise InputError('data.name is empty: name the TFDS data set')
  root = os.fspath(home.expand(data_dir)) if data_dir else None
  try:
    with _quiet():
      # From the files alone: the code of a data set may need TensorFlow.
      found = tfds.core.read_only_builder.builder_from_files(
        name, data_dir=root
      )
  except Exception as error:  # A dozen types, even AssertionError.
    place = root or "TFDS's default folder"
    remedy = 'set data.name and data.data_dir'
    if name in catalogue.SETS:
      remedy += f', or run python -m plankton_jax.data.public {name}'
    raise InputError(
      f'no prepared TFDS data set {name!r} in {place}: '
      f'{remedy} ({str(error).splitlines()[0].split(". ")[0]})'
    ) from error
  stored = found.info.file_format.value
  if stored != 'array_record':
    raise InputError(
      f'TFDS data set {name!r} is stored as {stored}: '
      "prepare it again with file_format='array_record'"
    )
  features = dict(found.info.features)
  label = features.get('label')
  if not (
    isinstance(features.get('image'), tfds.features.Image)
    and isinstance(label, tfds.features.ClassLabel)
  ):
    raise InputError(
      f'TFDS data set {name!r} lacks an Image feature "image" or a ClassLabel '
      f'"label"; it has {", ".join(features)}'
    )
  return found


def default_root() -> Path:
  """Returns TFDS's own folder of prepared data sets."""
  return Path(tfds.core.constants.DATA_DIR)


def count(builder: tfds.core.DatasetBuilder) -> int:
  """Counts the images of a prepared data set."""
  return sum(split.num_examples for split in builder.info.splits.values())


def class_names(builder: tfds.core.DatasetBuilder) -> tuple[str, ...]:
  """Lists the classes of a prepared data set, in the order of its labels."""
  return tuple(builder.info.features['label'].names)


def fingerprint(builder: tfds.core.DatasetBuilder) -> str:
  """Hashes name, version, classes, and the name and size of every file.

  A version of a TFDS data set does not change, so its files are not read.
  """
  state = hashlib.blake2b(builder.info.full_name.encode(), digest_size=16)
  state.update(repr(class_names(builder)).encode())
  for path in sorted(Path(builder.data_dir).iterdir()):
    state.update(f'{path.name}\0{path.stat().st_size}\0'.encode())
  return state.hexdigest()


def _info(
  folder: Path,
  name: str,
  class_names: Sequence[str],
  texts: Sequence[str],
  about: dict[str, str],
) -> tfds.core.DatasetInfo:
  """Describes a data set to TFDS."""
  features = {
    'image': tfds.features.Image(),
    'label': tfds.features.ClassLabel(names=list(class_names)),
    'id': tfds.features.Text(),
    **{text: tfds.features.Text() for text in texts},
  }
  identity = dataset_info.DatasetIdentity(
    name=name,
    version=tfds.core.Version(VERSION),
    data_dir=os.fspath(folder),
    module_name=__name__,
  )
  return tfds.core.DatasetInfo(
    builder=identity,
    features=tfds.features.FeaturesDict(features),
    disable_shuffling=True,
    **about,
  )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences TFDS' own log; ours says what matters."""
  verbosity = absl_logging.get_verbosity()
  absl_logging.set_verbosity(absl_logging.WARNING)
  try:
    yield
  finally:
    absl_logging.set_verbosity(verbosity)
