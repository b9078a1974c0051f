"""Augments images on the device, inside the training step, by a key.

The background of each image is subtracted first, so that 0 means background
everywhere: in corners that a rotation uncovers, and where a convolution pads.
Networks whose published weights expect images normalised by a mean and a
deviation get the background back afterwards.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from plankton_jax.nn.backbone import Normalisation


def to_float(
  images: jax.Array, normalise: Normalisation | None = None
) -> jax.Array:
  """Maps uint8 [B, H, W, C] to what a backbone takes, float32.

  Args:
    images: grey or RGB.
    normalise: a backbone's. None subtracts each image's background, the median
      of its border pixels in each channel: the result is in [-1, 1].

  Returns:
    [B, H, W, C]; [B, H, W, 3] if normalised, where grey images are repeated.
  """
  chex.assert_rank(images, 4)
  chex.assert_type(images, jnp.uint8)
  if normalise is None:
    return (images.astype(jnp.float32) - _background(images)) / 255.0
  return _normalised(images.astype(jnp.float32) / 255.0, normalise)


def _normalised(x: jax.Array, normalise: Normalisation) -> jax.Array:
  """Normalises [B, H, W, C] in [0, 1], grey or RGB, to [B, H, W, 3]."""
  return (x - jnp.array(normalise.mean)) / jnp.array(normalise.std)


def _background(images: jax.Array) -> jax.Array:
  """Finds each image's background as float32 [B, 1, 1, C], up to 255."""
  border = jnp.concatenate(
    [images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]],
    axis=1,
  )
  middle = jnp.sort(border, axis=1)[:, border.shape[1] // 2]
  return middle[:, None, None, :].astype(jnp.float32)


def make(
  *,
  flip: bool,
  rotate: float,
  scale: float,
  translate: float,
  brightness: float,
  contrast: float,
  noise: float,
  normalise: Normalisation | None = None,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Makes `augment(key, images uint8 [B, H, W, C]) -> float32 [B, H, W, C]`.

  Args:
    flip: mirror left-right, top-bottom and about the diagonal, each with
      probability 1/2: the eight poses of a square, quarter turns included.
    rotate: largest angle either way, degrees; 180 is any angle.
    scale: the size changes by a factor up to 1 + scale either way.
    translate: largest shift either way, as a share of the side.
    brightness: largest change of the brightness, as a share of full range.
    contrast: contrast changes by a factor up to 1 + contrast either way.
    noise: standard deviation of Gaussian noise, as a share of full range.
    normalise: a backbone's, as in `to_float`; the result then has three
      channels.
  """
  strengths = {
    'rotate': rotate,
    'scale': scale,
    'translate': translate,
    'brightness': brightness,
    'contrast': contrast,
    'noise': noise,
  }

  def augment(key: jax.Array, images: jax.Array) -> jax.Array:
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
    if normalise is not None:
      x = _normalised(x + _background(images) / 255.0, normalise)
    return x

  return augment


def _uniform(key: jax.Array, count: int, strength: float) -> jax.Array:
  """Draws [count] values up to `strength` either way."""
  return jax.random.uniform(key, (count,), minval=-strength, maxval=strength)


def _factor(change: jax.Array) -> jax.Array:
  """Maps c >= 0 to 1 + c and c < 0 to 1 / (1 - c): up and down alike."""
  return jnp.where(change >= 0, 1 + change, 1 / (1 - change))


def _flip(key: jax.Array, x: jax.Array) -> jax.Array:
  """Puts each image [B, S, S, C] into one of its eight poses."""
  draws = jax.random.bernoulli(key, 0.5, (3, x.shape[0], 1, 1, 1))
  across, down, turned = draws
  x = jnp.where(across, x[:, :, ::-1], x)
  x = jnp.where(down, x[:, ::-1], x)
  return jnp.where(turned, x.swapaxes(1, 2), x)


def _warp(
  image: jax.Array, angle: jax.Array, zoom: jax.Array, shift: jax.Array
) -> jax.Array:
  """Rotates, zooms and shifts one image about its centre; bilinear.

  The output pixel q shows the input at R(-angle) (q - c - shift) / zoom + c,
  with 0, the background, outside of the image.
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
