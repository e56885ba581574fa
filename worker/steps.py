"""How far a drawing has come, as its pipeline tells it step by step."""


class StepCount:
    """Counts the steps of all images; a drawing that begins again is heard at an earlier step."""

    def __init__(self) -> None:
        self.resumed_at = self.denoised = self._step = 0

    def resume(self, step: int) -> None:
        """Expect the drawing to go on after this step."""
        self.resumed_at = self._step = step

    def heard(self, step: int) -> bool:
        """Note that so many steps are done; say whether the drawing has begun again."""
        again = step < self._step
        if again:
            self.resumed_at = 0 if self.denoised else step
        else:
            self.denoised += step - self._step
        self._step = step
        return again
