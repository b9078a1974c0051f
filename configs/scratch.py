"""Embeds unseen classes best of those that begin at random weights.

python launch.py --config=configs/scratch.py --workdir=runs/scratch

docs/ablation.md and docs/quality.md say what it is chosen by.
"""

from ml_collections import ConfigDict

from configs import arcface, base


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = arcface.get_config()
  config.encoder.poses = 8  # embedding takes eight times as long
  config.validations_per_epoch = 1
  config.early_stop_validations = 0
  return base.use_preset(config, preset)
