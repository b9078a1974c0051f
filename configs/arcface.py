"""Additive angular margin on class prototypes, with early stopping.

python launch.py --config=configs/arcface.py --workdir=runs/arcface
"""

from ml_collections import ConfigDict

from configs import base


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = base.get_config()
  config.objective.name = 'arcface'  # one of plankton_jax/objectives/
  config.objective.margin = 0.2  # radians; 0.5 in the paper
  config.objective.scale = 10.0  # factor of the cosines; 64 in the paper
  # Weight of an image in the loss by the size of its class: 'none', 'inverse',
  # 'sqrt_inverse' or 'effective' (by the effective number of images).
  config.objective.class_weights = 'none'
  # Share of the prototypes in a step's loss, drawn at random beside those of
  # the batch's classes: with very many classes less than 1 saves time and
  # memory. Validation takes all.
  config.objective.sample_prototypes = 1.0
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
