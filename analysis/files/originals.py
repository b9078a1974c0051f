"""Reads original images by their ids: of a run, of a folder, of an export."""

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from analysis.files.inputs import Source
from plankton_jax.data.pixels import images
from plankton_jax.data.sources.objects import Objects
from plankton_jax.data.sources.source import describe
from plankton_jax.errors import InputError

if TYPE_CHECKING:  # JAX is imported only where something is embedded.
  from plankton_jax.encoder import Encoder

Read = Callable[[str], np.ndarray]  # id -> uint8 [H, W] or [H, W, 3]


def reader(source: Source) -> Read:
  """Returns a function: id -> original image of a run.

  Raises:
    InputError: the source has no workdir, or its images are missing. The
      returned function raises it for an id that names no image.
  """
  if source.workdir is None or source.config is None:
    raise InputError(f'{source.name}: images need a workdir; give --workdir')
  from plankton_jax.train import experiment

  originals = experiment.load_data(source.config, source.workdir).originals

  def read_record(key: str) -> np.ndarray:
    try:
      return originals.read(key)
    except KeyError:
      raise InputError(
        f'{source.workdir}: {key} is not among its images; embed again'
      ) from None

  return read_record


def reader_of(
  found: Objects, encoder: 'Encoder | None' = None, white: int = 0
) -> Read:
  """Returns a function: id -> image of a folder or an export, as `read` does.

  The returned function raises InputError for an id that is not there, or an
  image that cannot be read.
  """

  def read_object(key: str) -> np.ndarray:
    try:
      return _decode(found.read(key), encoder, white)
    except KeyError:
      raise InputError(f'{found.place}, {key}: no such image') from None
    except (OSError, ValueError) as error:
      raise InputError(f'{found.place}, {key}: {describe(error)}') from None

  return read_object


def read(
  path: pathlib.Path, encoder: 'Encoder | None' = None, white: int = 0
) -> np.ndarray:
  """Reads one image file, uint8 [H, W] or [H, W, 3].

  It is scaled and cropped as the images of `encoder` are, if one is given.
  `white` is that of a set of images, where the encoder's config names none.

  Raises:
    InputError: it cannot be read.
  """
  try:
    return _decode(path.read_bytes(), encoder, white)
  except (OSError, ValueError) as error:
    raise InputError(f'{path}: {describe(error)}') from None


def _decode(data: bytes, encoder: 'Encoder | None', white: int) -> np.ndarray:
  if encoder is None:
    return images.decode(data, white)
  settings = preprocessing(encoder)
  return images.decode(data, settings.white or white, settings.crop)


def preprocessing(encoder: 'Encoder') -> images.Preprocessing:
  """Returns how an encoder's images are preprocessed; white 0 is not fixed."""
  data = encoder.config['data']
  names = images.Preprocessing._fields
  found = images.Preprocessing(**{name: data[name] for name in names})
  return found._replace(crop=tuple(found.crop))
