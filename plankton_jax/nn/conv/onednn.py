"""Convolution by oneDNN inside a jitted program, with its gradient."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np

from plankton_jax.nn.conv import handler, onednn_library

log = logging.getLogger(__name__)

_TARGET = 'plankton_jax.convolution.{}'


@functools.cache
def available() -> bool:
  """Whether oneDNN is there; registers its passes, or says why it is not."""
  try:
    onednn_library.load()
    for kind, order in (
      # Where images, kernel and outputs stand among arguments and result.
      ('forward', (0, 1, 2)),
      ('backward_data', (2, 1, 0)),
      ('backward_weights', (0, 2, 1)),
    ):
      handler.register(_TARGET.format(kind), _runner(kind, order))
  except Exception as error:  # whatever it is, there is another way
    log.info('convolutions run without oneDNN (slower): %s', error)
    return False
  return True


def _runner(kind, order):
  prepare = functools.cache(functools.partial(onednn_library.Convolution, kind))

  def run(buffers, geometry):
    images, kernel, outputs = (buffers[i] for i in order)
    convolve = prepare(
      *(images.shape, kernel.shape, outputs.shape),
      *(tuple(geometry[:2]), tuple(geometry[2:])),
    )
    convolve(images.address, kernel.address, outputs.address)

  return run


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(
  images: jax.Array,
  kernel: jax.Array,
  strides: tuple[int, int],
  padding: tuple[int, int, int, int],
) -> jax.Array:
  """Float32 [B, H, W, C] and [h, w, C, F] to [B, H', W', F], on the CPU.

  Args:
    images: [B, H, W, C].
    kernel: [h, w, C, F].
    strides: down and across.
    padding: top, bottom, left, right.
  """
  top, bottom, left, right = padding
  (batch, *sides, _), features = images.shape, kernel.shape[-1]
  padded = (sides[0] + top + bottom, sides[1] + left + right)
  shape = (
    (side - reach) // stride + 1
    for side, reach, stride in zip(padded, kernel.shape, strides, strict=False)
  )
  return _pass(
    'forward', (batch, *shape, features), images, kernel, strides, padding
  )


def _pass(kind, shape, x, y, strides, padding):
  call = jax.ffi.ffi_call(
    _TARGET.format(kind),
    jax.ShapeDtypeStruct(shape, jnp.float32),
    vmap_method='sequential',
  )
  return call(x, y, geometry=np.array([*strides, *padding], np.int64))


def _forward(images, kernel, strides, padding):
  return convolution(images, kernel, strides, padding), (images, kernel)


def _backward(strides, padding, kept, cotangent):
  images, kernel = kept
  return (
    _pass('backward_data', images.shape, cotangent, kernel, strides, padding),
    _pass(
      'backward_weights', kernel.shape, images, cotangent, strides, padding
    ),
  )


convolution.defvjp(_forward, _backward)
