"""Convolution as each backend runs it fastest; accelerators keep lax.

XLA's CPU convolution is several times slower than its matrix product, and
slowest in the gradients, so that on the CPU it is left to oneDNN where that is
installed. Shapes that a matrix product suits better are written as one. The
numbers are those of lax to float32 rounding; tests/test_conv.py holds them to
it.
"""

import jax
import jax.numpy as jnp
from jax import lax

from plankton_jax.nn.conv import onednn, products

# Without oneDNN lax wins where channels are many and the image is not tiny.
_LAX_CHANNELS = 128
_LAX_SIDE = 4


def conv_general_dilated(
  inputs: jax.Array,
  kernel: jax.Array,
  strides: tuple[int, int],
  padding: str | tuple[tuple[int, int], tuple[int, int]],
  **options,
) -> jax.Array:
  """`lax.conv_general_dilated` for `nn.Conv(conv_general_dilated=...)`.

  Args:
    inputs: [B, H, W, C].
    kernel: [h, w, C, F].
    strides: of both sides.
    padding: 'SAME', 'VALID', or pairs.
    **options: what Flax passes besides; handed to lax. Dilations and feature
      groups other than 1 always run in lax.

  Returns:
    [B, H', W', F].
  """

  def by_lax(inputs, kernel):
    return lax.conv_general_dilated(inputs, kernel, strides, padding, **options)

  plain = options.get('feature_group_count', 1) == 1 and all(
    set(options.get(name) or (1,)) == {1}
    for name in ('lhs_dilation', 'rhs_dilation')
  )
  if not plain:
    return by_lax(inputs, kernel)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      inputs.shape[1:3], kernel.shape[:2], strides, padding
    )
  padding = tuple(tuple(pair) for pair in padding)
  on_cpu = _host_way(inputs, kernel, tuple(strides), padding) or by_lax
  return lax.platform_dependent(inputs, kernel, cpu=on_cpu, default=by_lax)


def _host_way(inputs, kernel, strides, padding):
  """How the CPU does it, as a function of both arrays; None for lax."""

  def by(way):
    return lambda inputs, kernel: way(inputs, kernel, strides, padding)

  if products.sees_all(inputs, kernel, strides, padding):
    return by(products.by_whole_images)
  if _onednn_serves(inputs, kernel):
    return by(_by_onednn)
  side = min(inputs.shape[1:3])
  if inputs.shape[-1] >= _LAX_CHANNELS and side >= _LAX_SIDE:
    return None
  return by(products.by_patches)


def _by_onednn(inputs, kernel, strides, padding):
  if kernel.shape[:2] == (1, 1):
    # oneDNN 3.2 writes past its scratchpad in the weights' gradient of a
    # strided 1x1; what a stride skips is left out beforehand instead.
    padded = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    inputs = padded[:, :: strides[0], :: strides[1]]
    strides, padding = (1, 1), ((0, 0), (0, 0))
  flat = (*padding[0], *padding[1])
  return onednn.convolution(inputs, kernel, strides, flat)


def _onednn_serves(inputs, kernel):
  """Float32 in one process's one device: a custom call is not partitioned."""
  return (
    inputs.dtype == kernel.dtype == jnp.float32
    and jax.default_backend() == 'cpu'
    and jax.device_count() == 1
    and onednn.available()
  )
