"""Calibration, saving and loading: equal logits, equal integers, and no partial checkpoints."""

from __future__ import annotations

import copy
import errno
import itertools
import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

import softmaxkit
from conftest import tiny_model
from softmaxkit import ConSmax, Exact, Exaq, Sigmoid, Softermax, Spec
from softmaxkit.models.calibration import convert
from softmaxkit.models.checkpoint import PARAMETERS_FILE, SETTINGS_FILE
from softmaxkit.models.hooks import method_parameters
from softmaxkit.models.patch import layers
from softmaxkit.models.settings import settings_of

TOKENS = torch.randint(0, 100, (8, 4, 20), generator=torch.Generator().manual_seed(0))


def save_as_before(model: PreTrainedModel, path: Path) -> Path:
    """Write a checkpoint in the format of softmaxkit 0.1.0: a plain one, with the methods in two more files."""
    plain = softmaxkit.restore(copy.deepcopy(model))
    plain.save_pretrained(path)
    (path / SETTINGS_FILE).write_text(json.dumps(settings_of(model), indent=1))
    own = method_parameters(model)
    if own:
        save_file({name: model.get_parameter(name).detach() for name in own}, path / PARAMETERS_FILE)
    return path


@pytest.mark.parametrize("mode", ["float", "integer"])
@pytest.mark.parametrize("spec", [ConSmax(), Softermax(), Exaq(bits=3)], ids=lambda spec: str(spec.method))
@torch.no_grad()
def test_checkpoints_of_earlier_versions_load(spec: Spec, mode: str, tmp_path: Path) -> None:
    model = softmaxkit.calibrate(softmaxkit.apply(tiny_model("gpt2"), spec, mode=mode), TOKENS[:2])
    for name, parameter in model.named_parameters():
        if name.endswith("beta"):
            parameter += torch.linspace(-0.3, 0.3, parameter.numel())
    path = save_as_before(model, tmp_path / "model")
    again = softmaxkit.load(path)
    assert torch.equal(again(TOKENS[0]).logits, model(TOKENS[0]).logits)
    # Saved again, it has the current format.
    softmaxkit.save(again, path)
    assert not (path / SETTINGS_FILE).exists()
    assert not (path / PARAMETERS_FILE).exists()
    assert torch.equal(softmaxkit.load(path)(TOKENS[0]).logits, model(TOKENS[0]).logits)


def every_kind_with_every_spec() -> Iterator[Any]:
    """Yield them; the fast tests have all specs in one kind of model, and learned constants in all kinds."""
    specs = [Exact(), ConSmax(), ConSmax(share="layer"), Softermax(), Exaq(bits=3, clip="searched")]
    for kind, spec in itertools.product(("gpt2", "bert", "llama"), specs):
        marks = [] if kind == "gpt2" or spec == ConSmax() else pytest.mark.slow
        yield pytest.param(kind, spec, id=f"{kind}-{spec.method} {spec.variant}", marks=marks)


@pytest.mark.parametrize(("kind", "spec"), every_kind_with_every_spec())
@torch.no_grad()
def test_loaded_models_give_equal_logits(kind: str, spec: Spec, tmp_path: Path) -> None:
    model = softmaxkit.calibrate(softmaxkit.apply(tiny_model(kind), spec), TOKENS[:2])
    for name, parameter in model.named_parameters():
        if name.endswith("beta"):
            parameter += torch.linspace(-0.3, 0.3, parameter.numel()).reshape(parameter.shape)
    for mode in ("float", "integer"):
        softmaxkit.models.set_mode(model, mode)
        expected = model(TOKENS[0]).logits
        again = softmaxkit.load(softmaxkit.save(model, tmp_path / "model"))
        assert torch.equal(again(TOKENS[0]).logits, expected)
        for name, module in layers(model).items():
            assert layers(again)[name].constants == module.constants
            assert layers(again)[name].calibration == module.calibration


def test_exaq_clips_follow_the_papers_fits() -> None:
    """On Gaussian scores the clip is slope * sigma + offset, with the standard deviation of `score - maximum`."""
    scores = torch.randn(64, 512, generator=torch.Generator().manual_seed(0)) * 2
    distance = scores - scores.amax(-1, keepdim=True)
    sigma, deviation = distance.std(correction=0).item(), (distance - distance.mean()).abs().mean().item()
    cases: list[tuple[Any, float]] = [
        (Exaq(bits=2), -1.66 * sigma - 1.85),
        (Exaq(bits=3), -1.75 * sigma - 2.06),
        (Exaq(bits=4), -1.83 * sigma - 2.27),
        (Exaq(bits=2, clip="laplace"), -4.01 * deviation - 1.77),
        (Exaq(clip="naive"), distance.min().item()),
    ]
    for spec, expected in cases:
        module = spec.module()
        calibrator = module.calibrator()
        module.observe_with(calibrator)
        module(scores)
        module.observe_with(None)
        module.adopt(calibrator.finish())
        assert module.calibration["clip"] == pytest.approx(expected, rel=1e-5)


def test_the_clip_is_the_mean_over_batches_and_not_below_the_observed_minimum() -> None:
    module = Exaq(bits=2).module()
    calibrator = module.calibrator()
    module.observe_with(calibrator)
    parts = (
        torch.randn(3, 16, 64, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    )
    clips = []
    for part in parts:
        exact = module(part)
        assert torch.allclose(exact, torch.softmax(part, -1))  # the model continues with exact softmax
        clips.append(-1.66 * (part - part.amax(-1, keepdim=True)).std(correction=0).item() - 1.85)
    module.observe_with(None)
    module.adopt(calibrator.finish())
    assert module.calibration["clip"] == pytest.approx(sum(clips) / 3, rel=1e-5)
    calibrator = module.calibrator()
    module.observe_with(calibrator)
    module(torch.tensor([[0.0, -0.1]]))
    module.observe_with(None)
    module.adopt(calibrator.finish())
    assert module.calibration["clip"] == pytest.approx(-0.1)


def test_the_searched_clip_is_better_than_the_others_on_its_data() -> None:
    scores = torch.randn(400, 128, generator=torch.Generator().manual_seed(0)) * 5
    errors = {}
    for clip in ("searched", "gaussian", "naive"):
        module = Exaq(bits=3, clip=clip).module()  # type: ignore[arg-type]
        calibrator = module.calibrator()
        module.observe_with(calibrator)
        module(scores)
        module.observe_with(None)
        module.adopt(calibrator.finish())
        errors[clip] = (module(scores) - torch.softmax(scores, -1)).abs().sum().item()
    assert errors["searched"] < min(errors["gaussian"], errors["naive"])


def test_a_calibrated_scale_covers_the_scores() -> None:
    module = Exaq(bits=4, scale="calibrated").module(mode="integer")
    calibrator = module.calibrator()
    module.observe_with(calibrator)
    scores = torch.randn(100, 64, generator=torch.Generator().manual_seed(0)) * 20
    module(scores)
    module.observe_with(None)
    module.adopt(calibrator.finish())
    assert module.calibration["scale"] * 127 == pytest.approx(scores.abs().max().item())
    assert torch.equal(module.clamp_to_codes(scores * 0.999), scores * 0.999)


def test_consmax_calibration_beats_the_default_scale() -> None:
    module = ConSmax().module(heads=2, beta=[0.5, 3.0], gamma=[4.0, 1.0])
    scores = (
        torch.randn(8, 2, 40, 40, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 6.0])[:, None, None]
    )
    truth = module(scores)

    def error() -> float:
        module.mode = "integer"
        result = (module(scores) - truth).square().mean().item()
        module.mode = "float"
        return result

    before = error()
    calibrator = module.calibrator()
    module.observe_with(calibrator)
    # A calibrator uses torch's own operations; in a kernel, exp of a score of about 20 rounds differently.
    assert torch.allclose(module(scores), truth, rtol=1e-5)
    module.observe_with(None)
    module.adopt(calibrator.finish())
    assert len(module.calibration["scale"]) == 2
    assert module.calibration["scale"][0] != module.calibration["scale"][1]
    assert error() < before / 2


@torch.no_grad()
def test_conversion_takes_the_geometric_mean_of_the_denominators() -> None:
    module = ConSmax().module(heads=2)
    scores = torch.randn(4, 2, 10, 10, generator=torch.Generator().manual_seed(0)) * 3
    mask = torch.ones(10, 10, dtype=torch.bool).tril()
    calibrator = module.converter()
    module.observe_with(calibrator)
    module(scores, mask)
    module.observe_with(None)
    module.adopt(calibrator.finish())
    rows = scores.masked_fill(~mask, -math.inf).logsumexp(-1).mean(dim=(0, 2))
    assert torch.allclose(module.beta + module.log_gamma, rows, atol=1e-5)
    model = softmaxkit.apply(tiny_model("gpt2"), ConSmax())
    before = [p.clone() for n, p in model.named_parameters() if "log_gamma" in n]
    after = [p for n, p in convert(model, TOKENS).named_parameters() if "log_gamma" in n]
    assert not torch.equal(torch.stack(before), torch.stack(after))


def test_calibration_without_a_method_or_batches() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="no method is in this model"):
        softmaxkit.calibrate(model, TOKENS)
    softmaxkit.apply(model, Exaq())
    with pytest.raises(ValueError, match="there are no batches"):
        softmaxkit.calibrate(model, [])
    with pytest.raises(TypeError, match=r"batches must be token ids \(batch, length\)"):
        softmaxkit.calibrate(model, TOKENS[0])
    with pytest.raises(ValueError, match=r"softmaxkit\.calibrate\(model, batches\) first"):
        model(TOKENS[0])


@pytest.mark.parametrize("run", [softmaxkit.calibrate, convert])
def test_batches_that_nothing_observes_are_checked(run: Any) -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), Exact())
    with pytest.raises(ValueError, match="there are no batches"):
        run(model, iter([]))
    with pytest.raises(TypeError, match=r"batches must be token ids \(batch, length\)"):
        run(model, TOKENS[0])
    assert run(model, TOKENS) is model


def test_a_failed_calibration_changes_nothing() -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), Exaq(bits=3), clip=-5.0)
    before = {name: module.calibration for name, module in layers(model).items()}
    expected = model(TOKENS[0]).logits

    def batches() -> Any:
        yield TOKENS[0]
        raise OSError("the data went away")

    with pytest.raises(OSError, match="went away"):
        softmaxkit.calibrate(model, batches())
    assert {name: module.calibration for name, module in layers(model).items()} == before
    assert torch.equal(model(TOKENS[0]).logits, expected)


def state_of(model: PreTrainedModel) -> list[Any]:
    numbers = [{name: x.tolist() for name, x in module.state_dict().items()} for module in layers(model).values()]
    return [numbers, *((module.calibration, module.statistics) for module in layers(model).values())]


def test_a_calibration_that_one_layer_cannot_adopt_changes_none() -> None:
    model = softmaxkit.calibrate(softmaxkit.apply(tiny_model("gpt2"), Exaq(scale="calibrated")), TOKENS)
    before = state_of(model)
    with torch.no_grad():
        model.transformer.h[1].attn.c_attn.weight *= 1e12
    with pytest.raises(ValueError, match="scale"):
        softmaxkit.calibrate(model, TOKENS[:2])
    assert state_of(model) == before


@pytest.mark.parametrize("spec", [Softermax(), Sigmoid(bias="fitted")], ids=lambda spec: str(spec.method))
def test_a_warning_turned_into_an_error_changes_nothing(spec: Spec) -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), spec)
    before = state_of(model)
    with torch.no_grad():
        for layer in model.transformer.h:
            layer.attn.c_attn.weight *= 30
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="saturate in integer mode"):
            softmaxkit.calibrate(model, TOKENS)
    assert state_of(model) == before


def test_batches_may_come_from_another_model_that_is_calibrated() -> None:
    def batches() -> Iterator[Any]:
        for batch in TOKENS:
            softmaxkit.calibrate(softmaxkit.apply(tiny_model("gpt2"), Exaq(bits=2)), [batch])
            yield batch

    models = [softmaxkit.apply(tiny_model("gpt2"), Exaq(bits=3)) for _ in range(2)]
    softmaxkit.calibrate(models[0], TOKENS)
    softmaxkit.calibrate(models[1], batches())
    assert state_of(models[0]) == state_of(models[1])


def test_calibration_accepts_data_loader_batches_and_keeps_training_flags() -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), Exaq()).train()
    model.transformer.h[0].eval()
    softmaxkit.calibrate(model, [[TOKENS[0]], {"input_ids": TOKENS[1]}, TOKENS[2]])
    assert model.training
    assert not model.transformer.h[0].training


def test_integers_follow_fused_optimisers_and_inference_mode() -> None:
    module = ConSmax().module(heads=2, mode="integer")
    scores = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
    module(scores).sum().backward()
    optimiser.step()
    assert module.constants == module.build_constants()
    with torch.inference_mode():
        assert ConSmax().module(heads=2, mode="integer")(scores).isfinite().all()


def test_save_keeps_other_files_and_refuses_other_folders(tmp_path: Path) -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), ConSmax())
    path = softmaxkit.save(model, tmp_path / "model")
    (path / "tokenizer.json").write_text("{}")
    (path / "README.md").write_text("mine")
    softmaxkit.restore(model)
    softmaxkit.save(model, path)
    assert (path / "README.md").read_text() == "mine"
    assert (path / "tokenizer.json").is_file()
    assert not (path / SETTINGS_FILE).exists()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match="is not empty and contains no model"):
        softmaxkit.save(model, tmp_path / "precious")
    with pytest.raises(ValueError, match="is a file"):
        softmaxkit.save(model, path / "README.md")
    (tmp_path / "link").symlink_to(path)
    softmaxkit.save(model, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (path / "README.md").is_file()


def test_save_replaces_weights_and_settings_only(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    path = softmaxkit.save(model, tmp_path / "model")
    own = {entry.name for entry in path.iterdir()}
    kept = {".git/refs/head", "onnx/model.onnx", "modeling_mine.py", "model_notes.md", "softmaxkit.log"}
    old = {"model-00001-of-00002.safetensors", "model.safetensors.index.json", "model.fp16.safetensors"}
    old |= {"pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", SETTINGS_FILE}
    for name in kept | old:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
    (path / "link").symlink_to("nowhere")
    (path / "onnx" / "link").symlink_to("model.onnx")
    softmaxkit.save(model, path)
    assert {entry.name for entry in path.iterdir()} == own | {name.partition("/")[0] for name in kept} | {"link"}
    assert all((path / name).read_text() == name for name in kept)
    assert (path / "link").is_symlink()
    assert (path / "onnx" / "link").is_symlink()


@pytest.mark.parametrize("file", ["softmaxkit.safetensors", "model.safetensors"])
def test_truncated_weights_are_refused(file: str, tmp_path: Path) -> None:
    path = save_as_before(softmaxkit.apply(tiny_model("gpt2"), ConSmax()), tmp_path / "model")
    (path / file).write_bytes((path / file).read_bytes()[:100])
    with pytest.raises(ValueError, match=r"does not fit its model|cannot read the weights"):
        softmaxkit.load(path)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    path = softmaxkit.save(tiny_model("gpt2"), tmp_path / "model")
    weights = load_file(path / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"incomplete: transformer\.h\.1\.mlp\.c_fc\.weight is missing"):
        softmaxkit.load(path)


def test_a_full_disk_leaves_the_old_checkpoint_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), ConSmax())
    path = softmaxkit.save(model, tmp_path / "model")
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        softmaxkit.save(model, path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def _cut(settings: Any) -> Any:
    constants = settings["layers"]["transformer.h.0.attn"]["constants"]
    constants["high"] = [table[:3] for table in constants["high"]]
    return settings


def _without_layer(settings: Any) -> Any:
    del settings["layers"]["transformer.h.0.attn"]
    return settings


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:40], "is damaged"),
        (lambda text: text.replace('"schema": 1', '"schema": 9', 1), "reads 1"),
        (lambda text: text.replace("transformer.h.0.attn", "transformer.h.9.attn"), "does not fit its model"),
        (lambda text: text.replace('"constants"', '"constant"'), "does not fit its model: .*'constants'"),
        (lambda text: json.dumps(_cut(json.loads(text))), "does not fit its model"),
        (lambda text: json.dumps(_without_layer(json.loads(text))), "belongs to no layer"),
        (lambda text: text.replace('"bits"', '"bitz"', 1), "no key 'bitz'"),
    ],
)
def test_damaged_settings_are_refused(damage: Any, message: str, tmp_path: Path) -> None:
    path = save_as_before(softmaxkit.apply(tiny_model("gpt2"), ConSmax()), tmp_path / "model")
    settings = path / SETTINGS_FILE
    settings.write_text(damage(json.dumps(json.loads(settings.read_text()))))
    with pytest.raises(ValueError, match=message):
        softmaxkit.load(path)


def test_a_method_whose_settings_are_missing_is_not_silently_dropped(tmp_path: Path) -> None:
    path = save_as_before(softmaxkit.apply(tiny_model("gpt2"), ConSmax()), tmp_path / "model")
    weights = load_file(path / "model.safetensors") | load_file(path / PARAMETERS_FILE)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    (path / SETTINGS_FILE).unlink()
    with pytest.raises(ValueError, match=r"has lost its method.* there is no softmaxkit\.json"):
        softmaxkit.load(path)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a checkpoint that transformers can read"):
        softmaxkit.load(tmp_path)
