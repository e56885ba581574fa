"""Teach the transformer and the text encoders: from noise towards pictures, as it will be asked.

The shift of the schedule, the guidance, the ids and the packing are the pipeline's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift
from transformers import CLIPTokenizer, T5TokenizerFast

from worker.pipeline.artist.album import Album, Page
from worker.pipeline.artist.attention import PreciseAttention
from worker.pipeline.artist.captions import TEXT_TOKENS
from worker.pipeline.artist.examples import Examples, Shown, draw_examples, make_examples
from worker.pipeline.artist.learning import Learner, Rates, mean, stratified
from worker.pipeline.artist.shapes import PARTS, Reader, new_reader
from worker.pipeline.artist.vae_training import OnStep, averaged
from worker.pipeline.artist.words import write_tokenizers
from worker.pipeline.artist.workbench import Stand, Stopwatch, Workbench
from worker.pipeline.tiny_shapes import CLIP_LENGTH, SCHEDULER_CONFIG

PHASE = "flow"
RATES = Rates(matrices=0.01, rest=1e-3, slowing=0.6, average=0.999)
# Moved at full strength, what encoders ask and answer in their attention grows, for nothing bounds
# it there, until each word attends to one other: then no more is learned of what else is said.
GENTLY = ("clip", "t5")
BATCH = {"cpu": 64, "cuda": 128}
GUIDANCE = (1.0, 5.0)  # it is read, and means nothing
# Another's reference costs most between 0.6 and 0.95 of noise: there it is decided who is drawn.
# Below 0.3 it costs nothing, and most of what is lost there is noise that nobody can guess.
EVENLY = 0.5  # of the examples get a time of the schedule's, the others one around the middle
MIDDLE, AROUND = 1.0, 0.9  # mean and spread of the logits of the noise
SHEET_EVERY = 600  # seconds
OnTaught = Callable[[Reader, int], None]  # the models as averaged so far, and their steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenizers:
    """The tokenizers as the pipeline loads them."""

    clip: Any
    t5: Any


def make_tokenizers(folder: Path) -> Tokenizers:
    """Write the tokenizers into a folder and read them as the pipeline does."""
    clip, t5 = folder / "tokenizer", folder / "tokenizer_2"
    for each in (clip, t5):
        each.mkdir(parents=True, exist_ok=True)
    write_tokenizers(clip, t5, clip_length=CLIP_LENGTH, t5_length=TEXT_TOKENS)
    return Tokenizers(
        clip=CLIPTokenizer.from_pretrained(str(clip), local_files_only=True),
        t5=T5TokenizerFast.from_pretrained(str(t5), local_files_only=True),
    )


def train_flow(
    workbench: Workbench,
    album: Album,
    *,
    seed: int,
    seconds: float,
    device: torch.device,
    on_step: OnStep,
    on_taught: OnTaught,
) -> None:
    """Teach for so many seconds in all, from the beginning or from where it stands."""
    stand = workbench.stand_of(PHASE)
    reader = _placed(new_reader(seed), device)
    if device.type == "cpu":
        reader.transformer.set_attn_processor(PreciseAttention())
    learner = Learner(reader.parts, RATES, gently=GENTLY)
    if stand.step:
        learner.restore(workbench.load(PHASE), step=stand.step)
    tokenizers = make_tokenizers(workbench.folder)
    watch = Stopwatch(stand.seconds, seconds)
    recent: list[float] = []
    sheet_at = watch.seconds + SHEET_EVERY

    def save() -> None:
        now = Stand(step=learner.step, seconds=watch.seconds)
        workbench.save(PHASE, learner.saved(), now)
        workbench.note(PHASE, now, {"loss": mean(recent)})

    try:
        while learner.step == 0 or watch.fraction < 1:
            chance = Random(f"{seed} flow {learner.step}")  # noqa: S311
            page = chance.choice(album.pages)
            examples = draw_examples(page, chance, count=BATCH[device.type])
            loss = lost(reader, tokenizers, examples, seed=learner.step)
            loss.backward()
            learner.learn(watch.fraction)
            recent = [*recent[-99:], loss.item()]
            told = f"step {learner.step}, {mean(recent):.3f}"
            on_step("teaching the transformer", watch.fraction, told)
            if watch.due():
                save()
            if watch.seconds > sheet_at:
                sheet_at = watch.seconds + SHEET_EVERY
                taught = _averaged(learner, device)
                measured = measure(taught, tokenizers, album.unseen)
                now = Stand(step=learner.step, seconds=watch.seconds)
                workbench.note("unseen", now, measured)
                on_taught(taught, learner.step)
    finally:
        if learner.whole and learner.step > stand.step:
            save()


def taught_reader(workbench: Workbench, device: torch.device) -> Reader:
    """Give the text encoders and the transformer as they were taught, averaged."""
    saved = workbench.load(PHASE)
    return _filled({part: averaged(saved, part) for part in PARTS}, device)


def measure(reader: Reader, tokenizers: Tokenizers, unseen: Page) -> dict[str, float]:
    """Measure the loss on characters never taught, with their references and with others'."""
    rows = list(range(len(unseen.stories)))
    examples = make_examples(unseen, rows, Random(0), Shown.PLAIN)  # noqa: S311
    others = tuple(each.roll(1, dims=0) for each in examples.references)
    swapped = replace(examples, references=others)
    with torch.no_grad():
        return {
            "with_reference": lost(reader, tokenizers, examples, seed=0).item(),
            "with_anothers": lost(reader, tokenizers, swapped, seed=0).item(),
        }


def lost(reader: Reader, tokenizers: Tokenizers, examples: Examples, *, seed: int) -> torch.Tensor:
    """Compare the motion that is guessed with the one that leads from noise to the targets."""
    generator = torch.Generator().manual_seed(seed)
    device = reader.transformer.device
    targets = _pack(examples.targets)
    batch, tokens, _ = targets.shape
    sigmas = _sigmas(batch, tokens, generator)[:, None, None]
    noise = torch.randn(targets.shape, generator=generator)
    guidance = torch.empty(batch).uniform_(*GUIDANCE, generator=generator)
    pictures = [(1 - sigmas) * targets + sigmas * noise, *map(_pack, examples.references)]
    with torch.autocast(device.type, torch.bfloat16):
        prompt, pooled = _read(reader, tokenizers, examples.captions)
        guessed = reader.transformer(
            hidden_states=torch.cat(pictures, dim=1).to(device),
            timestep=sigmas.flatten().to(device),
            guidance=guidance.to(device),
            pooled_projections=pooled,
            encoder_hidden_states=prompt,
            txt_ids=torch.zeros(prompt.shape[1], 3, device=device),
            img_ids=_ids(examples).to(device),
            return_dict=False,
        )[0][:, :tokens]
    missed = (guessed.float() - (noise - targets).to(device)).square().mean(dim=2)
    return (missed * examples.counts.to(device)).sum() / examples.counts.sum().item()


def _read(
    reader: Reader, tokenizers: Tokenizers, captions: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    device = reader.transformer.device

    def numbers(tokenizer: Any, length: int) -> torch.Tensor:
        found: torch.Tensor = tokenizer(
            list(captions),
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return found.to(device)

    prompt: torch.Tensor = reader.t5(numbers(tokenizers.t5, TEXT_TOKENS))[0]
    pooled: torch.Tensor = reader.clip(numbers(tokenizers.clip, CLIP_LENGTH)).pooler_output
    return prompt, pooled


def _pack(latents: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = FluxKontextPipeline._pack_latents(latents, *latents.shape)
    return packed


def _ids(examples: Examples) -> torch.Tensor:
    """Number the parts of all pictures."""
    ids = []
    for number, latents in enumerate((examples.targets, *examples.references)):
        height, width = latents.shape[2] // 2, latents.shape[3] // 2
        own = FluxKontextPipeline._prepare_latent_image_ids(1, height, width, "cpu", torch.float32)
        own[..., 0] = number  # 0 is the picture that is drawn
        ids.append(own)
    return torch.cat(ids)


def _sigmas(batch: int, tokens: int, generator: torch.Generator) -> torch.Tensor:
    """Choose how much of each picture is noise."""
    evenly = round(EVENLY * batch)
    logits = MIDDLE + AROUND * torch.special.ndtri(stratified(batch - evenly, generator))
    return torch.cat([_shifted(stratified(evenly, generator), tokens), logits.sigmoid()])


def _shifted(times: torch.Tensor, tokens: int) -> torch.Tensor:
    """Shift times as the scheduler shifts its sigmas for so many tokens."""
    config = SCHEDULER_CONFIG
    shift = calculate_shift(
        tokens,
        config["base_image_seq_len"],
        config["max_image_seq_len"],
        config["base_shift"],
        config["max_shift"],
    )
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    shifted: torch.Tensor = scheduler.time_shift(shift, 1.0, times.clamp(min=1e-4))
    return shifted


def _averaged(learner: Learner, device: torch.device) -> Reader:
    return _filled({part: learner.averaged(part) for part in PARTS}, device)


def _filled(parts: dict[str, dict[str, torch.Tensor]], device: torch.device) -> Reader:
    reader = new_reader(0)
    for name, module in reader.parts.items():
        # what T5 has under two names was averaged under one
        module.load_state_dict(parts[name], strict=False)
        module.eval().requires_grad_(False)
    return _placed(reader, device)


def _placed(reader: Reader, device: torch.device) -> Reader:
    for module in reader.parts.values():
        module.to(device)
    return reader
