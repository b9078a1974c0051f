"""Convolution as the host runs it fastest; accelerators keep lax.

XLA's CPU convolution is several times slower than its matrix product, so on
the CPU most convolutions are written as patches times matrix. The numbers are
those of lax to float32 rounding; tests/test_conv.py holds them to it.
"""

import jax
import jax.numpy as jnp
from jax import lax

# On the CPU lax wins only where channels are many and the image is not tiny.
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
  side = min(inputs.shape[1:3])
  if not plain or (inputs.shape[-1] >= _LAX_CHANNELS and side >= _LAX_SIDE):
    return by_lax(inputs, kernel)

  def by_patches(inputs, kernel):
    return _patches_times_matrix(inputs, kernel, strides, padding)

  return lax.platform_dependent(inputs, kernel, cpu=by_patches, default=by_lax)


def _patches_times_matrix(inputs, kernel, strides, padding):
  """out[b,i,j,f] = sum_{u,v,c} in[b, s i + u, s j + v, c] kernel[u,v,c,f]."""
  height, width, channels, features = kernel.shape
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      inputs.shape[1:3], (height, width), strides, padding
    )
  padded = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
  rows = (padded.shape[1] - height) // strides[0] + 1
  columns = (padded.shape[2] - width) // strides[1] + 1
  slices = [
    padded[
      :,
      u : u + (rows - 1) * strides[0] + 1 : strides[0],
      v : v + (columns - 1) * strides[1] + 1 : strides[1],
    ]
    for u in range(height)
    for v in range(width)
  ]
  patches = jnp.concatenate(slices, axis=-1)
  return patches @ kernel.reshape(height * width * channels, features)
