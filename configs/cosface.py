"""Additive cosine margin on class prototypes, with early stopping.

python launch.py --config=configs/cosface.py --workdir=runs/cosface
"""

from ml_collections import ConfigDict

from configs import base


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = base.get_config()
  config.objective.name = 'cosface'  # of plankton_jax/objectives/
  config.objective.margin = 0.35  # in cosine
  config.objective.scale = 64.0  # of the cosines
  # Of an image in the loss by its class's size: 'none', 'inverse',
  # 'sqrt_inverse' or 'effective' (of the effective number of images).
  config.objective.class_weights = 'none'
  config.early_stop_validations = 12
  return base.use_preset(config, preset)
