"""ResNets that end in a unit-norm embedding.

He, Zhang, Ren and Sun 2016, Deep residual learning for image recognition,
arXiv:1512.03385 (sizes: table 1).
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from plankton_jax.errors import InputError
from plankton_jax.nn.blocks import BasicBlock, BottleneckBlock, stem
from plankton_jax.nn.conv.choice import (
  computing_dtype,
  conv_general_dilated,
  keep_kernel,
)


def unit_norm(x: jax.Array) -> jax.Array:
  """Rows scaled to length 1, [..., D]; zero stays zero, gradient finite."""
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def all_poses(images: jax.Array) -> jax.Array:
  """The eight poses of square images [B, S, S, C], as [8, B, S, S, C].

  Mirrored and turned by quarters: what training flips them to.
  """
  poses = [images, jnp.swapaxes(images, 1, 2)]
  for axis in (1, 2):
    poses += [jnp.flip(pose, axis) for pose in poses]
  return jnp.concatenate([pose[None] for pose in poses])


class ResNet(nn.Module):
  """Images [B, H, W, C] to unit-norm embeddings [B, embedding_dim] float32.

  Attributes:
    stage_sizes: blocks in each stage; every stage but the first halves the
      image and doubles the width.
    block: BasicBlock or BottleneckBlock.
    width: features of the first stage (64 in the paper).
    stem: 'full' keeps the image's size (32 px), 'half' halves it, 'quarter'
      quarters it with two strided 3x3 convolutions (64 px and up), 'imagenet'
      with the paper's 7x7 and max-pooling.
    embedding_dim: length of the embedding.
    dtype: of the computation; parameters, norms' statistics and the
      embedding stay float32.
    freeze: stages that training leaves as they are, the stem with the first;
      their norms use the running statistics and no gradient reaches them.
    poses: 8 outside of training makes an embedding the mean direction of the
      image's eight poses, at eight times the cost; 1 takes it as it is.
    centred: the embedding is centred and scaled by batch statistics before it
      is normalised (Luo et al. 2019, arXiv:1903.07071, figure 2, their BNNeck
      without the affine map); else it is a linear layer's, with a bias.
    convolution: in place of `lax.conv_general_dilated`.
  """

  stage_sizes: Sequence[int]
  block: Callable
  width: int
  stem: str
  embedding_dim: int
  dtype: jnp.dtype
  freeze: int = 0
  poses: int = 1
  centred: bool = True
  convolution: Callable = conv_general_dilated

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    chex.assert_rank(images, 4)

    def conv(features, kernel, strides):
      side = kernel // 2  # symmetric, as in PyTorch: weights can be exchanged
      return nn.Conv(
        features,
        (kernel, kernel),
        (strides, strides),
        padding=((side, side), (side, side)),
        use_bias=False,
        dtype=self.dtype,
        kernel_init=nn.initializers.he_normal(),
        promote_dtype=keep_kernel,
        conv_general_dilated=self.convolution,
      )

    def norm_of(stage):
      return functools.partial(
        nn.BatchNorm,
        use_running_average=not train or stage < self.freeze,
        momentum=0.9,
        epsilon=1e-5,
        dtype=self.dtype,
      )

    images = images.astype(self.dtype)
    averaged = self.poses > 1 and not train
    if averaged:
      images = all_poses(images).reshape(-1, *images.shape[1:])
    x = stem(images, self.stem, self.width, conv, norm_of(0))
    for stage, blocks in enumerate(self.stage_sizes):
      norm = norm_of(stage)
      for i in range(blocks):
        strides = 2 if stage > 0 and i == 0 else 1
        x = self.block(self.width * 2**stage, strides, conv, norm)(x)
      if stage + 1 == self.freeze:
        x = lax.stop_gradient(x)
    x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    x = nn.Dense(
      self.embedding_dim, use_bias=not self.centred, dtype=jnp.float32
    )(x)
    if self.centred:
      # Pooled features are all positive, so that embeddings would begin in one
      # narrow cone, and could end there; centred they fill the sphere.
      centre = functools.partial(
        norm_of(len(self.stage_sizes)), use_scale=False, use_bias=False
      )
      x = centre(dtype=jnp.float32)(x)
    x = unit_norm(x)
    if averaged:
      x = unit_norm(jnp.mean(x.reshape(self.poses, -1, x.shape[-1]), axis=0))
    return x


def stage_of(model: ResNet, module: str) -> int:
  """The stage of a module at the encoder's top level, counted from 1.

  The stem counts with the first stage, the embedding's layers come after the
  last one.
  """
  kind, number = module.split('_')
  if kind == model.block.__name__:
    ends = itertools.accumulate(model.stage_sizes)
    return 1 + sum(int(number) >= end for end in ends)
  return 1 if kind in ('Conv', 'BatchNorm') else len(model.stage_sizes) + 1


ResNet10 = functools.partial(ResNet, stage_sizes=(1, 1, 1, 1), block=BasicBlock)
ResNet18 = functools.partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock)
ResNet34 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock)
ResNet50 = functools.partial(
  ResNet, stage_sizes=(3, 4, 6, 3), block=BottleneckBlock
)

_ENCODERS = {
  'resnet10': ResNet10,
  'resnet18': ResNet18,
  'resnet34': ResNet34,
  'resnet50': ResNet50,
}
_STEMS = ('full', 'half', 'quarter', 'imagenet')
_DTYPES = ('float32', 'bfloat16')
_POSES = (1, 8)


def make(
  *,
  name: str,
  width: int,
  stem: str,
  embedding_dim: int,
  dtype: str,
  poses: int,
  centred: bool,
  pretrained: str,
  freeze: int,
) -> ResNet:
  """The encoder that a config's `encoder` section names.

  The weights of `pretrained` are not read here; see
  plankton_jax/nn/pretrained.py.

  Raises:
    InputError: a name, stem or dtype that does not exist, more frozen stages
      than there are, or pretrained weights for an encoder of another shape.
  """
  for field, value, known in (
    ('name', name, tuple(_ENCODERS)),
    ('stem', stem, _STEMS),
    ('dtype', dtype, _DTYPES),
    ('poses', poses, _POSES),
  ):
    if value not in known:
      raise InputError(
        f'encoder.{field}={value!r} is unknown; choose from'
        f' {", ".join(map(str, known))}'
      )
  if pretrained and (name == 'resnet10' or (stem, width) != ('imagenet', 64)):
    raise InputError(
      'encoder.pretrained takes resnet18, resnet34 or resnet50 with'
      f" encoder.stem='imagenet' and encoder.width=64, not {name} with"
      f' {stem!r} and {width}'
    )
  model = _ENCODERS[name](
    width=width,
    stem=stem,
    embedding_dim=embedding_dim,
    dtype=computing_dtype(dtype),
    freeze=freeze,
    poses=poses,
    centred=centred,
  )
  if not 0 <= freeze <= len(model.stage_sizes):
    raise InputError(
      f'encoder.freeze={freeze} is out of range; 0 is none,'
      f' {len(model.stage_sizes)} all but the embedding'
    )
  return model
