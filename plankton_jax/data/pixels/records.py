"""Encoded images in array_record files, through TFDS without TensorFlow."""

import bisect
import contextlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from absl import logging
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from plankton_jax import atomic
from plankton_jax.data.sources import folder, sources


class PlanktonImages(tfds.core.GeneratorBasedBuilder):
  """Encoded images with label and id, in the order they are given."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(
    self,
    *,
    examples: Iterator[sources.Example],
    class_names: tuple[str, ...],
    **kwargs: Any,
  ):
    self._examples = examples
    self._class_names = class_names
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    features = {
      'image': tfds.features.Image(),
      'label': tfds.features.ClassLabel(names=self._class_names),
      'id': tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    return {'images': self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, example in enumerate(self._examples):
      fields = {'image': example.image, 'label': example.label}
      yield key, {**fields, 'id': example.id}


class Record(NamedTuple):
  id: str
  label: int
  image: bytes


class _Shard(NamedTuple):
  file: str
  split: str
  first: int  # of its rows in the split


class Records(Sequence):
  """Random access to the encoded images of a prepared TFDS data set.

  All its splits are joined. An id is the feature of that name, or 'split/row'
  where there is none.
  """

  def __init__(self, builder: tfds.core.DatasetBuilder):
    features = builder.info.features
    self._named = 'id' in features
    text = self._named and isinstance(features['id'], tfds.features.Text)
    self._features = None if text else features  # slow to pickle
    self._shards, self._starts = [], [0]
    for split in sorted(builder.info.splits):
      first = 0
      for shard in builder.info.splits[split].file_instructions:
        self._shards.append(_Shard(shard.filename, split, first))
        self._starts.append(self._starts[-1] + shard.take)
        first += shard.take
    self._readers = {}

  def __len__(self) -> int:
    return self._starts[-1]

  def __getitem__(self, at: int | slice) -> Record | list[Record]:
    """A record, or those of a slice, which are read together."""
    rows = range(len(self))[at]
    if isinstance(rows, int):
      return self._read(rows, rows + 1)[0]
    if rows.step != 1:
      return [self[row] for row in rows]
    return self._read(rows.start, rows.stop)

  def __getstate__(self) -> dict[str, Any]:
    return self.__dict__ | {'_readers': {}}

  def _read(self, start: int, stop: int) -> list[Record]:
    records = []
    shard = bisect.bisect_right(self._starts, start) - 1
    while start < stop:
      own = self._starts[shard]
      end = min(stop, self._starts[shard + 1])
      found = self._reader(shard).read(start - own, end - own)
      for row, data in enumerate(found, start - own):
        records.append(self._record(self._shards[shard], row, data))
      start, shard = end, shard + 1
    return records

  def _reader(self, shard: int) -> array_record_module.ArrayRecordReader:
    if shard not in self._readers:
      # Of its own threads each would read little; the processes are enough.
      self._readers[shard] = array_record_module.ArrayRecordReader(
        self._shards[shard].file,
        'readahead_buffer_size:65536,max_parallelism:0',
      )
    return self._readers[shard]

  def _record(self, shard: _Shard, row: int, data: bytes) -> Record:
    # TFDS' own parser takes five times as long, for arrays of every feature.
    fields = tf_example_pb2.Example.FromString(data).features.feature
    return Record(
      self._id(fields, data)
      if self._named
      else f'{shard.split}/{shard.first + row}',
      fields['label'].int64_list.value[0],
      fields['image'].bytes_list.value[0],
    )

  def _id(self, fields: Mapping[str, Any], data: bytes) -> str:
    if self._features is None:
      return fields['id'].bytes_list.value[0].decode()
    decoders = {'image': tfds.decode.SkipDecoding()}
    parsed = self._features.deserialize_example_np(data, decoders=decoders)
    name = parsed['id']
    return name.decode() if isinstance(name, bytes) else str(name)


def write(directory: Path, source: sources.Source) -> None:
  """Writes a source's records, and skipped.json, to a new directory.

  Raises:
    InputError: not one image is readable.
  """
  skipped = list(source.skipped)

  def readable() -> Iterator[sources.Example]:
    for example in source.examples():
      if example.image is None:
        skipped.append((example.id, example.reason))
      else:
        yield example

  examples = readable()
  first = next(examples, None)
  if first is None:
    raise folder.none_readable(source.place, skipped)
  with atomic.directory(directory) as building, quiet_tfds():
    builder = PlanktonImages(
      examples=itertools.chain([first], examples),
      class_names=source.class_names,
      data_dir=os.fspath(building),
      file_format='array_record',
    )
    builder.download_and_prepare()
    shutil.rmtree(building / 'downloads', ignore_errors=True)
    (building / 'skipped.json').write_text(json.dumps(skipped))


def read(directory: Path) -> Records:
  """Opens what `write` wrote."""
  path = directory / PlanktonImages.name / str(PlanktonImages.VERSION)
  with quiet_tfds():
    return Records(tfds.builder_from_directory(path))


def skipped(directory: Path) -> list[tuple[str, str]]:
  """(name, reason) of every image left out; [] in sets that others prepared."""
  file = directory / 'skipped.json'
  pairs = json.loads(file.read_text()) if file.exists() else []
  return [(name, reason) for name, reason in pairs]


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
  """Keeps TFDS' own lines and bars away; ours say what matters."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.WARNING)
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.set_verbosity(verbosity)
