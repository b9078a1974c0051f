"""Additive cosine margin on class prototypes, with early stopping.

python launch.py --config=configs/cosface.py --workdir=runs/cosface
"""

from ml_collections import ConfigDict

from configs import base


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = base.use_prototypes(base.get_config(), 'cosface')
  config.objective.margin = 0.35  # margin of the cosine
  config.objective.scale = 64.0  # factor of the cosines
  config.early_stop_validations = 12
  return base.use_preset(config, preset)
