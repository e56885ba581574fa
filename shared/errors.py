"""Everything that illo can refuse or find wrong, as one tree; each name states a fact."""

from datetime import timedelta


class IlloError(Exception):
    """The root: its message names the thing and the remedy."""


# --- rules of a job ---------------------------------------------------------------------------


class JobError(IlloError):
    """A transition that the job, as it now is, does not allow."""


class JobFinal(JobError):
    """The job has ended; nothing about its outcome changes any more."""


class JobNotDue(JobError):
    """The job may not be claimed yet."""


class JobActive(JobError):
    """The job has not ended, so it cannot be deleted."""


class LeaseHeld(JobError):
    """Another worker holds the lease and it has not run out."""


class LeaseLost(JobError):
    """This worker's lease was stolen, released or never given: stop, and write nothing."""


class CancelWished(JobError):
    """Somebody asked for the job to be canceled, so it is not claimed and nothing more is saved."""


class CheckpointsSpent(JobError):
    """The job has as many stored latents as it may have; it is drawn on without saving more."""


# --- what a store says ------------------------------------------------------------------------


class StoreError(IlloError):
    """The store of jobs could not do what was asked."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or is too busy; trying again later may help."""


class StoreFull(StoreUnavailable):
    """The disk under the store has no room; says which folder, and what to do."""


class JobNotFound(StoreError):
    """No job has this id."""


class JobExists(StoreError):
    """A job with this id is already stored; nothing was written."""


class BatchNotFound(StoreError):
    """No batch has this id."""


class SceneNotFound(StoreError):
    """The batch has no scene of this key."""


class IdempotencyRecorded(StoreError):
    """The key was used before; carries the record, so that its answer can be replayed."""

    def __init__(self, record: object) -> None:
        super().__init__("this Idempotency-Key was used before")
        self.record = record


class QuotaExceeded(StoreError):
    """The tenant may not use more at present; says which limit, and when to try again if known."""

    def __init__(self, message: str, *, limit: str, retry_after: timedelta | None) -> None:
        super().__init__(message)
        self.limit = limit
        self.retry_after = retry_after


class UnknownSchema(StoreError):
    """The stored documents come from a newer illo than this one."""


class BadCursor(StoreError):
    """A page was asked for with a cursor that this store did not give out."""


class ArtifactError(IlloError):
    """The artifact store could not do what was asked."""


class ArtifactNotFound(ArtifactError):
    """No artifact has this name, or not in this generation."""


class ArtifactExists(ArtifactError):
    """An artifact of this name exists already; nothing was overwritten."""


class ArtifactDamaged(ArtifactError):
    """The stored bytes are not those that were put."""


class ArtifactStoreUnavailable(ArtifactError):
    """The artifact store cannot be reached; trying again later may help."""


class ArtifactStoreFull(ArtifactStoreUnavailable):
    """The disk under the artifact store has no room; says which folder, and what to do."""


class PublishFailed(IlloError):
    """The wake-up was not confirmed; the sweep will send another."""


# --- messages and identity --------------------------------------------------------------------


class BadEnvelope(IlloError):
    """A push body that is not an envelope with a message of a version that we read."""


class Unauthenticated(IlloError):
    """A push without a token that we can read and trust."""


class WrongIdentity(IlloError):
    """A push with a valid token of somebody who may not wake a worker."""


# --- drawing ----------------------------------------------------------------------------------


class DrawingError(IlloError):
    """A drawing that did not become images."""


class InvalidReference(DrawingError):
    """A reference is not an image that can be drawn from."""


class ReferenceDamaged(DrawingError):
    """A reference's stored bytes are not those that were uploaded."""


class BlankImage(DrawingError):
    """The drawing came out as NaN or as one flat colour."""


class OutOfMemory(DrawingError):
    """The device has no room for this drawing."""


class WeightsChanged(DrawingError):
    """The job wants other weights than this worker has."""


class CheckpointRefused(DrawingError):
    """Saved latents from which this drawing cannot go on; it begins again instead."""


# --- weights ----------------------------------------------------------------------------------


class WeightsError(IlloError):
    """The weights cannot be used; says which file, what is wrong and what to do."""


class WeightsMissing(WeightsError):
    """A file of the weights directory is not there."""


class WeightsDamaged(WeightsError):
    """A file of the weights is truncated, malformed or not what its manifest says."""


class WrongWeights(WeightsError):
    """The weights are whole, but of another model than the one that is drawn with."""


class WeightsUnreachable(WeightsError):
    """The weights cannot be read at present; trying again later may help."""


class NoSuchDevice(WeightsError):
    """Torch cannot compute where weights were to be taught."""


class WeightsInTheWay(WeightsError):
    """Other weights lie where these were to go; nothing was overwritten."""


class PushRefused(WeightsError):
    """The bucket does not take the weights; says why, and what to do."""


class CardTooSmall(WeightsError):
    """The device cannot hold these weights, wherever they lie between their turns."""


class CardUnused(WeightsError):
    """There is a card, and it is paid for, but torch cannot compute on it."""


class NoRoom(WeightsError):
    """The disk has no room for what was to be written; nothing was."""


class FetchCanceled(WeightsError):
    """The caller wished the fetch to end; what it has read is not whole."""


# --- settings and the command line ------------------------------------------------------------


class BadSettings(IlloError):
    """One or more settings are wrong; the message lists every one of them."""


class DataInUse(IlloError):
    """Another `illo up` runs on this data directory."""


class ServiceUnreachable(IlloError):
    """The service did not answer at the address that was given."""


class RequestRefused(IlloError):
    """The service understood a request and does not do it; carries the HTTP status and code."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ResultDamaged(IlloError):
    """What was downloaded is not what the service had announced."""


class BadBatchFile(IlloError):
    """A batch file that cannot be read, or names a reference that is not there."""
