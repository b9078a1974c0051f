"""Metric-learning embeddings of plankton images, in pure JAX.

  import plankton_jax as pj

  encoder = pj.load_encoder('runs/mine')
  embeddings = encoder.embed(images)  # uint8 [N, H, W, C] -> float32 [N, D]

Names are imported when they are first used, so that the import itself brings
in neither JAX nor NumPy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from plankton_jax import distances, objectives, retrieval
  from plankton_jax.checkpoints import load_encoder
  from plankton_jax.mining import mine_triplets
  from plankton_jax.train.loop import train_and_evaluate

__version__ = '0.2.0'

__all__ = [
  'distances',
  'load_encoder',
  'mine_triplets',
  'objectives',
  'retrieval',
  'train_and_evaluate',
]

_MODULES = ('distances', 'objectives', 'retrieval')
_MEMBERS = {  # and the module that defines each
  'load_encoder': 'checkpoints',
  'mine_triplets': 'mining',
  'train_and_evaluate': 'train.loop',
}


def __getattr__(name: str) -> Any:
  """Imports a public name at its first use (PEP 562)."""
  if name in _MODULES:
    return importlib.import_module(f'{__name__}.{name}')
  if name in _MEMBERS:
    module = importlib.import_module(f'{__name__}.{_MEMBERS[name]}')
    value = globals()[name] = getattr(module, name)
    return value
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  """Lists the public names, imported or not."""
  return sorted({*globals(), *__all__})
