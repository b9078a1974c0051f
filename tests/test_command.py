"""The one wrapper of commands, and how a command restarts itself."""

import ast
import errno
import logging
import os
import pathlib
import subprocess
import sys

import pytest

from plankton_jax import host
from plankton_jax.cli import command
from plankton_jax.errors import DivergedError, InputError
from plankton_jax.files import home, write_errors
from plankton_jax.files.config_file import default_workdir

ROOT = pathlib.Path(__file__).parents[1]


def _ends(error, capsys):
  """The status and the line that an exception ends in."""
  with pytest.raises(SystemExit) as ended, command.errors_as_lines('go on'):
    raise error
  return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize('kind', [InputError, DivergedError])
def test_what_a_user_can_mend_is_a_line(kind, capsys):
  assert _ends(kind('mend this'), capsys) == (2, 'error: mend this\n')


def test_ctrl_c_says_how_to_go_on(capsys):
  assert _ends(KeyboardInterrupt(), capsys) == (130, 'go on\n')


def test_a_refused_write_is_a_line(capsys, tmp_path):
  error = PermissionError(errno.EACCES, 'Permission denied', str(tmp_path))
  status, said = _ends(error, capsys)
  assert status == 2
  assert said.startswith(f'error: {tmp_path}: permission denied; choose')


def test_the_home_of_nobody_is_a_line(capsys):
  with pytest.raises(SystemExit) as ended, command.errors_as_lines():
    home.expand('~no_such_user/x')
  assert ended.value.code == 2
  assert "error: '~no_such_user/x' begins with ~ and" in capsys.readouterr().err


@pytest.mark.parametrize(
  'fault',
  [
    ValueError('x'),
    OSError(errno.EIO, 'Input/output error'),
    RuntimeError('x'),
  ],
)
def test_our_own_faults_keep_their_traceback(fault):
  with pytest.raises(type(fault)), command.errors_as_lines():
    raise fault


def _main(argv):
  if argv[1:] == ['bad']:
    raise InputError('bad')
  return len(argv) + 4


COMMAND = """
import sys
sys.path[:0] = ['.', 'tests']
from plankton_jax.cli import command
from test_command import _main
command.run(_main, arguments=1)
"""


@pytest.mark.parametrize(
  ('arguments', 'status', 'said'),
  [
    ([], 5, ''),
    (['good'], 6, ''),
    (['bad'], 2, 'error: bad\n'),
    (['a', 'b'], 2, "error: unexpected argument 'b'; flags take --\n"),
  ],
)
def test_arguments_and_status(arguments, status, said):
  run = subprocess.run(
    [sys.executable, '-c', COMMAND, *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert (run.returncode, run.stderr) == (status, said)


@pytest.mark.skipif(sys.platform != 'linux', reason='the restart is for Linux')
def test_a_command_restarts_its_script_from_any_folder(tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(
    'import os, sys\n'
    f'sys.path.insert(0, {str(ROOT)!r})\n'
    'from plankton_jax import host\n'
    'os.chdir("/")\n'
    'host.use_fast_settings()\n'
    'print(os.environ["OMP_WAIT_POLICY"], sys.argv[1:])\n'
  )
  environment = {
    name: value
    for name, value in os.environ.items()
    if name not in ('GLIBC_TUNABLES', 'OMP_WAIT_POLICY')
  }
  run = subprocess.run(
    [sys.executable, '-X', 'utf8', 'script.py', '--a=b', 'c'],
    cwd=tmp_path,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.stdout == "passive ['--a=b', 'c']\n", run.stderr
  assert run.stderr.count('restarting with') == 1


def test_importing_the_library_never_restarts(monkeypatch):
  monkeypatch.setattr(os, 'execve', None)  # a call would fail
  monkeypatch.setattr(sys, 'argv', ['command', '--help'])
  monkeypatch.setattr(command.app, 'run', lambda main, flags_parser: None)
  command.run(_main, fast=True)
  monkeypatch.setattr(sys, 'argv', ['command'])
  command.run(_main)
  called = []
  monkeypatch.setattr(host, 'use_fast_settings', lambda: called.append(1))
  command.run(_main, fast=True)
  assert called == [1]


def _calls(tree):
  """The calls of use_fast_settings below a node."""
  return [
    node
    for node in ast.walk(tree)
    if isinstance(node, ast.Call)
    and isinstance(node.func, ast.Attribute)
    and node.func.attr == 'use_fast_settings'
  ]


@pytest.mark.parametrize('folder', ['plankton_jax', 'analysis', 'benchmarks'])
def test_only_a_command_restarts(folder):
  # A function that restarts would end the process of whoever imports it.
  callers = set()
  for path in (ROOT / folder).rglob('*.py'):
    tree = ast.parse(path.read_text())
    as_command = [
      node
      for node in tree.body
      if isinstance(node, ast.If) and '__main__' in ast.unparse(node.test)
    ]
    if len(_calls(tree)) > sum(len(_calls(node)) for node in as_command):
      callers.add(path.relative_to(ROOT).as_posix())
  wanted = (
    {'plankton_jax/cli/command.py'} if folder == 'plankton_jax' else set()
  )
  assert callers == wanted


@pytest.mark.parametrize(
  ('config', 'workdir'),
  [
    ('configs/triplet.py', 'runs/triplet'),
    ('/x/mine.py:planktonset9', 'runs/mine-planktonset9'),
  ],
)
def test_a_run_is_named_after_its_config(config, workdir):
  assert default_workdir(config) == pathlib.Path(workdir)


class LibraryError(RuntimeError):
  pass


def _wrapped(number):
  """A library's exception, raised from the system's."""
  try:
    try:
      raise OSError(number, os.strerror(number))
    except OSError as error:
      raise LibraryError('the write failed') from error
  except LibraryError as error:
    return error


@pytest.mark.parametrize(
  ('error', 'said'),
  [
    (OSError(errno.ENOSPC, 'No space left on device'), 'the disk is full'),
    (_wrapped(errno.ENOSPC), 'the disk is full'),
    (LibraryError('INTERNAL: write: No space left on device'), 'disk is full'),
    (_wrapped(errno.EDQUOT), 'the quota is used'),
  ],
)
def test_a_full_disk_names_place_need_and_what_is_free(error, said, tmp_path):
  place = tmp_path / 'not' / 'there'
  with (
    pytest.raises(InputError) as found,
    write_errors.explained(place, need=3 << 20),
  ):
    raise error
  line = str(found.value)
  assert line.startswith(f'{place}: ') and said in line
  assert '(3.0 MiB needed, ' in line and ' MiB free); free some' in line
  assert '\n' not in line


@pytest.mark.parametrize(
  'number', [errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EEXIST]
)
def test_a_place_that_cannot_be_written_is_named(number, tmp_path):
  with pytest.raises(InputError) as found, write_errors.explained(tmp_path):
    raise OSError(number, os.strerror(number), '/the/file')
  assert str(found.value).startswith('/the/file: ')
  assert 'choose' in str(found.value) and 'free' not in str(found.value)


def test_other_exceptions_pass(tmp_path):
  for error in (InputError('a'), DivergedError('b'), KeyError('c')):
    with pytest.raises(type(error)) as found, write_errors.explained(tmp_path):
      raise error
    assert found.value is error


def test_lines_that_are_alike_are_printed_once(capsys, monkeypatch):
  own, real = logging.Logger('plankton_jax'), logging.getLogger
  get = lambda name=None: own if name == 'plankton_jax' else real(name)
  monkeypatch.setattr(logging, 'getLogger', get)
  monkeypatch.setattr(host.absl.logging, 'set_verbosity', lambda level: None)
  host.show_log(logging.WARNING)
  for name in 'aba':
    own.warning('%s.tsv has no date', name)
  own.info('b is read')
  assert capsys.readouterr().err == 'a.tsv has no date\nb.tsv has no date\n'
