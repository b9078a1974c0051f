"""Trains an encoder and keeps the run in a folder.

  python launch.py --config=configs/triplet.py --workdir=DIR

Any field is overridden by --config.section.field=value; configs/base.py says
what each means. A workdir that holds a run is resumed where it stopped.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from plankton_jax import host
from plankton_jax.errors import DivergedError, InputError

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'A file of configs/, with :preset behind it if wanted.'
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Where the run is kept.')
ACCEPT = flags.DEFINE_bool(
  'accept_changes', False, 'Resume although the config differs.'
)


def main(argv: Sequence[str]) -> None:
  try:
    if len(argv) > 1:
      raise InputError(f'unexpected argument {argv[1]!r}; flags take --')
    if not WORKDIR.value:
      raise InputError('--workdir is missing: the folder to keep the run in')
    config = _config()
    host.use_fast_settings()
    host.show_log(logging.INFO)
    from plankton_jax import loop  # brings in JAX, which --help can do without

    loop.train_and_evaluate(config, WORKDIR.value, accept_changes=ACCEPT.value)
  except (InputError, DivergedError) as error:
    _fail(error)
  except KeyboardInterrupt:
    print('interrupted; the same command resumes the run', file=sys.stderr)
    sys.exit(130)


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
  try:
    return flags.FLAGS(argv)
  except AttributeError as error:  # a field that the config does not have
    reason = error.args[0]  # ml_collections wraps a KeyError with a hint
    text = reason.args[0] if isinstance(reason, KeyError) else str(reason)
    _fail(f'unknown config field {": ".join(text.splitlines())}')
  except (flags.Error, TypeError) as error:
    lines = [line for line in str(error).splitlines() if line.strip()]
    _fail(lines[-1].strip().removeprefix('plankton_jax.errors.InputError: '))


def _fail(message: Any) -> None:
  print(f'error: {message}', file=sys.stderr)
  sys.exit(2)


if __name__ == '__main__':
  app.run(main, flags_parser=_parse)
