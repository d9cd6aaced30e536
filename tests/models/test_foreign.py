"""`package.module:factory`: what it is given, and how each way to fail is told in one line."""

import sys
import textwrap

import pytest
import torch
from torch import nn

from subsetopt.errors import ModelError, SettingError
from subsetopt.models import build_model, check_output_shape, refuse_reserved

SOURCE = """
    import torch
    from torch import nn
    from subsetopt import build_model

    not_callable = 3
    torch.rand(5)  # the weights must not depend on whether the import has just happened

    def plain(width=4, scale: "float | None" = None, bias: bool = True):
        assert type(width) is int and (scale is None or type(scale) is float) and type(bias) is bool
        return nn.Sequential(nn.Flatten(), nn.Linear(6, width), nn.Linear(width, 2, bias=bias))

    def fitted(in_shape, n_outputs, hidden):
        return nn.Sequential(nn.Linear(in_shape[0], hidden), nn.Linear(hidden, n_outputs))

    def keywords(**kwargs):
        model = nn.Linear(kwargs["in_shape"][0], kwargs["n_outputs"])
        model.kwargs = kwargs
        return model

    class Head(nn.Module):
        def __init__(self, width=8, num_classes=1000):
            super().__init__()
            self.body, self.head = nn.LazyLinear(width), nn.Linear(width, num_classes)

        def forward(self, x):
            return self.head(self.body(x))

    def torchvision_like(*, weights=None, progress=True, **kwargs):
        torch.rand(3)  # before it complains: the weights must not depend on how often it was asked
        return Head(8, **kwargs)

    def timm_like(model_name, pretrained=False, **kwargs):
        return {"head": Head}[model_name](**kwargs)

    def picky(**kwargs):
        if unknown := set(kwargs) - {"n_outputs", "width"}:
            raise ValueError(f"unknown configuration {sorted(unknown)}")
        return Head(kwargs["width"], kwargs["n_outputs"])

    def half_named(n_outputs, **kwargs):
        return Head(num_classes=n_outputs, **kwargs)

    def complains(**kwargs):
        raise RuntimeError(f"in_shape {kwargs['in_shape']} is no image")

    class Tokens(nn.Module):
        def __init__(self, n_outputs):
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.LazyLinear(n_outputs)

        def forward(self, tokens):
            return self.head(self.table(tokens).flatten(1))

    class Net(nn.Module):
        def __init__(self, n_outputs: int, width: int = 3):
            super().__init__()
            self.layers = nn.Sequential(nn.LazyLinear(width), nn.Linear(width, n_outputs))

        def forward(self, x):
            return self.layers(x)

        @classmethod
        def small(cls, n_outputs):
            return cls(n_outputs, width=1)

    def through_the_zoo(in_shape, n_outputs):
        return build_model("mlp", in_shape=in_shape, n_outputs=n_outputs, widht=3)

    def nothing():
        return None

    def frozen():
        return nn.Linear(2, 2).requires_grad_(False)

    def failing():
        raise RuntimeError("first line\\nsecond line")

    def complex_valued():
        return nn.Linear(6, 2, dtype=torch.complex64)
"""


@pytest.fixture(autouse=True)
def user_directory(tmp_path, monkeypatch):
    """A working directory with a module of the user's; sys.path and sys.modules end as they began."""
    (tmp_path / "my_zoo.py").write_text(textwrap.dedent(SOURCE))
    (tmp_path / "exits.py").write_text("raise SystemExit(3)")
    (tmp_path / "needs_more.py").write_text("import no_such_package_anywhere")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield
    assert sys.path == path
    for name in ("my_zoo", "exits", "needs_more"):
        sys.modules.pop(name, None)


def build(name, **settings):
    return build_model(name, in_shape=(6,), n_outputs=2, **settings)


def test_texts_become_what_annotations_and_defaults_say():
    model = build("my_zoo:plain", width="5", scale="2", bias="false")
    assert model[1].out_features == 5 and model[2].bias is None
    assert build("my_zoo:plain", scale="none")[1].out_features == 4


def test_in_shape_and_n_outputs_are_given_to_those_who_take_them():
    model = build("my_zoo:fitted", hidden="7")
    assert (model[0].in_features, model[1].out_features) == (6, 2)
    guessed = build("my_zoo:keywords", a="1", b="0.5", c="true", d="word", e="1,2").kwargs
    assert guessed == {"in_shape": (6,), "n_outputs": 2, "a": 1, "b": 0.5, "c": True, "d": "word", "e": (1, 2)}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("torchvision_like", {"num_classes": "2"}),
        ("timm_like", {"model_name": "head", "num_classes": "2"}),
        ("picky", {"width": "5"}),
        ("half_named", {"width": "5"}),
        ("Head", {"num_classes": "2"}),
    ],
)
def test_factories_that_pass_on_their_keywords_get_only_what_they_take(name, settings):
    """torchvision's and timm's end in **kwargs, and pass those on to a class that has no in_shape."""
    model, again = (build(f"my_zoo:{name}", **settings) for _ in range(2))
    assert model(torch.zeros(3, 6)).shape == (3, 2)
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))


def test_a_factory_with_keywords_that_fails_is_told_of_its_own_failure():
    with pytest.raises(ModelError, match=r"RuntimeError: in_shape \(6,\) is no image"):
        build("my_zoo:complains")
    with pytest.raises(ModelError, match="unexpected keyword argument 'depth'"):
        build("my_zoo:torchvision_like", depth="3")


def test_a_width_of_its_own_is_named_as_what_to_set():
    with pytest.raises(ModelError, match=r"returned \(4, 1000\) for 4 samples .* num_classes=2"):
        check_output_shape(build("my_zoo:torchvision_like"), torch.zeros(4, 6), 2)


def test_lazy_layers_behind_an_embedding_get_their_shapes():
    assert build("my_zoo:Tokens").head.weight.shape == (2, 24)


def test_classes_and_class_methods_work_and_lazy_layers_get_their_shapes():
    assert [tuple(p.shape) for p in build("my_zoo:Net", width="5").parameters()] == [(5, 6), (5,), (2, 5), (2,)]
    assert next(build("my_zoo:Net.small").parameters()).shape == (1, 6)


def test_weights_depend_on_the_seed_alone_and_the_global_generator_is_untouched():
    state = torch.get_rng_state()
    first, second = build("my_zoo:plain", seed=3), build("my_zoo:plain", seed=3)  # the second without the import
    assert torch.equal(first[1].weight, second[1].weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_complex_model_keeps_its_dtype():
    assert next(build("my_zoo:complex_valued", dtype=torch.float64).parameters()).dtype == torch.complex64


@pytest.mark.parametrize(
    ("name", "settings", "kind", "message"),
    [
        (
            "no_such_module:f",
            {},
            ModelError,
            "ModuleNotFoundError: No module named 'no_such_module'; is no_such_module",
        ),
        ("needs_more:f", {}, ModelError, "No module named 'no_such_package_anywhere'"),
        ("exits:f", {}, ModelError, "SystemExit: 3"),
        ("my_zoo:", {}, SettingError, "is not package.module:factory"),
        ("../my_zoo:f", {}, SettingError, "is not package.module:factory"),
        ("my_zoo:missing", {}, ModelError, "my_zoo has no 'missing'; it has Head, Net"),
        ("my_zoo:not_callable", {}, ModelError, "is a int, not a function"),
        ("my_zoo:nothing", {}, ModelError, "returned NoneType; it must return a torch.nn.Module"),
        ("my_zoo:frozen", {}, ModelError, "no trainable parameters"),
        ("my_zoo:failing", {}, ModelError, "cannot be built: RuntimeError: first line; mend"),
        ("my_zoo:fitted", {}, SettingError, "hidden = None: model 'my_zoo:fitted' needs this setting"),
        ("my_zoo:plain", {"widht": 1}, SettingError, "did you mean 'width'? it has width, scale, bias"),
        ("my_zoo:plain", {"width": "wide"}, SettingError, "width = 'wide': is not a whole number"),
        ("my_zoo:through_the_zoo", {}, SettingError, "widht = 3: model 'mlp' has no such setting"),
    ],
)
def test_every_failure_is_one_line(name, settings, kind, message):
    with pytest.raises(kind) as caught:
        build(name, **settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


INPUTS = torch.linspace(-2, 2, 12).view(2, 6)


class Output(nn.Module):
    """Returns `outputs(x)` and counts its calls in a buffer, in training mode only."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        return self.outputs(self.norm(x))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            lambda x: x.repeat(1, 2)[:, :7],
            r"model returned \(2, 7\) for 2 samples but the data set has 2 outputs; it must",
        ),
        (lambda x: x.sum(1), r"model returned \(2,\) .* give each class an output .* loss=nn.BCEWithLogitsLoss\(\)"),
        (lambda x: x[:, None, :2], r"must return \(2, 2\): flatten\(1\) its outputs$"),
        (lambda x: (x, x), "model returned tuple instead of a floating tensor"),
        (lambda x: x.argmax(1), "model returned torch.int64 instead"),
        (lambda x: x[:, :2] / 0, "NaN or infinity for 2 of the first 2 training samples, first for row 0"),
        (
            lambda x: x @ torch.zeros(5, 2),
            r"fails on inputs of shape \(2, 6\) torch.float32 in eval mode: RuntimeError",
        ),
    ],
)
def test_outputs_that_do_not_fit_are_told_in_one_line(outputs, message):
    with pytest.raises(ModelError, match=message) as caught:
        check_output_shape(Output(outputs), INPUTS, 2)
    assert "\n" not in str(caught.value)


def test_one_output_whose_axis_is_gone_is_told_to_bring_it_back():
    with pytest.raises(ModelError, match=r"\(2,\) for 2 samples .* return \(2, 1\): .*squeeze.*unsqueeze\(1\)"):
        check_output_shape(Output(lambda x: x[:, :1].squeeze(-1)), INPUTS, 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("net.py:Net", "but a file; write model='net:Net'$"),
        ("./net.py:Net", "write model='net:Net'$"),
        ("net.py", "write model='net:FACTORY'$"),
        ("parts/net.py:Net.small", "write model='parts.net:Net.small'$"),
        ("parts\\net.py:Net", "write model='parts.net:Net'$"),
        ("../other/net.py:Net", "write model='net:Net' and put ../other on PYTHONPATH$"),
        ("/elsewhere/net.py:Net", "write model='net:Net' and put /elsewhere on PYTHONPATH$"),
        ("net", "is a module; name its factory, too: model='net:FACTORY'$"),
        ("nosuch", "unknown name"),
    ],
)
def test_a_file_of_the_users_is_told_how_it_is_written_as_a_module(tmp_path, monkeypatch, name, words):
    (tmp_path / "net.py").write_text("from torch import nn\n\n\nclass Net(nn.Linear):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match=words) as caught:
        build_model(name, in_shape=(3,), n_outputs=1)
    assert "\n" not in str(caught.value)


def test_a_module_that_is_called_py_is_a_module(tmp_path, monkeypatch):
    package = tmp_path / "oddly_named_package"
    package.mkdir()
    (package / "py.py").write_text("from torch import nn\n\n\ndef make():\n    return nn.Linear(3, 1)\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(build_model("oddly_named_package.py:make", in_shape=(3,), n_outputs=1), nn.Linear)


def test_the_check_leaves_modes_buffers_and_generators_alone():
    model = Output(lambda x: x[:, :2] + torch.rand(2, 2))
    model.norm.eval()
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    check_output_shape(model, INPUTS, 2)
    assert model.training and not model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["name", "in_shape", "n_outputs", "seed", "dtype"])
def test_settings_that_the_run_decides_are_refused(name):
    with pytest.raises(SettingError, match=rf"^model_arg {name} = 1: is set by the run and its data set; leave it out"):
        refuse_reserved({"width": 3, name: 1})
