"""Softmax on cosines, without a margin: the baseline to beat.

python launch.py --config=configs/softmax.py --workdir=runs/softmax
"""

from ml_collections import ConfigDict

from configs import base


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = base.use_prototypes(base.get_config(), 'softmax')
  config.objective.scale = 10.0  # factor of the cosines, 1 / temperature
  config.early_stop_validations = 12
  return base.use_preset(config, preset)
