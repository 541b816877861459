"""Sharded checkpoints are read and written both ways, and states by name are PyTorch's."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed.checkpoint as torch_checkpoint
from torch.distributed.checkpoint import format_utils as torch_formats
from torch.distributed.checkpoint import state_dict as torch_states

import lampion
from lampion.distributed import checkpoint
from lampion.distributed.checkpoint import format_utils
from lampion.distributed.checkpoint import state_dict as states


def content(lib):
    return {"a": lib.arange(6.0).view(2, 3), "b": {"c": lib.ones(2, dtype=lib.bfloat16), "n": 3},
            "list": [lib.zeros(1), "x"], "plain": [1, 2], "t": (1, 2), "deep": [[lib.ones(1)], [1]],
            "i": lib.tensor([1, 2]), "o": {"state": {0: {"step": lib.tensor(1.0)}},
                                           "param_groups": [{"lr": 0.1, "params": [0, 1]}]}}


def same(a, b):
    """Whether two trees are alike, whoever's tensors are in them."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "numpy"):
        return np.array_equal(a.float().numpy(), b.float().numpy())
    return a == b


def test_lampion_s_are_read_by_pytorch(tmp_path):
    checkpoint.save(content(lampion), checkpoint_id=tmp_path / "ours")
    torch_checkpoint.save(content(torch), checkpoint_id=tmp_path / "theirs")
    for name in ("ours", "theirs"):
        torch_formats.dcp_to_torch_save(tmp_path / name, tmp_path / f"{name}.pt")
    ours, theirs = (torch.load(tmp_path / f"{n}.pt", weights_only=False)
                    for n in ("ours", "theirs"))
    assert same(ours, theirs)
    state = {"a": torch.zeros(2, 3), "b": {"c": torch.zeros(2, dtype=torch.bfloat16)}}
    torch_checkpoint.load(state, checkpoint_id=tmp_path / "ours")
    assert state["a"].equal(content(torch)["a"]) and state["b"]["c"].sum() == 2


def test_pytorch_s_are_read_by_lampion(tmp_path):
    torch_checkpoint.save(content(torch), checkpoint_id=tmp_path)
    found = format_utils.everything(checkpoint.FileSystemReader(tmp_path))
    torch_formats.dcp_to_torch_save(tmp_path, tmp_path / "whole.pt")
    assert same(found, torch.load(tmp_path / "whole.pt", weights_only=False))
    state = {"a": lampion.zeros(2, 3), "b": {"n": 0}}
    checkpoint.load(state, checkpoint_id=tmp_path)
    assert state["a"].equal(content(lampion)["a"]) and state["b"]["n"] == 3


def test_states_by_name():
    found = []
    for lib, functions in ((torch, torch_states), (lampion, states)):
        model = lib.nn.Sequential(lib.nn.Linear(2, 3), lib.nn.Linear(3, 1, bias=False))
        optimizer = lib.optim.Adam(model.parameters(), lr=0.1)
        model(lib.ones(1, 2)).sum().backward()
        optimizer.step()
        for flat in (False, True):
            options = functions.StateDictOptions(flatten_optimizer_state_dict=flat)
            got = functions.get_optimizer_state_dict(model, optimizer, options=options)
            found.append({k: (sorted(v) if isinstance(v, dict) else None)
                          for k, v in got.items()})
        found.append(list(functions.get_model_state_dict(model)))
    assert found[:3] == found[3:]
