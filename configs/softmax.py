"""Softmax on cosines, without a margin: the baseline to beat.

python launch.py --config=configs/softmax.py --workdir=runs/softmax
"""

from ml_collections import ConfigDict

from configs import base


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = base.get_config()
  config.objective.name = 'softmax'  # of plankton_jax/objectives/
  config.objective.scale = 10.0  # of the cosines: one over the temperature
  # Of an image in the loss by its class's size: 'none', 'inverse',
  # 'sqrt_inverse' or 'effective' (of the effective number of images).
  config.objective.class_weights = 'none'
  config.early_stop_validations = 12
  return base.use_preset(config, preset)
