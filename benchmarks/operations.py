"""Counts operations and parameters of an encoder from its shapes."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from plankton_jax.nn import encoders


def count(fields: Mapping[str, Any], side: int, batch: int) -> dict[str, int]:
  """Counts `parameters`, and `flops` of a forward pass (a product is two).

  Args:
    fields: the config's section `encoder`.
    side: of the images, px.
    batch: images.
  """

  def forward(key):
    return encoders.make(**fields).init_with_output(
      key,
      jnp.zeros((batch, side, side, 1)),
      train=False,
      capture_intermediates=lambda layer, _: isinstance(
        layer, nn.Conv | nn.Dense
      ),
      mutable=True,
    )[1]

  found = jax.eval_shape(forward, jax.random.key(0))
  params = flatten_dict(found['params'])
  outputs = flatten_dict(found['intermediates'])
  return {
    'parameters': sum(x.size for x in params.values()),
    'flops': sum(
      2 * outputs[(*path[:-1], '__call__')][0].size * x.size // x.shape[-1]
      for path, x in params.items()
      if path[-1] == 'kernel'
    ),
  }
