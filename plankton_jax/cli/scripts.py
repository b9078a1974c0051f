"""Starts the installed commands, such as `plankton-embed`.

Each runs a module as `python -m` does, so that flags, messages and exit status
are the same under both names. `launch.py` is `train` in a clone.
"""

import runpy
from collections.abc import Callable

_MODULES = {
  'train': 'plankton_jax.cli.train',
  'doctor': 'plankton_jax.doctor',
  'export': 'plankton_jax.export',
  'embed': 'analysis.embed',
  'report': 'analysis.report',
  'predict': 'analysis.predict',
  'neighbors': 'analysis.neighbors',
  'discover': 'analysis.discover',
  'review': 'analysis.review',
}


def __getattr__(name: str) -> Callable[[], None]:
  """Makes the function that runs a command's module (PEP 562)."""
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

  def run() -> None:
    runpy.run_module(_MODULES[name], run_name='__main__', alter_sys=True)

  return run
