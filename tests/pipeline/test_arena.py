"""The models are views of what was fetched, byte for byte, whichever way it came."""

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxKontextPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, T5EncoderModel

from shared.errors import WeightsDamaged
from shared.manifest import Manifest, Role, describe_file, read_manifest, write_manifest
from tests.pipeline.test_weights import described_anew
from tests.ranged_server import FLIPPED, FOLDER, Fault, objects_of, ranged_server
from worker.pipeline.tiny import make_tiny_weights
from worker.pipeline.weights import assemble as assemble_module
from worker.pipeline.weights.arrival import Arrival
from worker.pipeline.weights.assemble import load
from worker.pipeline.weights.fetching import Fetching
from worker.pipeline.weights.flux_shapes import Naming
from worker.pipeline.weights.gguf_header import GgufHeader, read_header
from worker.pipeline.weights.layout import ALIGNMENT
from worker.pipeline.weights.opening import Opened

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

CPU = torch.device("cpu")
ROLES = (Role.TEXT_ENCODER, Role.VAE, Role.TEXT_ENCODER_2, Role.TRANSFORMER)
# Small enough that the tiny weights take turns in the slots.
RING = {"slots": 2, "range_bytes": 40_000}
KINDS: dict[str, Callable[[Path], Manifest]] = {
    "packed": make_tiny_weights,
    "plain T5": lambda folder: make_tiny_weights(folder, packed_t5=False),
    "original names": lambda folder: make_tiny_weights(folder, naming=Naming.ORIGINAL),
}


@pytest.fixture(scope="module", params=KINDS)
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("weights") / "tiny"
    KINDS[request.param](folder)
    return folder


@contextmanager
def fetching(weights: Path, *, place: str, through_ring: bool) -> Iterator[Fetching]:
    how = {"through_ring": through_ring, **RING}
    if place == "folder":
        with Fetching(str(weights), **how) as begun:
            yield begun
        return
    with (
        ranged_server(objects_of(weights)) as server,
        Fetching(FOLDER, endpoint=server.url, connections=5, **how) as begun,
    ):
        yield begun


def stored_bytes(weights: Path) -> dict[Role, dict[str, bytes]]:
    """Read all tensors directly, with nothing of the fetch."""
    found: dict[Role, dict[str, bytes]] = {role: {} for role in ROLES}
    for role in ROLES:
        for path in (weights / role).glob("*.gguf"):
            octets = path.read_bytes()
            for name, tensor in read_header(path).tensors.items():
                found[role][name] = octets[tensor.offset : tensor.offset + tensor.bytes]
        for path in (weights / role).glob("*.safetensors"):
            for name, tensor in load_file(path).items():
                found[role][name] = tensor.view(torch.uint8).numpy().tobytes()
    return found


@pytest.mark.parametrize("through_ring", [False, True], ids=["straight", "through the ring"])
@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_every_tensor_is_what_the_file_has(
    weights: Path, place: str, through_ring: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[Role, Mapping[str, bytes]] = {}
    built = assemble_module._build

    def watched(opened: Opened, role: Role, arena: torch.Tensor, dtype: torch.dtype) -> object:
        slots = opened.layout.tensors[role]
        assert arena.data_ptr() % ALIGNMENT == 0
        assert all(slot.at % ALIGNMENT == 0 for slot in slots.values())
        seen[role] = {
            name: arena[slot.at : slot.at + slot.bytes].numpy().tobytes()
            for name, slot in slots.items()
        }
        return built(opened, role, arena, dtype)

    monkeypatch.setattr(assemble_module, "_build", watched)
    with fetching(weights, place=place, through_ring=through_ring) as begun:
        load(Arrival(begun), dtype=torch.float32)
        assert begun.through_ring is through_ring
        assert begun.fetched().connections > 1
    assert seen == stored_bytes(weights)


def stock(weights: Path, dtype: torch.dtype) -> dict[Role, torch.nn.Module]:
    """Load as the libraries do."""
    how = {"torch_dtype": dtype, "local_files_only": True}
    parts = {Role.TEXT_ENCODER: CLIPTextModel, Role.VAE: AutoencoderKL}
    if (weights / "text_encoder_2/model.safetensors").exists():
        parts[Role.TEXT_ENCODER_2] = T5EncoderModel
    return {
        role: part.from_pretrained(str(weights), subfolder=role.value, **how)
        for role, part in parts.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_models_are_those_that_the_libraries_load(weights: Path, dtype: torch.dtype) -> None:
    with Fetching(str(weights)) as begun:
        pipeline = load(Arrival(begun), dtype=dtype)
    for role, expected in stock(weights, dtype).items():
        found = getattr(pipeline, role)
        assert not found.training
        assert found.dtype is dtype
        for kind in ("state_dict", "named_buffers"):
            ours, theirs = (dict(getattr(each, kind)()) for each in (found, expected))
            assert ours.keys() == theirs.keys()
            for name, tensor in theirs.items():
                assert ours[name].dtype is tensor.dtype
                assert torch.equal(ours[name], tensor), name


def test_plain_models_compute_what_the_libraries_models_do(tmp_path: Path) -> None:
    make_tiny_weights(tmp_path / "tiny", packed_t5=False)
    with Fetching(str(tmp_path / "tiny")) as begun:
        pipeline = load(Arrival(begun), dtype=torch.float32)
    expected = stock(tmp_path / "tiny", torch.float32)
    ids = torch.arange(3, 20)[None]
    pixels = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        for role in (Role.TEXT_ENCODER, Role.TEXT_ENCODER_2):
            assert torch.equal(getattr(pipeline, role)(ids)[0], expected[role](ids)[0])
        encoded = pipeline.vae.encode(pixels).latent_dist.mode()
        assert torch.equal(encoded, expected[Role.VAE].encode(pixels).latent_dist.mode())
        assert torch.equal(pipeline.vae.decode(encoded)[0], expected[Role.VAE].decode(encoded)[0])


def memory_of(model: torch.nn.Module) -> set[int]:
    """Tell whose memory the model's tensors lie in."""
    return {each.untyped_storage().data_ptr() for each in model.parameters()}


@pytest.mark.parametrize("through_ring", [False, True], ids=["straight", "through the ring"])
def test_what_needs_no_conversion_is_not_copied(weights: Path, through_ring: bool) -> None:
    with Fetching(str(weights), through_ring=through_ring) as begun:
        pipeline = load(Arrival(begun), dtype=torch.float32)
    # stored in float32, so that they are views of one arena each
    assert len(memory_of(pipeline.text_encoder)) == 1
    assert len(memory_of(pipeline.vae)) == 1
    lying: Counter[int] = Counter()
    for each in pipeline.transformer.parameters():
        lying[each.untyped_storage().data_ptr()] += each.nbytes
    [(_, viewed), *copied] = lying.most_common()
    # of the original names' last modulation the halves are swapped, and that is all
    assert sum(size for _, size in copied) <= 2 * 64 * 64 * 34 // 32 + 2 * 64 * 4
    assert viewed > 500_000


def test_what_needs_conversion_is_converted_once(tmp_path: Path) -> None:
    weights = tmp_path / "tiny"
    make_tiny_weights(weights)
    file = weights / "vae/diffusion_pytorch_model.safetensors"
    numbers = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
    save_file(numbers, file, metadata={"format": "pt"})
    described_anew(weights)
    with Fetching(str(weights)) as begun:
        found = load(Arrival(begun), dtype=torch.float32).vae.state_dict()
    with Fetching(str(weights)) as begun:
        same = load(Arrival(begun), dtype=torch.bfloat16).vae
    assert len(memory_of(same)) == 1
    for name, tensor in numbers.items():
        assert torch.equal(found[name], tensor.float())
        assert torch.equal(same.state_dict()[name], tensor)


def test_a_model_in_several_files_is_one(tmp_path: Path) -> None:
    weights = tmp_path / "tiny"
    make_tiny_weights(weights, packed_t5=False)
    whole = weights / "text_encoder_2/model.safetensors"
    tensors = sorted(load_file(whole).items())
    expected = stock(weights, torch.float32)[Role.TEXT_ENCODER_2].state_dict()
    whole.unlink()

    manifest = read_manifest(weights)
    files = [file for file in manifest.files if file.path != "text_encoder_2/model.safetensors"]
    for number, part in enumerate((tensors[:9], tensors[9:])):
        name = f"text_encoder_2/model-{number}.safetensors"
        save_file(dict(part), weights / name, metadata={"format": "pt"})
        files.append(describe_file(weights, name, Role.TEXT_ENCODER_2))
    write_manifest(weights, replace(manifest, files=tuple(files)))
    with Fetching(str(weights)) as begun:
        found = load(Arrival(begun), dtype=torch.float32).text_encoder_2.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_memory_is_given_back_with_the_model(tmp_path: Path) -> None:
    make_tiny_weights(tmp_path / "tiny")
    before = arenas_mapped()
    with Fetching(str(tmp_path / "tiny"), through_ring=False) as begun:
        pipeline = load(Arrival(begun), dtype=torch.float32)
    assert len(arenas_mapped() - before) == 4
    # as an offload does: what is packed moves, and nobody needs the arena any more
    for model in (pipeline.transformer, pipeline.text_encoder_2, pipeline.vae):
        for parameter in model.parameters():
            parameter.data = torch.empty(0)
    del parameter
    assert len(arenas_mapped() - before) == 1


def arenas_mapped() -> set[str]:
    """Name the arenas that this process maps, by their inodes."""
    gc.collect()  # the models of other tests
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "memfd:illo-" in line}


@pytest.mark.parametrize("through_ring", [False, True], ids=["straight", "through the ring"])
@pytest.mark.parametrize("name", ["transformer/model.gguf", "text_encoder/model.safetensors"])
def test_a_damaged_byte_never_becomes_a_pipeline(
    tmp_path: Path, name: str, through_ring: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "tiny"
    make_tiny_weights(weights)
    monkeypatch.setattr(assemble_module, "FluxKontextPipeline", _never)
    held = objects_of(weights)
    # twice: a window of the header may hold the byte, too, and throws it away
    place = held[f"kontext/{name}"].size - 3
    fault = Fault(FLIPPED, at=place, times=2, object=f"kontext/{name}")
    with (
        ranged_server(held, faults=(fault,)) as server,
        Fetching(FOLDER, endpoint=server.url, through_ring=through_ring, **RING) as begun,
        pytest.raises(WeightsDamaged, match=f"{name}: what came has the crc32c"),
    ):
        load(Arrival(begun), dtype=torch.float32)


def test_a_damaged_byte_of_a_header_never_becomes_a_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "tiny"
    make_tiny_weights(weights)
    monkeypatch.setattr(assemble_module, "FluxKontextPipeline", _never)
    octets = np.fromfile(weights / "transformer/model.gguf", np.uint8).tobytes()
    # in the name that the file gives itself: nothing but a checksum can tell
    at = octets.index(b"illo-tiny") + 2
    with (
        ranged_server(objects_of(weights), faults=(Fault(FLIPPED, at=at),)) as server,
        Fetching(FOLDER, endpoint=server.url) as begun,
        pytest.raises(WeightsDamaged, match=r"model\.gguf: what came has the crc32c"),
    ):
        load(Arrival(begun), dtype=torch.float32)


def _never(**_: object) -> FluxKontextPipeline:
    raise AssertionError("a pipeline was made")


def test_the_log_says_what_was_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = make_tiny_weights(tmp_path / "tiny")
    with caplog.at_level("INFO"), Fetching(str(tmp_path / "tiny")) as begun:
        load(Arrival(begun), dtype=torch.float32)
    events = {}
    for record in caplog.records:
        events.setdefault(record.getMessage(), []).append(record.__dict__)
    assert len(events["weights file"]) == 4
    [model] = [each for each in events["weights file"] if "transformer" in each["file"]]
    assert model["architecture"] == "flux"
    assert model["img_in"] == [64, 64]
    assert model["quantizations"]["Q8_0"] > 0
    assert model["label"] == manifest.label
    told = {(each["file"], each["sha256"]) for each in events["weights file"]}
    tensors = [file for file in manifest.files if file.path.endswith((".gguf", ".safetensors"))]
    assert told == {(str(tmp_path / "tiny" / file.path), file.sha256) for file in tensors}
    [fetched] = events["weights fetched"]
    assert fetched["bytes"] > 900_000
    assert fetched["connections"] > 1
    for name in ("weights opened", "weights fetched", "weights assembled"):
        assert events[name][0]["seconds"] >= 0


def test_headers_pass_between_processes_unchanged(tmp_path: Path) -> None:
    make_tiny_weights(tmp_path / "tiny")
    with Fetching(str(tmp_path / "tiny")) as begun:
        [file] = begun.opened().of(Role.TRANSFORMER)
    assert isinstance(file.header, GgufHeader)
    direct = read_header(tmp_path / "tiny/transformer/model.gguf")
    assert (file.header.tensors, file.header.metadata) == (direct.tensors, direct.metadata)
    with pytest.raises(TypeError):
        file.header.tensors["x"] = None  # type: ignore[index]
