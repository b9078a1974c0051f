"""Convolves and normalises by oneDNN in a jitted program, with gradients."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np

from plankton_jax.nn.conv import handler, onednn_library

log = logging.getLogger(__name__)

_CONVOLUTION = 'plankton_jax.convolution.{}'
_NORM = 'plankton_jax.norm.{}'
# Which of images, kernel and outputs each pass computes from the others.
_WANTED = {'forward': 2, 'backward_data': 0, 'backward_weights': 1}
_TYPES = ('float32', 'bfloat16')


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
  """Registers all passes as handlers of custom calls, once."""
  for kind in _WANTED:
    prepare = functools.partial(_prepare_convolution, kind)
    handler.register(_CONVOLUTION.format(kind), prepare)
  for kind in ('forward', 'backward'):
    prepare = functools.partial(_prepare_norm, kind)
    handler.register(_NORM.format(kind), prepare)


def _prepare_convolution(kind, numbers):
  geometry = onednn_library.Geometry(
    *(numbers[0:4], numbers[4:8], numbers[8:12]),
    *(numbers[12:14], numbers[14:18], _TYPES[numbers[18]]),
  )
  convolve: handler.Function
  if kind == 'backward_weights' and geometry.dtype == 'bfloat16':
    # In float32 oneDNN's own threads never wait for long.
    convolve = onednn_library.KernelGradient(geometry)
  else:
    convolve = onednn_library.convolution(kind, geometry)
  wanted = _WANTED[kind]

  def run(*addresses):
    *given, found = addresses
    given.insert(wanted, found)
    convolve(*given)

  return run


def _prepare_norm(kind, numbers):
  *shape, rectified, bits = numbers
  epsilon = float(np.array(bits, np.int64).view(np.float64))
  norm = onednn_library.Norm(tuple(shape), epsilon, bool(rectified))
  return onednn_library.batch_norm(kind, norm)


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
  return _pass('forward', (images, kernel, out), strides, padding)


def product(rows: jax.Array, matrix: jax.Array) -> jax.Array:
  """Multiplies [N, K] @ [K, M] as a 1x1 convolution of an image of N pixels.

  Types are those of `convolution`, with the matrix as its kernel.
  """
  out = convolution(rows[None, None], matrix[None, None], (1, 1), (0, 0, 0, 0))
  return out[0, 0]


def _pass(kind, arrays, strides, padding):
  """Computes one of images, kernel and outputs, whose shape alone is read."""
  wanted = _WANTED[kind]
  shapes = [side for array in arrays for side in array.shape]
  dtype = _TYPES.index(arrays[0].dtype)
  return _custom_call(
    _CONVOLUTION.format(kind),
    arrays[wanted],
    arrays[:wanted] + arrays[wanted + 1 :],
    (*shapes, *strides, *padding, dtype),
  )


def _custom_call(name, outs, arrays, numbers):
  _register()
  outs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), outs)
  call = jax.ffi.ffi_call(name, outs, vmap_method='sequential')
  return call(*arrays, numbers=np.array(numbers, np.int64))


def _forward(images, kernel, strides, padding):
  return convolution(images, kernel, strides, padding), (images, kernel)


def _backward(strides, padding, kept, cotangent):
  images, kernel = kept
  return (
    _pass('backward_data', (images, kernel, cotangent), strides, padding),
    _pass('backward_weights', (images, kernel, cotangent), strides, padding),
  )


convolution.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(
  images: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  epsilon: float,
  rectified: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Normalises over batch and pixels, on the CPU if `multiplies_bfloat16`.

  Args:
    images: [B, H, W, C], bfloat16.
    scale: [C], float32, as all vectors.
    bias: [C].
    epsilon: added to the variance.
    rectified: a ReLU follows.

  Returns:
    Outputs [B, H, W, C] bfloat16, summed in float32; means [C]; variances [C],
    without Bessel's correction. Gradients flow from the outputs alone.
  """
  return _norm_forward(images, scale, bias, epsilon, rectified)[0]


def _norm_forward(images, scale, bias, epsilon, rectified):
  vector = jax.ShapeDtypeStruct(scale.shape, jnp.float32)
  outs = [images, vector, vector]
  if rectified:
    norm = onednn_library.Norm(images.shape, epsilon, rectified)
    outs.append(
      jax.ShapeDtypeStruct((onednn_library.mask_size(norm),), jnp.uint8)
    )
  arrays = (images, scale, bias)
  out, mean, variance, *mask = _norm_pass(
    'forward', outs, arrays, epsilon, rectified
  )
  return (out, mean, variance), (images, mean, variance, scale, *mask)


def _norm_backward(epsilon, rectified, kept, cotangents):
  images, mean, variance, scale, *mask = kept
  arrays = (images, cotangents[0], mean, variance, scale, *mask)
  outs = (images, scale, scale)
  return tuple(_norm_pass('backward', outs, arrays, epsilon, rectified))


batch_norm.defvjp(_norm_forward, _norm_backward)


def _norm_pass(kind, outs, arrays, epsilon, rectified):
  bits = np.float64(epsilon).view(np.int64)  # a call has int64 numbers only
  return _custom_call(
    _NORM.format(kind), outs, arrays, (*arrays[0].shape, rectified, bits)
  )
