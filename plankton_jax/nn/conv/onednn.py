"""Convolves by oneDNN inside a jitted program, with gradients."""

import functools
import logging

import jax
import numpy as np

from plankton_jax.nn.conv import handler, onednn_library

log = logging.getLogger(__name__)

_TARGET = 'plankton_jax.convolution.{}'


@functools.cache
def available() -> bool:
  """Tells whether oneDNN and XLA's custom calls work; logs why not."""
  try:
    onednn_library.load()
    handler.check_interface()
  except (OSError, handler.InterfaceError) as error:
    log.info('convolutions run without oneDNN (slower): %s', error)
    return False
  return True


def multiplies_bfloat16() -> bool:
  """Tells whether oneDNN is available and multiplies bfloat16 natively."""
  return available() and onednn_library.multiplies_bfloat16()


@functools.cache
def _register():
  """Registers the three passes as handlers of custom calls, once."""
  make = onednn_library.Convolution
  for kind, prepare, order in (
    # Positions of images, kernel and outputs among arguments and result.
    ('forward', functools.partial(make, 'forward'), (0, 1, 2)),
    ('backward_data', functools.partial(make, 'backward_data'), (2, 1, 0)),
    ('backward_weights', _kernel_gradient, (0, 2, 1)),
  ):
    run = _runner(functools.cache(prepare), order)
    handler.register(_TARGET.format(kind), run)


def _kernel_gradient(geometry):
  """Leaves threads to oneDNN in float32, where they never wait for long."""
  if geometry.dtype == 'bfloat16':
    return onednn_library.KernelGradient(geometry)
  return onednn_library.Convolution('backward_weights', geometry)


def _runner(prepare, order):
  def run(buffers, moves):
    images, kernel, outputs = (buffers[i] for i in order)
    geometry = onednn_library.Geometry(
      *(images.shape, kernel.shape, outputs.shape),
      *(tuple(moves[:2]), tuple(moves[2:]), images.dtype),
    )
    convolve = prepare(geometry)
    convolve(images.address, kernel.address, outputs.address)

  return run


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(
  images: jax.Array,
  kernel: jax.Array,
  strides: tuple[int, int],
  padding: tuple[int, int, int, int],
) -> jax.Array:
  """Convolves on the CPU; needs oneDNN to be `available`.

  Args:
    images: [B, H, W, C], float32, or bfloat16 if `multiplies_bfloat16`.
    kernel: [h, w, C, F], float32; rounded to the images' type here.
    strides: down and across.
    padding: top, bottom, left, right.

  Returns:
    [B, H', W', F] of the images' type, summed in float32. The kernel's
    gradient is float32, without intermediate rounding.
  """
  top, bottom, left, right = padding
  (batch, *sides, _), features = images.shape, kernel.shape[-1]
  padded = (sides[0] + top + bottom, sides[1] + left + right)
  shape = (
    (side - reach) // stride + 1
    for side, reach, stride in zip(padded, kernel.shape, strides, strict=False)
  )
  out = jax.ShapeDtypeStruct((batch, *shape, features), images.dtype)
  return _pass('forward', out, images, kernel, strides, padding)


def product(rows: jax.Array, matrix: jax.Array) -> jax.Array:
  """Multiplies [N, K] @ [K, M] as a 1x1 convolution of an image of N pixels.

  Types are those of `convolution`, with the matrix as its kernel.
  """
  out = convolution(rows[None, None], matrix[None, None], (1, 1), (0, 0, 0, 0))
  return out[0, 0]


def _pass(kind, out, x, y, strides, padding):
  _register()
  call = jax.ffi.ffi_call(_TARGET.format(kind), out, vmap_method='sequential')
  return call(x, y, geometry=np.array([*strides, *padding], np.int64))


def _forward(images, kernel, strides, padding):
  return convolution(images, kernel, strides, padding), (images, kernel)


def _backward(strides, padding, kept, cotangent):
  images, kernel = kept
  return (
    _pass('backward_data', images, cotangent, kernel, strides, padding),
    _pass('backward_weights', kernel, images, cotangent, strides, padding),
  )


convolution.defvjp(_forward, _backward)
