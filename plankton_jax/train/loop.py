"""The training loop: the one place that reads a config, a clock and a disk."""

import math
import pathlib
import time
from typing import Any

import jax

from plankton_jax import settings
from plankton_jax.cli import host
from plankton_jax.data import pipeline
from plankton_jax.errors import DivergedError
from plankton_jax.settings import Config
from plankton_jax.train import batches, collapse, sharding, store
from plankton_jax.train.evaluation import evaluate
from plankton_jax.train.experiment import assemble
from plankton_jax.train.metrics import Log
from plankton_jax.train.state import (
  INIT,
  TRAIN,
  TrainState,
  make_key,
  with_pretrained,
)


def load_data(config: Config, workdir: str | pathlib.Path) -> pipeline.Data:
  """The images, labels and splits of a run, from the cache where it stands."""
  return settings.build(
    pipeline.load, config, 'data', workdir=workdir, seed=config['seed']
  )


def train_and_evaluate(
  config: Config, workdir: str | pathlib.Path, *, accept_changes: bool = False
) -> TrainState:
  """Trains as the config says, validating and saving; resumes where it can.

  Args:
    config: a plain dict with the fields of configs/base.py.
    workdir: config.json, split.json, metrics.jsonl and checkpoints/ go there.
    accept_changes: resume although the config differs from the workdir's.

  Returns:
    The state after the last step.

  Raises:
    InputError: a field or file that cannot be used.
    DivergedError: a loss or gradient that is not finite, or a collapsed
      space where `on_collapse` is 'stop'.
  """
  workdir = pathlib.Path(workdir)
  settings.check(config, workdir, accept_changes=accept_changes)
  host.use_compilation_cache(config['compilation_cache_dir'])
  data = load_data(config, workdir)
  experiment = assemble(config, data)
  per_epoch = experiment.sampler.steps_per_epoch
  with store.open_manager(workdir) as manager:
    state, progress = _start(config, experiment, manager)
    settings.write(config, workdir)  # now that all of it can be used
    first, total = int(state.step), config['epochs'] * per_epoch
    log = Log(
      workdir,
      step=first,
      total_steps=total,
      batch_size=experiment.sampler.size,
      # The batch of step n, counted from 1, is the sampler's n - 1.
      image_names=lambda step: data.ids[
        data.splits['train'][experiment.sampler(step - 1)]
      ].tolist(),
    )
    try:
      log.say(_summary(data, state))
      if first:
        log.say(
          f'resuming {workdir} at step {first} of {total}'
          f' (epoch {first / per_epoch:.2f} of {config["epochs"]})'
        )
      state = _train(config, experiment, data, state, progress, log, manager)
      manager.wait_until_finished()
      _test(config, experiment, data, state, log, manager)
    finally:
      log.close()
  return state


def _start(config, experiment, manager) -> tuple[TrainState, dict[str, Any]]:
  """The newest checkpoint's state and progress, or fresh ones."""
  newest = manager.latest_step()
  if newest is not None:
    return _restored(config, experiment, manager, newest)
  fresh = jax.jit(experiment.create)(make_key(config['seed'], INIT))
  if path := config['encoder']['pretrained']:
    fresh = with_pretrained(fresh, encoder=experiment.model, path=path)
  progress = {
    'best_map': -1.0,
    'best_loss': math.inf,
    'without_best': 0,
    'collapsed': False,
  }
  return sharding.replicate(experiment.mesh, fresh), progress


def _restored(config, experiment, manager, step):
  abstract = jax.eval_shape(experiment.create, make_key(config['seed'], INIT))
  state, meta = store.restore(manager, abstract, step)
  return sharding.replicate(experiment.mesh, state), meta['progress']


def _train(config, experiment, data, state, progress, log, manager):
  """From the state's step to the last, or until validation stops it."""
  per_epoch = experiment.sampler.steps_per_epoch
  validations = config['validations_per_epoch']
  patience = config['early_stop_validations'] or math.inf
  if progress['without_best'] >= patience:
    return state
  key = make_key(config['seed'], TRAIN)
  first = int(state.step)
  stream = batches.training(
    data.images,
    data.labels,
    data.splits['train'],
    experiment.sampler,
    range(first, config['epochs'] * per_epoch),
    experiment.mesh,
  )
  began, began_at = time.monotonic(), first
  for before, batch in enumerate(stream, start=first):
    epoch, position = divmod(before, per_epoch)
    done = before + 1
    stage = experiment.curriculum.stage_at(epoch)
    state, values = experiment.train_step(state, batch, key, stage=stage)
    where = {'step': done, 'epoch': done / per_epoch, 'stage': stage}
    log.train(values, where)

    if not _due(position, validations, per_epoch):
      continue
    recent = log.take_recent()
    found = evaluate(experiment, data, 'val', state)
    log.write('val', where, found)
    _warn_of_collapse(config, experiment, recent, progress, where, log)
    best = _update(progress, found)
    stop = progress['without_best'] >= patience
    if position + 1 == per_epoch:
      seconds = time.monotonic() - began
      summary = {
        'coverage': experiment.sampler.coverage(epoch),
        'seconds': seconds,
        'images_per_second': (done - began_at)
        * experiment.sampler.size
        / seconds,
      }
      log.write('epoch', where, summary)
      name = experiment.curriculum.names()[stage]
      log.say(
        f'epoch {epoch + 1}/{config["epochs"]} {name}'
        f'  train loss {float(values["loss"]):.4f}  val {_shown(found)}'
        f'  coverage {summary["coverage"]:.1%}  {seconds:.1f} s'
      )
      began, began_at = time.monotonic(), done
    if best or stop or position + 1 == per_epoch:
      store.save(
        manager,
        state,
        meta={
          'config': config,
          'class_names': data.class_names[: data.num_seen],
          'progress': progress,
        },
        splits=data.splits,
        measure=found['map_at_r'],
      )
    if stop:
      log.say(
        f'stopping at step {done}: {patience} validations without a new'
        f' minimum of the loss, {progress["best_loss"]:.4f}'
      )
      break
  return state


def _warn_of_collapse(config, experiment, recent, progress, where, log):
  """Says once in a run that the space has collapsed, or stops the run."""
  if progress['collapsed']:
    return
  text = collapse.diagnose(
    recent,
    margin=config['objective'].get('margin') if config['curriculum'] else None,
    embedding_dim=config['encoder']['embedding_dim'],
    stage=experiment.curriculum.names()[where['stage']],
  )
  if text is None:
    return
  progress['collapsed'] = True
  log.write('collapse', where, {'warning': text})
  if config['on_collapse'] == 'stop':
    raise DivergedError(f'step {where["step"]}: {text}')
  log.say(f'WARNING: {text}')


def _due(position: int, validations: int, per_epoch: int) -> bool:
  """Whether one of the epoch's evenly spaced validations falls here."""
  done = (position + 1) * validations // per_epoch
  return done > position * validations // per_epoch


def _update(progress: dict[str, Any], found: dict[str, float]) -> bool:
  """Counts a validation in; True if it is the best so far by MAP@R."""
  lower = found['loss'] < progress['best_loss']
  progress['without_best'] = 0 if lower else progress['without_best'] + 1
  progress['best_loss'] = min(found['loss'], progress['best_loss'])
  best = found['map_at_r'] > progress['best_map']
  progress['best_map'] = max(found['map_at_r'], progress['best_map'])
  return best


def _test(config, experiment, data, state, log, manager):
  """Logs the test split's measures, with the best checkpoint's weights."""
  step = manager.best_step()
  if step is None:
    return
  if step != int(state.step):
    state, _ = _restored(config, experiment, manager, step)
  found = evaluate(experiment, data, 'test', state)
  per_epoch = experiment.sampler.steps_per_epoch
  log.write('test', {'step': step, 'epoch': step / per_epoch}, found)
  log.say(f'test, by the best checkpoint (step {step}): {_shown(found)}')


def _shown(values: dict[str, float]) -> str:
  names = ('loss', 'accuracy', 'd_ap', 'd_an', 'recall_at_1', 'map_at_r')
  return '  '.join(f'{n} {values[n]:.4f}' for n in names if n in values)


def _summary(data: pipeline.Data, state: TrainState) -> str:
  sizes = ', '.join(f'{len(rows):,} {n}' for n, rows in data.splits.items())
  leaves = jax.tree.leaves(state.params['encoder'])
  return (
    f'{data.num_seen} seen and {len(data.class_names) - data.num_seen} unseen'
    f' classes; {sizes} images; {sum(x.size for x in leaves):,} parameters;'
    f' {jax.device_count()} {jax.default_backend()} device(s)'
  )
