"""Starts the installed commands, such as `plankton-embed`.

Each runs a module as `python -m` does, so that flags, messages and exit status
are the same under both names.
"""

import runpy


def train() -> None:
  """Runs plankton_jax.cli.train, which launch.py runs in a clone."""
  _run('plankton_jax.cli.train')


def doctor() -> None:
  """Runs plankton_jax.doctor."""
  _run('plankton_jax.doctor')


def export() -> None:
  """Runs plankton_jax.export."""
  _run('plankton_jax.export')


def embed() -> None:
  """Runs analysis.embed."""
  _run('analysis.embed')


def report() -> None:
  """Runs analysis.report."""
  _run('analysis.report')


def predict() -> None:
  """Runs analysis.predict."""
  _run('analysis.predict')


def neighbors() -> None:
  """Runs analysis.neighbors."""
  _run('analysis.neighbors')


def discover() -> None:
  """Runs analysis.discover."""
  _run('analysis.discover')


def review() -> None:
  """Runs analysis.review."""
  _run('analysis.review')


def _run(module: str) -> None:
  runpy.run_module(module, run_name='__main__', alter_sys=True)
