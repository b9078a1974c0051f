"""Runs the jobs of our side that a CPU and an accelerator have in common."""

import functools

import jax
import jax.numpy as jnp

from benchmarks import inputs
from benchmarks.serve import Job, each
from plankton_jax import objectives, retrieval
from plankton_jax.train import sharding


def matmul(*, side: int, kind: str = 'float32') -> Job:
  """Multiplies random square matrices in 'bfloat16', 'tf32' or 'float32'.

  'tf32' is the default of float32 products on devices that have it.
  """
  x = jnp.asarray(inputs.square(side))
  if kind == 'bfloat16':
    x = x.astype(jnp.bfloat16)
  precision = 'highest' if kind == 'float32' else 'default'
  product = jax.jit(functools.partial(jnp.dot, precision=precision))
  return each(lambda: product(x, x), jax.block_until_ready), {
    'flops': 2 * side**3,
    'backend': jax.default_backend(),
  }


def mining(*, batch: int, dim: int, policy: str) -> Job:
  """Mines a batch, and computes its triplet loss and gradient."""
  positive, negative = policy.split('+')
  objective = objectives.triplet(margin=0.5, stages=((positive, negative),))
  rows = {
    'label': jnp.asarray(inputs.labels(batch, 10)),
    'valid': jnp.ones(batch, bool),
  }
  x = jnp.asarray(inputs.embeddings(batch, dim, 10))
  function = jax.value_and_grad(
    lambda x, rows: objective.loss({}, x, rows, stage=0), has_aux=True
  )
  compiled = jax.jit(function).lower(x, rows).compile()
  return each(lambda: compiled(x, rows), jax.block_until_ready), {
    'flops': 2 * batch**2 * dim,
    'checks': {'loss': float(compiled(x, rows)[0][0])},
  } | peak(compiled)


def retrieve(*, rows: int, dim: int, classes: int, tail: float = 0.0) -> Job:
  """Computes Recall@1, R-precision and MAP@R, each row against all others."""
  x, labels = (
    inputs.embeddings(rows, dim, classes, tail),
    inputs.labels(rows, classes, tail),
  )
  measure = lambda: retrieval.evaluate(x, labels, ks=(1,))
  found = measure()
  names = ('recall_at_1', 'r_precision', 'map_at_r')
  return each(measure), {
    'flops': 2 * rows**2 * dim,
    'checks': {name: found[name] for name in names},
  }


def peak(compiled: jax.stages.Compiled) -> dict[str, float]:
  """Counts the bytes of a program, and those of its temporaries."""
  found = sharding.program_memory(compiled)
  return {'memory': found.total, 'temporary': found.temporary}
