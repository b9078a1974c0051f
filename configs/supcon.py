"""Supervised contrastive loss on batches of a few classes.

python launch.py --config=configs/supcon.py --workdir=runs/supcon
"""

from ml_collections import ConfigDict

from configs import base


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = base.get_config()
  config.objective.name = 'supcon'  # one of plankton_jax/objectives/
  config.objective.temperature = 0.1  # divides the cosines
  config.batch.classes = 8
  return base.use_preset(config, preset)
