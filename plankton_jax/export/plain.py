"""Turns an encoder into one function of images, without kernels of our own."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from plankton_jax.encoder import Encoder
from plankton_jax.errors import InputError
from plankton_jax.nn import encoders
from plankton_jax.train.step import make_embed_step

_TOLERANCE = 1e-5  # in any element of an embedding, whose length is 1


def embed_fn(encoder: Encoder) -> Callable[[jax.Array], jax.Array]:
  """Returns uint8 [N, H, W, C] -> unit-norm float32 [N, D], with its weights.

  Convolutions are lax's own and computed in float32, whatever type the encoder
  was trained in: other runtimes lack our kernels.
  """
  fields = encoder.config['encoder'] | {'dtype': 'float32'}
  model = encoders.make(**fields, convolution=lax.conv_general_dilated)
  step = make_embed_step(
    apply_fn=model.apply, normalise=model.backbone.normalise
  )
  variables = jax.tree.map(jnp.asarray, encoder.variables)
  return lambda images: step(
    variables['params'], variables['batch_stats'], images
  )


def image_spec(encoder: Encoder) -> jax.ShapeDtypeStruct:
  """Describes the function's argument, with a symbolic number of images."""
  data = encoder.config['data']
  shape = f'n, {data["size"]}, {data["size"]}, {data["channels"]}'
  return jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), jnp.uint8)


def check(
  encoder: Encoder, run: Callable[[np.ndarray], np.ndarray], what: str
) -> float:
  """Measures the largest difference between `run` and the encoder.

  Args:
    encoder: the original.
    run: uint8 [N, H, W, C] -> embeddings [N, D] by the exported model.
    what: the converter, for the error.

  Returns:
    The largest difference over all elements.

  Raises:
    InputError: the difference is too large.
  """
  reference = Encoder(
    **encoder.variables,
    config=encoder.config
    | {'encoder': encoder.config['encoder'] | {'dtype': 'float32'}},
    class_names=encoder.class_names,
    step=encoder.step,
  )
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (32, *image_spec(encoder).shape[1:]), np.uint8)
  images[1] = 0  # an image of nothing but background
  want = reference.embed(images)
  found = max(
    np.abs(run(part) - want[: len(part)]).max() for part in (images[:1], images)
  )
  if not found <= _TOLERANCE:
    raise InputError(
      f'the model that {what} made is {found:.1e} off the encoder; nothing was'
      ' written. Try another version of it'
    )
  return float(found)
