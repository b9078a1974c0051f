"""Reads the original images of a run, or of a folder, by their ids."""

from collections.abc import Callable

import numpy as np

from analysis.files import folders
from analysis.files.inputs import Source
from plankton_jax.errors import InputError

Read = Callable[[str], np.ndarray]  # id -> uint8 [H, W] or [H, W, 3]


def reader(source: Source) -> Read:
  """Returns a function: id -> original image.

  Raises:
    InputError: the source has neither a workdir nor a folder of images, or its
      images are missing. The returned function raises it for an id that names
      no image.
  """
  if (root := source.images) is not None:
    return lambda key: folders.read(root / key)
  if source.workdir is None or source.config is None:
    raise InputError(f'{source.name}: images need a workdir; give --workdir')
  from plankton_jax.train import loop

  originals = loop.load_data(source.config, source.workdir).originals

  def read(key: str) -> np.ndarray:
    try:
      return originals.read(key)
    except KeyError:
      raise InputError(
        f'{source.workdir}: {key} is not among its images; embed again'
      ) from None

  return read
