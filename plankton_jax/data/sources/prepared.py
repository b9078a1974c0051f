"""Data sets that TFDS prepared before, ours or others'."""

import hashlib
import os
from pathlib import Path

import tensorflow_datasets as tfds

from plankton_jax.data.pixels import records
from plankton_jax.data.public import catalogue
from plankton_jax.errors import InputError


def builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
  """A TFDS data set prepared before, in array_record files.

  Raises:
    InputError: not found, not prepared, or without image and class label.
  """
  if not name:
    raise InputError('data.name is empty: name the TFDS data set')
  data_dir = os.path.expanduser(data_dir) if data_dir else None
  try:
    with records.quiet_tfds():
      # From the files alone: the code of a data set may ask for TensorFlow.
      found = tfds.core.read_only_builder.builder_from_files(
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
