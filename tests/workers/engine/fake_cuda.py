"""CUDA without a GPU: tensors on device `cuda` that have shapes and types but no values (torch's FakeTensorMode).

    load_guard     once a process: lets a build of torch without CUDA index such tensors; needs a C++ compiler
    fake_cuda      the mode, and what makes the host wait for the device is an error
    on_fake_cuda   a module with fake weights
    FakeLane       stands for pinned memory, the copy stream and its events

Asking for a value (`item`, `nonzero`, a boolean index, `repeat_interleave` without its size) raises by itself. Copies that
wait are found by `_Waits`.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda")


@functools.cache
def load_guard() -> None:
    """Compile and load fake_guard.cpp; skips the test where that cannot be done."""
    if torch.version.cuda is not None:
        return  # FakeTensorMode brings a guard of its own
    from torch.utils.cpp_extension import include_paths, library_paths

    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler here: `apt-get install g++`")
    source = Path(__file__).with_name("fake_guard.cpp")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "guard.so"
        places = [*(f"-I{path}" for path in include_paths()), *(f"-L{path}" for path in library_paths())]
        command = [compiler, "-shared", "-fPIC", "-std=c++17", "-O0", str(source), "-o", str(target), *places, "-lc10"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"torch's headers cannot be compiled here: {done.stderr[-300:]}")
        ctypes.CDLL(str(target))  # stays loaded without its file


class _Waits(TorchDispatchMode):
    """Raises where a copy between host and device would make the host wait; counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = str(func)
        self.seen[name] += 1
        given = {each.device.type for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor) and each.dim()}
        made = {each.device.type for each in tree_leaves(out) if isinstance(each, Tensor)}
        if "cuda" in given and made == {"cpu"}:
            raise RuntimeError(f"{name} copies to the host and waits for the device")
        copies = name.startswith(("aten._to_copy", "aten.copy_")) and given | made == {"cpu", "cuda"}
        if copies and not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])):
            raise RuntimeError(f"{name} copies to the device and waits for it")
        return out


@contextlib.contextmanager
def fake_cuda() -> Iterator[Counter[str]]:
    """What runs inside has fake tensors and may not wait for the device; gives the operations that ran."""
    with FakeTensorMode(allow_non_fake_inputs=True), _Waits() as watch:
        yield watch.seen


def on_fake_cuda(module: nn.Module, dtype: torch.dtype) -> Any:
    """The module with weights without values, on the device; floating-point weights are of `dtype`."""
    moved = copy.deepcopy(module)
    with FakeTensorMode():
        for part in moved.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    fake = torch.empty(weight.shape, dtype=dtype, device=CUDA)
                    part._parameters[name] = nn.Parameter(fake, requires_grad=False)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    kind = dtype if buffer.is_floating_point() and name in part.state_dict() else buffer.dtype
                    part._buffers[name] = torch.empty(buffer.shape, dtype=kind, device=CUDA)
    return moved


class FakeCopy:
    def __init__(self, shape: torch.Size, value: float) -> None:
        self.shape, self.value, self.waited = shape, value, False

    def done(self) -> bool:
        return self.waited

    def wait(self) -> np.ndarray:
        self.waited = True
        return np.full(tuple(self.shape), self.value, np.float32)


class FakeLane:
    """Takes what CUDA would copy, and gives `value`."""

    def __init__(self) -> None:
        self.value = 1.0
        self.copies: list[FakeCopy] = []

    def pinned(self, floats: int) -> Tensor:
        return torch.empty(floats)

    def copy(self, source: Tensor, buffer: Tensor, start: int) -> FakeCopy:
        assert source.device.type == "cuda"
        assert source.dtype is torch.float32
        assert source.is_contiguous()
        assert start + source.numel() <= len(buffer)
        self.copies.append(FakeCopy(source.shape, self.value))
        return self.copies[-1]
