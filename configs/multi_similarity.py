"""Multi-similarity loss, with its mining, on batches of a few classes.

python launch.py --config=configs/multi_similarity.py --workdir=runs/ms
"""

from ml_collections import ConfigDict

from configs import base


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = base.get_config()
  config.objective.name = 'multi_similarity'  # one of plankton_jax/objectives/
  config.objective.alpha = 2.0  # sharpness among positives
  config.objective.beta = 50.0  # sharpness among negatives
  # The cosine that positives should exceed and negatives not: λ, which is 1
  # in the paper, and 0.5 in its code and in pytorch-metric-learning.
  config.objective.base = 0.5
  config.objective.epsilon = 0.1  # how far the mining looks past the hardest
  config.batch.classes = 8
  return base.use_preset(config, preset)
