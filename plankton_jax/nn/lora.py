"""Adapts dense layers that stay by a product of two thin matrices.

Hu et al. 2022, LoRA: low-rank adaptation of large language models,
arXiv:2106.09685, equation 3, with the factor alpha / r of its section 4.1. As
inputs come first here, y = x (W + alpha / r A B) with A [in, r] and B [r, out].
"""

from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

A, B = 'lora_a', 'lora_b'  # the arrays, beside a layer's kernel and bias
# As the authors' code draws A: uniform within 1 / sqrt(in). B is 0, so that a
# layer begins as it is without them.
_INIT = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class Adapter(NamedTuple):
  """Says what a layer is adapted by.

  Attributes:
    rank: r, columns of A and rows of B.
    alpha: the factor of their product is alpha / r.
  """

  rank: int
  alpha: float


class Dense(nn.Dense):
  """A dense layer [..., in] to [..., features], with or without an adapter."""

  adapter: Adapter | None = None

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    y = super().__call__(inputs)
    if self.adapter is None:
      return y
    rank, alpha = self.adapter
    a = self.param(A, _INIT, (inputs.shape[-1], rank))
    b = self.param(B, nn.initializers.zeros, (rank, self.features))
    x = jnp.dot(inputs.astype(y.dtype), a.astype(y.dtype)) * (alpha / rank)
    return y + jnp.dot(x, b.astype(y.dtype))


def is_adapter(path: tuple[str, ...]) -> bool:
  """Tells whether the array at a path is A or B of a layer."""
  return path[-1] in (A, B)


def merge(params: dict[str, Any], *, alpha: float) -> dict[str, Any]:
  """Adds adapters to their kernels, W + alpha / r A B, and leaves them out.

  Args:
    params: of an encoder.
    alpha: that they were trained with.
  """
  flat = flax.traverse_util.flatten_dict(params)
  if not any(map(is_adapter, flat)):
    return params
  merged = {path: x for path, x in flat.items() if not is_adapter(path)}
  for path in flat:
    if path[-1] == A:
      layer = path[:-1]
      kernel, a, b = (
        np.asarray(flat[*layer, name], np.float64) for name in ('kernel', A, B)
      )
      adapted = kernel + alpha / a.shape[-1] * (a @ b)
      merged[*layer, 'kernel'] = adapted.astype(np.float32)
  return flax.traverse_util.unflatten_dict(merged)
