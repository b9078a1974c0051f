import functools
import gc
import importlib.metadata
import logging
import os

import pytest

from configs import smoke
from plankton_jax.files import encoder_folder
from tests import command_runner, tiny_encoder

# Tests compile far more than they compute: code that is quick to make. JAX ends
# the process at a flag that it does not know, as later releases the last.
FLAGS = [
  '--xla_backend_optimization_level=0',
  # Each part of a program takes time; the workers keep all cores busy.
  '--xla_cpu_parallel_codegen_split_count=1',
]
if importlib.metadata.version('jaxlib').startswith(('0.9.', '0.10.')):
  FLAGS.append('--xla_cpu_use_fusion_emitters=false')
os.environ.setdefault('XLA_FLAGS', ' '.join(FLAGS))
# Nor does a test read which lines of Python each operation comes from.
os.environ.setdefault('JAX_TRACEBACK_IN_LOCATIONS_LIMIT', '0')
# Tracing makes so many objects, and leaves so few in cycles, that to look for
# cycles as often as Python does takes an eighth of a test's time.
gc.set_threshold(50_000, 20, 50)

# The files of tests that take longest, in that order.
LONGEST = (
  'commands', 'end_to_end', 'sharding', 'accelerator', 'processes', 'wheel',
  'faults', 'export', 'pretrained', 'transfer', 'whitening', 'sizes',
  'starting_encoder', 'undefined_validation', 'step',
)  # fmt: skip


@pytest.fixture(autouse=True)
def restore_log():
  """Undoes what a command that a test calls sets for the whole process."""
  own = logging.getLogger('plankton_jax')
  handlers, level, propagate = [*own.handlers], own.level, own.propagate
  yield
  own.handlers[:] = handlers
  own.setLevel(level)
  own.propagate = propagate


@pytest.fixture(scope='session')
def caches(tmp_path_factory):
  """Compiled programs and drawn images, shared by the tests of one session."""
  session = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    session = session.parent  # of all workers
  folder = session / 'caches'
  folder.mkdir(exist_ok=True)
  return folder


@pytest.fixture(scope='session')
def start_python(tmp_path_factory):
  """Starts `python ARGV...` in a fork: `start(*argv, cwd=ROOT, **env)`."""
  with command_runner.started(tmp_path_factory.mktemp('python')) as start:
    yield start


@pytest.fixture(scope='session')
def python(start_python):
  """Runs `python ARGV...` in a fork, to its end."""
  return functools.partial(command_runner.finish, start_python)


@pytest.fixture(scope='session')
def traced_once():
  """Lets runs of one session share the programs of the first that has the same.

  To trace and compile them takes longer than all steps of such a run.
  """
  from plankton_jax.nn import encoders  # these take long to import
  from plankton_jax.train import experiment, loop, rehearsal, step

  assembled = {}

  def assemble(config, data):
    own = experiment.assemble(config, data)
    sections = (
      'encoder', 'augment', 'optimizer', 'objective', 'curriculum', 'batch',
    )  # fmt: skip
    constant = config['optimizer']['schedule'] == 'constant'
    warmup = config['optimizer']['warmup_epochs']
    values = (
      [config[name] for name in sections],
      None if constant and not warmup else own.schedule,
      data.images.shape[1:],
      data.num_seen,
      # Classes are weighed by their images, and measures scaled.
      {
        name: column[data.splits['train']].tobytes()
        for name, column in own.columns.items()
        if name != 'image'
      },
    )
    # Some tests put their own in place of these.
    network = encoders.BACKBONES[config['encoder']['name']]
    steps = step.make_train_step, step.make_eval_step
    same = assembled.setdefault((repr(values), network, *steps), own)
    return own._replace(
      create=same.create, train_step=same.train_step, eval_step=same.eval_step
    )

  with pytest.MonkeyPatch.context() as patch:
    for module in (loop, rehearsal):
      patch.setattr(module, 'assemble', assemble)
    yield


@pytest.fixture(scope='session')
def make_config(caches, traced_once):
  """A config of the smallest run that is still the whole path."""

  def make(get_config=smoke.get_config, **fields):
    config = get_config()
    config.epochs = 3
    # A stage is a program of its own: one of them, unless a test asks for more.
    config.curriculum = config.curriculum[:1]
    # And so is a cosine over another number of steps.
    config.optimizer.schedule = 'constant'
    config.validations_per_epoch = 2
    config.compilation_cache_dir = str(caches / 'compiled')
    config.data.cache_dir = str(caches / 'data')
    config.data.per_class = 16
    config.data.size = 16
    config.batch.size = 18
    config.encoder.name = 'resnet10'
    config.encoder.width = 4
    config.encoder.stem = 'half'
    config.encoder.embedding_dim = 8
    config.update_from_flattened_dict(
      {name.replace('__', '.'): value for name, value in fields.items()}
    )
    return config.to_dict()

  return make


def pytest_collection_modifyitems(items):
  """Puts the longest files first, so that no worker begins one at the end."""
  order = {f'test_{name}': i for i, name in enumerate(LONGEST)}
  items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_addoption(parser):
  parser.addoption(
    '--no-skips', action='store_true', help='Fail if any test is skipped.'
  )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
  """Fails a session of --no-skips whose tests lack what they compare with."""
  reporter = session.config.pluginmanager.get_plugin('terminalreporter')
  if session.config.getoption('--no-skips') and reporter.stats.get('skipped'):
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
  if config.getoption('--no-skips'):
    for report in terminalreporter.stats.get('skipped', []):
      terminalreporter.write_line(f'skipped: {report.nodeid} {report.longrepr}')


@pytest.fixture
def bundled(tmp_path, monkeypatch, make_config):
  """The folder of bundled encoders, with the small encoder `tiny` in it."""
  folder = tmp_path / 'bundled'
  folder.mkdir()
  monkeypatch.setattr(encoder_folder, 'BUNDLED', folder)
  tiny_encoder.save(folder / 'tiny', make_config())
  return folder
