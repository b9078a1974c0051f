"""Gives the published experiment's settings, without ml_collections.

A test holds them to configs/triplet.py:flowcamnet, but for the augmentation:
the experiment has none, and a run of ours is timed with it.
"""

import copy
from typing import Any

_SECTIONS: dict[str, Any] = {
  'seed': 0,
  'epochs': 35,
  'validations_per_epoch': 5,
  'batch': {
    'size': 128,
    'classes': 0,
    'per_class': 0,
    'sampling': 'images',
    'views': 1,
    'chunk': 0,
  },
  'augment': {
    'flip': True,
    'rotate': 180.0,
    'scale': 0.1,
    'translate': 0.05,
    'brightness': 0.0,
    'contrast': 0.1,
    'noise': 0.0,
  },
  'encoder': {
    'name': 'resnet18',
    'width': 64,
    'stem': 'quarter',
    'embedding_dim': 128,
    'dtype': 'float32',
    'centred': False,
    'poses': 1,
    'pretrained': '',
    'normalise': 'auto',
    'freeze': 0,
    'lora_rank': 0,
    'lora_alpha': 16.0,
    'whitening': 0.0,
    'size': False,
    'measures': (),
  },
  'optimizer': {
    'learning_rate': 1.4e-3,
    'schedule': 'constant',
    'warmup_epochs': 0.0,
    'weight_decay': 0.0,
    'objective_rate': 1.0,
    'encoder_rate': 1.0,
    'layer_decay': 1.0,
  },
  'curriculum': (
    (0, 'easy', 'semihard'),
    (10, 'easy', 'hard'),
    (25, 'hard', 'hard'),
  ),
  'objective': {
    'name': 'triplet',
    'distance': 'squared',
    'margin': 0.5,
    'select': 'random',
    'fallback': 'nearest',
  },
}
# From the original paper, as in configs/arcface.py:flowcamnet.
ARCFACE = {
  'name': 'arcface',
  'margin': 0.5,
  'scale': 64.0,
  'class_weights': 'none',
  'sample_prototypes': 1.0,
}


def config(
  *, batch: int = 128, epochs: int = 35, **encoder: Any
) -> dict[str, Any]:
  """Makes the settings, with another batch, length or encoder fields."""
  changed = copy.deepcopy(_SECTIONS)
  changed['batch']['size'] = batch
  changed['epochs'] = epochs
  changed['encoder'] |= encoder
  return changed
