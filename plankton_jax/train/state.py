"""Creates the training state, which holds arrays only.

Steps differentiate, and optimisers keep state for, the trained part alone: a
frozen body costs neither a gradient nor moments.
"""

from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax
from flax import struct

from plankton_jax.augment import to_float
from plankton_jax.nn import lora, pretrained
from plankton_jax.nn.backbone import Backbone
from plankton_jax.nn.embedding import Embedder, stage_of
from plankton_jax.objectives import Objective

INIT, TRAIN = 0, 1  # the purposes of keys


class TrainState(struct.PyTreeNode):
  """The arrays that a step changes; models and optimisers are closed over."""

  step: jax.Array
  params: dict[str, Any]  # {'encoder': ..., 'objective': ...}
  batch_stats: dict[str, Any]
  opt_state: optax.OptState  # of the trained part alone


def make_key(seed: int, purpose: int) -> jax.Array:
  """Derives a key from (seed, purpose); 'rbg' compiles several times faster."""
  return jax.random.fold_in(jax.random.key(seed, impl='rbg'), purpose)


def create(
  key: jax.Array,
  *,
  encoder: Embedder,
  objective: Objective,
  tx: optax.GradientTransformation,
  image_shape: tuple[int, ...],
) -> TrainState:
  """Draws a fresh state for images of shape [H, W, C].

  Under `jax.eval_shape` it costs nothing, and tells checkpoints which shapes to
  restore.
  """
  variables = init_encoder(key, encoder=encoder, image_shape=image_shape)
  params = {
    'encoder': variables['params'],
    'objective': objective.init(_keys(key)[1]),
  }
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=variables['batch_stats'],
    opt_state=tx.init(split_frozen(params, encoder.backbone)[0]),
  )


def init_encoder(
  key: jax.Array, *, encoder: Embedder, image_shape: tuple[int, ...]
) -> dict[str, Any]:
  """Draws the encoder's `params` and `batch_stats` as `create` does."""
  images = jnp.zeros((1, *image_shape), jnp.uint8)
  images = to_float(images, encoder.backbone.normalise)
  variables = encoder.init(_keys(key)[0], images, train=False)
  # A network without BatchNorm has no statistics.
  return {'batch_stats': {}, **variables}


def with_pretrained(
  state: TrainState, *, encoder: Embedder, path: str
) -> TrainState:
  """Replaces the backbone's weights in a fresh state by those of a file.

  Raises:
    InputError: the file cannot be read, or holds another network.
  """
  variables = pretrained.begin(
    {'params': state.params['encoder'], 'batch_stats': state.batch_stats},
    backbone=encoder.backbone,
    path=path,
  )
  return state.replace(
    params={**state.params, 'encoder': variables['params']},
    batch_stats=variables['batch_stats'],
  )


def split_frozen(
  params: dict[str, Any], backbone: Backbone
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Parts a state's parameters by the stages that `backbone` freezes.

  Adapters are trained in every stage.

  Args:
    params: {'encoder': ..., 'objective': ...}.
    backbone: the encoder's, which declares its stages.

  Returns:
    The parameters with the encoder's trained arrays alone, and its frozen ones.
  """
  parts: tuple[dict, dict] = {}, {}
  for path, array in flax.traverse_util.flatten_dict(params['encoder']).items():
    frozen_stage = stage_of(backbone, path[0]) <= backbone.freeze
    parts[frozen_stage and not lora.is_adapter(path)][path] = array
  trained, frozen = map(flax.traverse_util.unflatten_dict, parts)
  return {**params, 'encoder': trained}, frozen


def join_frozen(
  trained: dict[str, Any], frozen: dict[str, Any]
) -> dict[str, Any]:
  """Puts the encoder's parts together again."""
  flatten = flax.traverse_util.flatten_dict
  return flax.traverse_util.unflatten_dict(flatten(trained) | flatten(frozen))


def _keys(key: jax.Array) -> jax.Array:
  """Splits a run's first key into the encoder's and the objective's."""
  return jax.random.split(key)
