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


class _ResidualBlock(nn.Module):
  """Convolutions whose sum with their input is passed on."""

  features: int
  strides: int
  conv: Callable
  norm: Callable

  @nn.compact
  def __call__(self, x):
    *kernels, last = self.kernels
    strided = self.kernels.index(3)  # the first that is wider than a pixel
    y = x
    for i, kernel in enumerate(kernels):
      strides = self.strides if i == strided else 1
      y = nn.relu(self.norm()(self.conv(self.features, kernel, strides)(y)))
    width = self.expansion * self.features
    y = self.norm(scale_init=nn.initializers.zeros)(
      self.conv(width, last, 1)(y)
    )
    if x.shape != y.shape:
      x = self.norm()(self.conv(width, 1, self.strides)(x))
    return nn.relu(x + y)


class BasicBlock(_ResidualBlock):
  """Two 3x3 convolutions."""

  kernels = (3, 3)
  expansion = 1


class BottleneckBlock(_ResidualBlock):
  """1x1, 3x3, 1x1, four times as wide at the end."""

  kernels = (1, 3, 1)
  expansion = 4


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
