"""Registers Python functions as handlers of XLA's custom calls, in C.

The structures follow xla/ffi/api/c_api.h, which jaxlib ships. They change only
with its major version, which is checked.
"""

import ctypes
import functools
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax

_MAJOR = 0  # of the interface
_HEADER = 'xla/ffi/api/c_api.h'
_INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL


class InterfaceError(Exception):
  """jaxlib's C interface for custom calls is not the one written here."""


Function = Callable[..., None]  # takes addresses of dense, row-major arrays


def _structure(*fields):
  """Makes a structure of the interface: size and extensions, then fields."""
  head = [('struct_size', ctypes.c_size_t), ('extension', ctypes.c_void_p)]
  return type('_', (ctypes.Structure,), {'_fields_': [*head, *fields]})


_Buffer = _structure(('dtype', ctypes.c_int), ('data', ctypes.c_void_p))
_Buffers = _structure(
  ('count', ctypes.c_int64),
  ('types', ctypes.c_void_p),
  ('items', ctypes.POINTER(ctypes.POINTER(_Buffer))),
)
_Version = _structure(('major', ctypes.c_int), ('minor', ctypes.c_int))


class _Array(ctypes.Structure):
  _fields_ = (
    ('dtype', ctypes.c_int),
    ('count', ctypes.c_size_t),
    ('data', ctypes.POINTER(ctypes.c_int64)),
  )


_Attributes = _structure(
  ('count', ctypes.c_int64),
  ('types', ctypes.c_void_p),
  ('names', ctypes.c_void_p),
  ('items', ctypes.POINTER(ctypes.POINTER(_Array))),
)
_ErrorArguments = _structure(
  ('message', ctypes.c_char_p), ('code', ctypes.c_int)
)
_CreateError = ctypes.CFUNCTYPE(
  ctypes.c_void_p, ctypes.POINTER(_ErrorArguments)
)
_Api = _structure(
  ('version', _Version),
  ('internal', ctypes.c_void_p),
  ('create_error', _CreateError),
)


class _Metadata(ctypes.Structure):
  _fields_ = (
    ('struct_size', ctypes.c_size_t),
    ('version', _Version),
    ('traits', ctypes.c_uint32),
  )


class _MetadataExtension(ctypes.Structure):
  _fields_ = (
    ('struct_size', ctypes.c_size_t),
    ('type', ctypes.c_int),
    ('next', ctypes.c_void_p),
    ('metadata', ctypes.POINTER(_Metadata)),
  )


_Frame = _structure(
  ('api', ctypes.POINTER(_Api)),
  ('context', ctypes.c_void_p),
  ('stage', ctypes.c_int),
  ('arguments', _Buffers),
  ('results', _Buffers),
  ('attributes', _Attributes),
)
_Handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Frame))
_kept: list[Any] = []  # handlers may be called as long as the process lives


def check_interface() -> None:
  """Compares the installed jaxlib's interface with this module's.

  Raises:
    InterfaceError: its major version differs, or cannot be read.
  """
  path = pathlib.Path(jax.ffi.include_dir(), _HEADER)
  try:
    text = path.read_text(encoding='utf-8')
  except OSError as error:
    raise InterfaceError(f'jaxlib ships no {_HEADER}: {error}') from None
  found = re.search(r'#define XLA_FFI_API_MAJOR (\d+)', text)
  if not found or int(found[1]) != _MAJOR:
    version = found[1] if found else 'unknown'
    raise InterfaceError(
      f"XLA's custom calls have version {version}, not {_MAJOR}"
    )


def register(name: str, prepare: Callable[[tuple[int, ...]], Function]) -> None:
  """Makes the CPU's handler of the custom call `name`.

  Args:
    name: for `jax.ffi.ffi_call`, whose one attribute must be int64 numbers.
    prepare: makes, from the numbers, the function that takes the addresses of
      arguments, then of results. It is called once for the same numbers, and
      the function from any thread. An exception in them fails the computation.
  """
  prepared = functools.cache(prepare)

  def handle(pointer):
    frame = pointer.contents
    try:
      if frame.extension:  # at registration XLA asks for its version
        _answer(frame.extension, frame.api.contents.version)
      else:
        array = frame.attributes.items[0].contents
        run = prepared(tuple(array.data[: array.count]))
        run(*_addresses(frame.arguments), *_addresses(frame.results))
    except Exception as error:  # no exception may pass through XLA's frames
      return _failure(frame.api.contents, f'{name}: {error}')
    return None

  handler = _Handler(handle)
  _kept.append(handler)
  jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform='cpu')


def _answer(extension, version):
  """Writes XLA's own version, if it is ours, where XLA asks for it."""
  if version.major != _MAJOR:
    raise RuntimeError(f'interface {version.major} is not {_MAJOR}')
  pointer = ctypes.cast(extension, ctypes.POINTER(_MetadataExtension))
  target = pointer.contents.metadata.contents.version
  target.major, target.minor = version.major, version.minor


def _addresses(buffers):
  items = buffers.items
  return [items[i].contents.data for i in range(buffers.count)]


def _failure(api, message):
  arguments = _ErrorArguments(
    struct_size=ctypes.sizeof(_ErrorArguments),
    message=message.encode(),
    code=_INTERNAL,
  )
  return api.create_error(ctypes.byref(arguments))
