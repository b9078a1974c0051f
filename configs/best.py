"""Embeds unseen classes best, by docs/ablation.md and docs/quality.md.

python launch.py --config=configs/best.py --workdir=runs/best
"""

from ml_collections import ConfigDict

from configs import scratch


def get_config(preset: str = 'synthetic') -> ConfigDict:
  return scratch.get_config(preset)
