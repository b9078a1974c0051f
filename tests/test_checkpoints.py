import contextlib
import errno
import json
import pathlib
import shutil
import subprocess
import sys
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
import torch_layout

from configs import smoke
from plankton_jax import checkpoints
from plankton_jax.errors import InputError
from plankton_jax.nn import encoders, resnet
from plankton_jax.nn.embedding import MEASURES
from plankton_jax.nn.whitening import WHITENING
from plankton_jax.train import loop, optimizer, store
from plankton_jax.train.state import (
  INIT,
  TrainState,
  init_encoder,
  make_key,
  split_frozen,
)
from tests.tiny_encoder import OPTIMIZER, TINY

ROOT = pathlib.Path(__file__).parents[1]


def _state(step):
  params = {'encoder': {'kernel': jnp.full((3, 2), float(step))}}
  return TrainState(
    step=jnp.int32(step),
    params={**params, 'objective': {}},
    batch_stats={'mean': jnp.full(2, step + 0.5)},
    opt_state=optax.adam(0.1).init(params),
  )


def _save(workdir, measures):
  with store.open_manager(workdir) as manager:
    for step, measure in enumerate(measures, start=1):
      store.save(
        manager,
        _state(step),
        meta={'class_names': ['a', 'b'], 'progress': {'best_loss': step}},
        splits={'train': np.arange(3), 'unseen': np.arange(0)},
        measure=measure,
      )
      manager.wait_until_finished()
    return manager.all_steps(), manager.latest_step(), manager.best_step()


def _save_run(workdir, config, state, measure=0.5):
  with store.open_manager(workdir) as manager:
    store.save(
      manager,
      state,
      meta={'class_names': ['a', 'b'], 'config': config},
      splits={'train': np.arange(3)},
      measure=measure,
    )


@pytest.mark.parametrize(
  ('measures', 'kept', 'best'),
  [
    ([0.1, 0.9, 0.3, 0.2], [2, 4], 2),
    ([0.1, 0.2, 0.3, 0.9], [4], 4),
    ([0.9, 0.2, 0.3, 0.4], [1, 4], 1),
  ],
)
def test_newest_and_best_are_kept(tmp_path, measures, kept, best):
  steps, latest, found = _save(tmp_path, measures)
  assert list(steps) == kept
  assert latest == 4
  assert found == best


def test_restored_bit_for_bit(tmp_path):
  _save(tmp_path, [0.1, 0.2])
  with store.open_manager(tmp_path) as manager:
    state, meta = store.restore(manager, jax.eval_shape(lambda: _state(0)), 2)
    splits = manager.restore(
      2, args=ocp.args.Composite(splits=ocp.args.StandardRestore())
    ).splits
  jax.tree.map(np.testing.assert_array_equal, state, _state(2))
  chex.assert_trees_all_equal_dtypes(state, _state(2))
  assert meta == {'class_names': ['a', 'b'], 'progress': {'best_loss': 2}}
  # Orbax cannot save the empty one.
  chex.assert_trees_all_equal(splits, {'train': np.arange(3)})


def test_a_damaged_state_names_its_step(tmp_path):
  _save(tmp_path, [0.1])
  (tmp_path / 'checkpoints/1/optimizer/manifest.ocdbt').write_bytes(b'torn')
  with (
    store.open_manager(tmp_path) as manager,
    pytest.raises(InputError) as error,
  ):
    store.restore(manager, jax.eval_shape(lambda: _state(0)), 1)
  text = str(error.value)
  assert text.startswith(f'{tmp_path / "checkpoints/1"} cannot be read (')
  assert 'train again' in text and '\n' not in text


def test_a_whitening_is_of_one_checkpoint(tmp_path):
  for step, measure in ((1, 0.9), (2, 0.1)):
    _save_run(tmp_path, {}, _state(step), measure)
  matrix = np.array([[2.0, 1.0], [0.0, 3.0]], np.float32)
  store.save_whitening(tmp_path, matrix, 1)
  best, last = (checkpoints._read(tmp_path, step) for step in (None, 2))
  assert (best['step'], last['step']) == (1, 2)
  fitted, newest = best['batch_stats'], last['batch_stats']
  np.testing.assert_array_equal(fitted[WHITENING]['matrix'], matrix)
  assert newest.keys() == {'mean'} == fitted.keys() - {WHITENING}
  path = tmp_path / 'whitening.safetensors'
  safetensors.numpy.save_file({'other': matrix}, path)
  with pytest.raises(InputError, match=r'damaged .*start the same training'):
    checkpoints.load_encoder(tmp_path)
  for _ in range(2):
    store.forget_whitening(tmp_path)
    assert store.load_whitening(tmp_path, 1) is None


def test_what_a_killed_save_left_is_removed_and_no_checkpoint(tmp_path):
  left = tmp_path / 'checkpoints/7.orbax-checkpoint-tmp'
  assert not store.has_checkpoint(tmp_path)
  left.mkdir(parents=True)
  assert not store.has_checkpoint(tmp_path)
  _save(tmp_path, [0.1])  # which waits until it is gone
  assert not left.exists()
  left.mkdir()
  assert store.has_checkpoint(tmp_path)


def test_moments_of_frozen_stages_in_older_checkpoints_are_left_out(tmp_path):
  model = encoders.make(**(TINY | {'freeze': 4}))
  tx = optimizer.make(**(OPTIMIZER | {'weight_decay': 0.5}), model=model)
  body, head = (
    {name: {'kernel': jnp.full((3, 2), value)}}
    for name, value in (('BasicBlock_0', 2.0), ('Dense_0', 3.0))
  )
  params = {'encoder': body | head, 'objective': {}}

  def after_a_step(params):
    return tx.update(params, tx.init(params), params)[1]

  older = _state(4).replace(params=params, opt_state=after_a_step(params))
  _save_run(tmp_path, {}, older)
  trained, _ = split_frozen(params, model.backbone)
  assert trained['encoder'] == head
  want = older.replace(opt_state=after_a_step(trained))
  with store.open_manager(tmp_path) as manager:
    state, _ = store.restore(manager, jax.eval_shape(lambda: want), 4)
  chex.assert_trees_all_equal(state, want)
  sizes = [x.size for x in jax.tree.leaves(state.opt_state)]
  assert sorted(sizes) == [1, 1, 6, 6]  # two counts, two moments of the head


def test_what_is_not_there_is_named(tmp_path):
  with pytest.raises(InputError, match=r'no checkpoints; train'):
    checkpoints.load_encoder(str(tmp_path))
  _save(tmp_path, [0.1, 0.9, 0.2])
  with pytest.raises(InputError, match=r'step 1; kept are \[2, 3\]'):
    checkpoints.load_encoder(tmp_path, step=1)


def test_a_run_keeps_its_name_and_an_encoder_its_step(
  bundled, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  at = lambda step=None: checkpoints._read(pathlib.Path('tiny'), step)['step']
  assert at() == at(7) == 7
  with pytest.raises(InputError, match=r'of step 3; it holds 7$') as error:
    at(3)
  assert str(error.value).startswith('tiny: no checkpoint')
  _save(tmp_path / 'tiny', [])  # a folder without a checkpoint is a run, too
  with pytest.raises(InputError, match=r'of step None; kept are \[\]'):
    at()
  shutil.copytree(tmp_path / 'bundled' / 'tiny', 'tiny', dirs_exist_ok=True)
  assert at() == 7  # exported into the folder itself


@pytest.mark.parametrize(
  ('change', 'named'),
  [
    (lambda fields: fields.pop('freeze'), 'has no encoder.freeze'),
    (lambda fields: fields.update(depth=3), 'has encoder.depth'),
  ],
)
def test_a_run_of_another_version_is_named(tmp_path, change, named):
  config = smoke.get_config().to_dict()
  change(config['encoder'])
  _save_run(tmp_path, config, _state(1))
  with pytest.raises(InputError, match=rf'{named}: another version'):
    checkpoints.load_encoder(tmp_path)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A workdir with the checkpoint of an encoder."""
  workdir = tmp_path_factory.mktemp('whole')
  config = smoke.get_config().to_dict()
  size = config['data']['size']
  variables = init_encoder(
    make_key(0, INIT),
    encoder=encoders.make(**config['encoder']),
    image_shape=(size, size, config['data']['channels']),
  )
  state = _state(1).replace(
    params={'encoder': variables['params'], 'objective': {}},
    batch_stats=variables['batch_stats'],
  )
  _save_run(workdir, config, state)
  assert checkpoints.load_encoder(workdir).step == 1
  return workdir


@pytest.mark.parametrize('damage', [None, b'', b'{"a', b'\xff' * 40, b'[]'])
@pytest.mark.parametrize(
  'name',
  [
    '_CHECKPOINT_METADATA',
    'meta/metadata',
    'metrics/metrics',
    'model/_METADATA',
    'model/manifest.ocdbt',
  ],
)
def test_a_damaged_checkpoint_is_read_or_one_line(
  name, damage, whole, tmp_path
):
  workdir = tmp_path / 'run'
  shutil.copytree(whole, workdir)
  file = workdir / 'checkpoints/1' / name
  assert file.is_file()
  if damage is None:
    file.unlink()
  else:
    file.write_bytes(damage)
  try:
    found = checkpoints.load_encoder(workdir)
  except InputError as error:
    text = str(error)
    assert str(workdir) in text and '\n' not in text
    assert 'train again' in text or 'no checkpoint of step' in text
    if name.startswith('model'):
      assert text.startswith(f'{workdir / "checkpoints/1"} cannot be read')
  else:  # a file that Orbax can do without
    assert name in ('_CHECKPOINT_METADATA', 'metrics/metrics')
    assert found.step == 1


@pytest.mark.parametrize(
  ('change', 'named'),
  [
    (lambda config: config.pop('encoder'), "no section 'encoder'"),
    (lambda config: config.pop('data'), "KeyError: 'data'"),
    (lambda config: config['encoder'].update(width='x'), 'cannot be read'),
    (lambda config: config['encoder'].update(width=12), 'do not fit the conf'),
  ],
)
def test_a_config_of_another_network_is_one_line(
  change, named, whole, tmp_path
):
  workdir = tmp_path / 'run'
  shutil.copytree(whole, workdir)
  file = workdir / 'checkpoints/1/meta/metadata'
  meta = json.loads(file.read_text())
  change(meta['config'])
  file.write_text(json.dumps(meta))
  with pytest.raises(InputError, match=named) as error:
    checkpoints.load_encoder(workdir)
  text = str(error.value)
  assert str(workdir) in text and '\n' not in text


def _first_state(config, workdir, monkeypatch):
  """Returns the arguments of a run's first step, where it stops."""
  seen = []

  def stop(mesh, state):
    seen.append(jax.device_get((state.params['encoder'], state.batch_stats)))
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(loop.sharding, 'place', stop)
    loop.train_and_evaluate(config, workdir)
  return seen[0]


@pytest.mark.parametrize('begun', ['random', 'pretrained'])
def test_untrained_is_what_the_run_began_from(
  begun, make_config, tmp_path, monkeypatch
):
  fields = {'epochs': 1, 'validations_per_epoch': 1, 'seed': 3}
  weights = tmp_path / 'resnet18.safetensors'
  if begun == 'pretrained':
    monkeypatch.setattr(resnet, 'PUBLISHED_WIDTH', 4)  # narrow, as it is quick
    safetensors.numpy.save_file(torch_layout.weights('resnet18', 4), weights)
    fields |= {
      'encoder__name': 'resnet18',
      'encoder__width': 4,
      'encoder__stem': 'imagenet',
      'encoder__pretrained': str(weights),
    }
  else:
    fields |= {'data__channels': 3, 'encoder__size': True}
  config = make_config(**fields)
  want = _first_state(config, tmp_path / 'stopped', monkeypatch)
  # A checkpoint of anything else: only the config, which may be of an older
  # version, and the images' own statistics count.
  workdir, saved = tmp_path / 'run', _state(1)
  sizes = {name: want[1][name] for name in want[1].keys() & {MEASURES}}
  assert len(sizes) == (begun == 'random')
  saved = saved.replace(batch_stats=saved.batch_stats | sizes)
  saved.params['objective'] = {'prototypes': jnp.ones((2, 8))}
  del config['encoder']['lora_alpha']
  _save_run(workdir, config, saved)
  untrained = checkpoints.untrained_encoder(workdir)
  found = untrained.variables
  chex.assert_trees_all_equal(
    (found['params']['encoder'], found['batch_stats']), want
  )
  assert not found['params']['objective']
  assert (untrained.step, untrained.class_names) == (0, ('a', 'b'))
  if begun == 'pretrained':
    weights.unlink()
    with pytest.raises(InputError, match='no such file'):
      checkpoints.untrained_encoder(workdir)


def test_loading_and_exporting_do_not_import_each_other():
  """checkpoints -> encoder_folder, and export -> encoder; no way back."""
  script = (
    'import sys; import plankton_jax.files.encoder_folder;'
    'from plankton_jax.export import card, programs;'
    "assert 'plankton_jax.checkpoints' not in sys.modules"
  )
  subprocess.run([sys.executable, '-c', script], cwd=ROOT, check=True)


def test_what_a_parser_says_of_damage_is_one_line(tmp_path):
  with pytest.raises(InputError) as error, store.damage_named(tmp_path):
    raise ValueError('of an array:\n  no metadata')
  said = f'{tmp_path} cannot be read (ValueError: of an array: no metadata);'
  assert str(error.value).startswith(said)
  for reason, said in (('', 'ValueError'), ('x' * 999, 'x' * 200)):
    with pytest.raises(InputError) as error, store.damage_named(tmp_path):
      raise ValueError(reason)
    assert f'(ValueError: {said});' in str(error.value)


@pytest.mark.parametrize(
  'error', [OSError(errno.ENOSPC, 'no space left'), InputError('said already')]
)
def test_what_is_no_damage_is_raised_as_it_is(error, tmp_path):
  with pytest.raises(type(error)) as found, store.damage_named(tmp_path):
    raise error
  assert found.value is error


def test_only_late_arrays_of_a_failed_checkpoint_are_silent(monkeypatch):
  heard = []
  monkeypatch.setattr(sys, 'unraisablehook', heard.append)
  store._silence_late_arrays.__wrapped__()

  class Late:
    def __init__(self, message):
      self.message = message

    def __del__(self):
      raise RuntimeError(self.message)

  for message in ('Event loop is closed', 'something else'):
    late = Late(message)
    del late
  for place in ('orbax', 'ours'):
    made = {}
    exec(compile('async def read(): ...', f'/{place}/io.py', 'exec'), made)
    with contextlib.closing(made['read']()) as late:
      sys.unraisablehook(
        types.SimpleNamespace(object=late, exc_value=OSError(place))
      )
  said = [str(found.exc_value) for found in heard]
  assert said == ['something else', 'ours']
