"""Which weights are loaded, and which are refused before torch reads a tensor."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from diffusers import FluxTransformer2DModel
from safetensors.numpy import load_file, save_file

from shared.errors import WeightsDamaged, WeightsError, WeightsMissing, WrongWeights
from shared.manifest import Manifest, Role, describe_file, read_manifest, write_manifest
from tests.unit.gguf_files import write_transformer
from worker.pipeline.kontext import Kontext
from worker.pipeline.start import begin
from worker.pipeline.tiny import make_tiny_weights
from worker.pipeline.tiny_shapes import TRANSFORMER
from worker.pipeline.weights import assemble as assemble_module
from worker.pipeline.weights.flux_shapes import FluxSizes, Naming, expected_shapes
from worker.pipeline.weights.gguf_header import read_header
from worker.pipeline.weights.transformer_check import check_transformer, read_sizes

MODEL = Path("transformer/model.gguf")


@pytest.fixture
def weights(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny weights that a test may spoil."""
    return Path(shutil.copytree(tiny, tmp_path / "weights"))


def described_anew(directory: Path) -> Manifest:
    """Make the manifest vouch for whatever lies in the directory now."""
    old = read_manifest(directory)
    files = tuple(describe_file(directory, file.path, file.role) for file in old.files)
    manifest = Manifest(label=old.label, files=files, expects=old.expects)
    write_manifest(directory, manifest)
    return manifest


def refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> WeightsError:
    """Load, and insist that it is refused before a transformer is made of it."""

    def placed(*_: object, **__: object) -> None:
        raise AssertionError("torch was reached")

    monkeypatch.setattr(assemble_module, "place_transformer", placed)
    with pytest.raises(WeightsError) as caught:
        Kontext(begin(directory, device="cpu"))
    return caught.value


def test_loading_tells_its_stages_and_needs_no_network(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("it asked the network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    stages: list[tuple[str, float]] = []
    Kontext(begin(tiny, device="cpu"), on_stage=lambda *stage: stages.append(stage))
    names = list(dict.fromkeys(name for name, _ in stages))
    assert (names[0], names[-1]) == ("checking weights", "ready")
    assert "loading transformer" in names
    fractions = [fraction for _, fraction in stages]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert capfd.readouterr().err == ""


def test_a_flipped_byte_is_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray((weights / MODEL).read_bytes())
    content[-1] ^= 1
    (weights / MODEL).write_bytes(content)
    error = refused(weights, monkeypatch)
    assert isinstance(error, WeightsDamaged)
    assert "model.gguf: what came has the crc32c" in str(error)


def test_a_truncated_file_is_refused_even_if_the_manifest_vouches_for_it(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (weights / MODEL).read_bytes()
    (weights / MODEL).write_bytes(content[: len(content) // 2])
    assert "has 276800 bytes, expected 553600" in str(refused(weights, monkeypatch))
    described_anew(weights)
    error = refused(weights, monkeypatch)
    assert isinstance(error, WeightsDamaged)
    assert "tensor" in str(error)
    assert "past the end of the file" in str(error)


def test_a_missing_file_is_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (weights / "vae/config.json").unlink()
    assert isinstance(refused(weights, monkeypatch), WeightsMissing)


def test_weights_of_depth_are_refused_with_both_shapes_and_a_remedy(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = expected_shapes(TRANSFORMER, Naming.DIFFUSERS)
    write_transformer(weights / MODEL, shapes | {"x_embedder.weight": (64, 128)})
    described_anew(weights)
    error = refused(weights, monkeypatch)
    assert isinstance(error, WrongWeights)
    for part in (
        "model.gguf: ",
        "tensor 'x_embedder.weight' has the decoded shape (64, 128), expected (64, 64)",
        "this is FLUX.1-Depth-dev",
        "illo draws with FLUX.1-Kontext-dev: put its transformer there instead",
    ):
        assert part in str(error)


def test_a_config_that_calls_depth_by_its_name_is_refused_too(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = weights / "transformer/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 128}))
    described_anew(weights)
    assert "in_channels is 128, expected 64" in str(refused(weights, monkeypatch))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("transformer_blocks.1.attn.to_q.weight"), "to_q.weight' of shape"),
        (lambda s: s.update({"lora.weight": (32, 32)}), "'lora.weight' of shape (32, 32) is one"),
        (
            lambda s: s.update({"single_transformer_blocks.1.proj_mlp.weight": (128, 64)}),
            "has shape (128, 64), expected (256, 64)",
        ),
        (lambda s: s.pop("x_embedder.weight"), "no FLUX model"),
    ],
)
def test_every_tensor_of_every_block_is_checked(
    tiny: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    shapes = expected_shapes(TRANSFORMER, Naming.DIFFUSERS)
    change(shapes)
    write_transformer(tmp_path / "model.gguf", shapes)
    with pytest.raises(WrongWeights) as caught:
        check(tiny, tmp_path / "model.gguf")
    assert said in str(caught.value)


def check(tiny: Path, model: Path) -> None:
    expects = read_manifest(tiny).expects
    check_transformer(read_header(model), tiny / "transformer/config.json", expects)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("naming", Naming)
def test_either_naming_is_let_through_at_any_width(
    tiny: Path, tmp_path: Path, naming: Naming, prefix: str
) -> None:
    shapes = expected_shapes(TRANSFORMER, naming)
    write_transformer(tmp_path / "model.gguf", {prefix + n: s for n, s in shapes.items()})
    check(tiny, tmp_path / "model.gguf")


@pytest.mark.parametrize(("naming", "count"), [(Naming.DIFFUSERS, 1160), (Naming.ORIGINAL, 780)])
def test_the_full_size_has_as_many_tensors_as_the_files_people_download(
    naming: Naming, count: int
) -> None:
    full = FluxSizes(
        in_channels=64,
        out_channels=64,
        double_blocks=19,
        single_blocks=38,
        heads=24,
        head_channels=128,
        text_channels=4096,
        pooled_channels=768,
        guidance=True,
    )
    assert len(expected_shapes(full, naming)) == count


def test_the_expected_shapes_are_those_of_diffusers(tiny: Path) -> None:
    model = FluxTransformer2DModel.from_config(
        FluxTransformer2DModel.load_config(tiny / "transformer", local_files_only=True)
    )
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    sizes = read_sizes(tiny / "transformer/config.json")
    assert expected_shapes(sizes, Naming.DIFFUSERS) == found


def with_a_vector_in(type_: gguf.GGMLQuantizationType, tiny: Path, model: Path) -> None:
    writer = gguf.GGUFWriter(model, "flux")
    for tensor in gguf.GGUFReader(tiny / MODEL).tensors:
        data, stored_as = tensor.data, tensor.tensor_type
        if tensor.name == "proj_out.bias":
            data, stored_as = gguf.quantize(data, type_), type_
        writer.add_tensor(tensor.name, data, raw_dtype=stored_as)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_packed_vector_is_refused(tiny: Path, tmp_path: Path) -> None:
    with_a_vector_in(gguf.GGMLQuantizationType.Q8_0, tiny, tmp_path / "model.gguf")
    with pytest.raises(WrongWeights, match=r"vector 'proj_out\.bias' is stored as Q8_0"):
        check(tiny, tmp_path / "model.gguf")


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_a_plain_vector_is_let_through(tiny: Path, tmp_path: Path, name: str) -> None:
    with_a_vector_in(gguf.GGMLQuantizationType[name], tiny, tmp_path / "model.gguf")
    check(tiny, tmp_path / "model.gguf")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"_class_name": 3}', "\0"])
def test_a_broken_config_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=r"config\.json"):
        read_sizes(tmp_path / "config.json")


@pytest.mark.parametrize("part", [Role.TEXT_ENCODER, Role.TEXT_ENCODER_2, Role.VAE])
def test_a_part_with_a_missing_tensor_is_not_filled_with_chance(tmp_path: Path, part: Role) -> None:
    weights = tmp_path / "weights"
    make_tiny_weights(weights, packed_t5=False)
    [file] = (weights / part).glob("*.safetensors")
    tensors = load_file(file)
    tensors.popitem()
    save_file(tensors, file, metadata={"format": "pt"})
    described_anew(weights)
    with pytest.raises(WeightsError, match="missing"):
        Kontext(begin(weights, device="cpu"))
