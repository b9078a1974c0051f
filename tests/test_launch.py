"""launch.py as it is typed, and in places that it cannot write to."""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def launch(caches, python, tmp_path):
  """Runs an epoch of the smallest encoder, whose programs others share."""
  fields = (
    '--config.epochs=1', "--config.curriculum=((0,'easy','semihard'),)",
    '--config.validations_per_epoch=1', '--config.data.per_class=16',
    '--config.data.size=16', '--config.batch.size=18',
    '--config.encoder.width=4', '--config.encoder.embedding_dim=8',
    '--config.optimizer.schedule=constant',
    f'--config.data.cache_dir={caches}/data',
    f'--config.compilation_cache_dir={caches}/compiled',
  )  # fmt: skip

  def launch(*flags):
    config = f'--config={ROOT}/configs/smoke.py'
    command = ROOT / 'launch.py', config, *fields, *flags
    return python(*command, cwd=tmp_path, HOME=str(tmp_path))

  return launch


def test_without_a_workdir_the_run_is_kept_and_resumed_by_its_config(
  launch, tmp_path
):
  first = launch()
  assert first.returncode == 0, first.stderr
  assert '--workdir is not given: the run is kept in runs/smoke' in first.stderr
  assert (tmp_path / 'runs/smoke/config.json').is_file()
  again = launch()
  assert again.returncode == 0 and 'resuming runs/smoke' in again.stderr


def test_a_tilde_is_expanded(launch, tmp_path):
  run = launch('--workdir=~/mine', '--config.epochs=0')
  assert run.returncode == 2 and 'error: epochs=0 must be' in run.stderr
  (tmp_path / 'mine').write_text('in the way')
  run = launch('--workdir=~/mine')
  assert f'{tmp_path}/mine' in run.stderr
  assert not (tmp_path / '~').exists()


@pytest.fixture
def small(tmp_path):
  """A file system that holds a megabyte, where one can be mounted."""
  place = tmp_path / 'small'
  place.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', place]
  if not shutil.which('mount') or subprocess.run(mount, check=False).returncode:
    pytest.skip('mounting a file system takes root')
  yield place
  subprocess.run(['umount', place], check=True)


def _the_error(run):
  assert run.returncode == 2, run.stderr
  # On a full disk, tensorboardX complains once more as Python ends.
  assert 'Traceback' not in run.stderr.partition('error: ')[0], run.stderr
  (line,) = [x for x in run.stderr.splitlines() if x.startswith('error: ')]
  return line


def test_a_full_disk_is_one_line_and_the_run_resumes(launch, tmp_path, small):
  workdir = f'--workdir={small}/run'
  (small / 'filler').write_bytes(bytes(700_000))
  line = _the_error(launch(workdir))
  assert str(small) in line and 'the disk is full (' in line
  assert 'MiB needed' in line and 'MiB free' in line
  (small / 'filler').unlink()
  run = launch(workdir)
  assert run.returncode == 0, run.stderr


def test_a_full_cache_is_one_line(launch, tmp_path, small):
  (small / 'filler').write_bytes(bytes(1_000_000))
  line = _the_error(
    launch(
      f'--config.data.cache_dir={small}/data',
      f'--workdir={tmp_path}/run',
    )
  )
  assert str(small) in line and 'the disk is full' in line


def test_a_read_only_place_is_one_line(launch, tmp_path, small):
  subprocess.run(['mount', '-o', 'remount,ro', small], check=True)
  line = _the_error(launch(f'--workdir={small}/run'))
  assert str(small) in line and 'read-only' in line


@pytest.mark.parametrize(
  ('override', 'named'),
  [
    (
      'bach.sampling=sqrt',
      """'bach': Did you mean "batch" instead of "bach"?""",
    ),
    ('batch.sampl=sqrt', """'sampl'"""),
    ('nothing=1', "'nothing'"),
    ('a.b=1', "'a'"),
    ('a.b.c=1', "'a'"),
    ('data.size.x=1', "'data.size.x'"),
    ('=1', "''; write --config."),
    ('.=1', "'.'; write --config."),
    ('data.=1', "'data.'; write --config."),
    ('data.a b=1', "'data.a b'; write --config."),
    ('data.class=1', "'data.class'; write --config."),
    ('data.fractions[0]=0.5', "'data.fractions[0]'; write --config."),
    ('[' * 9999 + '=1', "'[[["),
  ],
)
def test_an_override_of_no_field_is_one_line(override, named, python):
  # Help ends before any data is read.
  flags = '--config=configs/smoke.py', f'--config.{override}', '--help'
  run = python('launch.py', *flags)
  assert run.returncode == 2
  (line,) = run.stderr.splitlines()
  assert line.startswith(f'error: unknown config field {named}')


def test_a_fault_of_the_config_file_keeps_its_traceback(tmp_path, python):
  (tmp_path / 'mine.py').write_text("def get_config():\n  return {}['size']\n")
  run = python('launch.py', f'--config={tmp_path}/mine.py', '--help')
  assert run.returncode == 1 and "KeyError: 'size'" in run.stderr
