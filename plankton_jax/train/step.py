"""Makes the jitted steps: takes dependencies, returns a pure function."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from plankton_jax.augment import to_float
from plankton_jax.nn.backbone import Normalisation
from plankton_jax.objectives import Objective, masked_mean
from plankton_jax.train.state import TrainState


def make_train_step(
  *,
  apply_fn: Callable,
  augment: Callable,
  tx: optax.GradientTransformation,
  objective: Objective,
  views: int,
) -> Callable:
  """Makes `train_step(state, batch, key, *, stage) -> (state, metrics)`.

  `batch` holds `image` uint8 [B, H, W, C], `label` [B], `valid` [B] and, for an
  encoder that takes them, `measures` [B, M], NaN where unknown; `key` is the
  run's own, into which the step folds its number; `stage` is a static Python
  int, so that each stage is traced once. The state is donated. Each image is
  augmented `views` times, and all [B * views] rows count alike.
  """

  @functools.partial(jax.jit, donate_argnames='state', static_argnames='stage')
  def train_step(state, batch, key, *, stage: int):
    key = jax.random.fold_in(key, state.step)
    augment_key, objective_key = jax.random.split(key)
    # The third beside the two, which draw what they did without measures.
    measures_key = jax.random.fold_in(key, 2)
    if views > 1:
      batch = jax.tree.map(lambda x: jnp.repeat(x, views, axis=0), batch)
    images = augment(augment_key, batch['image'])

    def loss_fn(params):
      embeddings, updated = apply_fn(
        {'params': params['encoder'], 'batch_stats': state.batch_stats},
        images,
        batch.get('measures'),
        train=True,
        mutable=['batch_stats'],
        rngs={'measures': measures_key},
      )
      loss, metrics = objective.loss(
        params['objective'],
        embeddings,
        batch,
        stage=stage,
        key=objective_key,
      )
      # Without a norm that counts batches there are no statistics.
      batch_stats = updated.get('batch_stats', {})
      return loss, (batch_stats, metrics, embeddings)

    (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    batch_stats, metrics, embeddings = aux
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    metrics = {
      'loss': loss,
      **metrics,
      **spread(embeddings, batch['valid']),
      'grad_norm': optax.tree.norm(grads),
    }
    state = TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
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
) -> Callable:
  """Makes `eval_step(state, batch) -> (metrics, embeddings [B, D])`.

  Norms use the running statistics, and nothing is updated. Images are prepared
  as `to_float` does for the backbone's `normalise`.
  """

  @jax.jit
  def eval_step(state, batch):
    embeddings = apply_fn(
      _variables(state.params, state.batch_stats),
      to_float(batch['image'], normalise),
      batch.get('measures'),
      train=False,
    )
    # Mining by 'random' needs a key; validation draws the same one each time.
    loss, metrics = objective.loss(
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
) -> Callable:
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
