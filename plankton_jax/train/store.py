"""Saves and restores Orbax checkpoints: a run's newest state and its best.

The whitening of the best one, fitted when training has ended, lies beside them.
"""

import contextlib
import functools
import inspect
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from plankton_jax.errors import InputError, reason
from plankton_jax.files import atomic, weight_file, write_errors
from plankton_jax.train import sharding
from plankton_jax.train.state import TrainState

_WHITENING = 'whitening.safetensors'  # in the workdir


@contextlib.contextmanager
def damage_named(folder: pathlib.Path) -> Iterator[None]:
  """Turns a failure to read checkpoints into a line that names their folder.

  Raises:
    InputError: anything failed, except that the place cannot be written.
  """
  try:
    yield
  except InputError:
    raise
  except Exception as error:  # Orbax lets through what its parsers raise
    if write_errors.explain(error) is not None:
      raise
    raise InputError(
      f'{folder} cannot be read ({type(error).__name__}: {reason(error)}); use'
      ' another step, or train again in a new --workdir'
    ) from error


def open_manager(workdir: pathlib.Path) -> ocp.CheckpointManager:
  """Opens the workdir's checkpoints: the newest, and the best by validation.

  `max_to_keep` with `best_fn` would delete the newest step, from which a run
  resumes; hence the two policies.
  """
  _silence_late_arrays()
  measure = lambda metrics: metrics['measure']
  keep = checkpoint_managers.AnyPreservationPolicy(
    [
      checkpoint_managers.LatestN(1),
      checkpoint_managers.BestN(get_metric_fn=measure, n=1),
    ]
  )
  return ocp.CheckpointManager(
    (workdir / 'checkpoints').absolute(),
    item_handlers={
      'model': ocp.StandardCheckpointHandler(),
      'optimizer': ocp.StandardCheckpointHandler(),
      'splits': ocp.StandardCheckpointHandler(),
      'meta': ocp.JsonCheckpointHandler(),
    },
    options=ocp.CheckpointManagerOptions(
      preservation_policy=keep,
      best_fn=measure,
      best_mode='max',
      cleanup_tmp_directories=True,
    ),
  )


def has_checkpoint(workdir: pathlib.Path) -> bool:
  """Tells whether a run in the workdir would resume."""
  return any(
    entry.name.isdigit() for entry in (workdir / 'checkpoints').glob('*')
  )


@functools.cache
def _silence_late_arrays() -> None:
  """Drops what arrays report after a checkpoint has failed for another one.

  Orbax ends its event loop where one array cannot be read or written. Those in
  flight then have no one to tell, and each would print a traceback, at any
  later moment, beside the one error that says what is wrong.
  """
  before = sys.unraisablehook

  def hook(found: Any) -> None:
    coroutine = inspect.iscoroutine(found.object) and found.object.cr_code
    ended = str(found.exc_value) == 'Event loop is closed'
    if not ended and not (coroutine and 'orbax' in coroutine.co_filename):
      before(found)

  sys.unraisablehook = hook


def save(
  manager: ocp.CheckpointManager,
  state: TrainState,
  *,
  meta: dict[str, Any],
  splits: dict[str, np.ndarray],
  measure: float,
) -> None:
  """Saves in the background; the state may be donated right after.

  Args:
    manager: from `open_manager`.
    state: the state.
    meta: plain JSON: config, class_names, progress.
    splits: rows of each split; empty ones, which Orbax cannot save, are left
      out.
    measure: of the validation; the checkpoint with the highest is kept.
  """
  filled = {name: rows for name, rows in splits.items() if len(rows)}
  manager.save(
    int(state.step),
    args=ocp.args.Composite(
      model=ocp.args.StandardSave(
        {'params': state.params, 'batch_stats': state.batch_stats}
      ),
      optimizer=ocp.args.StandardSave({'opt_state': state.opt_state}),
      splits=ocp.args.StandardSave(filled),
      meta=ocp.args.JsonSave(meta),
    ),
    metrics={'measure': measure},
  )


def restore(
  manager: ocp.CheckpointManager,
  abstract: TrainState,
  step: int,
  mesh: jax.sharding.Mesh | None = None,
) -> tuple[TrainState, dict[str, Any]]:
  """Restores a step's state, shaped as `abstract`, and its meta.

  Args:
    manager: from `open_manager`.
    abstract: the state's shapes.
    step: of the checkpoint, which any number of processes may have saved.
    mesh: of the devices that are to hold the state; None for one.

  Raises:
    InputError: the checkpoint is damaged.
  """
  target = sharding.describe(mesh, abstract)
  optimizer = {'opt_state': target.opt_state}
  with damage_named(_folder(manager, step)):
    saved = manager.item_metadata(step).optimizer.tree
    # Up to version 0.2.0 frozen stages had moments too.
    more = _by_path(saved).keys() > _by_path(optimizer).keys()
    found = manager.restore(
      step,
      args=ocp.args.Composite(
        model=ocp.args.StandardRestore(
          {'params': target.params, 'batch_stats': target.batch_stats}
        ),
        optimizer=ocp.args.StandardRestore(
          sharding.describe(mesh, saved) if more else optimizer
        ),
        meta=ocp.args.JsonRestore(),
      ),
    )
  arrays = _by_path(found.optimizer)
  state = TrainState(
    step=jax.numpy.asarray(step, jax.numpy.int32),
    params=found.model['params'],
    batch_stats=found.model['batch_stats'],
    opt_state=jax.tree_util.tree_map_with_path(
      lambda path, _: arrays[_name(path)], optimizer
    )['opt_state'],
  )
  return state, found.meta


def restore_model(
  manager: ocp.CheckpointManager, step: int
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Restores a step's `params` and `batch_stats` as saved, and the meta.

  Raises:
    InputError: the checkpoint is damaged.
  """
  with damage_named(_folder(manager, step)):
    saved = manager.item_metadata(step).model.tree
    found = manager.restore(
      step,
      args=ocp.args.Composite(
        model=ocp.args.StandardRestore(sharding.describe(None, saved)),
        meta=ocp.args.JsonRestore(),
      ),
    )
  return found.model, found.meta


def save_whitening(
  workdir: pathlib.Path, matrix: np.ndarray, step: int
) -> None:
  """Writes the whitening [D, D] of the embeddings of a step's checkpoint."""
  import safetensors.numpy  # a run without whitening needs none

  with atomic.file(workdir / _WHITENING) as building:
    building.write_bytes(
      safetensors.numpy.save({'matrix': matrix}, metadata={'step': str(step)})
    )


def forget_whitening(workdir: pathlib.Path) -> None:
  """Deletes the whitening, of a run that goes on."""
  (workdir / _WHITENING).unlink(missing_ok=True)


def load_whitening(workdir: pathlib.Path, step: int) -> np.ndarray | None:
  """Reads the whitening [D, D] of a step's checkpoint, if it has one.

  Raises:
    InputError: the file is damaged.
  """
  path = workdir / _WHITENING
  if not path.exists():
    return None
  try:
    arrays, header = weight_file.read(path)
    matrix = arrays['matrix']
  except (InputError, KeyError) as error:
    raise InputError(
      f'{path} is damaged ({error}); start the same training again, which'
      ' writes it anew'
    ) from None
  return matrix if header.get('step') == str(step) else None


def _folder(manager: ocp.CheckpointManager, step: int) -> pathlib.Path:
  return pathlib.Path(manager.directory) / str(step)


def _by_path(tree: Any) -> dict[str, Any]:
  """Lists the leaves, named alike before and after they are saved."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {_name(path): leaf for path, leaf in leaves}


def _name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')
