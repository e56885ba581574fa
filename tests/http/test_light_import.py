"""The API starts lightly: what it brings along is asked of a fresh interpreter."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch", "diffusers", "transformers", "accelerate", "gguf", "numpy", "PIL", "google",
    "cryptography", "waitress", "sqlite3", "rich", "yaml",
)  # fmt: skip
CODE = """
import json, sys, time
began = time.perf_counter()
import api.app
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "modules": sorted(sys.modules)}))
"""


def test_importing_the_app_brings_no_model_library_and_no_google_sdk() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    print(f"import api.app: {told['seconds']:.2f} s, {len(told['modules'])} modules")
    assert "api.routes_jobs" in told["modules"]
    brought = {name.partition(".")[0] for name in told["modules"]}
    assert not brought & set(HEAVY)
