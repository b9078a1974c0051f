"""Additive angular margin on class prototypes, with early stopping.

python launch.py --config=configs/arcface.py --workdir=runs/arcface
"""

from ml_collections import ConfigDict

from configs import base


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = base.get_config()
  config.objective.name = 'arcface'
  config.objective.margin = 0.5  # radians
  config.objective.scale = 64.0  # of the cosines
  # Of an image in the loss by its class's size: 'none', 'inverse',
  # 'sqrt_inverse' or 'effective' (of the effective number of images).
  config.objective.class_weights = 'none'
  # A smoother validation loss than triplet's rate gives: it is what stops.
  config.optimizer.learning_rate = 5e-4
  config.optimizer.schedule = 'cosine'
  config.early_stop_validations = 12
  if preset == 'flowcamnet':
    config.batch.size = 64  # the published experiment's
  return base.use_preset(config, preset)
