"""Convolves as each backend runs it fastest; accelerators keep lax.

XLA's CPU convolution is several times slower than its matrix product, most so
in the gradients. On a CPU oneDNN convolves if it is installed, and shapes that
suit a matrix product are written as one. Results equal lax's up to the rounding
of their type, with sums in float32; tests/test_conv.py checks it.
"""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from plankton_jax.nn.conv import onednn, products

log = logging.getLogger(__name__)

# Without oneDNN lax wins for many channels, unless the image is tiny.
_LAX_CHANNELS = 128
_LAX_SIDE = 4
_NORM_CHANNELS = 16  # float32 in a vector of the processor


def conv_general_dilated(
  inputs: jax.Array,
  kernel: jax.Array,
  strides: tuple[int, int],
  padding: str | tuple[tuple[int, int], tuple[int, int]],
  **options: Any,
) -> jax.Array:
  """Convolves as `lax.conv_general_dilated`; for Flax's option of that name.

  Args:
    inputs: [B, H, W, C].
    kernel: [h, w, C, F], float32 or of the inputs' type, to which it is
      rounded. A float32 kernel receives a gradient without rounding.
    strides: down and across.
    padding: 'SAME', 'VALID', or (before, after) pairs.
    **options: further options of Flax, passed to lax. Dilations always run in
      lax, and so do feature groups, but for one kernel a channel.

  Returns:
    [B, H', W', F] of the inputs' type.
  """

  def by_lax(inputs, kernel):
    kernel = kernel.astype(inputs.dtype)
    return lax.conv_general_dilated(inputs, kernel, strides, padding, **options)

  groups = options.get('feature_group_count', 1)
  by_channel = groups == inputs.shape[-1] == kernel.shape[-1] and set(
    strides
  ) == {1}
  dilated = any(
    set(options.get(name) or (1,)) != {1}
    for name in ('lhs_dilation', 'rhs_dilation')
  )
  if dilated or (groups > 1 and not by_channel):
    return by_lax(inputs, kernel)
  pairs: Sequence[tuple[int, int]] = (
    lax.padtype_to_pads(inputs.shape[1:3], kernel.shape[:2], strides, padding)
    if isinstance(padding, str)
    else padding
  )
  (top, bottom), (left, right) = pairs
  sides = ((top, bottom), (left, right))
  on_cpu = _host_way(inputs, kernel, tuple(strides), sides) or by_lax
  if groups > 1:
    on_cpu = functools.partial(products.by_channel, padding=sides)
  return lax.platform_dependent(inputs, kernel, cpu=on_cpu, default=by_lax)


def keep_kernel(
  images: jax.Array,
  kernel: jax.Array,
  bias: jax.Array | None,
  *,
  dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Casts all but the kernel, for `nn.Conv(promote_dtype=...)`.

  `conv_general_dilated` rounds the kernel itself if needed.
  """
  return (
    images.astype(dtype),
    kernel,
    None if bias is None else bias.astype(dtype),
  )


@functools.cache
def computing_dtype(name: str) -> jnp.dtype:
  """Returns the type to compute in when `name` is asked for.

  On a CPU bfloat16 pays only if oneDNN multiplies it. Otherwise it would be
  several times slower than float32, which then replaces it, with a warning.

  Args:
    name: 'float32' or 'bfloat16'.
  """
  dtype = jnp.dtype(name)
  if (
    dtype == jnp.bfloat16
    and jax.default_backend() == 'cpu'
    and not _onednn_serves(dtype)
  ):
    log.warning(
      'encoder.dtype=bfloat16 is computed in float32: %s', _no_bfloat16()
    )
    return jnp.dtype(jnp.float32)
  return dtype


def onednn_normalises(images: jax.Array) -> bool:
  """Tells whether oneDNN normalises [B, H, W, C] faster than XLA.

  It has no vector instructions for other numbers of channels.
  """
  return (
    images.dtype == jnp.bfloat16
    and images.shape[-1] % _NORM_CHANNELS == 0
    and _onednn_serves(images.dtype)
  )


def _no_bfloat16():
  """Explains why bfloat16 would be slow on this CPU."""
  if not onednn.available():
    return 'oneDNN is not installed'
  if jax.device_count() > 1:
    return 'oneDNN serves a single CPU device only'
  return 'the processor has neither AVX512_BF16 nor AMX'


def _host_way(inputs, kernel, strides, padding):
  """Picks the CPU's method, a function of both arrays; None for lax."""

  def by(way, dtype, **options):
    return lambda inputs, kernel: way(
      inputs, kernel.astype(dtype), strides, padding, **options
    )

  served = _onednn_serves(inputs.dtype)
  if products.sees_all(inputs, kernel, strides, padding):
    if served and inputs.dtype == jnp.bfloat16:
      return by(products.by_whole_images, jnp.float32, product=onednn.product)
    return by(products.by_whole_images, inputs.dtype)
  if served:
    return by(_by_onednn, jnp.float32)
  side = min(inputs.shape[1:3])
  if inputs.shape[-1] >= _LAX_CHANNELS and side >= _LAX_SIDE:
    return None
  return by(products.by_patches, inputs.dtype)


def _by_onednn(inputs, kernel, strides, padding):
  if kernel.shape[:2] == (1, 1):
    # oneDNN 3.2 writes past its scratchpad in the weights' gradient of a
    # strided 1x1; the pixels that a stride skips are left out beforehand.
    padded = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    inputs = padded[:, :: strides[0], :: strides[1]]
    strides, padding = (1, 1), ((0, 0), (0, 0))
  flat = (*padding[0], *padding[1])
  return onednn.convolution(inputs, kernel, strides, flat)


def _onednn_serves(dtype):
  """Tells whether oneDNN serves: custom calls take one process and device."""
  if jax.default_backend() != 'cpu' or jax.device_count() != 1:
    return False
  if dtype == jnp.bfloat16:
    return onednn.multiplies_bfloat16()
  return dtype == jnp.float32 and onednn.available()
