"""Builds ConvNeXts of both versions, with the layers of published ones.

Liu et al. 2022, A ConvNet for the 2020s, arXiv:2201.03545 (blocks: figure 4);
version 2: Woo et al. 2023, arXiv:2301.00808 (sizes: table 1 of its appendix).
"""

import functools
import re
from collections.abc import Callable, Sequence

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from plankton_jax.distances import root
from plankton_jax.errors import InputError
from plankton_jax.nn.backbone import (
  IMAGENET,
  Normalisation,
  Path,
  Published,
  Weights,
  number_blocks,
)
from plankton_jax.nn.conv.choice import keep_kernel
from plankton_jax.nn.lora import Adapter, Dense

_SIZES = {  # blocks of each stage, features of the first
  'atto': ((2, 2, 6, 2), 40),
  'femto': ((2, 2, 6, 2), 48),
  'pico': ((2, 2, 6, 2), 64),
  'nano': ((2, 2, 8, 2), 80),
  'tiny': ((3, 3, 9, 3), 96),
}
_VERSIONS = {'convnext': 1, 'convnextv2': 2}
NAMES = tuple(f'{version}_{size}' for version in _VERSIONS for size in _SIZES)
_SMALLEST = 32  # side that the four stages bring to one pixel, px
_EPSILON = 1e-6
_INIT = nn.initializers.truncated_normal(0.02)
# Exact for channels that are far from 0 too.
_LayerNorm = functools.partial(
  nn.LayerNorm, epsilon=_EPSILON, use_fast_variance=False
)

# From the names of transformers to those of timm.
_RENAMES = (
  (r'(model\.)?stages\.0\.downsample_layers\.(\d)\.', r'stem.\2.'),
  (r'(model\.)?stages\.(\d)\.downsample_layers\.', r'stages.\2.downsample.'),
  (r'(model\.)?stages\.(\d)\.layers\.', r'stages.\2.blocks.'),
  (r'depthwise_conv\.', 'conv_dw.'),
  (r'pointwise_conv(\d)\.', r'mlp.fc\1.'),
  (r'blocks\.(\d+)\.layer_norm\.', r'blocks.\1.norm.'),
  (r'layer_norm\.', 'head.norm.'),
)


class _Block(nn.Module):
  """Adds a 7x7 convolution by channel and two dense layers to its input."""

  version: int
  dtype: jnp.dtype
  convolution: Callable[..., jax.Array]
  adapter: Adapter | None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    dense = functools.partial(
      Dense, dtype=self.dtype, kernel_init=_INIT, adapter=self.adapter
    )
    y = nn.Conv(
      width,
      (7, 7),
      padding=((3, 3), (3, 3)),
      feature_group_count=width,
      dtype=self.dtype,
      kernel_init=_INIT,
      promote_dtype=keep_kernel,  # type: ignore[arg-type]
      conv_general_dilated=self.convolution,
      name='conv',
    )(x)
    y = _LayerNorm(dtype=self.dtype, name='norm')(y)
    y = nn.gelu(dense(4 * width, name='fc_1')(y), approximate=False)
    if self.version == 2:
      y = ResponseNorm(name='response')(y)
    y = dense(width, name='fc_2')(y)
    if self.version == 1:
      init = nn.initializers.constant(1e-6)
      y = y * self.param('scale', init, (width,)).astype(y.dtype)
    return x + y


class ResponseNorm(nn.Module):
  """Lets channels compete by their norms over an image [B, H, W, C].

  Woo et al. 2023, arXiv:2301.00808, algorithm 1.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    zeros, shape = nn.initializers.zeros, x.shape[-1:]
    scale = self.param('scale', zeros, shape)
    bias = self.param('bias', zeros, shape)
    wide = x.astype(jnp.float32)
    norms = root(jnp.sum(wide * wide, axis=(1, 2), keepdims=True))
    share = norms / (jnp.mean(norms, axis=-1, keepdims=True) + _EPSILON)
    return (wide + scale * (wide * share) + bias).astype(x.dtype)


class ConvNeXt(nn.Module):
  """Images [B, H, W, C] to features [B, F], pooled and normalised.

  Attributes:
    depths: blocks of each stage; every stage but the first halves the image and
      doubles the features.
    width: features of the first stage.
    version: 1 scales each branch by channel, 2 has response norms instead.
    dtype: of the computation; parameters stay float32.
    freeze: how many stages stay untrained, the stem with the first.
    normalise: how images were normalised.
    convolution: a replacement of `lax.conv_general_dilated`.
    adapter: of the blocks' dense layers.
  """

  depths: Sequence[int]
  width: int
  version: int
  dtype: jnp.dtype
  freeze: int
  normalise: Normalisation | None
  convolution: Callable[..., jax.Array]
  adapter: Adapter | None = None

  @property
  def stages(self) -> tuple[tuple[str, ...], ...]:
    """Names the modules at the top level by stage; the stem is in stage 1."""
    last = len(self.depths) - 1
    return tuple(
      (
        f'shrink_{stage}',
        f'shrink_norm_{stage}',
        *blocks,
        *(('norm',) if stage == last else ()),
      )
      for stage, blocks in enumerate(self._blocks)
    )

  @property
  def _blocks(self) -> list[tuple[str, ...]]:
    return number_blocks('block', self.depths)

  @property
  def published(self) -> Published:
    """Gives timm's names, to which those of transformers are brought."""
    layers: dict[Path, str] = {
      ('shrink_0',): 'stem.0',
      ('shrink_norm_0',): 'stem.1',
      ('norm',): 'head.norm',
    }
    arrays: dict[Path, str] = {}
    for stage, blocks in enumerate(self._blocks):
      if stage > 0:
        layers[f'shrink_norm_{stage}',] = f'stages.{stage}.downsample.0'
        layers[f'shrink_{stage}',] = f'stages.{stage}.downsample.1'
      for i, ours in enumerate(blocks):
        theirs = f'stages.{stage}.blocks.{i}'
        layers[ours, 'conv'] = f'{theirs}.conv_dw'
        layers[ours, 'norm'] = f'{theirs}.norm'
        layers[ours, 'fc_1'] = f'{theirs}.mlp.fc1'
        layers[ours, 'fc_2'] = f'{theirs}.mlp.fc2'
        layers[ours, 'response'] = f'{theirs}.mlp.grn'
        arrays[ours, 'scale'] = f'{theirs}.gamma'
    return Published(
      network=f'ConvNeXt of version {self.version}',
      layers=layers,
      first='stem.0',
      landmark='stages.0.blocks.0.conv_dw.weight',
      unused=r'head\.fc\..*',
      arrays=arrays,
      renames=_RENAMES,
      rewrite=_without_pixels,
    )

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    del train  # no layer behaves otherwise in training
    chex.assert_rank(images, 4)
    if min(images.shape[1:3]) < _SMALLEST:
      raise InputError(
        f'data.size={images.shape[1]} is too small for a ConvNeXt; it takes'
        f' {_SMALLEST} px and more'
      )
    x = images.astype(self.dtype)
    for stage, blocks in enumerate(self._blocks):
      norm = _LayerNorm(dtype=self.dtype, name=f'shrink_norm_{stage}')
      if stage > 0:  # the stem's norm follows it
        x = norm(x)
      side = 2 if stage > 0 else 4
      x = nn.Conv(
        self.width * 2**stage,
        (side, side),
        (side, side),
        padding='VALID',
        dtype=self.dtype,
        kernel_init=_INIT,
        promote_dtype=keep_kernel,  # type: ignore[arg-type]
        conv_general_dilated=self.convolution,
        name=f'shrink_{stage}',
      )(x)
      if stage == 0:
        x = norm(x)
      for name in blocks:
        x = _Block(
          self.version, self.dtype, self.convolution, self.adapter, name=name
        )(x)
    x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    return _LayerNorm(dtype=jnp.float32, name='norm')(x)


def _without_pixels(weights: Weights) -> Weights:
  """Turns 1x1 convolutions [F, C, 1, 1] into dense layers [F, C]."""
  return {
    name: array.reshape(array.shape[:2])
    if re.fullmatch(r'.*\.mlp\.fc\d\.weight', name)
    and array.shape[2:] == (1, 1)
    else array
    for name, array in weights.items()
  }


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
) -> ConvNeXt:
  """Builds one of NAMES, which are timm's; `width` and `stem` are ResNets'."""
  del width, stem
  version, size = name.split('_')
  depths, features = _SIZES[size]
  return ConvNeXt(
    depths=depths,
    width=features,
    version=_VERSIONS[version],
    dtype=dtype,
    freeze=freeze,
    normalise=IMAGENET if pretrained else None,
    convolution=convolution,
    adapter=adapter,
  )
