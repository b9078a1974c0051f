"""Triplet loss with a mining curriculum.

python launch.py --config=configs/triplet.py
python launch.py --config=configs/triplet.py --workdir=runs/triplet
python launch.py --config=configs/triplet.py:planktonset9 \
  --config.data.path=FOLDER --workdir=runs/triplet
"""

from ml_collections import ConfigDict

from configs import base


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = base.get_config()
  config.objective.name = 'triplet'  # one of plankton_jax/objectives/
  # Distance in mining and loss: 'squared' or 'euclidean'.
  config.objective.distance = 'squared'
  config.objective.margin = 0.5  # of the loss, in objective.distance
  # Negative among those that meet the policy: the 'nearest', a 'random' one, or
  # the mean over 'all'.
  config.objective.select = 'nearest'
  # For an anchor without such a negative: 'nearest' takes the nearest of all,
  # 'none' leaves the anchor out of the loss.
  config.objective.fallback = 'nearest'
  if preset == 'demo':  # drawn images, in minutes on two cores
    config.epochs = 40
    config.validations_per_epoch = 1
    config.encoder.name = 'resnet10'
    config.encoder.width = 16
    config.encoder.whitening = 0.25  # drawn classes differ in few directions
    # Few images in many poses: hard positives bring a class together.
    config.curriculum = ((0, 'easy', 'semihard'), (5, 'hard', 'semihard'))
    return config
  base.use_preset(config, preset)
  if preset == 'flowcamnet':  # the published experiment's
    base.as_published(config)
    config.epochs = 35
    config.batch.size = 128
    config.objective.select = 'random'  # any that meets the policy
    config.curriculum = (
      (0, 'easy', 'semihard'),
      (10, 'easy', 'hard'),
      (25, 'hard', 'hard'),
    )
    return config
  # Small batches, in which every image has others of its class.
  config.batch.size, config.batch.classes = 32, 8
  config.encoder.embedding_dim = 256
  config.encoder.poses = 8  # embedding takes eight times as long
  config.optimizer.weight_decay = 0.05
  config.validations_per_epoch = 1
  config.curriculum = ((0, 'easy', 'semihard'), (25, 'hard', 'semihard'))
  return config
