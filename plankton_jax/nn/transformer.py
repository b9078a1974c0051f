"""Builds vision transformers, with the layers and sizes of published ones.

Dosovitskiy et al. 2021, An image is worth 16x16 words, arXiv:2010.11929,
equations 1 to 4. DINOv2 (Oquab et al. 2023, arXiv:2304.07193) scales each
branch by channel (Touvron et al. 2021, arXiv:2103.17239), may have registers
(Darcet et al. 2024, arXiv:2309.16588), and DINOv3 (Siméoni et al. 2025,
arXiv:2508.10104) turns queries and keys by their places instead of adding
positions to the patches.
"""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from plankton_jax.errors import InputError
from plankton_jax.nn.backbone import (
  IMAGENET,
  Normalisation,
  Path,
  Published,
  Weights,
)
from plankton_jax.nn.conv.choice import keep_kernel
from plankton_jax.nn.lora import Adapter, Dense

_DEPTH = 12  # blocks
_PERIOD = 100.0  # the longest of rotary positions, in half sides of the image
_INIT = nn.initializers.truncated_normal(0.02)
# Exact for channels that are far from 0 too.
_LayerNorm = functools.partial(nn.LayerNorm, use_fast_variance=False)


class _Size(NamedTuple):
  width: int
  heads: int


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


_SIZES = {'small': _Size(384, 6), 'base': _Size(768, 12)}
_HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
KINDS = {
  'patch16_224': Kind(16, 0, False, False, 1e-6, True, _HALF),
  'patch14_dinov2': Kind(14, 0, False, True, 1e-6, False, IMAGENET),
  'patch14_reg4_dinov2': Kind(14, 4, False, True, 1e-6, True, IMAGENET),
  'patch16_dinov3': Kind(16, 4, True, True, 1e-5, True, IMAGENET),
}
NAMES = tuple(f'vit_{size}_{kind}' for kind in KINDS for size in _SIZES)

# From the names of transformers and of DINOv3's authors to those of timm.
_RENAMES = (
  (r'embeddings\.patch_embeddings\.(projection\.)?', 'patch_embed.proj.'),
  (r'embeddings\.position_embeddings$', 'pos_embed'),
  (r'embeddings\.(cls_token|mask_token|register_tokens)$', r'\1'),
  (r'(register|storage)_tokens$', 'reg_token'),
  (r'((encoder|model)\.)?layer\.(\d+)\.', r'blocks.\3.'),
  (r'attention\.(attention\.)?(q_proj|query)\.', 'attn.q.'),
  (r'attention\.(attention\.)?(k_proj|key)\.', 'attn.k.'),
  (r'attention\.(attention\.)?(v_proj|value)\.', 'attn.v.'),
  (r'attention\.(output\.dense|o_proj)\.', 'attn.proj.'),
  (r'layer_scale(\d)\.lambda1$', r'ls\1.gamma'),
  (r'gamma_(\d)$', r'ls\1.gamma'),
  (r'mlp\.up_proj\.', 'mlp.fc1.'),
  (r'mlp\.down_proj\.', 'mlp.fc2.'),
  (r'layernorm\.', 'norm.'),
)


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
      renames=_RENAMES,
      rewrite=_as_ours,
      fit=functools.partial(fit_positions, antialias=self.kind.antialias),
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


def _as_ours(weights: Weights) -> Weights:
  """Joins queries, keys and values, and parts positions from the class token.

  DINOv3's keys have no bias, and timm leaves out those that are zero; what is
  missing is 0 here.
  """
  found = dict(weights)
  for name in weights:
    if name.endswith('.bias_mask'):  # of DINOv3's authors: 0 for the keys
      bias, mask = name.removesuffix('_mask'), found.pop(name)
      if bias in found:
        found[bias] = np.where(mask == 0, 0, found[bias])
    elif match := re.fullmatch(r'(blocks\.\d+\.attn)\.q\.weight', name):
      _join(found, match[1])
    elif match := re.fullmatch(r'(blocks\.\d+\.attn)\.qkv\.weight', name):
      at, width = match[1], len(weights[name]) // 3
      parts = [
        found.pop(f'{at}.{part}_bias', np.zeros(width, np.float32))
        for part in 'qkv'
      ]
      found.setdefault(f'{at}.qkv.bias', np.concatenate(parts))
  positions, token = found.get('pos_embed'), found.get('cls_token')
  if positions is None or token is None or positions.ndim != 3:
    return found
  if round(positions.shape[1] ** 0.5) ** 2 != positions.shape[1]:
    found['cls_token'] = token + positions[:, :1]
    found['pos_embed'] = positions[:, 1:]
  return found


def _join(weights: Weights, at: str) -> None:
  """Replaces q, k and v of a block by one layer, in place."""
  for leaf in ('weight', 'bias'):
    parts = [weights.pop(f'{at}.{part}.{leaf}', None) for part in 'qkv']
    known = [part for part in parts if part is not None]
    if leaf == 'weight' and len(known) < len(parts):
      return  # the joined layer is then reported as missing
    if known:
      zeros = np.zeros_like(known[0])
      weights[f'{at}.qkv.{leaf}'] = np.concatenate(
        [zeros if part is None else part for part in parts]
      )


def fit_positions(
  name: str, array: np.ndarray, shape: tuple[int, ...], *, antialias: bool
) -> np.ndarray:
  """Resizes learned positions [1, T, D] to another number of patches.

  Leaves other arrays as they are, and patches that form no square.
  """
  if name != 'pos_embed' or array.ndim != 3 or array.shape == shape:
    return array
  old, new = (round(tokens**0.5) for tokens in (array.shape[1], shape[1]))
  if old**2 != array.shape[1] or new**2 != shape[1]:
    return array
  weights = cubic_weights(old, new, antialias=antialias)
  grid = array.reshape(old, old, -1).astype(np.float64)
  fitted = np.einsum('ai,bj,ijd->abd', weights, weights, grid, optimize=True)
  return fitted.reshape(1, new**2, -1).astype(np.float32)


def cubic_weights(old: int, new: int, *, antialias: bool) -> np.ndarray:
  """Computes the weights [new, old] of bicubic resampling, as PyTorch's.

  Keys 1981, doi:10.1109/TASSP.1981.1163711, equation 15 with a = -1/2 for
  `antialias`, where the kernel widens as the image shrinks and edges are left
  out; otherwise a = -3/4, and edges are repeated.
  """
  a = -0.5 if antialias else -0.75
  stretch = max(old / new, 1.0) if antialias else 1.0
  centres = (np.arange(new) + 0.5) * old / new - 0.5
  reach = int(np.ceil(2 * stretch)) + 1
  places = np.arange(-reach, old + reach)
  x = np.abs(places - centres[:, None]) / stretch
  near = (a + 2) * x**3 - (a + 3) * x**2 + 1
  far = a * (x**3 - 5 * x**2 + 8 * x - 4)
  taps = np.where(x < 1, near, np.where(x < 2, far, 0.0))
  if antialias:
    inside = taps[:, reach : reach + old]
    return inside / inside.sum(axis=1, keepdims=True)
  weights = np.zeros((new, old))
  np.add.at(weights.T, np.clip(places, 0, old - 1), taps.T)
  return weights


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
  found = KINDS[kind]
  return Transformer(
    depth=_DEPTH,
    width=_SIZES[size].width,
    heads=_SIZES[size].heads,
    kind=found,
    dtype=dtype,
    freeze=freeze,
    normalise=found.expects if pretrained else None,
    convolution=convolution,
    adapter=adapter,
  )
