"""Turns an encoder into one function of arrays, without kernels of our own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from plankton_jax.encoder import Encoder
from plankton_jax.errors import InputError
from plankton_jax.files.config_file import Config
from plankton_jax.nn import encoders
from plankton_jax.train.step import make_embed_step

_TOLERANCE = 1e-5  # in any element of an embedding, whose length is 1
_CHECKED = 32  # images to compare on


def embed_fn(encoder: Encoder) -> Callable[..., jax.Array]:
  """Returns a function of the `inputs` to unit-norm float32 [N, D].

  Convolutions are lax's own and computed in float32, whatever type the encoder
  was trained in: other runtimes lack our kernels.
  """
  fields = _in_float32(encoder.config)['encoder']
  model = encoders.make(**fields, convolution=lax.conv_general_dilated)
  step = make_embed_step(
    apply_fn=model.apply, normalise=model.backbone.normalise
  )
  variables = jax.tree.map(jnp.asarray, encoder.variables)
  return lambda *arrays: step(
    variables['params'], variables['batch_stats'], *arrays
  )


def inputs(encoder: Encoder) -> dict[str, jax.ShapeDtypeStruct]:
  """Describes the function's arguments, with a symbolic number N of images.

  These are images, uint8 [N, H, W, C], and, if the encoder takes any, measures,
  float32 [N, M], in the order of `encoder.takes`, NaN where unknown.
  """
  data = encoder.config['data']
  scope = jax.export.SymbolicScope()

  def spec(shape: str, dtype: Any) -> jax.ShapeDtypeStruct:
    dims = jax.export.symbolic_shape(shape, scope=scope)
    return jax.ShapeDtypeStruct(dims, dtype)

  size = f'{data["size"]}, {data["size"]}, {data["channels"]}'
  found = {'images': spec(f'n, {size}', jnp.uint8)}
  if encoder.takes:
    found['measures'] = spec(f'n, {len(encoder.takes)}', jnp.float32)
  return found


def check(encoder: Encoder, run: Callable[..., np.ndarray], what: str) -> float:
  """Measures the largest difference between `run` and the encoder.

  Args:
    encoder: the original.
    run: of the `inputs` to embeddings [N, D], by the exported model.
    what: the converter, for the error.

  Returns:
    The largest difference over all elements.

  Raises:
    InputError: the difference is too large.
  """
  reference = encoder.replace(config=_in_float32(encoder.config))
  rng = np.random.default_rng(0)
  shape = inputs(encoder)['images'].shape[1:]
  images = rng.integers(0, 256, (_CHECKED, *shape), np.uint8)
  images[1] = 0  # an image of nothing but background
  arrays, known = [images], {}
  if encoder.takes:
    measures = rng.uniform(1, 500, (_CHECKED, len(encoder.takes)))
    measures[rng.random(measures.shape) < 0.2] = np.nan
    measures[2] = np.nan
    arrays.append(measures.astype(np.float32))
    known = dict(zip(encoder.takes, measures.T, strict=True))
  want = reference.embed(images, measures=known)
  found = max(
    np.abs(run(*(x[:count] for x in arrays)) - want[:count]).max()
    for count in (1, _CHECKED)
  )
  if not found <= _TOLERANCE:
    raise InputError(
      f'the model that {what} made is {found:.1e} off the encoder; nothing was'
      ' written. Try another version of it'
    )
  return float(found)


def _in_float32(config: Config) -> Config:
  """Sets the type that the encoder computes in."""
  return config | {'encoder': config['encoder'] | {'dtype': 'float32'}}
