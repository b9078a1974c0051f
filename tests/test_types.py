"""Public functions say what they take and return."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = [
  path.relative_to(ROOT)
  for package in ('plankton_jax', 'analysis', 'configs')
  for path in sorted((ROOT / package).rglob('*.py'))
]


def untyped(source: str) -> Iterator[str]:
  """Yields the public functions and methods that lack an annotation."""
  tree = ast.parse(source)
  for node in tree.body:
    if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
      for method in node.body:
        if isinstance(method, ast.FunctionDef):
          static = any(
            isinstance(d, ast.Name) and d.id == 'staticmethod'
            for d in method.decorator_list
          )
          yield from _lacks(method, skip=0 if static else 1)
    elif isinstance(node, ast.FunctionDef):
      yield from _lacks(node, skip=0)


def _lacks(function: ast.FunctionDef, *, skip: int) -> Iterator[str]:
  dunder = function.name.startswith('__')
  if function.name.startswith('_') and not dunder:
    return
  given = function.args
  named = [*given.posonlyargs, *given.args][skip:] + given.kwonlyargs
  named += [extra for extra in (given.vararg, given.kwarg) if extra]
  lacking = [arg.arg for arg in named if arg.annotation is None]
  if function.returns is None and function.name != '__init__':
    lacking.append('return')
  if lacking:
    yield f'{function.name}: {", ".join(lacking)}'


@pytest.mark.parametrize('path', FILES, ids=str)
def test_public_functions_are_typed(path):
  found = list(untyped((ROOT / path).read_text()))
  assert not found


def test_what_lacks_an_annotation_is_found():
  source = """
def typed(x: int, *, y: str = '') -> None: ...
def _private(x): ...
def bare(x, *rows, y: int, **more): ...
class Public:
  def __init__(self, x): ...
  def method(self) -> int: ...
  @staticmethod
  def static(x) -> int: ...
class _Private:
  def method(self, x): ...
"""
  assert list(untyped(source)) == [
    'bare: x, rows, more, return',
    '__init__: x',
    'static: x',
  ]
