"""The configs: what was published stays, and each builds on the shared one."""

import importlib

import pytest

from configs import arcface, base, finetune, scratch, triplet

SHARED = {
  'data.source': 'tfds',
  'data.name': 'flowcamnet',
  'data.size': 128,
  'data.fractions': (0.75, 0.05, 0.20),
  'data.unseen_classes': ('Retaria', 'Thalassionematales', 'Chaetoceros'),
  'batch.classes': 0,
  'batch.per_class': 0,
  'batch.sampling': 'images',
  'augment.flip': False,
  'augment.rotate': 0.0,
  'augment.scale': 0.0,
  'augment.translate': 0.0,
  'augment.brightness': 0.0,
  'augment.contrast': 0.0,
  'augment.noise': 0.0,
  'encoder.centred': False,
  'encoder.poses': 1,
  'encoder.whitening': 0.0,
  'optimizer.learning_rate': 1.4e-3,
  'optimizer.schedule': 'constant',
  'optimizer.warmup_epochs': 0.0,
  'optimizer.weight_decay': 0.0,
  'optimizer.objective_rate': 1.0,
  'optimizer.encoder_rate': 1.0,
  'optimizer.layer_decay': 1.0,
  'validations_per_epoch': 5,
}
PUBLISHED = {
  triplet: {
    'epochs': 35,
    'batch.size': 128,
    'early_stop_validations': 0,
    'objective.name': 'triplet',
    'objective.distance': 'squared',
    'objective.margin': 0.5,
    'objective.select': 'random',
    'curriculum': (
      (0, 'easy', 'semihard'),
      (10, 'easy', 'hard'),
      (25, 'hard', 'hard'),
    ),
  },
  arcface: {
    'epochs': 50,
    'batch.size': 64,
    'early_stop_validations': 12,
    'objective.name': 'arcface',
    'objective.margin': 0.5,
    'objective.scale': 64.0,
    'objective.class_weights': 'none',
    'curriculum': (),
  },
}


@pytest.mark.parametrize('module', PUBLISHED)
def test_the_published_experiment_is_as_published(module):
  config = module.get_config('flowcamnet')
  for field, value in (SHARED | PUBLISHED[module]).items():
    found = config
    for part in field.split('.'):
      found = found[part]
    assert type(found) is type(value) and found == value, field
  assert set(config.data.classes) - set(config.data.unseen_classes) == {
    'chainthin', 'darksphere', 'Rhabdonellidae', 'Odontella', 'Codonellopsis',
    'Neoceratium',
  }  # fmt: skip


@pytest.mark.parametrize(
  'name',
  [
    'arcface',
    'best',
    'finetune',
    'frozen',
    'scratch',
    'softmax',
    'supcon',
    'triplet',
  ],
)
def test_fields_are_those_that_every_config_shares(name):
  get_config = importlib.import_module(f'configs.{name}').get_config
  shared = base.get_config()
  for preset in ('synthetic', 'planktonset9', 'flowcamnet'):
    config = get_config(preset)
    assert set(config) == set(shared)
    for section in ('data', 'batch', 'augment', 'encoder', 'optimizer'):
      assert set(config[section]) == set(shared[section]), section


def test_every_preset_is_fine_tuned_with_the_network_of_plankton():
  for preset in ('synthetic', 'planktonset9', 'flowcamnet'):
    config, plain = finetune.get_config(preset), scratch.get_config(preset)
    flat = {
      f'{section}.{name}': value
      for section in ('data', 'encoder')
      for name, value in config[section].items()
    }
    assert flat.items() >= base.PLANKTON_NETWORK.items()
    assert config.encoder.pretrained == 'plankton'
    assert config.objective == plain.objective
    assert config.augment == plain.augment
    assert config.epochs < plain.epochs


def test_scratch_is_arcface_as_tuned_on_every_preset():
  for preset in ('synthetic', 'planktonset9', 'flowcamnet'):
    config = scratch.get_config(preset)
    assert config.data == arcface.get_config(preset).data
    assert config.objective == arcface.get_config().objective
