"""The configs: what was published stays, and each builds on the shared one."""

import importlib

import pytest

from configs import arcface, base, best, triplet


def test_the_published_experiment_is_as_published():
  config = triplet.get_config('flowcamnet')
  assert (config.epochs, config.batch.size, config.data.size) == (35, 128, 128)
  assert config.batch.classes == 0
  assert config.optimizer.learning_rate == 1.4e-3
  assert config.optimizer.schedule == 'constant'
  assert config.objective.margin == 0.5
  assert config.curriculum == (
    (0, 'easy', 'semihard'),
    (10, 'easy', 'hard'),
    (25, 'hard', 'hard'),
  )
  config = arcface.get_config('flowcamnet')
  assert config.batch.size == 64
  assert (config.objective.margin, config.objective.scale) == (0.5, 64.0)
  assert config.validations_per_epoch == 5
  assert config.early_stop_validations == 12


@pytest.mark.parametrize(
  'name', ['arcface', 'best', 'softmax', 'supcon', 'triplet']
)
def test_fields_are_those_that_every_config_shares(name):
  get_config = importlib.import_module(f'configs.{name}').get_config
  shared = base.get_config()
  for preset in ('synthetic', 'planktonset9', 'flowcamnet'):
    config = get_config(preset)
    assert set(config) == set(shared)
    for section in ('data', 'batch', 'augment', 'encoder', 'optimizer'):
      assert set(config[section]) == set(shared[section]), section


def test_best_is_arcface_as_tuned_on_every_preset():
  for preset in ('synthetic', 'planktonset9', 'flowcamnet'):
    config = best.get_config(preset)
    assert config.data == arcface.get_config(preset).data
    assert config.objective == arcface.get_config().objective
