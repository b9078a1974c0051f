"""Begins from the bundled encoder `plankton`, for a few epochs.

python launch.py --config=configs/finetune.py --workdir=runs/finetune

docs/pretrained.md says what that is worth, and how long to train.
"""

from ml_collections import ConfigDict

from configs import base, scratch


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = scratch.get_config()
  base.use_preset(config, preset)  # before the fields that must fit the encoder
  return base.begin_from_plankton(config)
