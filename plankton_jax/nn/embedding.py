"""Embeds features of any backbone on the unit sphere: the encoder's head."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from plankton_jax.distances import unit_norm
from plankton_jax.nn.backbone import Backbone


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

  Features are pooled to their mean, projected, centred and normalised.

  Attributes:
    backbone: images [B, H, W, C] to features [B, ..., F].
    embedding_dim: length of the embedding.
    poses: 8 averages the image's eight poses outside of training, at eight
      times the cost; 1 embeds the image as it is.
    centred: centres and scales the embedding by batch statistics before it is
      normalised (Luo et al. 2019, arXiv:1903.07071, figure 2, their BNNeck
      without the affine map); otherwise the projection has a bias.
  """

  backbone: Backbone
  embedding_dim: int
  poses: int
  centred: bool

  def setup(self) -> None:
    # One tree of parameters, as released checkpoints have it.
    nn.share_scope(self, self.backbone)  # type: ignore[arg-type]

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    chex.assert_rank(images, 4)
    averaged = self.poses > 1 and not train
    if averaged:
      images = all_poses(images).reshape(-1, *images.shape[1:])
    x = self.backbone(images, train=train)
    x = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32)
    projection, centre = _head(self.backbone)
    x = nn.Dense(
      self.embedding_dim,
      use_bias=not self.centred,
      dtype=jnp.float32,
      name=projection,
    )(x)
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


def _head(backbone: Backbone) -> tuple[str, str]:
  """Names the projection and the centring norm.

  The norm takes the first number that the backbone's leave, which is where
  released checkpoints keep its statistics.
  """
  norms = [
    module
    for stage in backbone.stages
    for module in stage
    if module.startswith('BatchNorm_')
  ]
  return 'Dense_0', f'BatchNorm_{len(norms)}'
