"""Open an object of Cloud Storage as whoever runs this, or of an emulator as nobody."""

from worker.pipeline.weights.cloud_source import GOOGLE, CloudObject, GoogleToken


def open_object(bucket: str, name: str, *, emulator: str | None) -> CloudObject:
    """Look at an object, which its ranges are then asked of; see CloudObject for what it raises."""
    token = (lambda: None) if emulator else GoogleToken()
    return CloudObject(bucket, name, token=token, endpoint=emulator or GOOGLE)
