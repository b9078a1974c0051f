"""Declares the interface of backbones: features, stages, published weights.

The head (`embedding`), the optimiser, the steps and pretrained weights use
nothing else of a network, so that another architecture takes one file and a
line in `encoders.BACKBONES`.
"""

import itertools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

Path = tuple[str, ...]  # of a module or an array in the parameter tree
Weights = dict[str, np.ndarray]  # by the names of a state_dict


class Normalisation(NamedTuple):
  """The mean and deviation of each colour in (image / 255 - mean) / std."""

  mean: tuple[float, float, float]
  std: tuple[float, float, float]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _as_they_are(weights: Weights) -> Weights:
  return weights


def _same_size(
  name: str, array: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
  del name, shape
  return array


class Published(NamedTuple):
  """The names of a backbone's layers in published PyTorch weights.

  Attributes:
    network: the architecture's name in messages.
    layers: the name in a `state_dict`, without '.weight', of each module.
    first: the layer that is given the image.
    landmark: a full name that identifies the network; what precedes it in a
      file is the prefix of all names there.
    unused: regular expression of the names to leave out.
    expects: the normalisation that the weights were trained with.
    arrays: the full name of each array that is no layer's, such as a token.
    renames: (regular expression, replacement), applied to every name in turn,
      so that the layouts of several libraries become the one declared here.
    rewrite: changes all arrays, once their names are known.
    fit: `fit(name, array, shape)` brings an array to the shape that the size
      of the images asks for.
  """

  network: str
  layers: Mapping[Path, str]
  first: str
  landmark: str
  unused: str
  expects: Normalisation = IMAGENET
  arrays: Mapping[Path, str] = types.MappingProxyType({})
  renames: tuple[tuple[str, str], ...] = ()
  rewrite: Callable[[Weights], Weights] = _as_they_are
  fit: Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray] = _same_size


class Backbone(Protocol):
  """A `flax.linen.Module` from images to features.

  Its parameters lie in the encoder's tree beside those of the head, so that a
  module at its top level must not be called 'Dense_0'.

  Attributes:
    freeze: how many stages stay untrained; their norms use the running
      statistics.
  """

  freeze: int

  @property
  def normalise(self) -> Normalisation | None:
    """Says how the steps normalise its images, grey ones repeated as RGB.

    None subtracts each image's own background.
    """

  @property
  def stages(self) -> tuple[tuple[str, ...], ...]:
    """Names the modules at the top level, by stage."""

  @property
  def published(self) -> Published | None:
    """Names the layers in published weights; None if there are none to read."""

  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Maps images [B, H, W, C] to features [B, ..., F], before pooling."""


def number_blocks(name: str, sizes: Sequence[int]) -> list[tuple[str, ...]]:
  """Names the blocks of each stage, numbered consecutively as in saved runs."""
  number = itertools.count()
  return [
    tuple(f'{name}_{next(number)}' for _ in range(size)) for size in sizes
  ]
