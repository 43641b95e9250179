"""Options of the loop: freezing, layer-wise learning rates, recomputing, averaged weights, compiling."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import STEPS, assert_same_run, config, losses, weights
from safetensors.torch import load_file
from torch import Tensor, nn

from distill.errors import UserError
from distill.models.references import load_model
from distill.models.registry import create_model
from distill.models.weight_files import read_notes
from distill.training import checkpoint, encoder_layers
from distill.training.checkpoint import newest_checkpoint
from distill.training.config import OptimizerSection
from distill.training.ema import Ema
from distill.training.setup import build_model, build_optimizer
from distill.training.train import train

TRAINING = {"steps": STEPS, "batch_size": 2, "accumulate": 3, "clip_norm": 1.0, "checkpoint_every": 2}
DROPPED = {"name": "teacher/salfom", "variant": "micro", "arguments": {"encoder_drop_path": 0.5, "drop_path": 0.3}}

OPTIONS: dict[str, dict[str, Any]] = {
    "ema": {"training": {**TRAINING, "ema": 0.9}},
    "freeze encoder": {"training": {**TRAINING, "freeze": "encoder"}},
    "freeze 1": {"training": {**TRAINING, "freeze": 1}},
    "layer decay": {"optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1, "layer_decay": 0.5}},
    "recompute": {"model": DROPPED, "training": {**TRAINING, "recompute": True}},
    "all": {
        "model": DROPPED,
        "training": {**TRAINING, "ema": 0.9, "freeze": 1, "recompute": True},
        "optimizer": {"name": "sgd", "lr": 1e-2, "layer_decay": 0.7},
    },
}


def micro(**arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model("teacher/salfom", variant="micro", **arguments).network


@pytest.mark.parametrize("option", OPTIONS)
def test_resumed_run_with_option_is_bit_identical(option: str, tmp_path: Path) -> None:
    straight = train(config(tmp_path / "straight", **OPTIONS[option]))
    stopped = config(tmp_path / "run", **OPTIONS[option])
    with pytest.raises(KeyboardInterrupt):
        train(stopped, stop=lambda step, batch: (step, batch) == (2, 1))
    train(stopped.model_copy(update={"resume": "auto"}))
    assert_same_run(straight, tmp_path / "run")
    names = [path.name for path in newest(straight).iterdir()]
    assert ("ema.safetensors" in names) == (option in ("ema", "all"))
    for name in {"ema.safetensors", "state.safetensors"} & set(names):
        ours, theirs = load_file(newest(straight) / name), load_file(newest(tmp_path / "run") / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)


def newest(run: Path) -> Path:
    folder = newest_checkpoint(run)
    assert folder is not None
    return folder


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize("name", ["teacher/salfom:micro", "teacher/salfom:micro-swin", "student/thtdnet:micro"])
def test_encoder_layers_are_listed_in_forward_order(name: str) -> None:
    model: Any = create_model(name).network
    order: list[str] = []
    for layer in model.encoder_layers:
        module = model.get_submodule(layer)
        module.register_forward_hook(lambda *_, layer=layer: order.append(layer))
    model(torch.zeros(1, 3, model.num_frames, *model.size, dtype=torch.uint8))
    assert order == list(model.encoder_layers)
    covered = {key for layer in order for key, _ in model.named_parameters() if key.startswith(layer + ".")}
    rest = {key for key, _ in model.named_parameters() if key.startswith("encoder.")} - covered
    assert {key.split(".")[-2] for key in rest if key != "encoder.position"} <= {"norm", "lateral"}


@pytest.mark.parametrize(
    ("what", "frozen"),
    [
        ("encoder", ("encoder.",)),
        (1, ("encoder.patch_embed.", "encoder.blocks.0.")),
        (2, ("encoder.patch_embed.", "encoder.blocks.0.", "encoder.blocks.1.")),
    ],
)
def test_frozen_weights_stay_while_others_change(what: Any, frozen: tuple[str, ...], tmp_path: Path) -> None:
    run = config(tmp_path / "run", training={**TRAINING, "freeze": what})
    before = {key: value.clone() for key, value in build_model(run).network.state_dict().items()}
    after = weights(train(run))
    bias_tables = "decoder.tcfe.a3.blocks"  # of windows of one token: no gradient
    for key, value in before.items():
        still = key.startswith(frozen) or key == "encoder.position"
        if not (key.startswith(bias_tables) and key.endswith(("bias_table", "qkv.weight", "qkv.bias"))):
            assert torch.equal(value, after[key]) == still, key


def test_freezing_too_many_blocks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.freeze: the encoder has 2 blocks, got 3; use 'encoder'"):
        train(config(tmp_path / "run", training={"steps": 1, "freeze": 3}))


def test_model_without_named_layers_is_refused() -> None:
    model = micro()
    model.encoder_layers = ()
    for wanted in (lambda: encoder_layers.freeze(model, 1), lambda: encoder_layers.decayed_groups(model, 0.5)):
        with pytest.raises(UserError, match="does not name its encoder's layers"):
            wanted()


def test_frozen_blocks_drop_no_paths() -> None:
    model: Any = micro(encoder_drop_path=0.5)
    encoder_layers.freeze(model, 1)
    encoder_layers.train_mode(model)
    assert [block.drop_path.training for block in model.encoder.blocks] == [False, True]
    assert model.decoder.training
    encoder_layers.freeze(model, "encoder")
    encoder_layers.train_mode(model)
    assert not model.encoder.blocks[1].drop_path.training


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("fused", [False, True])
def test_optimiser_state_loads_on_a_device_with_or_without_the_fused_kernel(name: str, fused: bool) -> None:
    """A run may be resumed on another device; only a GPU uses the fused kernel."""
    saved, loaded = (
        build_optimizer(OptimizerSection(name=name), micro(), fused=each) for each in (fused, not fused)
    )
    for weight in saved.param_groups[0]["params"]:
        weight.grad = torch.ones_like(weight)
    saved.step()
    tensors, groups = checkpoint._flatten(saved)
    checkpoint._unflatten(loaded, tensors, groups)
    assert bool(loaded.param_groups[0]["fused"]) is not fused
    restored, _ = checkpoint._flatten(loaded)
    assert tensors.keys() == restored.keys()
    assert all(torch.equal(tensors[key].float(), restored[key]) for key in tensors)
    for weight in loaded.param_groups[0]["params"]:
        weight.grad = torch.ones_like(weight)
    loaded.step()


def test_layer_decay_scales_each_layers_learning_rate() -> None:
    model = micro()
    model.requires_grad_(True)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    optimizer = build_optimizer(OptimizerSection(name="sgd", lr=1.0, layer_decay=0.5), model)
    for group in optimizer.param_groups:
        group["lr"] *= group["scale"]
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    moved = {key: float((before[key] - value).mean().detach()) for key, value in model.named_parameters()}
    expected = {"encoder.patch_embed.": 0.125, "encoder.blocks.0.": 0.25, "encoder.blocks.1.": 0.5, "decoder.": 1.0}
    for prefix, rate in expected.items():
        values = [value for key, value in moved.items() if key.startswith(prefix)]
        assert values == pytest.approx([rate] * len(values), rel=1e-5)
        assert values


def test_loop_applies_layer_decay(tmp_path: Path) -> None:
    """The patch embedding learns at an eighth of the rate; weights after the encoder at the full one."""
    option = {"name": "sgd", "lr": 1e-2, "layer_decay": 0.5}
    training = {"steps": 1, "batch_size": 2}
    run = config(tmp_path / "decayed", optimizer=option, training=training, schedule={})
    before = {key: value.clone() for key, value in build_model(run).network.state_dict().items()}
    decayed = load_file(newest(train(run)) / "model.safetensors")
    plain_run = config(tmp_path / "plain", optimizer={**option, "layer_decay": 1}, training=training, schedule={})
    plain = load_file(newest(train(plain_run)) / "model.safetensors")
    key = "encoder.patch_embed.weight"
    small, whole = ((after[key] - before[key]).norm().item() for after in (decayed, plain))
    assert small == pytest.approx(whole / 8, rel=1e-3)
    assert torch.equal(decayed["decoder.fusion.conv3.weight"], plain["decoder.fusion.conv3.weight"])


# ---------------------------------------------------------------- recomputing


def saved_bytes(model: nn.Module) -> tuple[int, list[Tensor]]:
    """Return the bytes that a forward pass keeps for the backward pass, and the gradients."""
    torch.manual_seed(1)
    clip = torch.rand(2, 3, 16, 32, 48)
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(clip).sum()
    total = sum(kept.values())
    loss.backward()
    return total, [weight.grad for weight in model.parameters() if weight.grad is not None]


def test_recompute_gives_equal_gradients_in_less_memory() -> None:
    plain, lean = (micro(encoder_drop_path=0.5, depth=6) for _ in range(2))
    encoder_layers.recompute(lean)
    (much, ours), (little, theirs) = saved_bytes(plain), saved_bytes(lean)
    assert len(ours) == len(theirs) > 50
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    decoder = saved_bytes(micro(depth=1))[0]
    assert little - decoder < 0.25 * (much - decoder)


def test_recompute_can_be_enabled_when_resuming(tmp_path: Path) -> None:
    plain = train(config(tmp_path / "plain", model=DROPPED))
    run = config(tmp_path / "run", model=DROPPED)
    with pytest.raises(KeyboardInterrupt):
        train(run, stop=lambda step, batch: step == 1)
    train(config(tmp_path / "run", resume="auto", **OPTIONS["recompute"]))
    assert_same_run(plain, tmp_path / "run")


# ---------------------------------------------------------------- averaged weights


def test_ema_equals_its_recursion() -> None:
    model = nn.Linear(2, 1, bias=False)
    model.register_buffer("count", torch.zeros((), dtype=torch.int64))
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema = Ema(model, 0.5)
    expected = 1.0
    for step, value in enumerate([5.0, -2.0, 7.0, 7.0, 0.0, 1.0, 8.0, 3.0, 4.0, 2.0], start=1):
        with torch.no_grad():
            model.weight.fill_(value)
        model.count += 1
        ema.update(step)
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * value
    assert ema.average["weight"].tolist() == [pytest.approx([expected] * 2)]
    assert ema.average["count"] == 10
    with pytest.raises(ArithmeticError), ema.applied():
        assert model.weight.tolist() == [pytest.approx([expected] * 2)]
        raise ArithmeticError
    assert model.weight.tolist() == [[2.0, 2.0]]
    assert ema.average["weight"].tolist() == [pytest.approx([expected] * 2)]


def test_ema_is_validated_and_saved_without_changing_training(tmp_path: Path) -> None:
    plain = train(config(tmp_path / "plain"))
    run = train(config(tmp_path / "run", training={**TRAINING, "ema": 0.9}))
    assert_same_run(plain, run)
    best, average = load_file(run / "best.safetensors"), load_file(newest(run) / "ema.safetensors")
    assert all(torch.equal(best[key], average[key]) for key in average)
    assert not torch.equal(best["decoder.fusion.conv1.weight"], weights(run)["decoder.fusion.conv1.weight"])
    assert read_notes(run / "best.safetensors")["ema"] == 0.9
    assert "ema" not in read_notes(newest(run) / "model.safetensors")
    loaded = load_model(run).network.state_dict()
    assert all(torch.equal(loaded[key], average[key]) for key in average)


def test_run_without_validation_loads_its_ema(tmp_path: Path) -> None:
    changes = {"data": {"train": [{"dataset": "synthetic"}], "workers": 0}}
    run = train(config(tmp_path / "run", training={"steps": 2, "ema": 0.9}, **changes))
    average = load_file(newest(run) / "ema.safetensors")
    loaded = load_model(run).network.state_dict()
    assert all(torch.equal(loaded[key], average[key]) for key in average)


# ---------------------------------------------------------------- compiling


def compiled(tmp_path: Path) -> None:
    training = {"steps": 2, "batch_size": 2}
    whole = {"model": {"name": "teacher/salfom", "variant": "micro"}}
    plain = losses(train(config(tmp_path / "plain", training=training, **whole)))
    options = {"compile": True, "recompute": True, "ema": 0.5}
    run = config(tmp_path / "run", training={**training, **options}, **whole)
    ours = losses(train(run))
    assert ours[0][1] == pytest.approx(plain[0][1], abs=1e-5)
    assert ours[1][1] == pytest.approx(
        plain[1][1], abs=1e-4
    )  # Adam's first step follows the sign of tiny gradients
    assert load_model(tmp_path / "run") is not None  # its weights have no `_orig_mod.` prefix


def test_compiled_run_gives_equal_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced only: generating machine code takes minutes."""
    calls = []
    real: Callable[..., None] = nn.Module.compile

    def trace(module: nn.Module, *args: Any, **options: Any) -> None:
        calls.append(module)
        real(module, *args, **options, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", trace)
    compiled(tmp_path)
    assert len(calls) == 1


@pytest.mark.slow
def test_run_compiled_to_machine_code_gives_equal_losses(tmp_path: Path) -> None:
    compiled(tmp_path)
