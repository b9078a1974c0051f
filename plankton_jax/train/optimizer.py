"""Builds the optimiser that a config's `optimizer` section describes."""

from typing import Any

import jax
import optax

from plankton_jax.errors import InputError
from plankton_jax.nn.embedding import Embedder, stage_of


def make(
  *,
  learning_rate: float,
  schedule: str,
  warmup_epochs: float,
  weight_decay: float,
  objective_rate: float,
  encoder_rate: float,
  layer_decay: float,
  model: Embedder,
  epochs: int,
  steps_per_epoch: int,
) -> optax.GradientTransformation:
  """Builds Adam (Kingma and Ba 2015, arXiv:1412.6980) with a schedule.

  Args:
    learning_rate: at the peak of the schedule.
    schedule: 'constant' or 'cosine' (to 0 at the last epoch).
    warmup_epochs: length of a linear rise from 0.
    weight_decay: of the encoder's kernels only, decoupled from the gradient;
      never of norms, biases, adapters or prototypes (Loshchilov and Hutter
      2019, arXiv:1711.05101).
    objective_rate: the learning rate of the objective's own parameters, as a
      multiple of the head's.
    encoder_rate: the learning rate of the backbone's last stage, as a multiple
      of the head's.
    layer_decay: each stage's learning rate, as a share of the next one's (Clark
      et al. 2020, arXiv:2003.10555, their layer-wise decay).
    model: the encoder, whose backbone declares the stages.
    epochs: of the whole run.
    steps_per_epoch: turns epochs into steps.

  Raises:
    InputError: the schedule is unknown, or the warm-up as long as the run.
  """
  total = epochs * steps_per_epoch
  warmup = round(warmup_epochs * steps_per_epoch)
  if warmup >= total:
    raise InputError(
      f'optimizer.warmup_epochs={warmup_epochs} leaves nothing of the'
      f' {epochs} epochs'
    )
  if schedule == 'constant':
    after = optax.constant_schedule(learning_rate)
  elif schedule == 'cosine':
    after = optax.cosine_decay_schedule(learning_rate, total - warmup)
  else:
    raise InputError(
      f'optimizer.schedule={schedule!r} is unknown; choose constant or cosine'
    )
  rise = optax.linear_schedule(0.0, learning_rate, max(warmup, 1))
  rate = optax.join_schedules([rise, after], [warmup]) if warmup else after
  backbone, last = model.backbone, len(model.backbone.stages)

  def rate_of(path: tuple[jax.tree_util.DictKey, ...]) -> float:
    if path[0].key != 'encoder':
      return objective_rate
    stage = stage_of(backbone, path[1].key)
    if stage > last:
      return 1.0
    return encoder_rate * layer_decay ** (last - stage)

  return optax.chain(
    optax.adamw(rate, weight_decay=weight_decay, mask=decays),
    optax.stateless(
      lambda updates, _: jax.tree_util.tree_map_with_path(
        lambda path, update: rate_of(path) * update, updates
      )
    ),
  )


def decays(params: dict[str, Any]) -> dict[str, Any]:
  """Marks the encoder's kernels True, everything else False."""

  def is_kernel(path, _):
    return path[0].key == 'encoder' and path[-1].key == 'kernel'

  return jax.tree_util.tree_map_with_path(is_kernel, params)
