"""Writes a run's encoder for others: a folder, StableHLO or ONNX.

python -m plankton_jax.export --workdir=DIR --format=safetensors --out=FOLDER
python -m plankton_jax.export --workdir=DIR --format=stablehlo --out=FILE
python -m plankton_jax.export --workdir=DIR --format=onnx --out=FILE
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from plankton_jax import host
from plankton_jax.cli import command
from plankton_jax.errors import InputError
from plankton_jax.files import home

WORKDIR = flags.DEFINE_string(
  'workdir', None, "A trained run's folder, or one that this command wrote."
)
FORMAT = flags.DEFINE_enum(
  'format', None, ['safetensors', 'stablehlo', 'onnx'], 'What to write.'
)
OUT = flags.DEFINE_string('out', None, 'The file, or the folder, to write.')
STEP = flags.DEFINE_integer(
  'step', None, 'The checkpoint [the best by validation].'
)
LICENSE = flags.DEFINE_string(
  'license', '', "The encoder's licence, for its card, such as CC-BY-4.0."
)
HALF = flags.DEFINE_bool(
  'half',
  False,
  'safetensors: keep kernels as float16, in half the space; elements of an'
  ' embedding then change by about 0.001.',
)


def export(
  workdir: pathlib.Path,
  out: pathlib.Path,
  *,
  format: str,
  step: int | None,
  license: str,
  half: bool = False,
) -> None:
  """Writes a workdir's encoder and prints what was written.

  Args:
    workdir: of the run, or a folder that this command wrote.
    out: the file or folder to write.
    format: 'safetensors', 'stablehlo' or 'onnx'.
    step: the checkpoint; None is the best by validation.
    license: for the card.
    half: keep kernels as float16, in a safetensors folder.

  Raises:
    InputError: there is no encoder, or it cannot be written in that format.
  """
  if format != 'safetensors' and out.is_dir():
    raise InputError(f'{out} is a folder; --out is the file to write')
  if half and format != 'safetensors':
    raise InputError(f'--half is for --format=safetensors, not {format}')
  # Imported late, as they bring in JAX, which mistakes do without.
  from plankton_jax import checkpoints
  from plankton_jax.export import card, programs
  from plankton_jax.files import encoder_folder

  encoder = checkpoints.load_encoder(workdir, step)
  encoder.config = encoder_folder.without_paths(encoder.config)
  out.parent.mkdir(parents=True, exist_ok=True)
  if format == 'safetensors':
    text = card.write(encoder, workdir, license=license)
    encoder.save(out, card=text, half=half)
    print(
      f'{out}: {_size(out / encoder_folder.WEIGHTS)}, and README.md, its card'
    )
    return
  found = programs.WRITERS[format](encoder, out)
  data = encoder.config['data']
  measures = ''
  if encoder.takes:
    names = ', '.join(encoder.takes)
    measures = f', float32 [N, {len(encoder.takes)}] ({names})'
  print(
    f'{out}: {_size(out)}, uint8 [N, {data["size"]}, {data["size"]},'
    f' {data["channels"]}]{measures} -> float32 [N,'
    f' {encoder.config["encoder"]["embedding_dim"]}]; largest difference from'
    f' the encoder {found:.1e}'
  )


def _size(path: pathlib.Path) -> str:
  return f'{path.stat().st_size / 1e6:.1f} MB'


def main(argv: Sequence[str]) -> None:
  """Exports as the flags ask."""
  del argv
  workdir, format, out = (_required(flag) for flag in (WORKDIR, FORMAT, OUT))
  host.show_log(0)
  export(
    home.expand(workdir),
    home.expand(out),
    format=format,
    step=STEP.value,
    license=LICENSE.value,
    half=HALF.value,
  )


def _required(flag: flags.FlagHolder[str | None]) -> str:
  if not flag.value:
    raise InputError(f'--{flag.name} is missing; see --help')
  return flag.value


if __name__ == '__main__':
  command.run(main)
