"""Trains an encoder and keeps the run in a folder.

  python launch.py --config=configs/triplet.py
  python launch.py --config=configs/triplet.py --workdir=DIR
  python launch.py --config=configs/triplet.py --workdir=DIR --dry_run
  python launch.py --config=configs/triplet.py --help

Several processes train one run, on one or more hosts that share the workdir,
each started by the same command with its own --process_id:

  python launch.py ... --coordinator=HOST:PORT --num_processes=2 --process_id=0

or with --distributed, where Slurm, Kubernetes or a TPU pod says all that.

`plankton-train` is the same command where the package is installed. --config
names a file; if it does not exist, an installed config of that name is used.

--config.section.field=value overrides any field; --help lists the fields with
their meaning and value. A run in the workdir is resumed where it stopped.
"""

import logging
import pathlib
import re
import sys
import traceback
from collections.abc import Sequence
from keyword import iskeyword
from typing import Any

from absl import flags
from ml_collections import config_flags

from configs import base
from plankton_jax import host
from plankton_jax.cli import command, config_help, processes
from plankton_jax.errors import InputError
from plankton_jax.files import config_file, home
from plankton_jax.train import config_check

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'A file of configs/, with :preset behind it if wanted.'
)
WORKDIR = flags.DEFINE_string(
  'workdir', None, "Where the run is kept ['runs/' and the config's name]."
)
ACCEPT = flags.DEFINE_bool(
  'accept_changes', False, 'Resume although the config differs.'
)
DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Print sizes, memory and time of the run, and stop.'
)
COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'Of several processes: HOST:PORT of the first.'
)
NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'How many processes train the run together.'
)
PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Which of them this one is, from 0.'
)
DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'Join the processes that a cluster started.'
)

_INTERRUPTED = 'interrupted; the same command resumes the run'
_OVERRIDE = re.compile('--?(?:no)?config[.]([^=]*)')


def main(argv: Sequence[str]) -> None:
  """Trains, or rehearses with --dry_run, as the flags say."""
  del argv
  config, workdir = _config(), _workdir()
  if DRY_RUN.value and (DISTRIBUTED.value or COORDINATOR.value):
    raise InputError(
      '--dry_run takes one process: leave out --coordinator, --distributed'
    )
  host.show_log(logging.ERROR if DRY_RUN.value else logging.INFO)
  with processes.joined(
    coordinator=COORDINATOR.value,
    num_processes=NUM_PROCESSES.value,
    process_id=PROCESS_ID.value,
    detect=DISTRIBUTED.value,
    interrupted=_INTERRUPTED,
  ):
    _train(config, workdir)


def _train(config: dict[str, Any], workdir: pathlib.Path) -> None:
  """Trains or rehearses in a process of the job."""
  # Imported late, as they bring in JAX, which --help does without.
  from plankton_jax.train import job

  if not job.is_first():
    logging.getLogger('plankton_jax').setLevel(logging.ERROR)
  if DRY_RUN.value:
    from plankton_jax.train import rehearsal

    found = rehearsal.rehearse(config, workdir, accept_changes=ACCEPT.value)
    print(rehearsal.describe(found, config['batch']['size']))
    return
  from plankton_jax.train import loop

  loop.train_and_evaluate(config, workdir, accept_changes=ACCEPT.value)


def _config() -> dict[str, Any]:
  if CONFIG.value is None:
    raise InputError('--config is missing, such as configs/triplet.py')
  try:
    return CONFIG.value.to_dict()
  except OSError:  # ml_collections keeps a failed load until it is used
    raise InputError(f'--config={_filename()}: no such config file') from None


def _filename() -> str:
  """Returns the config's file as it was given, with its preset."""
  return getattr(flags.FLAGS['config'], 'config_filename')  # noqa: B009


def _workdir() -> pathlib.Path:
  """Expands --workdir, or names one after the config and says so."""
  if WORKDIR.value:
    return home.expand(WORKDIR.value)
  workdir = config_file.default_workdir(_filename())
  print(
    f'--workdir is not given: the run is kept in {workdir}', file=sys.stderr
  )
  return workdir


def parse(argv: Sequence[str]) -> list[str]:
  """Parses the flags; reports a mistake as one line, without a traceback."""
  others = [_installed(arg) for arg in argv if arg not in command.HELP]
  try:
    _check_overrides(others)
    rest = flags.FLAGS(others)
    if len(others) < len(argv):  # after all flags, whatever their order
      print(_help())
      sys.exit(0)
    return rest
  except AttributeError as error:  # a field that the config does not have
    reason = error.args[0]  # ml_collections wraps a KeyError with a hint
    text = reason.args[0] if isinstance(reason, KeyError) else str(reason)
    command.fail(f'unknown config field {": ".join(text.splitlines())}')
  except KeyError as error:  # a section, or a field within a field
    if not _raised_in_ml_collections(error):
      raise
    text = error.args[0]
    if not text.startswith("'"):
      text = repr(text.rpartition(' ')[2])  # '... to lookup: data.size.x'
    command.fail(f'unknown config field {": ".join(text.splitlines())}')
  except InputError as error:
    command.fail(error)
  except (flags.Error, TypeError) as error:
    lines = [line for line in str(error).splitlines() if line.strip()]
    prefix = 'plankton_jax.errors.InputError: '
    command.fail(lines[-1].strip().removeprefix(prefix))


def _check_overrides(argv: Sequence[str]) -> None:
  """Checks how fields are spelt, which ml_collections would parse as Python.

  Raises:
    InputError: one is no name, nor names joined by dots.
  """
  for arg in argv:
    if found := _OVERRIDE.match(arg):
      names = found[1].split('.')
      if not all(x.isidentifier() and not iskeyword(x) for x in names):
        raise InputError(
          f'unknown config field {found[1][:80]!r}; write'
          ' --config.section.field=value'
        )


def _raised_in_ml_collections(error: Exception) -> bool:
  """Tells an error of the flags from one of the config file's own code."""
  *_, last = traceback.extract_tb(error.__traceback__)
  return 'ml_collections' in pathlib.Path(last.filename).parts


def _installed(arg: str) -> str:
  """Points --config=FILE to the installed configs if FILE does not exist."""
  flag, _, value = arg.partition('=')
  name, colon, preset = value.partition(':')
  if flag.lstrip('-') != 'config' or pathlib.Path(name).exists():
    return arg
  ours = pathlib.Path(base.__file__).parents[1] / name
  return f'{flag}={ours}{colon}{preset}' if ours.is_file() else arg


def _help() -> str:
  """Shows the flags, then every field with its comment, range and value."""
  if CONFIG.value is None:
    name, file = 'every config', base.__file__
    config = base.get_config().to_dict()
  else:
    config, name = _config(), _filename()
    file = name.partition(':')[0]
  shown = config_help.describe(
    config, config_help.comments(file), config_check.ranges(config)
  )
  own = flags.FLAGS.main_module_help()
  return (
    f'{__doc__}{own}\n\nFields of {name}, each set by --config.FIELD=VALUE:\n\n'
    f'{shown}'
  )


if __name__ == '__main__':
  command.run(main, fast=True, flags_parser=parse, interrupted=_INTERRUPTED)
