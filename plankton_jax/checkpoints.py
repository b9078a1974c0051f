"""Orbax checkpoints: a run's newest and best state, and encoders from them."""

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tqdm
from orbax.checkpoint import checkpoint_managers

from plankton_jax import config_file, objectives
from plankton_jax.errors import InputError
from plankton_jax.export import folder
from plankton_jax.nn import encoder as encoders
from plankton_jax.train.state import TrainState
from plankton_jax.train.step import make_embed_step

_EMBED_BATCH = 256  # views; an image is as many as its encoder has poses


def open_manager(workdir: pathlib.Path) -> ocp.CheckpointManager:
  """The workdir's checkpoints: the newest, and the best by validation.

  `max_to_keep` with `best_fn` would delete the newest step, from which a run
  resumes; hence the two policies.
  """
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
    splits: rows of each split; Orbax saves none of those without any.
    measure: of validation; the checkpoint with the highest is kept.
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
  manager: ocp.CheckpointManager, abstract: TrainState, step: int
) -> tuple[TrainState, dict[str, Any]]:
  """The state of a step, shaped as `abstract`, and its meta."""
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  target = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), abstract
  )
  found = manager.restore(
    step,
    args=ocp.args.Composite(
      model=ocp.args.StandardRestore(
        {'params': target.params, 'batch_stats': target.batch_stats}
      ),
      optimizer=ocp.args.StandardRestore({'opt_state': target.opt_state}),
      meta=ocp.args.JsonRestore(),
    ),
  )
  state = TrainState(
    step=jax.numpy.asarray(step, jax.numpy.int32),
    params=found.model['params'],
    batch_stats=found.model['batch_stats'],
    opt_state=found.optimizer['opt_state'],
  )
  return state, found.meta


class Encoder:
  """A trained (or fresh) encoder and what it was trained with.

  Attributes:
    config: the run's config, a plain dict.
    class_names: the seen classes, in the order of `scores`.
    step: the checkpoint's step.
  """

  def __init__(self, params, batch_stats, config, class_names, step):
    self.config = config
    self.class_names = tuple(class_names)
    self.step = step
    self._params = params
    self._batch_stats = batch_stats
    self._step_fn = make_embed_step(
      apply_fn=config_file.build(encoders.make, config, 'encoder').apply
    )

  @property
  def variables(self) -> dict[str, Any]:
    """Its arrays: `params` (encoder, objective) and `batch_stats`."""
    return {'params': self._params, 'batch_stats': self._batch_stats}

  def embed(self, images: np.ndarray) -> np.ndarray:
    """Embeds uint8 [N, H, W, C] to unit-norm float32 [N, D].

    Raises:
      InputError: images of another type or shape than trained on.
    """
    data = self.config['data']
    want = (data['size'], data['size'], data['channels'])
    if images.dtype != np.uint8 or images.shape[1:] != want:
      raise InputError(
        f'images are {images.dtype} {images.shape}; the encoder takes uint8'
        f' [N, {want[0]}, {want[1]}, {want[2]}]'
      )
    dim = self.config['encoder']['embedding_dim']
    out = np.empty((len(images), dim), np.float32)
    size = _EMBED_BATCH // self.config['encoder']['poses']
    starts = range(0, len(images), size)
    for start in tqdm.tqdm(starts, 'embed', disable=len(starts) < 20):
      part = np.asarray(images[start : start + size])
      padding = [(0, size - len(part))] + [(0, 0)] * 3
      embedded = self._step_fn(
        self._params, self._batch_stats, np.pad(part, padding)
      )
      out[start : start + len(part)] = embedded[: len(part)]
    return out

  def scores(self, embeddings: np.ndarray) -> np.ndarray | None:
    """Logits without margin [N, D] -> [N, seen], or None without a head."""
    if not self._params['objective']:
      return None
    cosines = objectives.cosines(self._params['objective'], embeddings)
    return self.config['objective']['scale'] * np.asarray(cosines)


def load_encoder(
  workdir: str | pathlib.Path, step: int | None = None
) -> Encoder:
  """The encoder of a workdir, from its checkpoints alone.

  Args:
    workdir: of the run, or a folder that `plankton_jax.export` wrote.
    step: one that is kept; None is the best by validation.

  Raises:
    InputError: no checkpoint there, not of that step, or of another version.
  """
  workdir = pathlib.Path(workdir)
  if (workdir / folder.WEIGHTS).is_file():
    found = folder.read(workdir)
    if step not in (None, found['step']):
      raise InputError(
        f'{workdir}: no checkpoint of step {step}; it holds {found["step"]}'
      )
    return Encoder(**found)
  if not (workdir / 'checkpoints').is_dir():
    raise InputError(f'{workdir}: no checkpoints; train with launch.py first')
  with open_manager(workdir) as manager:
    step = manager.best_step() if step is None else step
    if step is None or step not in manager.all_steps():
      raise InputError(
        f'{workdir}: no checkpoint of step {step}; kept are'
        f' {manager.all_steps()}'
      )
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    saved = manager.item_metadata(step).model.tree
    target = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), saved
    )
    found = manager.restore(
      step,
      args=ocp.args.Composite(
        model=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()
      ),
    )
  return Encoder(
    found.model['params'],
    found.model['batch_stats'],
    found.meta['config'],
    found.meta['class_names'],
    step,
  )


def untrained_encoder(workdir: str | pathlib.Path) -> Encoder:
  """The encoder of a workdir with fresh random weights: what it began as."""
  trained = load_encoder(workdir)
  config = trained.config
  data = config['data']
  shape = (1, data['size'], data['size'], data['channels'])
  model = encoders.make(**config['encoder'])
  variables = jax.jit(
    lambda key: model.init(key, np.zeros(shape, np.float32), train=False)
  )(jax.random.key(config['seed'], impl='rbg'))
  return Encoder(
    {'encoder': variables['params'], 'objective': {}},
    variables['batch_stats'],
    config,
    trained.class_names,
    0,
  )
