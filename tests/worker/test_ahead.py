"""What a pipeline is told of the jobs that come next."""

import io
from collections.abc import Sequence

from PIL import Image

from shared.errors import ReferenceDamaged
from shared.jobs import Job
from shared.scenes import Scene, Weights
from shared.vocabulary import Priority, Status
from tests.builders import a_reference, a_scene, sha
from tests.fakes import FakePipeline
from tests.worker.conftest import Surroundings
from worker.desk import AHEAD
from worker.drawing import Ahead, Drawing, Drawn


def drawn(around: Surroundings, pipeline: FakePipeline) -> FakePipeline:
    around.desk(around.workplace(pipeline=pipeline)).draw_due()
    return pipeline


def test_each_drawing_is_told_what_comes_next_in_turn(around: Surroundings) -> None:
    for prompt in ("a", "b", "c"):
        around.queued(scene=a_scene(prompt))
    pipeline = drawn(around, FakePipeline())
    assert pipeline.calls == [["a"], ["b"], ["c"]]
    assert pipeline.ahead == [["b", "c"], ["c"], []]


def test_what_is_told_is_what_is_drawn(around: Surroundings) -> None:
    for tenant in ("ada", "bob", "eve"):
        for number in (1, 2):
            around.queued(tenant=tenant, scene=a_scene(f"{tenant} {number}"))
    around.queued(tenant="bob", scene=a_scene("bob now"), priority=Priority.HIGH)
    around.queued(tenant="ada", scene=a_scene("ada wide", width=128))
    pipeline = drawn(around, FakePipeline())
    for place, ahead in enumerate(pipeline.ahead):
        assert ahead == pipeline.drawn[place + 1 :]


def test_no_more_is_told_than_is_encoded_at_once(around: Surroundings) -> None:
    for tenant in ("ada", "bob"):
        for _ in range(AHEAD):
            around.queued(tenant=tenant)
    pipeline = drawn(around, FakePipeline())
    assert max(map(len, pipeline.ahead)) == AHEAD
    assert len(pipeline.calls) == 2 * AHEAD


def test_nothing_is_claimed_by_telling_of_it(around: Surroundings) -> None:
    first, second = around.queued(), around.queued(scene=a_scene("later"))
    seen: list[Job] = []

    def at_step(scene: Scene, step: int) -> None:
        if scene == first.scene:
            seen.append(around.jobs.get(second.id))

    drawn(around, FakePipeline(at_step=at_step))
    assert {(job.status, job.attempt) for job in seen} == {(Status.QUEUED, 0)}


def test_it_costs_no_look_at_the_store(around: Surroundings) -> None:
    jobs = [around.queued() for _ in range(3)]
    looks: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(around.jobs, name)

        def claimable(self, *, per_tenant: int) -> list[Job]:
            looks.append(per_tenant)
            return around.jobs.claimable(per_tenant=per_tenant)

    around.desk(around.workplace(jobs=Counting())).draw_due()
    assert len(looks) == len(jobs) + 1, "the last finds nothing"


def test_a_scene_for_other_weights_is_not_told(around: Surroundings) -> None:
    other = Weights(label="tiny", sha256=sha("other"))
    around.queued(scene=a_scene("a"))
    around.queued(scene=a_scene("b", weights=other))
    around.queued(scene=a_scene("c"))
    assert drawn(around, FakePipeline()).ahead[0] == ["c"]


class Reading(FakePipeline):
    """Reads the references of what comes next; tells their sizes, or why it could not."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[tuple[int, int] | str] = []

    def draw(
        self, drawings: Sequence[Drawing], *, ahead: Sequence[Ahead] = ()
    ) -> list[Drawn | Exception]:
        for each in ahead:
            try:
                self.read.append(each.read(each.scene.references[0]).size)
            except ReferenceDamaged as damaged:
                self.read.append(str(damaged))
        return super().draw(drawings)


def test_references_of_what_comes_next_can_be_read(around: Surroundings) -> None:
    shot = io.BytesIO()
    Image.new("RGB", (48, 80), "tomato").save(shot, "PNG")
    stored = around.artifacts.put("assets/mia.png", shot.getvalue(), content_type="image/png")
    mia = a_reference(sha256=stored.sha256, artifact=stored.name, generation=stored.generation)
    pipeline = Reading()
    around.queued()
    around.queued(scene=a_scene(references=(mia,)))
    drawn(around, pipeline)
    assert pipeline.read == [(48, 80)]


def test_one_that_is_gone_is_told_as_such(around: Surroundings) -> None:
    gone, pipeline = a_reference("gone"), Reading()
    around.queued()
    around.queued(scene=a_scene(references=(gone,)))
    drawn(around, pipeline)
    assert pipeline.read == [f"{gone.asset} was deleted; upload it again"]
