"""ArcFace with several prototypes a class, for classes of many looks.

python launch.py --config=configs/subcenter.py --workdir=runs/subcenter
"""

from ml_collections import ConfigDict

from configs import base


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = base.use_prototypes(base.get_config(), 'subcenter_arcface')
  config.objective.centers = 3  # prototypes of each class; the nearest counts
  config.objective.margin = 0.5  # margin, radians
  config.objective.scale = 64.0  # factor of the cosines
  config.early_stop_validations = 12
  return base.use_preset(config, preset)
