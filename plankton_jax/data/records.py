"""Encoded images in array_record files, through TFDS without TensorFlow."""

import bisect
import contextlib
import hashlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.proto import tf_example_pb2

from plankton_jax import atomic
from plankton_jax.data import folder, sources
from plankton_jax.data.public import catalogue
from plankton_jax.errors import InputError


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


class Records:
  """Random access to the encoded images of a prepared TFDS data set.

  All its splits are joined. An id is the feature of that name, or 'split/row'
  where there is none.
  """

  def __init__(self, builder: tfds.core.DatasetBuilder):
    self._names = sorted(builder.info.splits)
    features = builder.info.features
    self._named = 'id' in features
    text = self._named and isinstance(features['id'], tfds.features.Text)
    self._features = None if text else features  # slow to pickle
    # The files below TFDS' own sources, which hold the builder.
    self._parts = [
      builder.as_data_source(name).data_source for name in self._names
    ]
    # ends[i] counts the records up to and with part i.
    self._ends = list(itertools.accumulate(len(p) for p in self._parts))

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> Record:
    part = bisect.bisect_right(self._ends, index)
    row = index - self._ends[part] + len(self._parts[part])
    data = self._parts[part][row]
    # TFDS' own parser takes five times as long, for arrays of every feature.
    fields = tf_example_pb2.Example.FromString(data).features.feature
    return Record(
      self._id(fields, data) if self._named else f'{self._names[part]}/{row}',
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


def prepared(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
  """A TFDS data set prepared before, in array_record files.

  Raises:
    InputError: not found, not prepared, or without image and class label.
  """
  if not name:
    raise InputError('data.name is empty: name the TFDS data set')
  data_dir = os.path.expanduser(data_dir) if data_dir else None
  try:
    with quiet_tfds():
      # From the files alone: the code of a data set may ask for TensorFlow.
      builder = tfds.core.read_only_builder.builder_from_files(
        name, data_dir=data_dir
      )
  except Exception as error:  # A dozen types, some of them AssertionError.
    place = data_dir or "TFDS's default folder"
    remedy = 'set data.name and data.data_dir'
    if name in catalogue.SETS:
      remedy += f', or run python -m plankton_jax.data.public {name}'
    raise InputError(
      f'no prepared TFDS data set {name!r} in {place}: '
      f'{remedy} ({str(error).splitlines()[0].split(". ")[0]})'
    ) from error
  stored = builder.info.file_format.value
  if stored != 'array_record':
    raise InputError(
      f'TFDS data set {name!r} is stored as {stored}: '
      "prepare it again with file_format='array_record'"
    )
  features = dict(builder.info.features)
  label = features.get('label')
  if not (
    isinstance(features.get('image'), tfds.features.Image)
    and isinstance(label, tfds.features.ClassLabel)
  ):
    raise InputError(
      f'TFDS data set {name!r} lacks an Image feature "image" or a ClassLabel '
      f'"label"; it has {", ".join(features)}'
    )
  return builder


def class_names(builder: tfds.core.DatasetBuilder) -> tuple[str, ...]:
  return tuple(builder.info.features['label'].names)


def fingerprint(builder: tfds.core.DatasetBuilder) -> str:
  """Hash of name, version, classes, and the name and size of every file.

  A version of a TFDS data set does not change, so its files are not read.
  """
  state = hashlib.blake2b(builder.info.full_name.encode(), digest_size=16)
  state.update(repr(class_names(builder)).encode())
  for path in sorted(Path(builder.data_dir).iterdir()):
    state.update(f'{path.name}\0{path.stat().st_size}\0'.encode())
  return state.hexdigest()


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
