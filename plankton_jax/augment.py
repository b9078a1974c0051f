"""Augmentation on the device, keyed, inside the step.

Every image is first taken off its own background, so that 0 means background
everywhere: what a rotation uncovers, and what a convolution pads with.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from plankton_jax.errors import InputError


def to_float(images: jax.Array) -> jax.Array:
  """uint8 [B, H, W, C] to float32 in [-1, 1], minus each image's background.

  The background is the median of the image's border pixels, a channel.
  """
  chex.assert_rank(images, 4)
  chex.assert_type(images, jnp.uint8)
  border = jnp.concatenate(
    [images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]],
    axis=1,
  )
  middle = jnp.sort(border, axis=1)[:, border.shape[1] // 2]
  background = middle[:, None, None, :].astype(jnp.float32)
  return (images.astype(jnp.float32) - background) / 255.0


def make(
  *,
  flip: bool,
  rotate: float,
  scale: float,
  translate: float,
  brightness: float,
  contrast: float,
  noise: float,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """`augment(key, images uint8 [B, H, W, C]) -> float32 [B, H, W, C]`.

  Args:
    flip: mirror left-right, top-bottom and about the diagonal, each with
      probability 1/2: the eight poses of a square, quarter turns included.
    rotate: largest angle either way, degrees; 180 is any angle.
    scale: the size changes by a factor up to 1 + scale either way.
    translate: largest shift either way, as a share of the side.
    brightness: largest change of the brightness, as a share of full range.
    contrast: contrast changes by a factor up to 1 + contrast either way.
    noise: standard deviation of Gaussian noise, as a share of full range.

  Raises:
    InputError: a negative strength, or a translation of a side or more.
  """
  strengths = {
    'rotate': rotate,
    'scale': scale,
    'translate': translate,
    'brightness': brightness,
    'contrast': contrast,
    'noise': noise,
  }
  for field, value in strengths.items():
    if value < 0 or (field == 'translate' and value >= 1):
      raise InputError(f'augment.{field}={value} is out of range; 0 is off')

  def augment(key, images):
    fields = [*strengths, 'flip']
    keys = dict(zip(fields, jax.random.split(key, len(fields)), strict=True))
    x = to_float(images)
    draw = lambda field: _uniform(keys[field], x.shape[0], strengths[field])
    if flip:
      x = _flip(keys['flip'], x)
    if rotate or scale or translate:
      angle = jnp.deg2rad(draw('rotate'))
      zoom = _factor(draw('scale'))
      shift = jax.random.uniform(
        keys['translate'], (x.shape[0], 2), minval=-translate, maxval=translate
      )
      x = jax.vmap(_warp)(x, angle, zoom, shift)
    if contrast:
      x = x * _factor(draw('contrast'))[:, None, None, None]
    if brightness:
      x = x + draw('brightness')[:, None, None, None]
    if noise:
      x = x + noise * jax.random.normal(keys['noise'], x.shape)
    return x

  return augment


def _uniform(key, count, strength):
  return jax.random.uniform(key, (count,), minval=-strength, maxval=strength)


def _factor(change):
  """1 + c for c >= 0 and its inverse below, so that 0 is the middle."""
  return jnp.where(change >= 0, 1 + change, 1 / (1 - change))


def _flip(key, x):
  draws = jax.random.bernoulli(key, 0.5, (3, x.shape[0], 1, 1, 1))
  across, down, turned = draws
  x = jnp.where(across, x[:, :, ::-1], x)
  x = jnp.where(down, x[:, ::-1], x)
  return jnp.where(turned, x.swapaxes(1, 2), x)


def _warp(image, angle, zoom, shift):
  """Rotates, zooms and shifts one image about its centre; bilinear.

  The output pixel q shows the input at R(-angle) (q - c - shift) / zoom + c;
  outside of the image is background, 0.
  """
  height, width, _ = image.shape
  centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
  side = jnp.array([height, width], jnp.float32)
  rows, columns = jnp.meshgrid(
    jnp.arange(height), jnp.arange(width), indexing='ij'
  )
  offset = jnp.stack([rows, columns], axis=-1) - centre - shift * side
  cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
  turn = jnp.array([[cos, sin], [-sin, cos]])
  # Accelerators would round places to 1/32 px by default.
  source = jnp.dot(offset, turn, precision='highest') + centre
  sample = lambda channel: jax.scipy.ndimage.map_coordinates(
    channel, [source[..., 0], source[..., 1]], order=1, mode='constant'
  )
  return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)
