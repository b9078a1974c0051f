"""What ResNets are made of: the stem and the residual blocks.

He, Zhang, Ren and Sun 2016, arXiv:1512.03385, figure 5. The residual branch's
last norm starts at zero, so that every block starts as the identity.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class BasicBlock(nn.Module):
  """Two 3x3 convolutions."""

  features: int
  strides: int
  conv: Callable
  norm: Callable

  @nn.compact
  def __call__(self, x):
    y = nn.relu(self.norm()(self.conv(self.features, 3, self.strides)(x)))
    y = self.norm(scale_init=nn.initializers.zeros)(
      self.conv(self.features, 3, 1)(y)
    )
    if x.shape != y.shape:
      x = self.norm()(self.conv(self.features, 1, self.strides)(x))
    return nn.relu(x + y)


class BottleneckBlock(nn.Module):
  """1x1, 3x3, 1x1, four times as wide at the end."""

  features: int
  strides: int
  conv: Callable
  norm: Callable

  @nn.compact
  def __call__(self, x):
    y = nn.relu(self.norm()(self.conv(self.features, 1, 1)(x)))
    y = nn.relu(self.norm()(self.conv(self.features, 3, self.strides)(y)))
    y = self.norm(scale_init=nn.initializers.zeros)(
      self.conv(4 * self.features, 1, 1)(y)
    )
    if x.shape != y.shape:
      x = self.norm()(self.conv(4 * self.features, 1, self.strides)(x))
    return nn.relu(x + y)


def stem(
  x: jax.Array, kind: str, width: int, conv: Callable, norm: Callable
) -> jax.Array:
  """The layers before the first stage, [B, H, W, C]; kinds as in `ResNet`."""
  if kind == 'full':
    return nn.relu(norm()(conv(width, 3, 1)(x)))
  if kind == 'half':
    return nn.relu(norm()(conv(width, 3, 2)(x)))
  if kind == 'quarter':
    x = nn.relu(norm()(conv(width // 2, 3, 2)(x)))
    return nn.relu(norm()(conv(width, 3, 2)(x)))
  return _max_pool(nn.relu(norm()(conv(width, 7, 2)(x))))  # 'imagenet'


def _max_pool(x):
  """3x3 with stride 2, along rows and then along columns.

  Slices have a gradient that the CPU computes several times faster than a
  window's, and every exporter knows them.
  """
  for axis in (1, 2):
    part = functools.partial(lax.slice_in_dim, axis=axis)
    even, odd = part(x, 0, None, 2), part(x, 1, None, 2)
    count = even.shape[axis]
    # Outside of the image lies nothing: its edge stands in twice.
    before = jnp.concatenate([part(even, 0, 1), odd], axis)
    after = jnp.concatenate([odd, part(even, count - 1, count)], axis)
    x = functools.reduce(
      jnp.maximum, [part(before, 0, count), even, part(after, 0, count)]
    )
  return x
