"""Writes a workdir's config.json once, and compares later configs with it."""

import inspect
import json
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

from plankton_jax.errors import InputError
from plankton_jax.files import atomic, json_text

Config = dict[str, Any]  # plain, with the fields of configs/base.py
Built = TypeVar('Built')

# Fields added since version 0.1, with the values that runs had without them.
ADDED: dict[str, Config] = {
  'batch': {'chunk': 0, 'views': 1},
  'data': {
    'class_level': 'path',
    'crop': [0, 0, 0, 0],
    'image_rank': 'lowest',
    'own_split': False,
    'pixel_um': 0.0,
    'rare': 'gallery',
    'white': 65535,
  },
  'optimizer': {'layer_decay': 1.0},
  'encoder': {
    'lora_alpha': 16.0,
    'lora_rank': 0,
    'measures': [],
    'normalise': 'auto',
    'size': False,
    'whitening': 0.0,
  },
}
# Those of the section `objective`, by its name.
ADDED_OBJECTIVE: dict[str, Config] = {
  name: {'sample_prototypes': 1.0}
  for name in ('arcface', 'cosface', 'softmax', 'subcenter_arcface')
}


def default_workdir(name: str) -> pathlib.Path:
  """Names a run's folder, below the current one, after its config.

  configs/x.py is kept in runs/x, configs/x.py:preset in runs/x-preset.
  """
  file, _, preset = name.partition(':')
  name = pathlib.Path(file).stem
  return pathlib.Path('runs', f'{name}-{preset}' if preset else name)


def complete(config: Config) -> Config:
  """Adds the fields that an older version's config lacks."""
  fields = dict(ADDED)
  if isinstance(objective := config.get('objective'), dict):
    fields['objective'] = ADDED_OBJECTIVE.get(str(objective.get('name')), {})
  return config | {
    section: added | config[section]
    for section, added in fields.items()
    if isinstance(config.get(section), dict)
  }


def read(workdir: pathlib.Path) -> Config:
  """Reads workdir/config.json, as it was written.

  Raises:
    InputError: it is damaged.
  """
  path = workdir / 'config.json'
  try:
    return json_text.parse(path.read_bytes())
  except InputError as error:
    raise InputError(
      f'{path} is damaged ({error}); restore it, or train again in a new'
      ' --workdir'
    ) from None


def compare(config: Config, workdir: pathlib.Path) -> None:
  """Compares a config with the one that began the workdir, if there is one.

  Raises:
    InputError: it differs, and the message names the fields; or it is damaged.
  """
  if not (workdir / 'config.json').exists():
    return
  old = flatten(complete(read(workdir)))
  new = flatten(_plain(complete(config)))
  changed = [
    f'{name if name.isprintable() else repr(name)}:'
    f' {old.get(name)!r} there, {new.get(name)!r} now'
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name)
  ]
  if changed:
    raise InputError(
      f'{workdir} was begun with another config ({"; ".join(changed)});'
      ' choose a new --workdir, or resume so with --accept_changes'
    )


def write(config: Config, workdir: pathlib.Path) -> None:
  """Writes workdir/config.json."""
  atomic.text(workdir / 'config.json', json.dumps(config, indent=1) + '\n')


def build(
  make: Callable[..., Built], config: Config, section: str, **others: Any
) -> Built:
  """Calls `make(**config[section], **others)` if a saved config still fits.

  The section has the parameters of `make` that have no default.

  Raises:
    InputError: the section is missing, lacks fields of `make`, or has others,
      as one of another version would.
  """
  wanted = {
    name
    for name, parameter in inspect.signature(make).parameters.items()
    if parameter.default is parameter.empty and name not in others
  }
  fields = complete(config).get(section)
  if not isinstance(fields, dict):
    raise InputError(
      f"the run's config has no section {section!r}: it is damaged, or of"
      ' another version of plankton_jax; use that version, or train again with'
      ' this one'
    )
  found = fields.keys()
  wrong = [f'has no {section}.{name}' for name in sorted(wanted - found)]
  wrong += [f'has {section}.{name}' for name in sorted(found - wanted)]
  if wrong:
    raise InputError(
      f"the run's config {', '.join(wrong)}: another version of plankton_jax"
      ' made it; use that version, or train again with this one'
    )
  return make(**fields, **others)


def _plain(config: Config) -> Config:
  """Turns tuples into lists, as JSON gives them back."""
  return json.loads(json.dumps(config))


def flatten(tree: Any, prefix: str = '') -> dict[str, Any]:
  """Lists the fields of a config by their dotted names."""
  if not isinstance(tree, dict):
    return {prefix: tree}
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    flat |= flatten(value, f'{prefix}.{name}' if prefix else name)
  return flat
