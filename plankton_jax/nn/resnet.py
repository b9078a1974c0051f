"""Builds ResNets from a stem, residual blocks and four stages.

He, Zhang, Ren and Sun 2016, Deep residual learning for image recognition,
arXiv:1512.03385 (sizes: table 1; blocks: figure 5). The residual branch's last
norm starts at zero, so that every block starts as the identity.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from plankton_jax.errors import InputError
from plankton_jax.nn.backbone import Path, Published, number_blocks
from plankton_jax.nn.conv.choice import keep_kernel
from plankton_jax.nn.lora import Adapter
from plankton_jax.nn.norm import BatchNorm


class _ResidualBlock(nn.Module):
  """Adds its input to a branch of convolutions."""

  kernels: ClassVar[tuple[int, ...]]
  expansion: ClassVar[int]

  features: int
  strides: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    last = len(self.kernels) - 1
    strided = self.kernels.index(3)  # the first that is wider than a pixel
    y = x
    for i, kernel in enumerate(self.kernels):
      features = self.features * (self.expansion if i == last else 1)
      strides = self.strides if i == strided else 1
      y = self.conv(features, kernel, strides, name=f'Conv_{i}')(y)
      if i < last:
        y = self.norm(rectified=True, name=f'BatchNorm_{i}')(y)
    zero = nn.initializers.zeros
    y = self.norm(scale_init=zero, name=f'BatchNorm_{last}')(y)
    if x.shape != y.shape:
      shortcut = last + 1
      x = self.conv(y.shape[-1], 1, self.strides, name=f'Conv_{shortcut}')(x)
      x = self.norm(name=f'BatchNorm_{shortcut}')(x)
    return nn.relu(x + y)


class BasicBlock(_ResidualBlock):
  """Convolves twice by 3x3."""

  kernels = (3, 3)
  expansion = 1


class BottleneckBlock(_ResidualBlock):
  """Convolves by 1x1, 3x3 and 1x1; the last is four times as wide."""

  kernels = (1, 3, 1)
  expansion = 4


_SIZES: dict[str, tuple[type[_ResidualBlock], tuple[int, ...]]] = {
  'resnet10': (BasicBlock, (1, 1, 1, 1)),
  'resnet18': (BasicBlock, (2, 2, 2, 2)),
  'resnet34': (BasicBlock, (3, 4, 6, 3)),
  'resnet50': (BottleneckBlock, (3, 4, 6, 3)),
}
PUBLISHED_WIDTH = 64  # of the networks whose weights are published
_STEMS = {  # (kernel, stride) of each convolution
  'full': ((3, 1),),
  'half': ((3, 2),),
  'quarter': ((3, 2), (3, 2)),
  'imagenet': ((7, 2),),  # and max-pooling
}


class ResNet(nn.Module):
  """Images [B, H, W, C] to features [B, H', W', F].

  Attributes:
    stage_sizes: blocks in each stage; every stage but the first halves the
      image and doubles the width.
    block: BasicBlock or BottleneckBlock.
    width: features of the first stage (64 in the paper).
    stem: 'full' keeps the image's size (32 px), 'half' halves it, 'quarter'
      quarters it with two strided 3x3 convolutions (64 px and up), 'imagenet'
      with the paper's 7x7 and max-pooling.
    dtype: of the computation; parameters and the norms' statistics stay
      float32.
    freeze: how many stages stay untrained, the stem with the first.
    convolution: a replacement of `lax.conv_general_dilated`.
  """

  stage_sizes: Sequence[int]
  block: type[_ResidualBlock]
  width: int
  stem: str
  dtype: jnp.dtype
  freeze: int
  convolution: Callable[..., jax.Array]

  normalise = None  # deviations of published weights go into the first kernel

  @property
  def stages(self) -> tuple[tuple[str, ...], ...]:
    """Names the modules at the top level by stage; the stem is in stage 1."""
    stem = tuple(
      f'{kind}_{i}'
      for i in range(len(_STEMS[self.stem]))
      for kind in ('Conv', 'BatchNorm')
    )
    first, *others = self._blocks
    return (stem + first, *others)

  @property
  def _blocks(self) -> list[tuple[str, ...]]:
    return number_blocks(self.block.__name__, self.stage_sizes)

  @property
  def published(self) -> Published:
    """Gives the names that torchvision and timm share."""
    layers: dict[Path, str] = {('Conv_0',): 'conv1', ('BatchNorm_0',): 'bn1'}
    shortcut = len(self.block.kernels)
    for stage, blocks in enumerate(self._blocks, start=1):
      for i, ours in enumerate(blocks):
        theirs = f'layer{stage}.{i}'
        for j in range(shortcut):
          layers[ours, f'Conv_{j}'] = f'{theirs}.conv{j + 1}'
          layers[ours, f'BatchNorm_{j}'] = f'{theirs}.bn{j + 1}'
        layers[ours, f'Conv_{shortcut}'] = f'{theirs}.downsample.0'
        layers[ours, f'BatchNorm_{shortcut}'] = f'{theirs}.downsample.1'
    return Published(
      network='ResNet',
      layers=layers,
      first='conv1',
      landmark='layer1.0.conv1.weight',
      unused=r'fc\.(weight|bias)|.*\.num_batches_tracked',
    )

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    chex.assert_rank(images, 4)
    x = images.astype(self.dtype)
    layers = _STEMS[self.stem]
    for i, (kernel, strides) in enumerate(layers):
      features = self.width // 2 ** (len(layers) - 1 - i)
      x = self._conv(features, kernel, strides, name=f'Conv_{i}')(x)
      x = self._norm(0, train)(rectified=True, name=f'BatchNorm_{i}')(x)
    if self.stem == 'imagenet':
      x = max_pool(x)
    for stage, blocks in enumerate(self._blocks):
      norm = self._norm(stage, train)
      for i, name in enumerate(blocks):
        strides = 2 if stage > 0 and i == 0 else 1
        features = self.width * 2**stage
        x = self.block(features, strides, self._conv, norm, name=name)(x)
    return x

  @nn.nowrap
  def _conv(
    self, features: int, kernel: int, strides: int, **options: Any
  ) -> nn.Module:
    side = kernel // 2  # symmetric, as in PyTorch: weights can be exchanged
    return nn.Conv(
      features,
      (kernel, kernel),
      (strides, strides),
      padding=((side, side), (side, side)),
      use_bias=False,
      dtype=self.dtype,
      kernel_init=nn.initializers.he_normal(),
      # Flax calls it with exactly these arguments, its protocol allows any.
      promote_dtype=keep_kernel,  # type: ignore[arg-type]
      conv_general_dilated=self.convolution,
      **options,
    )

  @nn.nowrap
  def _norm(self, stage: int, train: bool) -> Callable[..., nn.Module]:
    return functools.partial(
      BatchNorm,
      use_running_average=not train or stage < self.freeze,
      momentum=0.9,
      epsilon=1e-5,
      dtype=self.dtype,
    )


def max_pool(x: jax.Array) -> jax.Array:
  """Pools [B, H, W, C] by 3x3 with stride 2, along rows, then columns.

  On a CPU the gradient of slices is several times faster than that of a window,
  and every exporter supports them.
  """
  for axis in (1, 2):
    part = functools.partial(lax.slice_in_dim, axis=axis)
    even, odd = part(x, 0, None, 2), part(x, 1, None, 2)
    count = even.shape[axis]
    # The edge pixel is repeated in place of a padding of -inf.
    before = jnp.concatenate([part(even, 0, 1), odd], axis)
    after = jnp.concatenate([odd, part(even, count - 1, count)], axis)
    x = functools.reduce(
      jnp.maximum, [part(before, 0, count), even, part(after, 0, count)]
    )
  return x


def make(
  *,
  name: str,
  width: int,
  stem: str,
  dtype: jnp.dtype,
  freeze: int,
  pretrained: bool,
  convolution: Callable[..., jax.Array],
  adapter: Adapter | None,
) -> ResNet:
  """Builds 'resnet10', 'resnet18', 'resnet34' or 'resnet50'.

  Raises:
    InputError: the stem is unknown, no pretrained weights fit the network, or
      its dense layers, of which it has none, are to be adapted.
  """
  if stem not in _STEMS:
    raise InputError(
      f'encoder.stem={stem!r} is unknown; choose from {", ".join(_STEMS)}'
    )
  fits = (stem, width) == ('imagenet', PUBLISHED_WIDTH)
  if pretrained and (name == 'resnet10' or not fits):
    raise InputError(
      'encoder.pretrained takes resnet18, resnet34 or resnet50 with'
      f" encoder.stem='imagenet' and encoder.width={PUBLISHED_WIDTH}, not"
      f' {name} with {stem!r} and {width}'
    )
  if adapter is not None:
    raise InputError(
      f'encoder.lora_rank={adapter.rank} adapts dense layers, of which {name}'
      ' has none: take a ConvNeXt or a vision transformer, or set it to 0'
    )
  block, stage_sizes = _SIZES[name]
  return ResNet(
    stage_sizes=stage_sizes,
    block=block,
    width=width,
    stem=stem,
    dtype=dtype,
    freeze=freeze,
    convolution=convolution,
  )
