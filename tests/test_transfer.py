"""Runs that begin from an encoder of this project."""

import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from plankton_jax import checkpoints
from plankton_jax.errors import InputError
from plankton_jax.nn import encoders, pretrained, transfer
from plankton_jax.nn.whitening import WHITENING
from plankton_jax.train import experiment, loop
from tests import tiny_encoder

SIZE = 'Measures_0'
HEAD = ('Dense_0', 'BatchNorm_1')  # resnet10 with the stem 'half'


def _initial(config):
  """Variables of other numbers than the saved ones, not whitened yet."""
  params, batch_stats = tiny_encoder.draw(config, seed=1)
  if WHITENING in batch_stats:
    dim = config['encoder']['embedding_dim']
    batch_stats[WHITENING]['matrix'] = np.eye(dim, dtype=np.float32)
  return {'params': params, 'batch_stats': batch_stats}


def _begin(name, config, channels=1):
  """The model of a config, its fresh variables, and those it begins with."""
  model = encoders.make(**config['encoder'])
  fresh = _initial(config | {'data': config['data'] | {'channels': channels}})
  begun = pretrained.begin(fresh, backbone=model.backbone, path=name)
  return model, flatten_dict(fresh), flatten_dict(begun)


def _saved(name):
  variables = checkpoints.load_encoder(name).variables
  return flatten_dict(
    {
      'params': variables['params']['encoder'],
      'batch_stats': variables['batch_stats'],
    }
  )


def test_all_is_taken_over_where_all_fits(bundled, make_config):
  config = make_config(encoder__size=True)
  tiny_encoder.save(bundled / 'sized', config)
  _, fresh, begun = _begin('sized', config)
  saved = _saved('sized')
  assert begun.keys() == fresh.keys() == saved.keys()
  assert ('batch_stats', SIZE, 'in_um') in saved
  # Training moves the space that their whitening is of.
  matrix = ('batch_stats', WHITENING, 'matrix')
  np.testing.assert_array_equal(begun.pop(matrix), np.eye(8))
  assert not np.array_equal(saved.pop(matrix), np.eye(8))
  for path, array in saved.items():
    np.testing.assert_array_equal(begun[path], array)
    assert begun[path].dtype == fresh[path].dtype
    assert not np.array_equal(fresh[path], array), path


def test_the_size_is_taken_over_if_asked_for(bundled, make_config):
  sized = make_config(encoder__size=True, encoder__whitening=0.0)
  plain = make_config(encoder__whitening=0.0)
  tiny_encoder.save(bundled / 'sized', sized)
  _, _, begun = _begin('sized', plain)
  assert SIZE not in {path[1] for path in begun}
  kernel = ('params', 'Dense_0', 'kernel')
  np.testing.assert_array_equal(begun[kernel], _saved('sized')[kernel])
  _, fresh, begun = _begin('tiny', sized)
  for path, array in begun.items():
    want = fresh[path] if path[1] == SIZE else _saved('tiny')[path]
    np.testing.assert_array_equal(array, want)


def test_another_dimension_begins_with_a_fresh_head(bundled, make_config):
  config = make_config(encoder__embedding_dim=5, encoder__whitening=0.0)
  _, fresh, begun = _begin('tiny', config)
  saved = _saved('tiny')
  for path, array in begun.items():
    want = fresh[path] if path[1] in HEAD else saved[path]
    np.testing.assert_array_equal(array, want)
  assert {path[1] for path in fresh} >= {*HEAD}


def test_a_module_is_taken_as_a_whole_or_not(bundled, make_config):
  # Without centring the projection has a bias, which the saved one lacks.
  _, fresh, begun = _begin('tiny', make_config(encoder__centred=False))
  kernel = ('params', 'Dense_0', 'kernel')
  np.testing.assert_array_equal(begun[kernel], fresh[kernel])


def test_a_grey_encoder_sees_a_colour_image_as_its_grey(bundled, make_config):
  config = make_config(encoder__whitening=0.0)
  tiny_encoder.save(bundled / 'plain', config)
  colour, _, begun = _begin('plain', config, channels=3)
  rng = np.random.default_rng(0)
  images = rng.normal(size=(2, 16, 16, 3)).astype(np.float32)
  grey = images @ np.array([[0.299], [0.587], [0.114]], np.float32)
  run = jax.jit(lambda v, x: colour.apply(v, x, train=False))
  np.testing.assert_allclose(
    run(unflatten_dict(begun), images),
    run(unflatten_dict(_saved('plain')), grey),
    atol=1e-4,
  )


def test_a_colour_encoder_takes_grey_as_three_equal_colours():
  kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4))
  got = transfer._for_channels(kernel, 1)
  grey = np.random.default_rng(1).normal(size=(3, 3))
  want = sum(
    grey[i, j] * kernel[i, j, c]
    for i in range(3)
    for j in range(3)
    for c in range(3)
  )
  np.testing.assert_allclose(np.einsum('ij,ijcf->f', grey, got), want)


@pytest.mark.parametrize(
  ('field', 'value', 'named'),
  [
    ('encoder__name', 'resnet18', "encoder.name='resnet10', not 'resnet18'"),
    ('encoder__width', 8, 'encoder.width=4, not 8'),
    ('encoder__stem', 'full', "encoder.stem='half', not 'full'"),
    ('data__size', 32, 'data.size=16, not 32'),
  ],
)
def test_fields_that_do_not_fit_are_named_before_data_is_read(
  bundled, tmp_path, make_config, field, value, named
):
  fields = {'encoder__pretrained': 'tiny', field: value}
  config = make_config(data__path='nowhere', **fields)
  with pytest.raises(InputError, match='=tiny takes') as error:
    experiment.check(config, tmp_path, accept_changes=False)
  assert named in str(error.value)
  assert str(error.value).count(', not ') == 1


@pytest.mark.parametrize(
  ('name', 'reason'),
  [
    ('tinny', 'encoder.pretrained=tinny: no folder of an exported encoder'),
    ('resnet.pth', 'encoder.pretrained: resnet.pth: no such file'),
  ],
)
def test_missing_weights_are_named_before_data_is_read(
  bundled, tmp_path, make_config, name, reason
):
  config = make_config(data__path='nowhere', encoder__pretrained=name)
  with pytest.raises(InputError, match=re.escape(reason)):
    experiment.check(config, tmp_path, accept_changes=False)
  (tmp_path / 'checkpoints' / '7').mkdir(parents=True)
  experiment.check(config, tmp_path, accept_changes=False)  # as it resumes


def test_other_measures_are_named_though_their_arrays_would_fit(
  bundled, tmp_path, make_config
):
  area = make_config(encoder__measures=('object_area',))
  tiny_encoder.save(bundled / 'area', area)
  config = make_config(
    encoder__measures=('object_esd',), encoder__pretrained='area'
  )
  with pytest.raises(
    InputError, match=r"\['object_area'\], not \['object_esd'"
  ):
    experiment.check(config, tmp_path, accept_changes=False)


def test_another_network_is_named_by_an_array(bundled, make_config):
  for wrong in ({'encoder__width': 8}, {'encoder__name': 'resnet18'}):
    with pytest.raises(InputError, match=r'=tiny: .* another network'):
      _begin('tiny', make_config(**wrong))
  with pytest.raises(InputError, match=r'=tiny2: no folder'):
    _begin('tiny2', make_config())


def test_a_run_begins_from_an_encoder_and_stands_without_it(
  bundled, tmp_path, make_config, capsys
):
  tiny_encoder.save(
    bundled / 'seen', make_config(), class_names=('x', 'Tintinnids/VASE')
  )
  config = make_config(
    epochs=1,
    validations_per_epoch=1,
    encoder__pretrained='seen',
    optimizer__learning_rate=0.0,
    data__unseen_classes=('vase',),
  )
  workdir = tmp_path / 'run'
  state = loop.train_and_evaluate(config, workdir)
  saved = _saved('seen')
  for path, array in flatten_dict(state.params['encoder']).items():
    np.testing.assert_array_equal(array, saved['params', *path])
  said = capsys.readouterr()
  assert 'trained on vase: as unseen' in said.out + said.err
  for file in (bundled / 'seen').iterdir():
    file.unlink()
  experiment.check(config, workdir, accept_changes=False)  # as it resumes
  assert loop.train_and_evaluate(config, workdir).step == state.step
  assert checkpoints.load_encoder(workdir).step == state.step


def test_an_encoder_has_seen_what_those_before_it_saw(bundled, make_config):
  config = make_config(encoder__pretrained='tiny')
  tiny_encoder.save(bundled / 'next', config, class_names=('cat', 'bee'))
  assert transfer.seen_classes('next') == {'ant', 'bee', 'cat'}
  config = make_config(encoder__pretrained='gone')
  tiny_encoder.save(bundled / 'last', config, class_names=('cat',))
  assert transfer.seen_classes('last') == {'cat'}
  assert transfer.seen_classes('') == transfer.seen_classes('a.pth') == set()


def test_classes_are_compared_by_their_last_folder():
  seen = ('Copepoda/Calanoid', 'diatom')
  names = ['x/diatom', 'calanoid', 'Copepoda', 'new']
  assert transfer.common(seen, names) == ['calanoid', 'x/diatom']
