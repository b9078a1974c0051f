"""Declares the interface of backbones: features, stages, published weights.

The head (`embedding`), the optimiser and pretrained weights use nothing else of
a network, so that another architecture takes one file and a line in
`encoders.BACKBONES`.
"""

from typing import NamedTuple, Protocol

import jax

Path = tuple[str, ...]  # of a module in the parameter tree, from the top


class Published(NamedTuple):
  """The names of a backbone's layers in published PyTorch weights.

  Attributes:
    network: the architecture's name in messages.
    layers: the name in a `state_dict`, without '.weight', of each module.
    first: the layer that is given the image.
    landmark: a full name that identifies the network; what precedes it in a
      file is the prefix of all names there.
    unused: regular expression of the names to leave out.
  """

  network: str
  layers: dict[Path, str]
  first: str
  landmark: str
  unused: str


class Backbone(Protocol):
  """A `flax.linen.Module` from images to features.

  Its parameters lie in the encoder's tree beside those of the head, so that a
  module at its top level must not be called 'Dense_0'.

  Attributes:
    freeze: how many stages stay untrained: no gradient passes them, and their
      norms use the running statistics.
  """

  freeze: int

  @property
  def stages(self) -> tuple[tuple[str, ...], ...]:
    """Names the modules at the top level, by stage."""

  @property
  def published(self) -> Published | None:
    """Names the layers in published weights; None if there are none to read."""

  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Maps images [B, H, W, C] to features [B, ..., F], before pooling."""
