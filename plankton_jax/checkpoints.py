"""Loads encoders from the checkpoints of a run, or from an exported folder."""

import pathlib
from typing import Any

import jax

from plankton_jax.encoder import Encoder
from plankton_jax.errors import InputError
from plankton_jax.files import config_file, encoder_folder
from plankton_jax.nn import encoders, pretrained
from plankton_jax.nn.embedding import MEASURES
from plankton_jax.nn.whitening import WHITENING
from plankton_jax.train import store
from plankton_jax.train.state import INIT, init_encoder, make_key


def load_encoder(
  workdir: str | pathlib.Path, step: int | None = None
) -> Encoder:
  """Loads the encoder of a workdir, from its checkpoints alone.

  Args:
    workdir: of the run, a folder that `plankton_jax.export` wrote, or the name
      of a bundled encoder.
    step: of a checkpoint that was kept; None takes the best by validation.

  Raises:
    InputError: there is no checkpoint, none of that step, a damaged one, or one
      of another version.
  """
  workdir = pathlib.Path(workdir)
  found = _read(workdir, step)
  with store.damage_named(workdir):
    try:
      return Encoder(**found)
    except InputError as error:
      raise InputError(f'{workdir}: {error}') from None


def _read(workdir: pathlib.Path, step: int | None = None) -> dict[str, Any]:
  """Reads the arguments of an `Encoder`."""
  folder = encoder_folder.find(workdir)
  # A run keeps its name although a bundled encoder has the same.
  if folder and (folder == workdir or not (workdir / 'checkpoints').is_dir()):
    found = encoder_folder.read(folder)
    if step not in (None, found['step']):
      raise InputError(
        f'{workdir}: no checkpoint of step {step}; it holds {found["step"]}'
      )
    return found
  if not (workdir / 'checkpoints').is_dir():
    raise InputError(f'{workdir}: no checkpoints; train with launch.py first')
  with (
    store.damage_named(workdir / 'checkpoints'),
    store.open_manager(workdir) as manager,
  ):
    step = manager.best_step() if step is None else step
    if step is None or step not in manager.all_steps():
      raise InputError(
        f'{workdir}: no checkpoint of step {step}; kept are'
        f' {manager.all_steps()}'
      )
    model, meta = store.restore_model(manager, step)
    whitening = store.load_whitening(workdir, step)
    fitted = {} if whitening is None else {WHITENING: {'matrix': whitening}}
    return {
      'params': model['params'],
      'batch_stats': model['batch_stats'] | fitted,
      'config': meta['config'],
      'class_names': meta['class_names'],
      'step': step,
    }


def untrained_encoder(workdir: str | pathlib.Path) -> Encoder:
  """Rebuilds the encoder that a workdir's run began from, without its head.

  Draws the weights by the run's own key, and reads those of
  `encoder.pretrained` as the run did.

  Raises:
    InputError: as in `load_encoder`, or the pretrained weights are gone.
  """
  trained = _read(pathlib.Path(workdir))
  config = config_file.complete(trained['config'])
  data = config['data']
  model = encoders.make(**config['encoder'], adapted=False)
  variables = jax.jit(
    lambda key: init_encoder(
      key,
      encoder=model,
      image_shape=(data['size'], data['size'], data['channels']),
    )
  )(make_key(config['seed'], INIT))
  if path := config['encoder']['pretrained']:
    variables = pretrained.begin(variables, backbone=model.backbone, path=path)
  stats = trained['batch_stats']
  # How measures are standardised is of the images, not of the training.
  ours = {name: stats[name] for name in stats.keys() & {MEASURES}}
  return Encoder(
    {'encoder': variables['params'], 'objective': {}},
    variables['batch_stats'] | ours,
    config,
    trained['class_names'],
    0,
  )
