"""Additive angular margin on class prototypes, with early stopping.

python launch.py --config=configs/arcface.py --workdir=runs/arcface
"""

from ml_collections import ConfigDict

from configs import base


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = base.use_prototypes(base.get_config(), 'arcface')
  config.objective.margin = 0.2  # radians; 0.5 in the paper
  config.objective.scale = 10.0  # factor of the cosines; 64 in the paper
  config.early_stop_validations = 12
  base.use_preset(config, preset)
  if preset == 'flowcamnet':  # the published experiment's
    base.as_published(config)
    config.epochs = 50  # at most
    config.batch.size = 64
    config.objective.margin = 0.5
    config.objective.scale = 64.0
    return config
  config.batch.size = 32
  config.batch.sampling = 'uniform'  # small classes as often as large ones
  # Strong augmentation, from which unseen classes gain.
  config.augment.scale = 0.3
  config.augment.translate = 0.1
  config.augment.brightness = 0.1
  config.augment.contrast = 0.3
  config.encoder.embedding_dim = 256
  config.optimizer.weight_decay = 0.05
  return config
