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
  make = onednn_library.Convolution
  for kind, prepare, order in (
    # Positions of images, kernel and outputs among arguments and result.
    ('forward', functools.partial(make, 'forward'), (0, 1, 2)),
    ('backward_data', functools.partial(make, 'backward_data'), (2, 1, 0)),
    ('backward_weights', _kernel_gradient, (0, 2, 1)),
  ):
    run = _runner(functools.cache(prepare), order)
    handler.register(_CONVOLUTION.format(kind), run)
  for kind in ('forward', 'backward'):
    prepare = functools.partial(onednn_library.BatchNorm, kind)
    run = _norm_runner(functools.cache(prepare))
    handler.register(_NORM.format(kind), run)


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


def _norm_runner(prepare):
  def run(buffers, numbers):
    epsilon = float(np.array(numbers[:1], np.int64).view(np.float64)[0])
    norm = onednn_library.Norm(buffers[0].shape, epsilon, bool(numbers[1]))
    prepare(norm)(*(buffer.address for buffer in buffers))

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
  call = jax.ffi.ffi_call(
    _CONVOLUTION.format(kind), out, vmap_method='sequential'
  )
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
    outs.append(jax.ShapeDtypeStruct((norm.mask_size(),), jnp.uint8))
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
  _register()
  shapes = [jax.ShapeDtypeStruct(out.shape, out.dtype) for out in outs]
  call = jax.ffi.ffi_call(_NORM.format(kind), shapes, vmap_method='sequential')
  bits = np.array([epsilon], np.float64).view(np.int64)  # attributes are int64
  return call(*arrays, numbers=np.array([*bits, rectified], np.int64))
