"""Trains an encoder and keeps the run in a folder.

  python launch.py --config=configs/triplet.py --workdir=DIR
  python launch.py --config=configs/triplet.py --workdir=DIR --dry_run
  python launch.py --config=configs/triplet.py --help

`plankton-train` is the same command where the package is installed. A config
is a file; one that is not there is looked for among the installed configs.

Any field is overridden by --config.section.field=value; --help shows what each
means and its value. A workdir that holds a run is resumed where it stopped.
"""

import logging
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from configs import base
from plankton_jax.cli import fields, host
from plankton_jax.errors import DivergedError, InputError

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'A file of configs/, with :preset behind it if wanted.'
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Where the run is kept.')
ACCEPT = flags.DEFINE_bool(
  'accept_changes', False, 'Resume although the config differs.'
)
DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Print sizes, memory and time of the run, and stop.'
)
_HELP = ('--help', '-help', '-h')


def main(argv: Sequence[str]) -> None:
  try:
    if len(argv) > 1:
      raise InputError(f'unexpected argument {argv[1]!r}; flags take --')
    if not WORKDIR.value:
      raise InputError('--workdir is missing: the folder to keep the run in')
    config = _config()
    host.use_fast_settings()
    host.show_log(logging.ERROR if DRY_RUN.value else logging.INFO)
    if DRY_RUN.value:
      _rehearse(config)
      return
    from plankton_jax.train import (
      loop,
    )  # brings in JAX, which --help can do without

    loop.train_and_evaluate(config, WORKDIR.value, accept_changes=ACCEPT.value)
  except (InputError, DivergedError) as error:
    _fail(error)
  except KeyboardInterrupt:
    print('interrupted; the same command resumes the run', file=sys.stderr)
    sys.exit(130)


def _rehearse(config: dict[str, Any]) -> None:
  from plankton_jax.train import rehearsal

  found = rehearsal.rehearse(config, WORKDIR.value, accept_changes=ACCEPT.value)
  print(rehearsal.describe(found, config['batch']['size']))


def _config() -> dict[str, Any]:
  if CONFIG.value is None:
    raise InputError('--config is missing, such as configs/triplet.py')
  try:
    return CONFIG.value.to_dict()
  except OSError:  # ml_collections keeps a failed load until it is used
    name = flags.FLAGS['config'].config_filename
    raise InputError(f'--config={name}: no such config file') from None


def _parse(argv: Sequence[str]) -> list[str]:
  """Parses the flags; a mistake in one is a line, not a traceback."""
  others = [_installed(arg) for arg in argv if arg not in _HELP]
  try:
    rest = flags.FLAGS(others)
    if len(others) < len(argv):  # after all flags, whatever their order
      print(_help())
      sys.exit(0)
    return rest
  except AttributeError as error:  # a field that the config does not have
    reason = error.args[0]  # ml_collections wraps a KeyError with a hint
    text = reason.args[0] if isinstance(reason, KeyError) else str(reason)
    _fail(f'unknown config field {": ".join(text.splitlines())}')
  except InputError as error:
    _fail(error)
  except (flags.Error, TypeError) as error:
    lines = [line for line in str(error).splitlines() if line.strip()]
    _fail(lines[-1].strip().removeprefix('plankton_jax.errors.InputError: '))


def _installed(arg: str) -> str:
  """Points --config=FILE to the installed configs if FILE is not here."""
  flag, _, value = arg.partition('=')
  name, colon, preset = value.partition(':')
  if flag.lstrip('-') != 'config' or pathlib.Path(name).exists():
    return arg
  ours = pathlib.Path(base.__file__).parents[1] / name
  return f'{flag}={ours}{colon}{preset}' if ours.is_file() else arg


def _help() -> str:
  """The flags, then every field with its comment and its value."""
  if CONFIG.value is None:
    name, file = 'every config', base.__file__
    config = base.get_config().to_dict()
  else:
    config = _config()
    name = flags.FLAGS['config'].config_filename
    file = name.partition(':')[0]
  own = flags.FLAGS.main_module_help()
  shown = fields.describe(config, fields.comments(file))
  return (
    f'{__doc__}{own}\n\nFields of {name}, each set by --config.FIELD=VALUE:\n\n'
    f'{shown}'
  )


def _fail(message: Any) -> None:
  print(f'error: {message}', file=sys.stderr)
  sys.exit(2)


if __name__ == '__main__':
  app.run(main, flags_parser=_parse)
