"""Proxy-anchor loss: class prototypes pull and push whole batches.

python launch.py --config=configs/proxy_anchor.py --workdir=runs/proxy_anchor
"""

from ml_collections import ConfigDict

from configs import base


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = base.get_config()
  config.objective.name = 'proxy_anchor'  # one of plankton_jax/objectives/
  config.objective.margin = 0.1  # margin of the cosine
  config.objective.scale = 32.0  # factor of the cosines
  # Prototypes learn faster than the encoder, as in the paper.
  config.optimizer.objective_rate = 100.0
  return base.use_preset(config, preset)
