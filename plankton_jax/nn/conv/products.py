"""Writes convolutions as products, which XLA runs well on the CPU."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Sides = tuple[int, int]


def by_patches(
  images: jax.Array,
  kernel: jax.Array,
  strides: Sides,
  padding: tuple[Sides, Sides],
) -> jax.Array:
  """Sums over patches: out[bijf] = Σ_uvc in[b, s i + u, s j + v, c] k[uvcf].

  Args:
    images: [B, H, W, C].
    kernel: [h, w, C, F].
    strides: down and across.
    padding: (top, bottom), (left, right).

  Returns:
    [B, H', W', F].
  """
  height, width, channels, features = kernel.shape
  padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
  rows, columns = output_sides(images, kernel, strides, padding)
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


def by_channel(
  images: jax.Array, kernel: jax.Array, *, padding: tuple[Sides, Sides]
) -> jax.Array:
  """Convolves each channel by a kernel of its own, without strides.

  out[bijc] = Σ_uv in[b, i + u, j + v, c] k[uv0c]

  XLA's own takes up to a hundred times as long on a CPU, and its gradient ten
  times. A row of the kernel is summed at a time: all of it in one expression
  would be slow to compile and to differentiate.

  Args:
    images: [B, H, W, C].
    kernel: [h, w, 1, C].
    padding: (top, bottom), (left, right).

  Returns:
    [B, H', W', C] of the images' type, summed in float32.
  """
  height, width = kernel.shape[:2]
  kernel = kernel.astype(images.dtype).astype(jnp.float32)
  padded = jnp.pad(images, ((0, 0), *padding, (0, 0))).astype(jnp.float32)
  rows, columns = output_sides(images, kernel, (1, 1), padding)
  total = jnp.zeros((), jnp.float32)
  for u in range(height):
    row = padded[:, u : u + rows]
    taps = [row[:, :, v : v + columns] * kernel[u, v, 0] for v in range(width)]
    total = lax.optimization_barrier(total + sum(taps))
  return total.astype(images.dtype)


def sees_all(
  images: jax.Array,
  kernel: jax.Array,
  strides: Sides,
  padding: tuple[Sides, Sides],
) -> bool:
  """Tells whether the kernel covers the whole image at every position."""
  outputs = output_sides(images, kernel, strides, padding)
  return all(
    before >= (count - 1) * stride and side - 1 + before < reach
    for side, reach, count, stride, (before, _) in zip(
      *(images.shape[1:3], kernel.shape[:2], outputs, strides, padding),
      strict=True,
    )
  )


def by_whole_images(
  images: jax.Array,
  kernel: jax.Array,
  strides: Sides,
  padding: tuple[Sides, Sides],
  *,
  product: Callable[[jax.Array, jax.Array], jax.Array] = jnp.matmul,
) -> jax.Array:
  """Multiplies images [B, H W C] by a matrix [H W C, H' W' F], if `sees_all`.

  A 2x2 image meets only 4 of a 3x3 kernel's 9 taps at each output; the others
  would multiply padding. `product` multiplies the two matrices.
  """
  batch, height, width, channels = images.shape
  rows, columns = output_sides(images, kernel, strides, padding)
  features = kernel.shape[-1]
  top, left = padding[0][0], padding[1][0]
  met = [
    kernel[top - i * strides[0] :][:height, left - j * strides[1] :][:, :width]
    for i in range(rows)
    for j in range(columns)
  ]
  matrix = jnp.stack(met, axis=3)  # [H, W, C, H' W', F]
  flat = images.reshape(batch, height * width * channels)
  out = product(flat, matrix.reshape(flat.shape[1], rows * columns * features))
  return out.reshape(batch, rows, columns, features)


def output_sides(
  images: jax.Array,
  kernel: jax.Array,
  strides: Sides,
  padding: tuple[Sides, Sides],
) -> Sides:
  """Computes H' and W'."""
  height, width = (
    (side + sum(pads) - reach) // stride + 1
    for side, pads, reach, stride in zip(
      *(images.shape[1:3], padding, kernel.shape[:2], strides), strict=True
    )
  )
  return height, width
