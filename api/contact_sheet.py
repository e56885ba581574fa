"""Draw a batch's contact sheet: small pictures in a grid, key and status below each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import ceil, sqrt

from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from api.batch_views import takes_by_key
from api.problems import not_found
from api.results import shown_take
from api.service import Service
from shared.batches import Batch, BatchScene, Take
from shared.errors import ArtifactDamaged, ArtifactNotFound
from shared.jobs import Job
from shared.ports import ArtifactStore
from shared.vocabulary import DrawnImage, Status

MOST_CELLS = 200  # then the sheet has 3,000 × 3,304 pixels: 30 MB while it is drawn
PICTURE = 180
MARGIN = 10
CAPTION = 46
CELL_WIDTH = PICTURE + 2 * MARGIN
CELL_HEIGHT = PICTURE + MARGIN + CAPTION
TEXT = 12

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
PAPER, EMPTY, INK, FAINT = "#ffffff", "#eeeeee", "#222222", "#777777"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One scene of a sheet; without an image its place stays empty."""

    key: str
    status: Status | None
    image: DrawnImage | None


def sheet_of(batch: Batch, page: int, service: Service) -> bytes:
    """Draw a page of the contact sheet as a PNG; raises a Refusal behind the last page."""
    after = (page - 1) * MOST_CELLS - 1
    scenes = service.backends.batches.scenes(batch.id, after=after, limit=MOST_CELLS)
    if not scenes:
        raise not_found(f"{batch.id} has {batch.scene_count} scenes, and none on page {page}")
    takes = takes_by_key(service.backends.jobs, batch.id, [scene.key for scene in scenes])
    shown = [(scene, shown_take(scene, takes.get(scene.key, ()))) for scene in scenes]
    jobs = service.backends.jobs.get_all([take.job for _, take in shown if take])
    cells = [_cell(scene, take, jobs) for scene, take in shown]
    return draw_sheet(cells, service.backends.artifacts)


def draw_sheet(cells: Sequence[Cell], artifacts: ArtifactStore) -> bytes:
    """Make a PNG of up to 200 scenes; one picture is in memory at a time.

    A picture that is not there any more leaves its place empty.
    """
    assert 0 < len(cells) <= MOST_CELLS
    columns = ceil(sqrt(len(cells)))
    size = (columns * CELL_WIDTH, ceil(len(cells) / columns) * CELL_HEIGHT)
    sheet = Image.new("RGB", size, PAPER)
    for place, cell in enumerate(cells):
        corner = (place % columns * CELL_WIDTH, place // columns * CELL_HEIGHT)
        _draw_cell(sheet, corner, cell, artifacts)
    written = BytesIO()
    sheet.save(written, "PNG")
    return written.getvalue()


def _cell(scene: BatchScene, take: Take | None, jobs: Mapping[str, Job]) -> Cell:
    job = jobs.get(take.job) if take else None  # one may have been forgotten meanwhile
    if take is None or job is None:
        return Cell(key=scene.key, status=None, image=None)
    images = job.images
    return Cell(key=scene.key, status=take.status, image=images[0] if images else None)


def _draw_cell(
    sheet: Image.Image, corner: tuple[int, int], cell: Cell, artifacts: ArtifactStore
) -> None:
    left, top = corner[0] + MARGIN, corner[1] + MARGIN
    small = _thumbnail(cell.image, artifacts) if cell.image else None
    pen = ImageDraw.Draw(sheet)
    if small is None:
        pen.rectangle((left, top, left + PICTURE - 1, top + PICTURE - 1), fill=EMPTY)
        pen.text((left + 8, top + 8), "no image", fill=FAINT, font=ImageFont.load_default(TEXT))
    else:
        within = (left + (PICTURE - small.width) // 2, top + (PICTURE - small.height) // 2)
        sheet.paste(small, within)
    font = ImageFont.load_default(TEXT)
    status = cell.status.value if cell.status else "not drawn"
    pen.text((left, top + PICTURE + 4), _fitting(cell.key, font), fill=INK, font=font)
    pen.text((left, top + PICTURE + 20), status, fill=FAINT, font=font)


def _thumbnail(image: DrawnImage, artifacts: ArtifactStore) -> Image.Image | None:
    try:
        stored = artifacts.get(image.artifact, image.generation)
    except (ArtifactNotFound, ArtifactDamaged):
        return None
    try:
        with Image.open(BytesIO(stored)) as opened:
            opened.draft("RGB", (PICTURE, PICTURE))  # a JPEG is decoded small at once
            opened.thumbnail((PICTURE, PICTURE))
            return opened.convert("RGB")
    except (UnidentifiedImageError, OSError):
        return None


def _fitting(text: str, font: Font) -> str:
    """Shorten a text so that it stays below its picture."""
    if font.getlength(text) <= PICTURE:
        return text
    length = next(n for n in range(len(text), 0, -1) if font.getlength(text[:n] + "…") <= PICTURE)
    return text[:length] + "…"
