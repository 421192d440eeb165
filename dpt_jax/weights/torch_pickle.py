# SPDX-License-Identifier: Apache-2.0
"""Follows the pickles of `torch.save` without executing them.

A pickle is a program that may import and call anything. Here its instructions are only ever
followed on inert values: a name that it refers to stays a name, and a call becomes a plain value if
the name is in the short table of what checkpoints hold (`_CALLS`); any other name is an error.
Tensors are left as descriptions (`Tensor`), whose numbers nobody has checked yet.

What a hostile pickle may cost is bounded by its length: no instruction makes anything that is much
larger than itself, and there is a limit on instructions.
"""

import dataclasses
import io
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

# Far above any checkpoint; a hostile one then costs seconds and some hundred megabytes.
_MOST_INSTRUCTIONS = 2**19

DTYPES = {
    "torch.float64": np.dtype("<f8"),
    "torch.float32": np.dtype("<f4"),
    "torch.float16": np.dtype("<f2"),
    "torch.bfloat16": np.dtype(ml_dtypes.bfloat16),
    "torch.int64": np.dtype("<i8"),
    "torch.int32": np.dtype("<i4"),
    "torch.int16": np.dtype("<i2"),
    "torch.int8": np.dtype("i1"),
    "torch.uint64": np.dtype("<u8"),
    "torch.uint32": np.dtype("<u4"),
    "torch.uint16": np.dtype("<u2"),
    "torch.uint8": np.dtype("u1"),
    "torch.bool": np.dtype("?"),
}
_STORAGES = {
    "torch.DoubleStorage": DTYPES["torch.float64"],
    "torch.FloatStorage": DTYPES["torch.float32"],
    "torch.HalfStorage": DTYPES["torch.float16"],
    "torch.BFloat16Storage": DTYPES["torch.bfloat16"],
    "torch.LongStorage": DTYPES["torch.int64"],
    "torch.IntStorage": DTYPES["torch.int32"],
    "torch.ShortStorage": DTYPES["torch.int16"],
    "torch.CharStorage": DTYPES["torch.int8"],
    "torch.ByteStorage": DTYPES["torch.uint8"],
    "torch.BoolStorage": DTYPES["torch.bool"],
    "torch.storage.UntypedStorage": DTYPES["torch.uint8"],
}
_NAMESPACE = "argparse.Namespace"
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
# Python 2's name, which protocol 2 still writes, and NumPy 1's.
_MODULES = {"__builtin__": "builtins", "numpy.core.multiarray": "numpy._core.multiarray"}


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A name that the pickle refers to. Nothing is imported."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """The bytes that the file keeps under `key`, and how they are read unless a tensor says so."""

    key: str
    dtype: np.dtype
    nbytes: int


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A view of the storage `key`, in elements. The values are pickled ones, not checked yet."""

    key: str
    dtype: np.dtype
    offset: Any
    shape: tuple[Any, ...]
    strides: tuple[Any, ...]


@dataclasses.dataclass(slots=True, eq=False)
class Namespace:
    """An `argparse.Namespace`."""

    attributes: dict[Any, Any] = dataclasses.field(default_factory=dict)


def unpickle(stream: io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """Follows one pickle, from where the stream stands to its STOP.

    Args:
        stream: pickle protocols 2 to 5 as `torch.save` writes them; several may follow each other.

    Returns:
        (value, storages): dicts (`OrderedDict` is kept apart; keys are str or int), lists and
        tuples of str, bytes, int, float, bool, None, `Tensor`, `Namespace`, `np.dtype`, `Global`
        and `Storage`, which may share parts and contain themselves; and the storages used, by key.

    Raises:
        ValueError: the pickle is damaged or truncated, or uses something that is not in the tables.
    """
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stacks under each open MARK
    memo: dict[int, Any] = {}
    storages: dict[str, Storage] = {}
    for count, (instruction, arg, position) in enumerate(_instructions(stream)):
        try:
            if count >= _MOST_INSTRUCTIONS:
                raise ValueError("more instructions than any checkpoint has")
            match instruction:
                case "PROTO":
                    if not 2 <= arg <= 5:
                        raise ValueError(f"protocol {arg}, expected one of 2 to 5")
                case "FRAME":
                    pass
                case "STOP":
                    if len(stack) != 1 or below:
                        raise ValueError("expected one value at the end")
                    return stack[0], storages
                case (
                    ("BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT")
                    | ("BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING")
                    | ("BINBYTES" | "SHORT_BINBYTES")
                ):
                    stack.append(arg)
                case "NONE":
                    stack.append(None)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(instruction == "NEWTRUE")
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_TUPLE":
                    stack.append(())
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    size = int(instruction[-1])
                    if size > len(stack):
                        raise IndexError("too few values")
                    stack[-size:] = [tuple(stack[-size:])]
                case "MARK":
                    below.append(stack)
                    stack = []
                case "TUPLE":
                    items, stack = stack, below.pop()
                    stack.append(tuple(items))
                case "APPEND":
                    item = stack.pop()
                    _expect(stack[-1], list).append(item)
                case "APPENDS":
                    items, stack = stack, below.pop()
                    _expect(stack[-1], list).extend(items)
                case "SETITEM":
                    item, key = stack.pop(), stack.pop()
                    _set_items(stack[-1], [key, item])
                case "SETITEMS":
                    items, stack = stack, below.pop()
                    _set_items(stack[-1], items)
                case "BINPUT" | "LONG_BINPUT":
                    memo[arg] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    if arg not in memo:
                        raise ValueError(f"nothing was kept as number {arg}")
                    stack.append(memo[arg])
                case "GLOBAL":
                    stack.append(_global(*arg))
                case "STACK_GLOBAL":
                    name, module = _expect(stack.pop(), str), _expect(stack.pop(), str)
                    stack.append(_global(module, name))
                case "BINPERSID":
                    stack.append(_storage(stack.pop(), storages))
                case "REDUCE":
                    args, function = _expect(stack.pop(), tuple), _expect(stack.pop(), Global)
                    if function.name not in _CALLS:
                        raise ValueError(f"cannot call {function.name}")
                    stack.append(_CALLS[function.name](*args))
                case "NEWOBJ":
                    args, cls = _expect(stack.pop(), tuple), _expect(stack.pop(), Global)
                    if cls.name != _NAMESPACE or args:
                        raise ValueError(f"cannot make an object of {cls.name}")
                    stack.append(Namespace())
                case "BUILD":
                    state = stack.pop()
                    _set_state(stack[-1], state)
                case _:
                    raise ValueError("torch.save does not write this instruction")
        except (IndexError, KeyError, TypeError, ValueError) as error:
            where = f"the pickle, at byte {position} ({instruction})"
            raise ValueError(f"{where}: {error}") from error
    raise AssertionError("the last instruction is STOP")


def _instructions(stream: io.BytesIO) -> Iterator[tuple[str, Any, int]]:
    """(name, argument or None, the byte it is at) of each instruction up to STOP."""
    name = ""
    while name != "STOP":
        position, code = stream.tell(), stream.read(1)
        opcode = _OPCODES.get(code.decode("latin-1"))
        if opcode is None:
            what = f"unknown instruction {code!r}" if code else "it ends before its STOP"
            raise ValueError(f"the pickle, at byte {position}: {what}")
        name, arg = opcode.name, opcode.arg
        try:
            if name == "GLOBAL":  # pickletools would read escapes in names, which pickle does not
                value = [stream.readline().decode().removesuffix("\n") for _ in range(2)]
            elif arg is None:
                value = None
            elif arg.n == pickletools.UP_TO_NEWLINE:
                raise ValueError("torch.save does not write this instruction")
            else:
                value = arg.reader(stream)
        except ValueError as error:
            raise ValueError(f"the pickle, at byte {position} ({name}): {error}") from error
        yield name, value, position


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def _global(module: str, name: str) -> Global:
    full_name = f"{_MODULES.get(module, module)}.{name}"
    if not any(full_name in table for table in (_CALLS, _STORAGES, DTYPES, (_NAMESPACE,))):
        raise ValueError(
            f"refers to {full_name!r:.99}, which files of weights have no need of; nothing was "
            "executed. If you trust the file, load it with torch and save only its state dict"
        )
    return Global(full_name)


def _set_items(target: Any, items: list[Any]) -> None:
    if type(target) not in (dict, OrderedDict):
        raise TypeError(f"expected a dict, found {type(target).__name__}")
    for key, item in zip(items[::2], items[1::2], strict=True):
        # Hashing a tuple of shared tuples, or comparing long integers that collide, has no bound.
        if type(key) is not str and (type(key) is not int or abs(key) >= 2**63):
            raise TypeError(f"expected a str or an int as key, found {type(key).__name__}")
        target[key] = item


def _set_state(target: Any, state: Any) -> None:
    """BUILD: the attributes of an OrderedDict are dropped, a dtype must be a plain one."""
    if type(target) is OrderedDict:
        _expect(state, dict)
    elif type(target) is Namespace:
        target.attributes = _expect(state, dict)
    elif isinstance(target, np.dtype):
        if _expect(state, tuple)[1:5] not in [(order, None, None, None) for order in "<|"]:
            raise ValueError("expected a little-endian dtype without fields")
    else:
        raise TypeError(f"cannot set the state of {type(target).__name__}")


def _storage(persistent_id: Any, storages: dict[str, Storage]) -> Storage:
    # The legacy format adds the view of a storage, None since torch 0.4.
    tag, cls, key, _, count, *view = _expect(persistent_id, tuple)
    if tag != "storage" or view not in ([], [None]) or _expect(count, int) < 0:
        raise ValueError("not a reference to a storage")
    dtype = _STORAGES.get(_expect(cls, Global).name)
    if dtype is None:
        raise ValueError(f"{cls.name} is no storage")
    storage = Storage(_expect(key, str), dtype, count * dtype.itemsize)
    first = storages.setdefault(key, storage)
    if (first.dtype, first.nbytes) != (dtype, storage.nbytes):
        raise ValueError(f"storage {key!r:.99} with two dtypes or sizes")
    return first


def _tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    dtype = _expect(storage, Storage).dtype
    if metadata:
        raise ValueError("a conjugated or negated tensor; save it with .resolve_neg()")
    return Tensor(storage.key, dtype, offset, _expect(shape, tuple), _expect(strides, tuple))


def _tensor_of_dtype(*args: Any) -> Tensor:
    """`_rebuild_tensor_v3`: as v2, with the dtype before the metadata, on an untyped storage."""
    *arguments, dtype = args[:7]
    tensor = _tensor(*arguments, *args[7:])
    return dataclasses.replace(tensor, dtype=DTYPES[_expect(dtype, Global).name])


def _parameter(data: Any, requires_grad: Any, hooks: Any, state: Any = None) -> Tensor:
    return _expect(data, Tensor)


def _device(kind: Any, index: Any = None) -> str:
    if not re.fullmatch("[a-z]{1,16}", _expect(kind, str)):
        raise ValueError("not a device")
    return kind if index is None else f"{kind}:{_expect(index, int)}"


def _encode(text: Any, codec: Any) -> bytes:
    """How protocol 2 writes bytes. Short ones, as the same text can be encoded many times."""
    if codec != "latin1" or len(_expect(text, str)) > 256:
        raise ValueError("expected at most 256 bytes as latin1")
    return text.encode("latin1")


def _numpy_dtype(name: Any, align: Any, copy: Any) -> np.dtype:
    if not re.fullmatch("b1|f[248]|[iu][1248]", _expect(name, str)):
        raise ValueError("expected a NumPy dtype of plain numbers")
    return np.dtype(f"<{name}")


def _numpy_scalar(dtype: Any, content: Any) -> Any:
    if not isinstance(dtype, np.dtype) or len(_expect(content, bytes)) != dtype.itemsize:
        raise ValueError("not a NumPy scalar")
    return np.frombuffer(content, dtype)[0].item()


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: OrderedDict(),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": lambda sizes: _expect(sizes, tuple),
    "torch.device": _device,
    "builtins.bytes": lambda: b"",
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_dtype,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}
