"""Embeds features of any backbone on the unit sphere: the encoder's head."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from plankton_jax.distances import unit_norm
from plankton_jax.nn.backbone import Backbone
from plankton_jax.nn.measures import Measures, columns
from plankton_jax.nn.whitening import WHITENING, Whitening

MEASURES = 'Measures_0'  # the module that takes measures of the objects


def all_poses(images: jax.Array) -> jax.Array:
  """Mirrors and turns square images [B, S, S, C] to [8, B, S, S, C].

  These are the eight poses among which training flips images.
  """
  poses = [images, jnp.swapaxes(images, 1, 2)]
  for axis in (1, 2):
    poses += [jnp.flip(pose, axis) for pose in poses]
  return jnp.concatenate([pose[None] for pose in poses])


class Embedder(nn.Module):
  """Images [B, H, W, C] to unit-norm embeddings [B, embedding_dim] float32.

  Features are pooled to their mean, projected, centred and normalised. With
  `size` or `others`, measures of the objects [B, M] join the projection. With
  `whitened`, embeddings are whitened outside of training.

  Attributes:
    backbone: images [B, H, W, C] to features [B, ..., F].
    embedding_dim: length of the embedding.
    poses: 8 averages the image's eight poses outside of training, at eight
      times the cost; 1 embeds the image as it is.
    centred: centres and scales the embedding by batch statistics before it is
      normalised (Luo et al. 2019, arXiv:1903.07071, figure 2, their BNNeck
      without the affine map); otherwise the projection has a bias.
    size: whether the original size is an input.
    others: names of further measures that are.
    whitened: whether there is a whitening, which is fitted after training.
  """

  backbone: Backbone
  embedding_dim: int
  poses: int
  centred: bool
  size: bool = False
  others: tuple[str, ...] = ()
  whitened: bool = False

  @property
  def measures(self) -> tuple[str, ...]:
    """Names the measures that it takes, M of them; () takes none."""
    return columns(self.size, self.others)

  def setup(self) -> None:
    # One tree of parameters, as released checkpoints have it.
    nn.share_scope(self, self.backbone)  # type: ignore[arg-type]

  @nn.compact
  def __call__(
    self, images: jax.Array, measures: jax.Array | None = None, *, train: bool
  ) -> jax.Array:
    """Embeds images.

    Args:
      images: float32 [B, H, W, C].
      measures: float32 [B, M], NaN where unknown; None if all are, or if it
        takes none.
      train: uses the batch's statistics, and draws from the key 'measures' if
        it takes measures.
    """
    chex.assert_rank(images, 4)
    count = images.shape[0]
    averaged = self.poses > 1 and not train
    if averaged:
      images = all_poses(images).reshape(-1, *images.shape[1:])
    x = self.backbone(images, train=train)
    x = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32)
    projection, joined, centre = _head(self.backbone)
    pooled = x.shape[-1]
    x = nn.Dense(
      self.embedding_dim,
      use_bias=not self.centred,
      dtype=jnp.float32,
      name=projection,
    )(x)
    if self.measures:
      if measures is None:
        measures = jnp.full((count, len(self.measures)), jnp.nan)
      share = Measures(
        size=self.size,
        others=self.others,
        embedding_dim=self.embedding_dim,
        pooled=pooled,
        name=joined,
      )(measures, train=train)
      views = self.poses if averaged else 1
      x = x + jnp.concatenate([share] * views)
    if self.centred:
      # Pooled features are all positive, so that embeddings would begin in one
      # narrow cone, and could stay there; centring spreads them out.
      x = nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        use_scale=False,
        use_bias=False,
        dtype=jnp.float32,
        name=centre,
      )(x)
    x = unit_norm(x)
    if averaged:
      x = unit_norm(jnp.mean(x.reshape(self.poses, -1, x.shape[-1]), axis=0))
    if self.whitened and not train:
      x = Whitening(name=WHITENING)(x)
    return x


def stage_of(backbone: Backbone, module: str) -> int:
  """Looks up the stage of a module at the encoder's top level, from 1.

  The head's modules come after the backbone's last stage.

  Raises:
    KeyError: neither the backbone nor the head declares the module.
  """
  by_stage = (*backbone.stages, _head(backbone))
  for stage, modules in enumerate(by_stage, start=1):
    if module in modules:
      return stage
  raise KeyError(f'{module}: in none of the stages {by_stage}')


def _head(backbone: Backbone) -> tuple[str, str, str]:
  """Names the projection, that of measures, and the centring norm.

  The norm takes the first number that the backbone's leave, which is where
  released checkpoints keep its statistics.
  """
  norms = [
    module
    for stage in backbone.stages
    for module in stage
    if module.startswith('BatchNorm_')
  ]
  return 'Dense_0', MEASURES, f'BatchNorm_{len(norms)}'
