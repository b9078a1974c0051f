"""Makes the jitted steps, pure functions, from their dependencies."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.stages import Wrapped

from plankton_jax.augment import to_float
from plankton_jax.nn.backbone import Backbone, Normalisation
from plankton_jax.objectives import Objective, masked_mean
from plankton_jax.train import chunks
from plankton_jax.train.state import TrainState, join_frozen, split_frozen


def make_train_step(
  *,
  apply_fn: Callable,
  backbone: Backbone,
  augment: Callable,
  tx: optax.GradientTransformation,
  objective: Objective,
  views: int,
  chunk: int,
) -> Wrapped:
  """Makes `train_step(state, batch, key, *, stage) -> (state, metrics)`.

  `batch` holds `image` uint8 [B, H, W, C], `label` [B], `valid` [B] and, for an
  encoder that takes them, `measures` [B, M], NaN where unknown; `key` is the
  run's own, into which the step folds its number; `stage` is a static Python
  int, so that each stage is traced once. The state is donated. Each image is
  augmented `views` times, and all [B * views] rows count alike. What `backbone`
  freezes has no gradient, and `tx` no part in it.

  The encoder sees a `chunk` of images at a time, or all if that is 0: the loss
  is still that of the whole batch, but the norms' statistics and the
  augmentation's draws are those of each chunk.
  """

  @functools.partial(jax.jit, donate_argnames='state', static_argnames='stage')
  def train_step(state, batch, key, *, stage: int):
    key = jax.random.fold_in(key, state.step)
    objective_key = jax.random.split(key)[1]
    repeated = lambda x: x if views == 1 else jnp.repeat(x, views, axis=0)
    rows = {name: repeated(batch[name]) for name in ('label', 'valid')}
    trained, frozen = split_frozen(state.params, backbone)

    def embed(params, inputs, key):
      inputs = {name: repeated(x) for name, x in inputs.items()}
      augment_key = jax.random.split(key)[0]  # the other is the objective's
      # Folded in: the two keys that are split off stay as they are without it.
      measures_key = jax.random.fold_in(key, 2)
      embeddings, updated = apply_fn(
        {
          'params': join_frozen(params, frozen),
          'batch_stats': state.batch_stats,
        },
        augment(augment_key, inputs['image']),
        inputs.get('measures'),
        train=True,
        mutable=['batch_stats'],
        rngs={'measures': measures_key},
      )
      # A network without BatchNorm has no statistics.
      return embeddings, updated.get('batch_stats', {})

    def loss(params, embeddings):
      return objective.loss(
        params, embeddings, rows, stage=stage, key=objective_key
      )

    gradient = chunks.whole
    if chunk:
      gradient = functools.partial(
        chunks.cached, chunk=chunk, batch_stats=state.batch_stats
      )
    found = gradient(embed, loss, trained, _inputs(batch), key)
    updates, opt_state = tx.update(found.params, state.opt_state, trained)
    metrics = {
      'loss': found.loss,
      **found.metrics,
      **spread(found.embeddings, rows['valid']),
      'grad_norm': optax.tree.norm(found.params),
    }
    trained = optax.apply_updates(trained, updates)
    state = TrainState(
      step=state.step + 1,
      params={**trained, 'encoder': join_frozen(trained['encoder'], frozen)},
      batch_stats=found.batch_stats,
      opt_state=opt_state,
    )
    return state, metrics

  return train_step


def make_eval_step(
  *,
  apply_fn: Callable,
  normalise: Normalisation | None,
  objective: Objective,
  stage: int,
  chunk: int,
) -> Wrapped:
  """Makes `eval_step(state, batch) -> (metrics, embeddings [B, D])`.

  Norms use the running statistics, and nothing is updated. Images are prepared
  as `to_float` does for the backbone's `normalise`. The encoder sees
  a `chunk` of images at a time, or all if that is 0, to the same result.
  """
  validation_loss = objective.validation_loss or objective.loss

  @jax.jit
  def eval_step(state, batch):
    def embed(inputs):
      return apply_fn(
        _variables(state.params, state.batch_stats),
        to_float(inputs['image'], normalise),
        inputs.get('measures'),
        train=False,
      )

    embeddings = chunks.embed_all(embed, _inputs(batch), chunk)
    # Mining by 'random' needs a key; validation draws the same one each time.
    loss, metrics = validation_loss(
      state.params['objective'],
      embeddings,
      batch,
      stage=stage,
      key=jax.random.key(0),
    )
    metrics |= spread(embeddings, batch['valid'])
    return {'loss': loss, **metrics}, embeddings

  return eval_step


def make_embed_step(
  *, apply_fn: Callable, normalise: Normalisation | None
) -> Wrapped:
  """Makes `embed_step(params, batch_stats, images, measures=None)`.

  It embeds images uint8 [B, H, W, C], with measures [B, M] if the encoder takes
  them, to [B, D]. Images are prepared as `to_float` does for the backbone's
  `normalise`.
  """

  @jax.jit
  def embed_step(params, batch_stats, images, measures=None):
    return apply_fn(
      _variables(params, batch_stats),
      to_float(images, normalise),
      measures,
      train=False,
    )

  return embed_step


def _inputs(batch):
  """Picks what the encoder sees."""
  return {name: x for name, x in batch.items() if name in ('image', 'measures')}


def _variables(params, batch_stats):
  return {'params': params['encoder'], 'batch_stats': batch_stats}


def spread(embeddings: jax.Array, valid: jax.Array) -> dict[str, jax.Array]:
  """Measures how much of the space a batch fills: both fall in a collapse.

  `spread` is the standard deviation, averaged over dimensions. `effective_rank`
  is the participation ratio (Σλ)²/Σλ² of the covariance's eigenvalues, computed
  as (tr C)²/tr C², without an eigendecomposition.

  Args:
    embeddings: [B, D]; no gradient flows.
    valid: [B]; rows to count.
  """
  embeddings = jax.lax.stop_gradient(embeddings)
  mean = jax.vmap(masked_mean, in_axes=(1, None))(embeddings, valid)
  centred = jnp.where(valid[:, None], embeddings - mean, 0.0)
  count = jnp.maximum(jnp.sum(valid), 1)
  covariance = jnp.dot(centred.T, centred, precision='highest') / count
  variance = jnp.diagonal(covariance)
  square = jnp.sum(jnp.square(covariance))
  return {
    'spread': jnp.mean(jnp.sqrt(variance)),
    'effective_rank': jnp.square(jnp.sum(variance))
    / jnp.maximum(square, jnp.finfo(jnp.float32).tiny),
  }
