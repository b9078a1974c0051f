"""Transformers and ConvNeXts by timm's names: weights, and what they compute.

NumPy in float64, images [B, H, W, C]; tests/test_backbones_peer.py holds the
names to timm's where it is installed.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from plankton_jax.nn import pretrained

_ERF = np.vectorize(math.erf)


def draw_images(side, channels=3):
  """Two images of noise, uint8 [2, side, side, channels]."""
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (2, side, side, channels), np.uint8)


def converted(backbone, weights, side, channels=3):
  """The variables of a backbone with these weights in place."""
  fresh = jax.eval_shape(
    functools.partial(backbone.init, train=False),
    jax.random.key(0),
    jnp.zeros((1, side, side, channels)),
  )
  return pretrained.convert(
    {'batch_stats': {}, **fresh},
    weights,
    published=backbone.published,
    normalised=backbone.normalise is not None,
    source='weights',
  )


def vit_weights(*, depth, width, patch, patches, registers, rotary, scaled):
  """A state_dict of float32 arrays, with a classifier of 3 classes."""
  draw = _Draw()
  draw('patch_embed.proj.weight', width, 3, patch, patch)
  draw('patch_embed.proj.bias', width)
  draw('cls_token', 1, 1, width)
  if registers:
    draw('reg_token', 1, registers, width)
  if not rotary:
    draw('pos_embed', 1, patches + 1, width)
  for i in range(depth):
    at = f'blocks.{i}'
    draw.norm(f'{at}.norm1', width)
    draw.norm(f'{at}.norm2', width)
    draw.dense(f'{at}.attn.qkv', width, 3 * width)
    draw.dense(f'{at}.attn.proj', width, width)
    draw.dense(f'{at}.mlp.fc1', width, 4 * width)
    draw.dense(f'{at}.mlp.fc2', 4 * width, width)
    if scaled:
      draw(f'{at}.ls1.gamma', width)
      draw(f'{at}.ls2.gamma', width)
  draw.norm('norm', width)
  draw.dense('head', width, 3)
  return draw.state


def vit_tokens(state, images, *, depth, heads, patch, registers, epsilon):
  """Computes all tokens after the last norm, [B, T, D]."""
  get = lambda name: state[name].astype(np.float64)
  count, height, wide, _ = images.shape
  rows, columns = height // patch, wide // patch
  x = images.astype(np.float64).reshape(count, rows, patch, columns, patch, 3)
  kernel = get('patch_embed.proj.weight')
  x = np.einsum('bricjk,dkij->brcd', x, kernel)
  x = x.reshape(count, rows * columns, -1) + get('patch_embed.proj.bias')
  first = np.repeat(get('cls_token'), count, 0)
  turns = None
  if 'pos_embed' in state:
    x = x + get('pos_embed')[:, 1:]
    first = first + get('pos_embed')[:, :1]
  else:
    turns = patch_angles(rows, columns, x.shape[-1] // heads)
  if registers:
    more = np.repeat(get('reg_token'), count, 0)
    first = np.concatenate([first, more], 1)
  x = np.concatenate([first, x], 1)
  for i in range(depth):
    at = f'blocks.{i}'
    y = dense(state, f'{at}.attn.qkv', norm(state, f'{at}.norm1', x, epsilon))
    y = attention(y, heads=heads, angles=turns, prefix=1 + registers)
    y = dense(state, f'{at}.attn.proj', y)
    x = x + (y * get(f'{at}.ls1.gamma') if f'{at}.ls1.gamma' in state else y)
    y = norm(state, f'{at}.norm2', x, epsilon)
    y = dense(state, f'{at}.mlp.fc2', gelu(dense(state, f'{at}.mlp.fc1', y)))
    x = x + (y * get(f'{at}.ls2.gamma') if f'{at}.ls2.gamma' in state else y)
  return norm(state, 'norm', x, epsilon)


def attention(qkv, *, heads, angles=None, prefix=0):
  """Attends among [B, T, 3 D], a query and a head at a time."""
  count, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
  channels = width // heads
  out = np.zeros((count, tokens, width))
  for b in range(count):
    for head in range(heads):
      mine = slice(head * channels, (head + 1) * channels)
      q, k, v = (
        qkv[b, :, i * width : (i + 1) * width][:, mine] for i in range(3)
      )
      if angles is not None:
        q, k = turned(q, angles, prefix), turned(k, angles, prefix)
      for t in range(tokens):
        logits = k @ q[t] / np.sqrt(channels)
        weights = np.exp(logits - logits.max())
        out[b, t, mine] = weights @ v / weights.sum()
  return out


def turned(x, angles, prefix):
  """Turns each pair of channels of [T, d] behind the prefix."""
  out, half = x.astype(np.float64).copy(), x.shape[1] // 2
  for t, row in enumerate(angles):
    for i, angle in enumerate(row):
      pair = complex(x[prefix + t, i], x[prefix + t, i + half])
      pair *= complex(math.cos(angle), math.sin(angle))
      out[prefix + t, i], out[prefix + t, i + half] = pair.real, pair.imag
  return out


def patch_angles(rows, columns, channels):
  """The angle of each pair of channels, [patches, d / 2], as DINOv3 has it."""
  quarter = channels // 4
  periods = [100 ** (2 * i / (channels / 2)) for i in range(quarter)]
  return [
    [2 * math.pi * (2 * (row + 0.5) / rows - 1) / period for period in periods]
    + [
      2 * math.pi * (2 * (c + 0.5) / columns - 1) / period for period in periods
    ]
    for row in range(rows)
    for c in range(columns)
  ]


def convnext_weights(*, depths, width, version):
  """A state_dict of float32 arrays, with a classifier of 3 classes."""
  draw = _Draw()
  for stage, depth in enumerate(depths):
    features = width * 2**stage
    if stage == 0:
      draw('stem.0.weight', width, 3, 4, 4)
      draw('stem.0.bias', width)
      draw.norm('stem.1', width)
    else:
      draw.norm(f'stages.{stage}.downsample.0', features // 2)
      draw(f'stages.{stage}.downsample.1.weight', features, features // 2, 2, 2)
      draw(f'stages.{stage}.downsample.1.bias', features)
    for i in range(depth):
      at = f'stages.{stage}.blocks.{i}'
      draw(f'{at}.conv_dw.weight', features, 1, 7, 7)
      draw(f'{at}.conv_dw.bias', features)
      draw.norm(f'{at}.norm', features)
      draw.dense(f'{at}.mlp.fc1', features, 4 * features)
      draw.dense(f'{at}.mlp.fc2', 4 * features, features)
      if version == 1:
        draw(f'{at}.gamma', features)
      else:
        draw(f'{at}.mlp.grn.weight', 4 * features)
        draw(f'{at}.mlp.grn.bias', 4 * features)
  draw.norm('head.norm', features)
  draw.dense('head.fc', features, 3)
  return draw.state


def convnext_features(state, images, *, depths, version):
  """Computes the input of the classifier, [B, F]."""
  get = lambda name: state[name].astype(np.float64)
  x = images.astype(np.float64)
  for stage, depth in enumerate(depths):
    if stage == 0:
      x = norm(state, 'stem.1', _shrink(state, 'stem.0', x), 1e-6)
    else:
      at = f'stages.{stage}.downsample'
      x = _shrink(state, f'{at}.1', norm(state, f'{at}.0', x, 1e-6))
    for i in range(depth):
      at = f'stages.{stage}.blocks.{i}'
      padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
      windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), (1, 2))
      kernel = get(f'{at}.conv_dw.weight')[:, 0]
      y = np.einsum('brcdij,dij->brcd', windows, kernel)
      y = norm(state, f'{at}.norm', y + get(f'{at}.conv_dw.bias'), 1e-6)
      y = gelu(dense(state, f'{at}.mlp.fc1', y))
      if version == 2:
        y = response(y, get(f'{at}.mlp.grn.weight'), get(f'{at}.mlp.grn.bias'))
      y = dense(state, f'{at}.mlp.fc2', y)
      x = x + (y * get(f'{at}.gamma') if version == 1 else y)
  return norm(state, 'head.norm', x.mean((1, 2)), 1e-6)


def response(x, scale, bias):
  """Global response normalisation of [B, H, W, C], an image at a time."""
  out = np.empty_like(x)
  for b, image in enumerate(x):
    norms = np.array(
      [math.sqrt((image[..., c] ** 2).sum()) for c in range(image.shape[-1])]
    )
    out[b] = image + scale * image * norms / (norms.mean() + 1e-6) + bias
  return out


def dense(state, name, x):
  weight = state[f'{name}.weight'].astype(np.float64)
  return x @ weight.T + state[f'{name}.bias']


def norm(state, name, x, epsilon):
  centred = x - x.mean(-1, keepdims=True)
  scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
  return scaled * state[f'{name}.weight'] + state[f'{name}.bias']


def gelu(x):
  return x * (1 + _ERF(x / math.sqrt(2))) / 2


def _shrink(state, name, x):
  """Convolves patches that do not overlap; an incomplete one is left out."""
  weight = state[f'{name}.weight'].astype(np.float64)
  side = weight.shape[-1]
  rows, columns = x.shape[1] // side, x.shape[2] // side
  x = x[:, : rows * side, : columns * side]
  x = x.reshape(len(x), rows, side, columns, side, -1)
  found = np.einsum('brisjk,dkij->brsd', x, weight)
  return found + state[f'{name}.bias']


class _Draw:
  """Draws arrays into a state_dict, at scales that keep features apart."""

  def __init__(self):
    self.state = {}
    self._rng = np.random.default_rng(0)

  def __call__(self, name, *shape):
    scale = 0.4 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
    drawn = scale * self._rng.normal(size=shape)
    self.state[name] = drawn.astype(np.float32)

  def norm(self, name, width):
    self(f'{name}.weight', width)
    self.state[f'{name}.weight'] += 1
    self(f'{name}.bias', width)

  def dense(self, name, inputs, outputs):
    self(f'{name}.weight', outputs, inputs)
    self(f'{name}.bias', outputs)
