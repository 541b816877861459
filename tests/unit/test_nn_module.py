"""Module mechanics: attributes, traversal, hooks, state_dict, copying, the cost of a call."""
import copy
import gc
import io
import pickle
import subprocess
import sys
import weakref

import pytest

import lampion
from lampion import nn
from lampion.nn.modules import module as module_file


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.scale = nn.Parameter(lampion.ones(4))
        self.register_buffer("seen", lampion.zeros(1), persistent=False)
        self.answer = 42

    def forward(self, x, *, shift=0.0):
        return self.norm(self.first(x)) * self.scale + shift


def test_attributes_are_sorted_into_tables():
    net = Net()
    assert list(net._modules) == ["first", "norm"]
    assert list(net._parameters) == ["scale"]
    assert list(net._buffers) == ["seen"]
    assert net.answer == 42
    net.scale = None
    assert "scale" in net._parameters and net.scale is None
    del net.scale
    assert not hasattr(net, "scale")
    net.scale = nn.Linear(1, 1)
    assert list(net._modules) == ["first", "norm", "scale"]
    net.first = nn.Parameter(lampion.ones(1))
    assert "first" not in net._modules and "first" in net._parameters


def test_buffers_keep_their_persistence():
    net = nn.Module()
    net.kept = nn.Buffer(lampion.zeros(2))
    net.left_out = nn.Buffer(lampion.zeros(2), persistent=False)
    assert list(net.state_dict()) == ["kept"]
    net.register_buffer("left_out", lampion.ones(2))
    assert list(net.state_dict()) == ["kept", "left_out"]
    net.kept = lampion.ones(2)
    assert net._buffers["kept"].tolist() == [1.0, 1.0]


def test_names_that_are_refused():
    net = Net()
    for name, error in (("a.b", KeyError), ("", KeyError), (3, TypeError), ("forward", KeyError)):
        with pytest.raises(error):
            net.register_buffer(name, None)
        with pytest.raises(error):
            net.register_parameter(name, None)
        with pytest.raises(error):
            net.add_module(name, None)
    with pytest.raises(TypeError, match="as parameter 'scale'"):
        net.scale = lampion.ones(4)
    with pytest.raises(TypeError, match="as child module 'first'"):
        net.first = 3


def test_forgetting_super_init_is_named():
    class Forgetful(nn.Module):
        def __init__(self, value):
            self.value = value

    for value, text in ((nn.Linear(1, 1), "module"), (nn.Parameter(lampion.ones(1)), "parameters"),
                        (nn.Buffer(lampion.ones(1)), "buffer")):
        with pytest.raises(AttributeError, match=f"cannot assign {text} before"):
            Forgetful(value)
    assert Forgetful(3).value == 3


def test_traversal_meets_shared_modules_once():
    shared = nn.Linear(2, 2)
    net = nn.Sequential(shared, nn.Sequential(shared))
    assert [n for n, _ in net.named_modules()] == ["", "0", "1"]
    assert [n for n, _ in net.named_modules(remove_duplicate=False)] == ["", "0", "1", "1.0"]
    assert len(list(net.parameters())) == 2
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.0.weight", "1.0.bias"]


def test_lookup_by_dotted_name():
    net = nn.Sequential(Net())
    assert net.get_submodule("0.first") is net[0].first
    assert net.get_parameter("0.first.weight") is net[0].first.weight
    assert net.get_buffer("0.norm.running_mean") is net[0].norm.running_mean
    for target in ("0.missing", "0.first.weight"):
        with pytest.raises(AttributeError):
            net.get_submodule(target)
    net.set_submodule("0.first", nn.Identity())
    assert isinstance(net[0].first, nn.Identity)


def test_states_travel_and_mismatches_are_listed():
    source, target = Net(), Net()
    with lampion.no_grad():
        source.scale.fill_(3.0)
    result = target.load_state_dict(source.state_dict())
    assert not result.missing_keys and not result.unexpected_keys
    assert target.scale.tolist() == [3.0] * 4
    state = source.state_dict()
    state["first.weight"] = lampion.zeros(2, 2)
    state["extra"] = state.pop("scale")
    with pytest.raises(RuntimeError) as caught:
        target.load_state_dict(state)
    text = str(caught.value)
    assert 'Missing key(s) in state_dict: "scale"' in text
    assert 'Unexpected key(s) in state_dict: "extra"' in text
    assert "size mismatch for first.weight" in text
    with pytest.raises(RuntimeError, match="size mismatch"):
        target.load_state_dict(state, strict=False)


def test_state_dict_shares_memory_unless_assigned():
    net = nn.Linear(2, 2)
    state = net.state_dict()
    with lampion.no_grad():
        net.weight.fill_(5.0)
    assert state["weight"].tolist() == [[5.0, 5.0]] * 2
    assert not state["weight"].requires_grad
    assert net.state_dict(keep_vars=True)["weight"] is net.weight
    fresh = {k: v.clone() for k, v in state.items()}
    other = nn.Linear(2, 2)
    before = other.weight
    other.load_state_dict(fresh)
    assert other.weight is before
    other.load_state_dict(fresh, assign=True)
    assert other.weight is not before and isinstance(other.weight, nn.Parameter)
    with lampion.no_grad():
        fresh["weight"].fill_(9.0)
    assert other.weight.tolist() == [[9.0, 9.0]] * 2


def test_parameters_keep_identity_through_casts():
    net = Net()
    ids = [id(p) for p in net.parameters()]
    assert net.double() is net
    assert [id(p) for p in net.parameters()] == ids
    assert net.scale.dtype == lampion.float64
    assert net.norm.num_batches_tracked.dtype == lampion.int64
    assert net.to(lampion.float32).seen.dtype == lampion.float32
    with pytest.raises(TypeError, match="floating point or complex"):
        net.to(lampion.int32)


def test_gradients_follow_casts_and_are_cleared():
    layer = nn.Linear(2, 1)
    layer(lampion.ones(1, 2)).sum().backward()
    layer.double()
    assert layer.weight.grad.dtype == lampion.float64
    layer.zero_grad(set_to_none=False)
    assert layer.weight.grad.tolist() == [[0.0, 0.0]]
    layer.zero_grad()
    assert layer.weight.grad is None


def test_modes_reach_everything():
    net = Net()
    assert not any(m.training for m in net.eval().modules())
    assert all(m.training for m in net.train().modules())
    with pytest.raises(ValueError):
        net.train("yes")
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    seen = []
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "BatchNorm1d", "Net"]


def test_deepcopy_and_pickle_are_independent():
    net = Net()
    net.tied = net.first
    net.register_forward_hook(_double)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.tied is other.first
        assert isinstance(other.scale, nn.Parameter) and other.scale.requires_grad
        with lampion.no_grad():
            other.scale.fill_(7.0)
        assert net.scale.tolist() == [1.0] * 4
        x = lampion.ones(2, 3)
        net.eval(), other.eval()
        with lampion.no_grad():
            other.scale.fill_(1.0)
        assert other(x).tolist() == net(x).tolist()


def _double(module, args, output):
    return output * 2


def test_parameters_pickle_with_their_attributes():
    param = nn.Parameter(lampion.ones(2), requires_grad=False)
    param.tag = "kept"
    for other in (copy.deepcopy(param), pickle.loads(pickle.dumps(param))):
        assert isinstance(other, nn.Parameter)
        assert other.tag == "kept" and not other.requires_grad
        assert other.tolist() == [1.0, 1.0]


def test_parameter_operations_give_plain_tensors():
    param = nn.Parameter(lampion.ones(2))
    for result in (param * 2, param.detach(), param.sum(), param.clone()):
        assert type(result) is lampion.Tensor
    assert nn.Parameter(param).data_ptr() == param.data_ptr()
    with pytest.raises(RuntimeError, match="floating point"):
        nn.Parameter(lampion.ones(2, dtype=lampion.int64))
    assert "Parameter containing:" in repr(param)


# ---- hooks --------------------------------------------------------------------------------------

def test_forward_hooks_change_arguments_and_results():
    layer = nn.Identity()
    one = layer.register_forward_pre_hook(lambda m, args: (args[0] + 1,))
    two = layer.register_forward_hook(lambda m, args, out: out * 10)
    assert layer(lampion.zeros(1)).tolist() == [10.0]
    one.remove()
    assert layer(lampion.ones(1)).tolist() == [10.0]
    with two:
        pass
    assert layer(lampion.ones(1)).tolist() == [1.0]


def test_keyword_hooks():
    net = Net().eval()
    seen = []
    net.register_forward_pre_hook(
        lambda m, args, kwargs: (args, {"shift": kwargs["shift"] + 1}), with_kwargs=True)
    net.register_forward_hook(lambda m, args, kwargs, out: seen.append(kwargs), with_kwargs=True)
    net(lampion.zeros(1, 3), shift=1.0)
    assert seen == [{"shift": 2.0}]


def test_hooks_after_errors():
    class Broken(nn.Module):
        def forward(self):
            raise ValueError("broken")

    net, seen = Broken(), []
    net.register_forward_hook(lambda m, args, out: seen.append(out), always_call=True)
    net.register_forward_hook(lambda m, args, out: seen.append("not called"))
    with pytest.raises(ValueError, match="broken"):
        net()
    assert seen == [None]


def test_backward_hooks_see_and_change_gradients():
    layer, seen = nn.Linear(2, 1, bias=False), []
    layer.register_full_backward_pre_hook(lambda m, grads: (grads[0] * 2,))
    layer.register_full_backward_hook(lambda m, inputs, outputs: seen.append(outputs[0].tolist()))
    layer.register_full_backward_hook(lambda m, inputs, outputs: (inputs[0] * 0,))
    x = lampion.ones(1, 2, requires_grad=True)
    layer(x).sum().backward()
    assert seen == [[[2.0]]]
    assert x.grad.tolist() == [[0.0, 0.0]]
    assert layer.weight.grad.tolist() == [[2.0, 2.0]]


def test_backward_hooks_around_several_tensors_and_in_place_writes():
    class Swap(nn.Module):
        def forward(self, a, b):
            return b * 3, a * 2

    swap, seen = Swap(), []
    swap.register_full_backward_hook(
        lambda m, inputs, outputs: seen.append([g if g is None else g.tolist()
                                                for g in (*inputs, *outputs)]))
    a, b = lampion.ones(1, requires_grad=True), lampion.ones(1, requires_grad=True)
    first, second = swap(a, b)
    (first + 5 * second).sum().backward()
    assert seen == [[[10.0], [3.0], [1.0], [5.0]]]
    seen.clear()
    swap(a, lampion.ones(1))[0].sum()  # no gradient flows: no hook runs
    assert seen == []

    layer = nn.ReLU(inplace=True)
    layer.register_full_backward_hook(lambda m, inputs, outputs: (inputs[0] * 10,))
    x = lampion.tensor([-1.0, 2.0], requires_grad=True)
    y = x * 1.0
    (layer(y).sum() + y.sum()).backward()
    assert x.grad.tolist() == [1.0, 11.0]


def test_process_wide_hooks():
    seen = []
    with module_file.register_module_forward_hook(
            lambda module, args, out: seen.append(type(module).__name__)):
        nn.Sequential(nn.ReLU())(lampion.ones(1))
    nn.ReLU()(lampion.ones(1))
    assert seen == ["ReLU", "Sequential"]


def test_registration_hooks():
    seen = []
    with module_file.register_module_parameter_registration_hook(
            lambda module, name, param: seen.append(name)):
        nn.Linear(1, 1)
    nn.Linear(1, 1)
    assert seen == ["weight", "bias"]


def test_monkeypatched_forward_and_call():
    layer = nn.Identity()
    layer.forward = lambda x, extra=0: x + extra
    assert layer(lampion.ones(1), extra=2).tolist() == [3.0]
    assert nn.Module.__call__(layer, lampion.ones(1)).tolist() == [1.0]

    class Counting(nn.Identity):
        calls = 0

        def __call__(self, *args):
            Counting.calls += 1
            return super().__call__(*args)

    Counting()(lampion.ones(1))
    assert Counting.calls == 1


def test_modules_are_freed_without_the_collector():
    gc.disable()
    try:
        net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        net(lampion.ones(1, 2))
        gone = weakref.ref(net)
        del net
        assert gone() is None
    finally:
        gc.enable()


def test_a_process_without_hooks_calls_forward_directly():
    program = """
from lampion import nn
layer = nn.Identity()
direct = vars(nn.Module)["__call__"]
assert type(direct).__name__ == "_DirectCall" and layer(3) == 3
layer.register_forward_hook(lambda module, args, out: out + 1)
assert vars(nn.Module)["__call__"] is nn.Module._call_impl and layer(3) == 4
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# ---- containers ---------------------------------------------------------------------------------

def test_sequential_is_a_list():
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 3))
    assert isinstance(net[-1], nn.Linear) and len(net[:2]) == 2
    del net[1]
    assert list(net._modules) == ["0", "1"]
    net.insert(1, nn.Tanh()).append(nn.Sigmoid())
    assert [type(m).__name__ for m in net] == ["Linear", "Tanh", "Linear", "Sigmoid"]
    assert len(net + net) == 8 and len(net * 2) == 8
    with pytest.raises(IndexError):
        net[9]


def test_lists_and_dictionaries():
    layers = nn.ModuleList([nn.ReLU()])
    layers += [nn.Tanh()]
    assert isinstance(layers.pop(0), nn.ReLU) and len(layers) == 1
    heads = nn.ModuleDict({"a": nn.ReLU()})
    heads.update([("b", nn.Tanh())])
    assert "b" in heads and list(heads) == ["a", "b"]
    values = nn.ParameterList([lampion.ones(1), nn.Parameter(lampion.ones(2))])
    assert all(isinstance(v, nn.Parameter) for v in values)
    assert list(nn.Sequential(values).state_dict()) == ["0.0", "0.1"]
    named = nn.ParameterDict({"x": lampion.ones(1)})
    named["y"] = lampion.ones(2)
    assert list(named.keys()) == ["x", "y"] and named.pop("x").tolist() == [1.0]


def test_repr():
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ModuleList([nn.ReLU(), nn.ReLU()]))
    assert repr(net) == """Sequential(
  (0): Linear(in_features=2, out_features=3, bias=False)
  (1): ModuleList(
    (0-1): 2 x ReLU()
  )
)"""


def test_saving_to_a_file():
    net, other, file = Net(), Net(), io.BytesIO()
    lampion.save(net.state_dict(), file)
    file.seek(0)
    other.load_state_dict(lampion.load(file))
    assert other.first.weight.tolist() == net.first.weight.tolist()
