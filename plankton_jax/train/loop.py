"""Runs the training loop: trains, validates, logs and saves."""

import collections
import contextlib
import math
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from plankton_jax import host
from plankton_jax.data import pipeline
from plankton_jax.errors import DivergedError, shorten_list
from plankton_jax.files import config_file, write_errors
from plankton_jax.files.config_file import Config
from plankton_jax.nn import measures, transfer
from plankton_jax.nn.embedding import MEASURES
from plankton_jax.train import (
  batches,
  failures,
  job,
  sharding,
  store,
)
from plankton_jax.train import progress as progresses
from plankton_jax.train.evaluation import (
  as_logged,
  describe,
  evaluate,
  fit_whitening,
)
from plankton_jax.train.experiment import (
  Experiment,
  assemble,
  check,
  load_data,
)
from plankton_jax.train.log import Log, Quiet
from plankton_jax.train.progress import Measure, Place, Progress
from plankton_jax.train.state import (
  INIT,
  TRAIN,
  TrainState,
  make_key,
  with_pretrained,
)

_TERMINATED = 128 + signal.SIGTERM  # the exit status, as a shell gives it

# Of a checkpoint that was saved between validations: any other is better.
_NOT_VALIDATED = Measure('none', -math.inf)


class _Run(NamedTuple):
  """The parts of the loop that stay the same from step to step."""

  config: Config
  workdir: pathlib.Path
  data: pipeline.Data
  experiment: Experiment
  manager: Any  # of checkpoints
  log: Log | Quiet


class _Lap(NamedTuple):
  """The beginning of an epoch, or of a resumed run's part of it."""

  seconds: float  # of the monotonic clock
  step: int  # the last one before it


def train_and_evaluate(
  config: Config, workdir: str | pathlib.Path, *, accept_changes: bool = False
) -> TrainState:
  """Trains as the config says, validating and saving; resumes where it can.

  One of several processes does its share, and the first alone logs.

  Args:
    config: a plain dict with the fields of configs/base.py.
    workdir: config.json, split.json, metrics.jsonl and checkpoints/ go there.
    accept_changes: resume although the config differs from the workdir's.

  Returns:
    The state after the last step.

  Raises:
    InputError: a field or file cannot be used, or another process trains in
      the workdir.
    DivergedError: a loss or gradient is not finite, or the space collapsed and
      `on_collapse` is 'stop'.
    SystemExit: SIGTERM arrived; the state is saved and the status 143.
  """
  workdir, config = pathlib.Path(workdir), config_file.complete(config)
  check(config, workdir, accept_changes=accept_changes)
  host.use_compilation_cache(config['compilation_cache_dir'])
  with write_errors.explained(workdir), contextlib.ExitStack() as held:
    with job.in_turn('data'):  # the others find the caches and the split
      if job.is_first():
        held.enter_context(job.alone_on(workdir))
      data = load_data(config, workdir, writes=job.is_first())
    experiment = assemble(config, data)
    with (
      write_errors.explained(
        workdir, need=_checkpoint_bytes(config, experiment)
      ),
      store.open_manager(workdir) as manager,
    ):
      state, progress = _start(config, experiment, manager)
      with _first_log(config, workdir, experiment, int(state.step)) as log:
        run = _Run(config, workdir, data, experiment, manager, log)
        _announce(run, state)
        state = _train(run, state, progress)
        manager.wait_until_finished()
        _finish(run, state)
  return state


def _first_log(
  config: Config, workdir: pathlib.Path, experiment: Experiment, step: int
) -> Log | Quiet:
  """Writes config.json, now that all of it can be used, and opens the log.

  Only the first process does.
  """
  if not job.is_first():
    return Quiet()
  config_file.write(config, workdir)
  failures.forget(workdir)
  store.forget_whitening(workdir)
  return Log(
    workdir,
    step=step,
    total_steps=experiment.schedule.total_steps,
    batch_size=experiment.sampler.size,
  )


def _start(
  config: Config, experiment: Experiment, manager: Any
) -> tuple[TrainState, Progress]:
  """Restores the newest checkpoint, or makes a fresh state.

  Raises:
    InputError: the pretrained weights cannot be used.
  """
  newest = manager.latest_step()
  if newest is not None:
    return _restored(config, experiment, manager, newest)
  fresh = jax.jit(experiment.create)(make_key(config['seed'], INIT))
  if path := config['encoder']['pretrained']:
    fresh = with_pretrained(fresh, encoder=experiment.model, path=path)
  return sharding.place(experiment.mesh, fresh), Progress()


def _restored(
  config: Config, experiment: Experiment, manager: Any, step: int
) -> tuple[TrainState, Progress]:
  abstract = jax.eval_shape(experiment.create, make_key(config['seed'], INIT))
  state, meta = store.restore(manager, abstract, step, experiment.mesh)
  return (
    sharding.place(experiment.mesh, state),
    progresses.from_meta(meta['progress']),
  )


def _checkpoint_bytes(config: Config, experiment: Experiment) -> int:
  state = jax.eval_shape(experiment.create, make_key(config['seed'], INIT))
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


def _announce(run: _Run, state: TrainState) -> None:
  """Logs what is trained, and from where a resumed run goes on."""
  data, schedule = run.data, run.experiment.schedule
  sizes = ', '.join(f'{len(rows):,} {n}' for n, rows in data.splits.items())
  leaves = jax.tree.leaves(state.params['encoder'])
  run.log.say(
    f'{data.num_seen} of {len(data.class_names)} classes trained on;'
    f' {sizes} images; {sum(x.size for x in leaves):,} parameters;'
    f' {jax.device_count()} {jax.default_backend()} device(s)'
    + (f' in {count} processes' if (count := jax.process_count()) > 1 else '')
  )
  if run.experiment.model.size:
    found = run.experiment.columns['measures'][data.splits['train']]
    in_um = bool(state.batch_stats[MEASURES]['in_um'])
    run.log.say(measures.unit(found, in_um=in_um))
  if step := int(state.step):
    run.log.say(
      f'resuming {run.workdir} at step {step} of {schedule.total_steps}'
      f' (epoch {step / schedule.steps_per_epoch:.2f} of {schedule.epochs})'
    )
  elif seen := _seen_before(run):
    run.log.say(
      f'WARNING: encoder.pretrained={run.config["encoder"]["pretrained"]} was'
      f' trained on {shorten_list(seen)}: as unseen classes they are'
      ' measured too well'
    )


def _seen_before(run: _Run) -> list[str]:
  """Lists the unseen classes that the encoder to begin from was trained on."""
  labels = np.unique(run.data.labels[run.data.splits['unseen']])
  return transfer.common(
    transfer.seen_classes(run.config['encoder']['pretrained']),
    [run.data.class_names[label] for label in labels],
  )


def _train(run: _Run, state: TrainState, progress: Progress) -> TrainState:
  """Trains and validates in turn, to the end or an early stop."""
  schedule = run.experiment.schedule
  patience = run.config['early_stop_validations']
  step, lap = int(state.step), _Lap(time.monotonic(), int(state.step))
  stream = _batches(run, step)
  with job.sigterm_noticed() as terminated:
    while step < schedule.total_steps and not progress.stops_early(patience):
      state, place, recent = _train_steps(run, state, stream, terminated)
      step = place.step
      if not place.validates:  # interrupted
        _leave(run, state, progress, _NOT_VALIDATED)
      found = evaluate(run.experiment, run.data, 'val', state)
      run.log.write('val', place.logged, found)
      measure = progresses.measure_of(found, step)
      if step == schedule.first_validation and (
        text := progresses.explain_undefined(found, measure, patience)
      ):
        run.log.say(f'WARNING: {text}')
      progress = _check_collapse(run, place, recent, progress)
      best = measure.value > progress.best_measure
      progress = progress.after_validation(measure, found['loss'])
      if place.ends_epoch:
        lap = _finish_epoch(run, place, lap, recent, found)
      if terminated(step):
        _leave(run, state, progress, measure)
      if best or place.ends_epoch or progress.stops_early(patience):
        _save(run, state, progress, measure)
  if progress.stops_early(patience):
    run.log.say(
      f'stopped at step {step}: {patience} validations without a new minimum'
      f' of the loss, {progress.best_loss:.4f}'
    )
  return state


def _batches(run: _Run, step: int) -> Iterator[tuple[Place, dict]]:
  """Yields the places and batches of the steps after `step`."""
  schedule = run.experiment.schedule
  stream = batches.training(
    run.experiment.columns,
    run.data.splits['train'],
    run.experiment.sampler,
    range(step, schedule.total_steps),
    run.experiment.mesh,
  )
  for done, batch in enumerate(stream, start=step + 1):
    yield schedule.place(done), batch


def _train_steps(
  run: _Run,
  state: TrainState,
  stream: Iterator[tuple[Place, dict]],
  terminated: Callable[[int], bool],
) -> tuple[TrainState, Place, list[dict[str, float]]]:
  """Trains up to the next validation, or until SIGTERM.

  Returns:
    The state, the place of its last step, and all steps' metrics.
  """
  key = make_key(run.config['seed'], TRAIN)
  dispatched: collections.deque[tuple[Place, dict]] = collections.deque()
  recent = []
  for place, batch in stream:
    state, metrics = run.experiment.train_step(
      state, batch, key, stage=place.stage
    )
    dispatched.append((place, metrics))
    last = terminated(place.step) or place.validates
    recent += _log_steps(run, batches.read_back(dispatched, wait=last))
    if last:
      return state, place, recent
  raise AssertionError('the last step of a run validates')


def _log_steps(
  run: _Run, steps: list[tuple[Place, dict[str, float]]]
) -> list[dict[str, float]]:
  """Checks and logs the metrics of steps; returns them as logged."""

  def image_names(step: int) -> list[str]:
    # The batch of step n, counted from 1, is the sampler's n - 1.
    rows = run.data.splits['train'][run.experiment.sampler(step - 1)]
    return run.data.ids[rows].tolist()

  logged = []
  for place, metrics in steps:
    failures.check_step(
      metrics, place.step, image_names, run.workdir if job.is_first() else None
    )
    logged.append(as_logged(metrics))
    run.log.write('train', place.logged, logged[-1])
  return logged


def _check_collapse(
  run: _Run, place: Place, recent: list[dict[str, float]], progress: Progress
) -> Progress:
  """Reports, once in a run, that the space collapsed since the last validation.

  Raises:
    DivergedError: it did, and `on_collapse` is 'stop'.
  """
  if progress.collapsed:
    return progress
  experiment = run.experiment
  text = failures.diagnose_collapse(
    recent,
    collapsed_loss=experiment.objective.collapsed_loss,
    embedding_dim=run.config['encoder']['embedding_dim'],
    stage=experiment.schedule.curriculum.names()[place.stage],
  )
  if text is None:
    return progress
  run.log.write('collapse', place.logged, {'warning': text})
  if run.config['on_collapse'] == 'stop':
    raise DivergedError(f'step {place.step}: {text}')
  run.log.say(f'WARNING: {text}')
  return progress._replace(collapsed=True)


def _finish_epoch(
  run: _Run,
  place: Place,
  lap: _Lap,
  recent: list[dict[str, float]],
  found: dict[str, float],
) -> _Lap:
  """Logs an epoch's summary, and begins the next lap."""
  now, experiment = time.monotonic(), run.experiment
  seconds = now - lap.seconds
  images = (place.step - lap.step) * experiment.sampler.size
  summary = {
    'coverage': experiment.sampler.coverage(place.epoch),
    'seconds': seconds,
    'images_per_second': images / seconds,
  }
  run.log.write('epoch', place.logged, summary)
  stage = experiment.schedule.curriculum.names()[place.stage]
  run.log.say(
    f'epoch {place.epoch + 1}/{run.config["epochs"]} {stage}'
    f'  train loss {recent[-1]["loss"]:.4f}  val {describe(found)}'
    f'  coverage {summary["coverage"]:.1%}  {seconds:.1f} s'
  )
  return _Lap(now, place.step)


def _save(
  run: _Run, state: TrainState, progress: Progress, measure: Measure
) -> None:
  """Saves in the background; keeps the checkpoint with the best measure.

  The saved config names the white that the data was scaled by, so that images
  embedded later are scaled alike.
  """
  data = run.config['data']
  white = run.data.white or data['white']
  store.save(
    run.manager,
    state,
    meta={
      'config': {**run.config, 'data': {**data, 'white': white}},
      'class_names': run.data.class_names[: run.data.num_seen],
      'progress': progress._asdict(),
    },
    splits=run.data.splits,
    measure=measure.value,
  )


def _leave(
  run: _Run, state: TrainState, progress: Progress, measure: Measure
) -> None:
  """Saves the state and ends the process, as SIGTERM asks."""
  _save(run, state, progress, measure)
  run.manager.wait_until_finished()
  run.log.say(
    f'SIGTERM: saved step {int(state.step)}; the same command resumes the run'
  )
  raise SystemExit(_TERMINATED)


def _finish(run: _Run, state: TrainState) -> None:
  """Whitens the best checkpoint's embeddings, and logs the test's measures."""
  step = run.manager.best_step()
  if step is None:
    return
  if step != int(state.step):
    state, _ = _restored(run.config, run.experiment, run.manager, step)
  whitening = _whiten(run, state, step)
  found = evaluate(run.experiment, run.data, 'test', state, whitening=whitening)
  place = run.experiment.schedule.place(step)
  run.log.write('test', {'step': step, 'epoch': place.passed}, found)
  run.log.say(f'test, by the best checkpoint (step {step}): {describe(found)}')


def _whiten(run: _Run, state: TrainState, step: int) -> np.ndarray | None:
  """Fits the whitening of a checkpoint and keeps it beside the checkpoints."""
  power = run.config['encoder']['whitening']
  if not power:
    return None
  found = fit_whitening(run.experiment, run.data, state, power=power)
  if job.is_first():
    store.save_whitening(run.workdir, found, step)
  return found
