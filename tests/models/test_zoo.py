"""Every registered model: shapes, gradients, second derivatives, reproducible weights; sizes against hand counts."""

import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from subsetopt.errors import ModelError, SettingError
from subsetopt.models import MODELS, build_model, check_output_shape
from subsetopt.overdetermination import count_parameters

NAMES = [entry.name for entry in MODELS]
DIGITS, MNIST, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)


def flat(model):
    return torch.cat([parameter.detach().ravel() for parameter in model.parameters()])


def loss_of_flat_vector(model, in_shape):
    """Cross-entropy of 3 samples as a function of one flat parameter vector, in eval mode."""
    model.eval()
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(3, *in_shape, generator=generator, dtype=torch.float64)
    names, sizes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)

    def loss(w):
        parts = w.split([size.numel() for size in sizes])
        values = {name: part.view(size) for name, part, size in zip(names, parts, sizes, strict=True)}
        return F.cross_entropy(functional_call(model, values, (inputs,)), torch.tensor([0, 1, 2]))

    return loss


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("in_shape", [DIGITS, MNIST, CIFAR], ids=["8x8", "28x28", "32x32"])
@pytest.mark.parametrize("n_outputs", [1, 10])
def test_outputs_have_the_promised_shape(name, in_shape, n_outputs):
    model = build_model(name, in_shape=in_shape, n_outputs=n_outputs)
    check_output_shape(model, torch.linspace(-1, 1, 2 * math.prod(in_shape)).view(2, *in_shape), n_outputs)


@pytest.mark.parametrize("name", NAMES)
def test_hessian_vector_product_agrees_with_differences_of_gradients(name):
    settings = {} if name in ("linear",) else {"activation": "tanh"}
    model = build_model(name, in_shape=DIGITS, n_outputs=3, dtype=torch.float64, **settings)
    loss, w = loss_of_flat_vector(model, DIGITS), flat(model)
    v = torch.randn(w.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    v *= 1e-4 / v.norm()
    _, product = torch.autograd.functional.hvp(loss, w, v)
    gradient = torch.func.grad(loss)
    differences = (gradient(w + v) - gradient(w - v)) / 2
    assert gradient(w).isfinite().all() and product.norm() > 0
    torch.testing.assert_close(product, differences, rtol=0, atol=float(1e-5 * product.norm()))


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_means_the_same_weights_in_every_dtype_and_another_seed_other_weights(name):
    single = build_model(name, in_shape=DIGITS, n_outputs=3, seed=5)
    again = build_model(name, in_shape=DIGITS, n_outputs=3, seed=5, dtype=torch.float64)
    assert {p.dtype for p in again.parameters()} == {torch.float64}
    assert torch.equal(flat(single).double(), flat(again))
    assert not torch.equal(flat(single), flat(build_model(name, in_shape=DIGITS, n_outputs=3, seed=6)))


def test_the_ambient_default_dtype_changes_no_weight_and_is_kept():
    before = flat(build_model("mlp", in_shape=(4,), n_outputs=2))
    torch.set_default_dtype(torch.float64)
    try:
        after = flat(build_model("mlp", in_shape=(4,), n_outputs=2))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(before, after) and after.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_global_generators_are_untouched(name):
    state = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002  # that one is the subject
    check_output_shape(build_model(name, in_shape=DIGITS, n_outputs=3), torch.linspace(-1, 1, 128).view(2, *DIGITS), 3)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == state[1:]  # noqa: NPY002  # that one is the subject


@pytest.mark.parametrize(
    ("name", "in_shape", "settings", "by_hand"),
    [
        ("linear", (7,), {}, 10 * 8),
        ("linear", (7,), {"bias": "false"}, 10 * 7),
        ("mlp", DIGITS, {}, 64 * 16 + 16 + 16 * 10 + 10),
        ("mlp", DIGITS, {"widths": "64,32"}, 64 * 65 + 32 * 65 + 10 * 33),
        ("mlp", DIGITS, {"widths": [8], "batch_norm": True}, 8 * 65 + 2 * 8 + 10 * 9),
        ("cnn", MNIST, {}, 8 * 26 + 16 * (8 * 25 + 1) + 10 * (16 * 4 * 4 + 1)),
        ("cnn", DIGITS, {}, 8 * 10 + 16 * (8 * 9 + 1) + 10 * (16 * 2 * 2 + 1)),
        ("vgg", (1, 8, 8), {"widths": (2, 3), "convolutions": 1}, 2 * 10 + 3 * 19 + 10 * (3 * 4 + 1)),
        ("vgg", (1, 8, 8), {"widths": (2,), "batch_norm": "yes"}, 2 * 9 + 4 + 2 * 18 + 4 + 10 * (2 * 16 + 1)),
    ],
)
def test_sizes_counted_by_hand(name, in_shape, settings, by_hand):
    assert count_parameters(build_model(name, in_shape=in_shape, n_outputs=10, **settings)) == by_hand


@pytest.mark.parametrize(("depth", "published"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_resnets_have_the_published_sizes(depth, published):
    """Reference: millions of parameters in table 6 of He et al. 2016, CIFAR-10, shortcuts of option A."""
    model = build_model("resnet", in_shape=CIFAR, n_outputs=10, depth=depth)
    assert round(count_parameters(model) / 1e6, 2) == published
    assert depth != 20 or count_parameters(model) == 269_722
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules())
    assert layers == depth


def test_group_norm_treats_every_sample_alone_and_batch_norm_does_not():
    inputs = torch.randn(4, *DIGITS, generator=torch.Generator().manual_seed(0))
    for norm, alone in (("group", True), ("batch", False)):
        model = build_model("resnet", in_shape=DIGITS, n_outputs=3, norm=norm, width=4).train()
        assert torch.allclose(model(inputs)[:2], model(inputs[:2]), atol=1e-5) is alone


def test_a_resnet_block_starts_a_stage_by_subsampling_and_zero_padding():
    """Reference: with the residual branch at zero the block is the option-A shortcut, x[::2, ::2] between zeros."""
    from subsetopt.models.resnet import BasicBlock

    block = BasicBlock(4, 8, stride=2, activation="relu", norm="group")
    nn.init.zeros_(block.second_norm.weight)
    x = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(2, 8, 3, 3)
    expected[:, 2:6] = x[:, :, ::2, ::2]
    assert torch.equal(block(x), expected)


def test_a_resnet_block_is_relu_of_two_normed_convolutions_plus_the_input():
    """Reference: equation (1) of He et al. 2016 written with torch.nn.functional, one group per channel."""
    from subsetopt.models.resnet import BasicBlock

    block = BasicBlock(4, 4, stride=1, activation="relu", norm="group")
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    inner = F.relu(F.group_norm(F.conv2d(x, block.first.weight, padding=1), 4))
    expected = F.relu(F.group_norm(F.conv2d(inner, block.second.weight, padding=1), 4) + x)
    torch.testing.assert_close(block(x), expected)


def test_he_scale_of_the_deep_models():
    """Reference: weights of variance 2 / fan_in (He et al. 2015), to sampling error."""
    for name in ("vgg", "resnet"):
        convolution = [
            m for m in build_model(name, in_shape=CIFAR, n_outputs=10).modules() if isinstance(m, nn.Conv2d)
        ][-1]
        weight = convolution.weight.detach()
        assert weight.var().item() == pytest.approx(2 / weight[0].numel(), rel=0.1)


def test_dropout_follows_every_hidden_layer_of_the_mlp():
    model = build_model("mlp", in_shape=(4,), n_outputs=2, widths=(3, 3), dropout="0.25")
    assert [module.p for module in model if isinstance(module, nn.Dropout)] == [0.25, 0.25]


@pytest.mark.parametrize("name", ["cnn", "vgg", "resnet"])
def test_convolutional_models_refuse_vectors_and_tiny_images(name):
    with pytest.raises(ModelError, match=r"needs images .* use --model mlp"):
        build_model(name, in_shape=(64,), n_outputs=10)
    with pytest.raises(ModelError, match=r"at least . x . pixels"):
        build_model(name, in_shape=(1, 3, 3), n_outputs=10)


def test_cnn_refuses_stages_that_leave_no_pixel():
    with pytest.raises(ModelError, match="fewer --model-arg widths"):
        build_model("cnn", in_shape=(1, 16, 16), n_outputs=10, widths="4,4,4")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mlp", {"width": 3}, "width = 3: model 'mlp' has no such setting; did you mean 'widths'"),
        ("linear", {"x": 3}, "x = 3: model 'linear' has no such setting; it has bias"),
        ("mlp", {"widths": "64,x"}, "widths = '64,x': is not a list of whole numbers; give for example 64,32"),
        ("mlp", {"widths": ""}, "widths = '': is not a list"),
        ("mlp", {"widths": ()}, "widths = (): needs whole numbers of at least 1"),
        ("mlp", {"widths": "8,0"}, "widths = (8, 0): needs whole numbers"),
        ("mlp", {"widths": 2.5}, "widths = 2.5: is not a list"),
        ("mlp", {"widths": [2.5]}, "widths = [2.5]: is not a list"),
        ("resnet", {"width": True}, "width = True: is not a whole number; give for example 8"),
        ("mlp", {"activation": "tan"}, "activation = 'tan': unknown name; did you mean 'tanh'?"),
        ("mlp", {"dropout": "1"}, "dropout = 1.0: must lie in [0, 1)"),
        ("mlp", {"dropout": "nan"}, "dropout = 'nan': is not a finite number"),
        ("mlp", {"batch_norm": "maybe"}, "batch_norm = 'maybe': is not a switch; give true or false"),
        ("vgg", {"convolutions": 0}, "convolutions = 0: is less than 1"),
        ("resnet", {"depth": 18}, "depth = 18: is not 6n + 2"),
        ("resnet", {"depth": "20.5"}, "depth = '20.5': is not a whole number"),
        ("resnet", {"norm": "layer"}, "norm = 'layer': unknown name; choose one of batch, group"),
        ("cn", {}, "model = 'cn': unknown name; did you mean 'cnn'?"),
    ],
)
def test_bad_settings_are_one_line(name, settings, message):
    with pytest.raises(SettingError) as caught:
        build_model(name, in_shape=CIFAR, n_outputs=10, **settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_transformer_embeds_tokens_and_reads_sequences_of_vectors():
    """Parameters counted by hand; swapping two tokens changes the output, as places are learnt."""
    block = 2 * 2 * 8 + 4 * (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8)
    sizes = {"width": 8, "heads": 2, "depth": 1}
    model = build_model("transformer", in_shape=(6,), n_outputs=3, vocabulary=5, **sizes)
    assert sum(p.numel() for p in model.parameters()) == 5 * 8 + 6 * 8 + block + 2 * 8 + 8 * 3 + 3
    tokens = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 0, 2, 3, 4, 0]])
    first, second = model(tokens)
    assert first.shape == (3,) and not torch.allclose(first, second)
    vectors = build_model("transformer", in_shape=(6, 4), n_outputs=3, **sizes)
    assert vectors(torch.randn(2, 6, 4)).shape == (2, 3)
    with pytest.raises(SettingError, match="heads = 3: must divide width = 8"):
        build_model("transformer", in_shape=(6,), n_outputs=3, width=8, heads=3)


def test_a_convolution_along_sequences_takes_signals_and_channels():
    model = build_model("cnn1d", in_shape=(3, 20), n_outputs=2, widths=(4,), kernel_size=3)
    assert sum(p.numel() for p in model.parameters()) == 4 * (3 * 3 + 1) + 2 * (4 * 10 + 1)
    assert model(torch.randn(5, 3, 20)).shape == (5, 2)
    assert build_model("cnn1d", in_shape=(9,), n_outputs=2)(torch.randn(5, 9)).shape == (5, 2)
