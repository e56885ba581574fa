"""What is in the built images, what is not, and that they run on a root that is read-only."""

import http.client
import json
import re
import secrets
import signal
import stat
import time
from contextlib import ExitStack
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture

from deploy.ground import free_ports
from shared.clock import SystemClock
from shared.keys import Scope, new_key, write_keys
from shared.manifest import read_manifest
from shared.settings import SMALL_ARTIST
from tests.images import USER, Image, built

pytestmark = [pytest.mark.slow, pytest.mark.images]

OURS = {"api", "deploy", "shared", "worker"}
MODELS = {"accelerate", "diffusers", "gguf", "numpy", "safetensors", "tokenizers", "torch",
          "transformers"}  # fmt: skip
COMPILERS = {"c++", "cc", "clang", "g++", "gcc", "ld", "make", "nvcc", "rustc"}
WEIGHTS = (".gguf", ".safetensors", ".ckpt", ".pt", ".pth", ".onnx")
LARGEST_API = 200  # megabytes over the base
UNCHECKED = 1  # bytecode that is taken as it is; importlib's flag


@pytest.fixture(params=["api", "worker"])
def image(request: pytest.FixtureRequest) -> Image:
    return built(str(request.param))


@pytest.fixture
def api() -> Image:
    return built("api")


@pytest.fixture
def worker() -> Image:
    return built("worker")


def packages(image: Image) -> set[str]:
    folders = [*image.root.glob("opt/illo/lib/python3*/site-packages"), image.root / "srv/illo"]
    return {one.name.lower() for one in distributions(path=list(map(str, folders)))}


def test_the_api_brings_no_model_library(api: Image) -> None:
    assert not packages(api) & MODELS
    assert not [name for name in packages(api) if name.startswith(("nvidia", "triton"))]


def test_the_worker_brings_all_of_them(worker: Image) -> None:
    assert packages(worker) >= MODELS


def test_illo_is_there_and_nothing_else_of_its_repository(image: Image) -> None:
    found = {path.name for path in (image.root / "srv/illo").iterdir()}
    assert found - {"bin"} == OURS | {name for name in found if name.endswith(".dist-info")}
    assert not [file for file in image.files("srv/illo") if file.suffix in (".tf", ".tfvars")]


def test_no_tests_lie_among_the_libraries(image: Image) -> None:
    libraries = [*image.root.glob("opt/illo/lib/python3*/site-packages")]
    assert libraries
    assert not [path for folder in libraries for path in folder.rglob("tests") if path.is_dir()]
    assert not [path for folder in libraries for path in folder.glob("torch/test")]


def test_there_are_no_weights_but_the_small_artists(image: Image) -> None:
    own = image.root / "srv/illo/shared" / SMALL_ARTIST.name
    found = [file for file in image.files() if file.suffix in WEIGHTS]
    # where packages are installed, .pth is a file that Python itself reads
    others = [file for file in found if file.parent.name != "site-packages"]
    assert {file for file in others if own not in file.parents} == set()
    named = {own / file.path for file in read_manifest(own).files}
    assert named <= {file for file in own.rglob("*") if file.is_file()}


def test_what_built_it_is_gone(image: Image) -> None:
    assert not packages(image) & {"pip", "pytest", "wheel"}
    assert "setuptools" not in packages(image) or "torch" in packages(image)  # which needs it
    for left in ("build", "opt/tool", "opt/wheels", "etc/pip.conf", "root/.cache", "root/.config"):
        assert not (image.root / left).exists(), left
    assert {path.name for path in (image.root / "opt").iterdir()} == {"illo"}
    assert not list((image.root / "tmp").iterdir())


def test_there_is_no_compiler(image: Image) -> None:
    folders = [folder.lstrip("/") for folder in image.environment["PATH"].split(":")]
    found = {file.name for file in image.files(*folders)}
    assert {"env", "sh"} <= found
    assert not found & COMPILERS


def test_its_user_is_nobody_special_and_owns_nothing_but_its_data(image: Image) -> None:
    assert image.config["User"] == f"{USER}:{USER}"
    assert f"illo:x:{USER}:{USER}:" in (image.root / "etc/passwd").read_text()
    owned = [path for path in image.files() if path.lstat().st_uid == USER]
    assert not owned
    for folder in ("opt/illo", "srv/illo"):
        loose = [file for file in image.files(folder)
                 if not file.is_symlink() and file.stat().st_mode & stat.S_IWOTH]  # fmt: skip
        assert not loose


def test_it_says_what_it_is_and_how_it_ends(image: Image) -> None:
    assert image.config["StopSignal"] == "SIGTERM"
    assert image.config["Cmd"][0] in ("illo-api-gunicorn", "illo-worker")
    assert image.config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert not re.search(r"secret|token|password|ILLO_KEY", json.dumps(image.config), re.I)


def test_all_bytecode_is_there_and_is_taken_as_it_is(image: Image) -> None:
    sources = [file for file in image.files("opt/illo", "srv/illo") if file.suffix == ".py"]
    assert len(sources) > 1000
    for source in sources:
        if "torch/testing/_internal" in str(source):
            continue
        written = source.parent / "__pycache__" / f"{source.stem}.cpython-311.pyc"
        assert written.read_bytes()[4] & UNCHECKED, source


def test_the_standard_library_has_its_bytecode(image: Image) -> None:
    python = next(path for path in image.root.glob("usr/**/python3.11/argparse.py")).parent
    for name in ("argparse", "asyncio/base_events", "http/server", "socket"):
        source = python / f"{name}.py"
        assert (source.parent / "__pycache__" / f"{source.stem}.cpython-311.pyc").exists(), name


def test_the_api_is_small(api: Image) -> None:
    python = sum(
        file.stat().st_size
        for file in api.files("usr")
        if "/python3" in str(file) and file.suffix == ".pyc"
    )
    added = api.megabytes("opt/illo", "srv/illo") + python / 1e6
    print(f"\nillo-api: at most {added:.0f} MB over its base, {api.megabytes():.0f} MB with it")
    assert added < LARGEST_API


def test_its_root_cannot_be_written_to(image: Image, tmp_path: Path) -> None:
    tries = "for at in / /opt/illo /srv/illo /etc /tmp /data; do touch $at/x && echo $at; done"
    _, told = image.told(tmp_path, "sh", "-c", f"id -u; {tries}")
    assert [line for line in told.splitlines() if line[0] in "/1"] == [str(USER), "/tmp", "/data"]


def test_it_does_not_answer_others_without_keys(api: Image, tmp_path: Path) -> None:
    status, told = api.told(tmp_path)
    assert status == 2
    assert "ILLO_HOST" in told
    assert "ILLO_KEYS" in told


def test_googles_libraries_are_there(image: Image, tmp_path: Path) -> None:
    code = "import shared.gcp.job_store, shared.gcp.artifact_store, shared.gcp.delivery"
    assert image.told(tmp_path, "python", "-c", code) == (0, "")


def test_the_worker_refuses_to_start_half_configured(worker: Image, tmp_path: Path) -> None:
    status, told = worker.told(tmp_path, ILLO_BACKEND="gcp")
    assert status == 2
    for name in ("GOOGLE_CLOUD_PROJECT", "ILLO_BUCKET", "ILLO_TOPIC", "ILLO_PUSH_AUDIENCE"):
        assert name in told


def test_the_images_draw_a_picture_together_and_end_in_order(
    api: Image, worker: Image, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    now = SystemClock().now()
    key, stored = new_key("local", [*Scope], now, expires_at=None, random=secrets.token_bytes)
    (data / "keys.json").write_text(write_keys([stored]))
    at_api, at_worker = free_ports(2)
    queue = ("python", "-c", "from deploy.queue import main; main()")
    with ExitStack() as programs:
        began = time.monotonic()
        api_program = programs.enter_context(
            api.running(data, PORT=str(at_api), ILLO_KEYS="/data/keys.json")
        )
        answered(at_api, "/healthz")
        print(f"\nillo-api: {time.monotonic() - began:.2f} s to its first answer")
        programs.enter_context(api.running(data, *queue, f"http://127.0.0.1:{at_worker}/push"))
        began = time.monotonic()
        worker_program = programs.enter_context(
            worker.running(data, PORT=str(at_worker), ILLO_HOST="127.0.0.1")
        )
        answered(at_worker, "/healthz")
        print(f"illo-worker: {time.monotonic() - began:.2f} s to its first answer", end=", ")
        answered(at_worker, "/readyz")
        print(f"{time.monotonic() - began:.2f} s until it can draw")
        scene = {"prompt": "Mia", "width": 128, "height": 96, "steps": 2}
        job = asked(at_api, key, "POST", "/v1/jobs", json.dumps(scene))["id"]
        until = time.monotonic() + 120
        while (seen := asked(at_api, key, "GET", f"/v1/jobs/{job}?wait=10"))["status"] in (
            "queued", "running",
        ):  # fmt: skip
            assert time.monotonic() < until, seen
        assert seen["status"] == "succeeded", seen
        stored_as = [*(data / "artifacts").rglob("*.png")]
        assert Picture.open(stored_as[0]).size == (128, 96)
        assert stored_as[0].stat().st_uid == USER
        for program in (worker_program, api_program):
            program.send_signal(signal.SIGTERM)
            assert program.wait(15) == 0


def asked(port: int, key: str, method: str, path: str, body: str | None = None) -> Any:
    caller = http.client.HTTPConnection("127.0.0.1", port, timeout=70)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    caller.request(method, path, body, headers)
    answer = caller.getresponse()
    content = answer.read()
    assert answer.status < 300, content
    return json.loads(content)


def answered(port: int, path: str) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            caller = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            caller.request("GET", path)
            if caller.getresponse().status == 200:
                return
        except OSError:
            pass
        assert time.monotonic() < until, f"{path} was not answered"
        time.sleep(0.01)
