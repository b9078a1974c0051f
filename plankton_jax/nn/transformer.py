"""Builds vision transformers, with the layers and sizes of published ones.

Dosovitskiy et al. 2021, An image is worth 16x16 words, arXiv:2010.11929,
equations 1 to 4. DINOv2 (Oquab et al. 2023, arXiv:2304.07193) scales each
branch by channel (Touvron et al. 2021, arXiv:2103.17239), may have registers
(Darcet et al. 2024, arXiv:2309.16588), and DINOv3 (Siméoni et al. 2025,
arXiv:2508.10104) turns queries and keys by their places instead of adding
positions to the patches.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from plankton_jax.errors import InputError
from plankton_jax.nn import transformer_weights
from plankton_jax.nn.backbone import IMAGENET, Normalisation, Path, Published
from plankton_jax.nn.conv.choice import keep_kernel
from plankton_jax.nn.lora import Adapter, Dense

_DEPTH = 12  # blocks
_PERIOD = 100.0  # the longest of rotary positions, in half sides of the image
_INIT = nn.initializers.truncated_normal(0.02)
# Exact for channels that are far from 0 too.
_LayerNorm = functools.partial(nn.LayerNorm, use_fast_variance=False)


class Kind(NamedTuple):
  """Describes the network that a family of published weights is for.

  Attributes:
    patch: side of a patch, px.
    registers: tokens beside the class token and the patches.
    rotary: whether queries and keys are turned by their places; otherwise
      learned positions are added to the patches.
    scaled: whether each branch is scaled by channel.
    epsilon: of the norms.
    antialias: whether learned positions are smoothed as they are shrunk.
    expects: the normalisation of images.
  """

  patch: int
  registers: int
  rotary: bool
  scaled: bool
  epsilon: float
  antialias: bool
  expects: Normalisation


_SIZES = {'small': (384, 6), 'base': (768, 12)}  # width, heads
_HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
KINDS = {
  'patch16_224': Kind(16, 0, False, False, 1e-6, True, _HALF),
  'patch14_dinov2': Kind(14, 0, False, True, 1e-6, False, IMAGENET),
  'patch14_reg4_dinov2': Kind(14, 4, False, True, 1e-6, True, IMAGENET),
  'patch16_dinov3': Kind(16, 4, True, True, 1e-5, True, IMAGENET),
}
NAMES = tuple(f'vit_{size}_{kind}' for kind in KINDS for size in _SIZES)


class _Tokens(nn.Module):
  """Images [B, H, W, C] to tokens [B, T, D]: class, registers, patches."""

  width: int
  patch: int
  registers: int
  learned: bool
  dtype: jnp.dtype
  convolution: Callable[..., jax.Array]

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    x = nn.Conv(
      self.width,
      (self.patch, self.patch),
      (self.patch, self.patch),
      padding='VALID',
      dtype=self.dtype,
      kernel_init=_INIT,
      promote_dtype=keep_kernel,  # type: ignore[arg-type]
      conv_general_dilated=self.convolution,
      name='patch',
    )(images.astype(self.dtype))
    x = x.reshape(x.shape[0], -1, self.width)
    if self.learned:
      positions = self.param('positions', _INIT, (1, *x.shape[1:]))
      x = x + positions.astype(self.dtype)
    first = [self.param('class', _INIT, (1, 1, self.width))]
    if self.registers:
      shape = (1, self.registers, self.width)
      first.append(self.param('registers', _INIT, shape))
    prefix = jnp.concatenate(first, axis=1).astype(self.dtype)
    prefix = jnp.broadcast_to(prefix, (x.shape[0], *prefix.shape[1:]))
    return jnp.concatenate([prefix, x], axis=1)


class _Block(nn.Module):
  """Adds attention, then two dense layers, to tokens [B, T, D]."""

  heads: int
  scaled: bool
  epsilon: float
  dtype: jnp.dtype
  adapter: Adapter | None

  @nn.compact
  def __call__(
    self, x: jax.Array, turns: tuple[np.ndarray, np.ndarray] | None
  ) -> jax.Array:
    width = x.shape[-1]
    dense = functools.partial(
      Dense, dtype=self.dtype, kernel_init=_INIT, adapter=self.adapter
    )
    norm = functools.partial(_LayerNorm, epsilon=self.epsilon, dtype=self.dtype)
    y = norm(name='norm_1')(x)
    y = dense(3 * width, name='qkv')(y)
    y = dense(width, name='proj')(attend(y, heads=self.heads, turns=turns))
    x = x + self._scaled('scale_1', y)
    y = norm(name='norm_2')(x)
    y = nn.gelu(dense(4 * width, name='fc_1')(y), approximate=False)
    return x + self._scaled('scale_2', dense(width, name='fc_2')(y))

  @nn.nowrap
  def _scaled(self, name: str, y: jax.Array) -> jax.Array:
    if not self.scaled:
      return y
    init = nn.initializers.constant(1e-5)
    return y * self.param(name, init, y.shape[-1:]).astype(y.dtype)


def attend(
  qkv: jax.Array,
  *,
  heads: int,
  turns: tuple[np.ndarray, np.ndarray] | None = None,
) -> jax.Array:
  """Attends among tokens [B, T, 3 D] -> [B, T, D].

  softmax(q k^T / √d) v for each head of d = D / heads channels (Vaswani et al.
  2017, arXiv:1706.03762, equation 1).

  Args:
    qkv: queries, keys and values, one behind the other, each by heads.
    heads: number of heads.
    turns: cosines and sines [T, d] by which `rotate` turns queries and keys.
  """
  count, tokens, _ = qkv.shape
  query, key, value = jnp.moveaxis(
    qkv.reshape(count, tokens, 3, heads, -1), 2, 0
  )
  if turns is not None:
    query, key = rotate(query, turns), rotate(key, turns)
  out = jax.nn.dot_product_attention(query, key, value)
  return out.reshape(count, tokens, -1)


def rotate(x: jax.Array, turns: tuple[np.ndarray, np.ndarray]) -> jax.Array:
  """Turns the pairs of channels (i, i + d/2) of [B, T, N, d].

  Su et al. 2021, arXiv:2104.09864, equation 34, with the pairs half of the
  channels apart.
  """
  cos, sin = (jnp.asarray(part[:, None, :], jnp.float32) for part in turns)
  first, second = jnp.split(x, 2, axis=-1)
  turned = jnp.concatenate([-second, first], axis=-1)
  return (x * cos + turned * sin).astype(x.dtype)


def rotary_turns(
  rows: int, columns: int, *, channels: int, prefix: int
) -> tuple[np.ndarray, np.ndarray]:
  """Computes cosines and sines [T, d] for `rotate`.

  The centre of a patch lies between -1 and 1 along each side. A quarter of the
  d channels turns by its row at different speeds, the next by its column, and
  the other half repeats them. The first `prefix` tokens have no place and are
  not turned.
  """
  periods = _PERIOD ** (np.arange(channels // 4) / (channels // 4))
  places = [2 * (np.arange(side) + 0.5) / side - 1 for side in (rows, columns)]
  grid = np.stack(np.meshgrid(*places, indexing='ij'), axis=-1)
  angles = 2 * np.pi * grid.reshape(-1, 2, 1) / periods
  angles = np.tile(angles.reshape(rows * columns, -1), 2)
  angles = np.concatenate([np.zeros((prefix, channels)), angles])
  return np.cos(angles), np.sin(angles)


class Transformer(nn.Module):
  """Images [B, H, W, C] to features [B, 2 D].

  Features are the class token beside the mean of the patches, both after the
  last norm, as in the linear probes of DINOv2.

  Attributes:
    depth: blocks; each is a stage.
    width: D.
    heads: of attention.
    kind: the family of weights.
    dtype: of the computation; parameters stay float32.
    freeze: how many blocks stay untrained, the tokens with the first.
    normalise: how images were normalised.
    convolution: a replacement of `lax.conv_general_dilated`.
    adapter: of the blocks' dense layers.
  """

  depth: int
  width: int
  heads: int
  kind: Kind
  dtype: jnp.dtype
  freeze: int
  normalise: Normalisation | None
  convolution: Callable[..., jax.Array]
  adapter: Adapter | None = None

  @property
  def stages(self) -> tuple[tuple[str, ...], ...]:
    """Names the modules at the top level by stage, a block each."""
    blocks: list[tuple[str, ...]]
    blocks = [(f'block_{i}',) for i in range(self.depth)]
    blocks[0] = ('tokens', *blocks[0])
    blocks[-1] = (*blocks[-1], 'norm')
    return tuple(blocks)

  @property
  def published(self) -> Published:
    """Gives timm's names, to which those of others are brought."""
    layers: dict[Path, str] = {
      ('tokens', 'patch'): 'patch_embed.proj',
      ('norm',): 'norm',
    }
    arrays: dict[Path, str] = {
      ('tokens', 'class'): 'cls_token',
      ('tokens', 'registers'): 'reg_token',
      ('tokens', 'positions'): 'pos_embed',
    }
    for i in range(self.depth):
      for ours, theirs in (
        ('norm_1', 'norm1'),
        ('qkv', 'attn.qkv'),
        ('proj', 'attn.proj'),
        ('norm_2', 'norm2'),
        ('fc_1', 'mlp.fc1'),
        ('fc_2', 'mlp.fc2'),
      ):
        layers[f'block_{i}', ours] = f'blocks.{i}.{theirs}'
      for j in (1, 2):
        arrays[f'block_{i}', f'scale_{j}'] = f'blocks.{i}.ls{j}.gamma'
    return Published(
      network='vision transformer',
      layers=layers,
      first='patch_embed.proj',
      landmark='patch_embed.proj.weight',
      unused=r'(head|classifier)\..*|mask_token|rope_embed\.periods',
      expects=self.kind.expects,
      arrays=arrays,
      renames=transformer_weights.RENAMES,
      rewrite=transformer_weights.as_ours,
      fit=functools.partial(
        transformer_weights.fit_positions, antialias=self.kind.antialias
      ),
    )

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    del train  # no layer behaves otherwise in training
    chex.assert_rank(images, 4)
    kind = self.kind
    if any(side % kind.patch for side in images.shape[1:3]):
      raise InputError(
        f'data.size={images.shape[1]} must be a multiple of {kind.patch}, the'
        " side of this encoder's patches"
      )
    rows, columns = (side // kind.patch for side in images.shape[1:3])
    prefix, turns = 1 + kind.registers, None
    if kind.rotary:
      turns = rotary_turns(
        rows, columns, channels=self.width // self.heads, prefix=prefix
      )
    x = _Tokens(
      self.width,
      kind.patch,
      kind.registers,
      not kind.rotary,
      self.dtype,
      self.convolution,
      name='tokens',
    )(images)
    for i in range(self.depth):
      x = _Block(
        self.heads,
        kind.scaled,
        kind.epsilon,
        self.dtype,
        self.adapter,
        name=f'block_{i}',
      )(x, turns)
    x = _LayerNorm(epsilon=kind.epsilon, dtype=self.dtype, name='norm')(x)
    x = x.astype(jnp.float32)
    return jnp.concatenate([x[:, 0], jnp.mean(x[:, prefix:], axis=1)], axis=-1)


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
) -> Transformer:
  """Builds one of NAMES, which are timm's; `width` and `stem` are ResNets'."""
  del width, stem
  _, size, kind = name.split('_', 2)
  found, (features, heads) = KINDS[kind], _SIZES[size]
  return Transformer(
    depth=_DEPTH,
    width=features,
    heads=heads,
    kind=found,
    dtype=dtype,
    freeze=freeze,
    normalise=found.expects if pretrained else None,
    convolution=convolution,
    adapter=adapter,
  )
