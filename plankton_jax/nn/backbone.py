"""Declares what every backbone offers: features, and where they come from.

The head (`embedding`), the optimiser and pretrained weights know no more of a
network than this, so that another architecture is one more file and a line in
`encoders.BACKBONES`.
"""

from typing import NamedTuple, Protocol

import jax

Path = tuple[str, ...]  # of a module in the parameter tree, from the top


class Published(NamedTuple):
  """How published PyTorch weights call a backbone's layers.

  Attributes:
    network: what messages call the architecture.
    layers: the name in a `state_dict`, without '.weight', of each module.
    first: the layer that is given the image.
    landmark: a whole name that tells the network; what precedes it in a file
      is the prefix of every name there.
    unused: regular expression of the names that are left out.
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
    freeze: stages that training leaves as they are: no gradient passes them,
      and their norms use the running statistics.
  """

  freeze: int

  @property
  def stages(self) -> tuple[tuple[str, ...], ...]:
    """Names of the modules at the top level, by stage."""

  @property
  def published(self) -> Published | None:
    """Names in published weights, or None if there are none to read."""

  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Images [B, H, W, C] to features [B, ..., F], before pooling."""
