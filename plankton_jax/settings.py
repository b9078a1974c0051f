"""A workdir's config.json: written once, compared ever after."""

import json
import pathlib
from typing import Any

from plankton_jax import atomic
from plankton_jax.errors import InputError

Config = dict[str, Any]  # plain, with the fields of configs/base.py


def keep(config: Config, workdir: pathlib.Path, *, accept: bool) -> None:
  """Writes `workdir/config.json`, or compares with the one that is there.

  Args:
    config: of the run that is about to start.
    workdir: made if missing.
    accept: overwrite a config that differs.

  Raises:
    InputError: it differs, naming the fields, and `accept` is False.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / 'config.json'
  text = json.dumps(config, indent=1)
  if path.exists():
    old, new = _flat(json.loads(path.read_text())), _flat(json.loads(text))
    changed = [
      f'{name}: {old.get(name)!r} there, {new.get(name)!r} now'
      for name in sorted(old.keys() | new.keys())
      if old.get(name) != new.get(name)
    ]
    if not changed:
      return
    if not accept:
      raise InputError(
        f'{workdir} was begun with another config ({"; ".join(changed)});'
        ' choose a new --workdir, or resume so with --accept_changes'
      )
  atomic.text(path, text + '\n')


def _flat(tree: Any, prefix: str = '') -> dict[str, Any]:
  if not isinstance(tree, dict):
    return {prefix: tree}
  flat = {}
  for name, value in tree.items():
    flat |= _flat(value, f'{prefix}.{name}' if prefix else name)
  return flat
