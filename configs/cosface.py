"""Additive cosine margin on class prototypes, with early stopping.

python launch.py --config=configs/cosface.py --workdir=runs/cosface
"""

from ml_collections import ConfigDict

from configs import base


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = base.get_config()
  config.objective.name = 'cosface'  # one of plankton_jax/objectives/
  config.objective.margin = 0.35  # margin of the cosine
  config.objective.scale = 64.0  # factor of the cosines
  # Weight of an image in the loss by the size of its class: 'none', 'inverse',
  # 'sqrt_inverse' or 'effective' (by the effective number of images).
  config.objective.class_weights = 'none'
  # Share of the prototypes in a step's loss, drawn at random beside those of
  # the batch's classes: with very many classes less than 1 saves time and
  # memory. Validation takes all.
  config.objective.sample_prototypes = 1.0
  config.early_stop_validations = 12
  return base.use_preset(config, preset)
