"""Describes a config's fields by name, value, range and comment."""

import ast
import importlib.util
import io
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_INDENT = 32  # column of the comments, if the value leaves room
_WIDTH = 80


def comments(path: str | Path) -> dict[str, str]:
  """Finds the comment of every field that a config file sets, by dotted name.

  A comment follows the assignment or precedes it on lines of its own. Where an
  imported config has a comment too, that one wins: it says what the field
  means, the file's own only why its value differs.
  """
  source = Path(path).read_text(encoding='utf-8')
  tree = ast.parse(source)
  found: dict[str, str] = {}
  for name in _imported(tree):
    spec = importlib.util.find_spec(f'configs.{name}')
    if spec is not None and spec.origin:
      found = {**comments(spec.origin), **found}
  behind, alone = _comments_by_line(source)
  sections = {'config': ''}
  for node in ast.walk(tree):
    if not isinstance(node, ast.Assign):
      continue
    names = [_field(target, sections) for target in node.targets]
    field = next((name for name in names if name), None)
    if field is None:
      continue
    for target in node.targets:  # config.data = data = ConfigDict()
      if isinstance(target, ast.Name):
        sections[target.id] = field
    text = behind.get(node.end_lineno or 0) or _above(alone, node.lineno)
    if text:
      found.setdefault(field, text)
  return found


def describe(
  config: dict[str, Any],
  meanings: Mapping[str, str],
  ranges: Mapping[str, object] | None = None,
) -> str:
  """Describes each field in a line or more: `section.field=value`, its meaning.

  Args:
    config: a plain dict, nested by section.
    meanings: from `comments`; gives the order of the fields.
    ranges: from `config_check.ranges`; follow the meanings.
  """
  texts = dict(meanings)
  for name, allowed in (ranges or {}).items():
    meaning = texts.get(name, '')
    texts[name] = f'{meaning} [{allowed}]'.lstrip()
  rank = {name: i for i, name in enumerate(meanings)}
  return '\n'.join(_lines(config, texts, rank, ''))


def _lines(
  tree: dict[str, Any],
  meanings: dict[str, str],
  rank: dict[str, int],
  prefix: str,
) -> Iterator[str]:
  """Yields the fields of a section, then its subsections."""
  order = lambda name: (
    isinstance(tree[name], dict),
    rank.get(prefix + name, len(rank)),
  )
  for name in sorted(tree, key=order):
    field, value = prefix + name, tree[name]
    if isinstance(value, dict):
      yield f'\n{field}: {meanings.get(field, "")}'.rstrip()
      yield from _lines(value, meanings, rank, f'{field}.')
    else:
      yield _line(f'  {field}={_shown(value)}', meanings.get(field, ''))


def _shown(value: Any) -> str:
  if isinstance(value, tuple | list):
    return repr(value).replace(', ', ',')  # a flag's value has no spaces
  return str(value) or "''"


def _line(field: str, meaning: str) -> str:
  lines = textwrap.wrap(meaning, _WIDTH - _INDENT, break_on_hyphens=False)
  if len(field) < _INDENT - 1 and lines:
    field = field.ljust(_INDENT) + lines.pop(0)
  return '\n'.join([field, *(' ' * _INDENT + line for line in lines)])


def _imported(tree: ast.Module) -> list[str]:
  return [
    alias.name
    for node in tree.body
    if isinstance(node, ast.ImportFrom) and node.module == 'configs'
    for alias in node.names
  ]


def _field(target: ast.expr, sections: dict[str, str]) -> str | None:
  """Finds the dotted name of `config.a.b`, or of `a.b` for a section."""
  parts: list[str] = []
  while isinstance(target, ast.Attribute):
    parts.append(target.attr)
    target = target.value
  if not parts or not isinstance(target, ast.Name) or target.id not in sections:
    return None
  return '.'.join(filter(None, [sections[target.id], *reversed(parts)]))


def _comments_by_line(source: str) -> tuple[dict[int, str], dict[int, str]]:
  """Finds comments that follow code, and those on lines of their own."""
  behind: dict[int, str] = {}
  alone: dict[int, str] = {}
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      line, column = token.start
      own = not token.line[:column].strip()
      (alone if own else behind)[line] = token.string.lstrip('# ')
  return behind, alone


def _above(alone: dict[int, str], line: int) -> str:
  texts: list[str] = []
  while line - 1 in alone:
    line -= 1
    texts.insert(0, alone[line])
  return ' '.join(texts)
