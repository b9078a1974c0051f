"""Embeds best, on seen and unseen classes: long, from the bundled encoder.

python launch.py --config=configs/best.py --workdir=runs/best

docs/pretrained.md says what that is worth; configs/scratch.py begins at random.
"""

from ml_collections import ConfigDict

from configs import base, scratch


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = scratch.get_config(preset)
  base.begin_from_plankton(config)
  config.epochs = 60
  # As the bundled encoder was trained, for classes that it never saw.
  config.batch.sampling = 'sqrt'
  config.objective.scale = 16.0
  return config
