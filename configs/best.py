"""What embeds unseen classes best: docs/ablation.md and docs/quality.md.

python launch.py --config=configs/best.py --workdir=runs/best
"""

from ml_collections import ConfigDict

from configs import arcface, base


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = arcface.get_config()
  # Stronger than for the classes that are trained on: unseen ones gain.
  config.augment.scale = 0.3
  config.augment.translate = 0.1
  config.augment.brightness = 0.1
  config.augment.contrast = 0.3
  config.encoder.poses = 8  # embedding takes eight times as long
  config.validations_per_epoch = 1
  config.early_stop_validations = 0
  return base.use_preset(config, preset)
