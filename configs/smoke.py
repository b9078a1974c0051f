"""The whole path on a small encoder, in under a minute on two cores.

python launch.py --config=configs/smoke.py --workdir=runs/smoke
"""

from ml_collections import ConfigDict

from configs import triplet


def get_config() -> ConfigDict:
  config = triplet.get_config()
  config.epochs = 3
  config.curriculum = (
    (0, 'easy', 'semihard'),
    (1, 'easy', 'hard'),
    (2, 'hard', 'hard'),
  )
  config.validations_per_epoch = 2
  config.data.per_class = 60
  config.data.size = 32
  config.batch.size = 64
  config.encoder.name = 'resnet10'
  config.encoder.width = 8
  config.encoder.stem = 'half'
  config.encoder.embedding_dim = 32
  config.encoder.poses = 1
  return config
