"""Imports go one way: between the rooms, and without a circle in them."""

import ast
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# From the bottom up: a room imports from those before it alone.
ROOMS = (
  'plankton_jax.errors',
  'plankton_jax.files',
  'plankton_jax.host',
  'plankton_jax.distances',
  'plankton_jax.neighbours',
  'plankton_jax.retrieval',
  'plankton_jax.mining',
  'plankton_jax.curriculum',
  'plankton_jax.objectives',
  'plankton_jax.nn',
  'plankton_jax.augment',
  'plankton_jax.data',
  'plankton_jax.train',
  'plankton_jax.encoder',
  'plankton_jax.checkpoints',
  'plankton_jax.export',
  'configs',
  'plankton_jax.cli',
  'plankton_jax.doctor',
  'analysis.files',
  'analysis.measures',
  'analysis.formats',
  'analysis.figures',
  'analysis.page',
  'analysis.review',
  'analysis',
  'benchmarks',
)


def name_of(path):
  name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
  return name.removesuffix('.__init__')


def room(module):
  found = [r for r in ROOMS if f'{module}.'.startswith(f'{r}.')]
  return ROOMS.index(max(found, key=len))


@pytest.fixture(scope='module')
def imports():
  """Lists what each module imports of ours, at its top or in a function."""
  paths = {
    name_of(path): path
    for folder in ('plankton_jax', 'analysis', 'configs', 'benchmarks')
    for path in (ROOT / folder).rglob('*.py')
  }
  del paths['plankton_jax']  # its names are imported on demand
  found = {name: set() for name in paths}
  for name, path in paths.items():
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.ImportFrom):
        members = {f'{node.module}.{alias.name}' for alias in node.names}
        found[name] |= {m if m in paths else node.module for m in members}
      elif isinstance(node, ast.Import):
        found[name] |= {alias.name for alias in node.names}
    found[name] &= paths.keys() - {name}
  return found


def test_no_room_imports_from_one_above_it(imports):
  upward = [
    f'{module} -> {other}'
    for module, others in imports.items()
    if not module.endswith('.__main__')  # a command, wherever it lies
    for other in others
    if room(other) > room(module)
  ]
  assert not upward
  assert 'plankton_jax.mining' in imports['plankton_jax.objectives.triplets']
  assert 'plankton_jax.train.loop' in imports['plankton_jax.cli.train']


def test_no_modules_import_each_other(imports):
  graphlib.TopologicalSorter(imports).prepare()  # raises CycleError
