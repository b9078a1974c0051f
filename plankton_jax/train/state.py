"""The training state: arrays only."""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from plankton_jax.nn.encoder import ResNet
from plankton_jax.objectives import Objective


class TrainState(struct.PyTreeNode):
  """Everything that a step changes; models and optimisers are closed over."""

  step: jax.Array
  params: dict  # {'encoder': ..., 'objective': ...}
  batch_stats: dict
  opt_state: optax.OptState


def create(
  key: jax.Array,
  *,
  encoder: ResNet,
  objective: Objective,
  tx: optax.GradientTransformation,
  image_shape: tuple[int, int, int],
) -> TrainState:
  """A fresh state for images of shape [H, W, C].

  Under `jax.eval_shape` this costs nothing: that is how checkpoints learn
  what to restore.
  """
  encoder_key, objective_key = jax.random.split(key)
  images = jnp.zeros((1, *image_shape), jnp.float32)
  variables = encoder.init(encoder_key, images, train=False)
  params = {
    'encoder': variables['params'],
    'objective': objective.init(objective_key),
  }
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=variables['batch_stats'],
    opt_state=tx.init(params),
  )
