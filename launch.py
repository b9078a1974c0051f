"""Trains an encoder and keeps the run in a folder; see plankton_jax.cli.train.

python launch.py --config=configs/triplet.py --workdir=DIR
python launch.py --config=configs/triplet.py --help
"""

from plankton_jax.cli import scripts

if __name__ == '__main__':
  scripts.train()
