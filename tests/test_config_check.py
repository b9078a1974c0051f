import importlib
import math
import pathlib

import numpy as np
import pytest
from PIL import Image

from configs import base
from plankton_jax.errors import InputError
from plankton_jax.train import config_check, experiment, loop, rehearsal

CONFIGS = pathlib.Path(base.__file__).parent
NAMES = sorted(
  path.stem for path in CONFIGS.glob('[a-z]*.py') if path.stem != 'base'
)
PRESETS = ('synthetic', 'planktonset9', 'flowcamnet')


def _config(name, *preset):
  module = importlib.import_module(f'configs.{name}')
  return module.get_config(*preset).to_dict()


def _numbers(tree, prefix=''):
  """The dotted names of all fields that hold a number."""
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from _numbers(value, f'{prefix}{name}.')
    elif isinstance(value, int | float) and not isinstance(value, bool):
      yield prefix + name


def _with(config, field, value):
  section, _, name = field.rpartition('.')
  if not section:
    return config | {name: value}
  return config | {section: config[section] | {name: value}}


@pytest.mark.parametrize('name', NAMES)
def test_every_number_of_every_config_has_a_range(name):
  config = _config(name)
  config_check.check(config)
  fields = set(_numbers(config)) - {'data.unseen_classes'}
  assert fields >= {'epochs', 'batch.size', 'optimizer.learning_rate'}
  for field in fields:
    for bad in (math.nan, math.inf, -math.inf, -1.5, None, 'many', True, ()):
      with pytest.raises(InputError) as error:
        config_check.check(_with(config, field, bad))
      assert f'{field}={bad!r} must be ' in str(error.value)


@pytest.mark.parametrize('preset', PRESETS)
@pytest.mark.parametrize('name', sorted(set(NAMES) - {'smoke'}))
def test_every_preset_is_in_range(name, preset):
  config_check.check(_config(name, preset))


@pytest.mark.parametrize(
  ('field', 'good', 'bad', 'words'),
  [
    ('epochs', 1, 0, 'a whole number from 1'),
    ('epochs', 1, 2.0, 'a whole number from 1'),
    ('seed', 0, 2**32, 'a whole number from 0 to 4294967295'),
    ('validations_per_epoch', 1, 0, 'a whole number from 1'),
    ('early_stop_validations', 0, -1, 'a whole number from 0'),
    ('on_collapse', 'stop', 'panic', "'warn' or 'stop'"),
    ('data.per_class', 4, 0, 'a whole number from 1'),
    ('data.size', 1, 0, 'a whole number from 1'),
    ('data.channels', 3, 2, '1 or 3'),
    ('data.resize', 'stretch', 'crop', "'pad' or 'stretch'"),
    ('data.on_bad_image', 'raise', 'ask', "'skip' or 'raise'"),
    ('data.white', 65535, 65536, 'a whole number from 0 to 65535'),
    ('data.pixel_um', 0.5, math.inf, 'a number from 0'),
    ('batch.size', 2, 1, 'a whole number from 2'),
    ('batch.classes', 2, 1, 'a whole number from 0, not 1'),
    ('batch.per_class', 0, 1, 'a whole number from 0, not 1'),
    ('augment.translate', 0.99, 1, 'a number from 0 below 1'),
    ('augment.noise', 0, -0.1, 'a number from 0'),
    ('encoder.width', 1, 0, 'a whole number from 1'),
    ('encoder.embedding_dim', 1, 0, 'a whole number from 1'),
    ('encoder.poses', 8, 4, '1 or 8'),
    ('encoder.freeze', 0, -1, 'a whole number from 0'),
    ('encoder.normalise', 'published', True, "'auto' or 'published'"),
    ('encoder.lora_rank', 0, 0.5, 'a whole number from 0'),
    ('encoder.lora_alpha', 0.5, 0.0, 'a number above 0'),
    ('encoder.size', True, 1, 'False or True'),
    (
      'encoder.measures',
      ('x',),
      'x',
      "a tuple of names of measures: write ('x',",
    ),
    ('encoder.measures', [], (1,), 'a tuple of names of measures'),
    ('optimizer.learning_rate', 0, -1e-3, 'a number from 0'),
    ('optimizer.objective_rate', 0.5, -0.5, 'a number from 0'),
    ('optimizer.layer_decay', 1, 0, 'a number above 0 to 1'),
    ('objective.margin', 0, -0.1, 'a number from 0'),
  ],
)
def test_the_bounds(field, good, bad, words):
  config = _config('triplet')
  config_check.check(_with(config, field, good))
  with pytest.raises(InputError) as error:
    config_check.check(_with(config, field, bad))
  assert f'{field}={bad!r} must be {words}' in str(error.value)


@pytest.mark.parametrize(
  ('name', 'field', 'bad'),
  [
    ('arcface', 'margin', 3.2),
    ('arcface', 'scale', 0),
    ('arcface', 'sample_prototypes', 0),
    ('softmax', 'sample_prototypes', 1.1),
    ('subcenter', 'centers', 0),
    ('cosface', 'margin', 2.1),
    ('proxy_anchor', 'margin', 1.1),
    ('supcon', 'temperature', 0.0),
    ('multi_similarity', 'alpha', 0.0),
    ('multi_similarity', 'base', 1.5),
  ],
)
def test_the_bounds_of_objectives(name, field, bad):
  with pytest.raises(InputError, match=f'objective.{field}={bad!r} must be'):
    config_check.check(_with(_config(name), f'objective.{field}', bad))


@pytest.mark.parametrize(
  'fractions',
  [
    (1.0, 0.5, 0.5), (0.75, 0.05, math.nan), (0.5, 0.5), (1.0, 0.0, 0.0),
    (0.75, -0.05, 0.3), ('0.75', '0.05', '0.2'), 0.75, None, 'abc',
    (True, 0.5, -0.5),
  ],
)  # fmt: skip
def test_fractions_are_three_shares_of_one(fractions):
  with pytest.raises(InputError, match=r'data\.fractions=.*sum to 1'):
    config_check.check(_with(_config('triplet'), 'data.fractions', fractions))


@pytest.mark.parametrize(
  'crop', [(1, 2, 3), (0, 0, -1, 0), (0, 0, 0.5, 0), 4, None]
)
def test_crops_that_cannot_be_are_refused(crop, make_config, tmp_path):
  with pytest.raises(InputError, match='must be four counts of pixels: off'):
    config_check.check(_with(_config('smoke'), 'data.crop', crop))
  config = _with(make_config(), 'data.crop', crop)  # of a damaged run
  with pytest.raises(InputError, match='must be four counts of pixels: off'):
    experiment.load_data(config, tmp_path)


def test_a_missing_field_is_named():
  config = _config('triplet')
  del config['epochs']
  with pytest.raises(InputError, match='no field epochs: it must be a whole'):
    config_check.check(config)


@pytest.mark.parametrize(
  ('value', 'read'),
  [
    ((84963,), ('84963',)),
    ([84963, 'Copepoda'], ('84963', 'Copepoda')),
    ('Copepoda', ('Copepoda',)),
    ('1', ('1',)),
    ((), ()),
    (1, 1),
    (0, 0),
  ],
)
def test_unseen_classes_are_names_or_a_count(value, read):
  assert config_check.unseen_classes(value) == read


@pytest.mark.parametrize(
  'value', [None, -1, True, 1.0, (None,), (1.5,), (True,), {'a': 1}, math.nan]
)
def test_other_unseen_classes_are_refused(value):
  config = _with(_config('triplet'), 'data.unseen_classes', value)
  with pytest.raises(InputError, match=r'data\.unseen_classes=.* must be'):
    config_check.check(config)


def test_a_number_alone_is_no_class():
  assert config_check.class_names('data.classes', (25828, 'b')) == (
    '25828',
    'b',
  )
  with pytest.raises(InputError, match=r'data.classes=25828 .* \(25828,\)'):
    config_check.class_names('data.classes', 25828)


@pytest.fixture
def numbered(tmp_path):
  """A folder whose classes are named by numbers, one of them '1'."""
  rng = np.random.default_rng(0)
  for name in ('1', '25828', '84963', 'a'):
    (tmp_path / 'images' / name).mkdir(parents=True)
    for i in range(6):
      pixels = rng.integers(0, 256, (9, 8), np.uint8)
      Image.fromarray(pixels).save(tmp_path / 'images' / name / f'{i}.png')
  return tmp_path / 'images'


@pytest.mark.parametrize(
  ('classes', 'unseen', 'names', 'seen'),
  [
    ((), (84963,), ('1', '25828', 'a', '84963'), 3),
    ((), '1', ('25828', '84963', 'a', '1'), 3),
    ((1, 25828, 'a'), (1,), ('25828', 'a', '1'), 2),
    ((25828, 84963), 0, ('25828', '84963'), 2),
    ([], [], ('1', '25828', '84963', 'a'), 4),
  ],
)
def test_folders_named_by_numbers(
  numbered, make_config, tmp_path, classes, unseen, names, seen
):
  config = make_config(data__source='folder', data__path=str(numbered))
  config['data'] |= {'classes': classes, 'unseen_classes': unseen}
  data = experiment.load_data(config, tmp_path / 'run')
  assert (data.class_names, data.num_seen) == (names, seen)


def test_a_count_draws_classes_although_one_is_called_1(
  numbered, make_config, tmp_path
):
  config = make_config(data__source='folder', data__path=str(numbered))
  found = set()
  for seed in range(6):
    config |= {'seed': seed, 'data': config['data'] | {'unseen_classes': 1}}
    data = experiment.load_data(config, tmp_path / str(seed))
    found |= set(data.class_names[data.num_seen :])
    assert data.num_seen == 3
  assert len(found) > 1


@pytest.mark.parametrize('begin', [loop.train_and_evaluate, rehearsal.rehearse])
def test_a_run_is_refused_before_its_data_is_read(
  begin, make_config, tmp_path, monkeypatch
):
  for module in (loop, rehearsal):
    monkeypatch.setattr(module, 'load_data', None)
  with pytest.raises(InputError, match='epochs=0'):
    begin(make_config(epochs=0), tmp_path / 'run')
  assert list(tmp_path.iterdir()) == []


def test_a_range_reads_as_a_sentence():
  assert str(config_check.Range(0, 1, without=(0, 1))) == (
    'a number above 0 below 1'
  )
  assert str(config_check.Choice((1, 'x'))) == "1 or 'x'"
