"""The recipes that are known by name.

``tiny`` makes the bundled model on an accelerator, the ``first-light`` ones on two CPU cores and with some
minutes of a GPU, ``smoke`` walks every stage in seconds on a CPU, and ``wan_dry_run`` proves that the same
stages take the layout of a Wan checkpoint.
"""

from dataclasses import replace

from models.registry import LONGTAKE_TINY
from models.sampler import Sampler
from models.taehv import TaehvConfig
from models.train.recipe import (
    AutoencoderRecipe,
    ClassifierRecipe,
    DataRecipe,
    DecoderRecipe,
    DistilRecipe,
    InitialiseRecipe,
    Recipe,
    TeacherRecipe,
    TextRecipe,
    UnrollRecipe,
)
from models.train.run_folder import StageLimits


def tiny() -> Recipe:
    """The bundled model ``longtake-tiny``: 160x96 at 16 frames a second, 12-frame window."""
    codec = LONGTAKE_TINY.codec.config
    assert isinstance(codec, TaehvConfig), "the bundled model's codec is the narrow one"
    width, height = LONGTAKE_TINY.sizes[0]
    return Recipe(
        name="tiny",
        transformer=LONGTAKE_TINY.transformer,
        codec=codec,
        text=LONGTAKE_TINY.text,
        width=width,
        height=height,
        fps=LONGTAKE_TINY.fps,
        sampler=LONGTAKE_TINY.sampler,
        autoencoder=AutoencoderRecipe(StageLimits(4000, 210.0), batch=32),
        text_start=TextRecipe(StageLimits(1500, 60.0)),
        data=DataRecipe(held=16384, at_once=64, refresh_every=8),
        teacher=TeacherRecipe(StageLimits(6000, 420.0), batch=256),
        initialise=InitialiseRecipe(StageLimits(300, 60.0), batch=128),
        distil=DistilRecipe(StageLimits(1200, 330.0), batch=64),
        unroll=UnrollRecipe(StageLimits(2000, 330.0), batch=64),
        decoder=DecoderRecipe(StageLimits(6000, 120.0), batch=32),
        classifier=ClassifierRecipe(StageLimits(3000)),
    )


def first_light() -> Recipe:
    """For two CPU cores and some hours: diffusion forcing, then self-rollout, on one view of each place."""
    full = tiny()
    return replace(
        full,
        name="first-light",
        transformer=replace(full.transformer, num_layers=6, patch=(1, 4, 4)),
        codec=TaehvConfig(
            decoder_widths=(64, 48, 32, 24), encoder_width=32, subpixel=True, bound=12.0
        ),
        sampler=replace(full.sampler, shift=1.5),
        guidance=1.0,
        autoencoder=AutoencoderRecipe(
            StageLimits(6000, 750.0, 60.0),
            batch=8,
            frames=9,
            crop=64,
            start_clips=96,
            train_encoder=False,
            kept=0.5,
            peak=1e-3,
        ),
        text_start=TextRecipe(StageLimits(900, 240.0, 60.0)),
        data=DataRecipe(
            held=12000, at_once=12, refresh_every=8, first=240, one_view=True, lively=True
        ),
        teacher=TeacherRecipe(
            StageLimits(20000, 7200.0, 60.0),
            batch=18,
            peak=1.8e-3,
            bidirectional_share=0.0,
            half_weights=True,
            opening_share=0.4,
            opening_batch=72,
            served_share=0.9,
            prompt_dropout=0.0,
            subject_weight=3.0,
            own_share=0.5,
        ),
        initialise=InitialiseRecipe(StageLimits(20000, 1200.0, 60.0), batch=12, guidance=1.0),
        distil=DistilRecipe(
            StageLimits(20000, 3600.0, 60.0),
            batch=6,
            max_chunks=6,
            guidance=1.0,
            critic_updates=2,
        ),
        unroll=UnrollRecipe(StageLimits(20000, 6600.0, 60.0), batch=12),
        decoder=DecoderRecipe(StageLimits(20000, 1500.0, 60.0), batch=6),
    )


def first_light_gpu() -> Recipe:
    """``first-light`` with its last stages sized for some minutes of an accelerator.

    Batches are as large as the launches of their many small operations are slow. A stream takes about 2,500
    launches to render, so a group of streams takes the time of some steps: one comes every fifth step.
    """
    base = first_light()
    return replace(
        base,
        name="first-light-gpu",
        autoencoder=replace(
            base.autoencoder,
            limits=StageLimits(20000, 80.0),
            batch=48,
            frames=17,
            crop=None,
        ),
        unroll=UnrollRecipe(
            StageLimits(20000, 515.0, 120.0),
            batch=384,
            held=12800,
            at_once=128,
            refresh_every=5,
            switch_share=0.5,
            late_share=0.15,
            subject_weight=5.0,
            peak=1.2e-3,
            decay=0.99,
        ),
        decoder=DecoderRecipe(StageLimits(20000, 80.0), batch=48, at_once=64, held=8),
        classifier=ClassifierRecipe(StageLimits(20000, 60.0), seed=92, peak=1e-3, decay=0.98),
    )


def first_light_changes() -> Recipe:
    """``first-light`` for more hours of two CPU cores, from finished weights: most streams change."""
    base = first_light()
    return replace(
        base,
        name="first-light-changes",
        unroll=UnrollRecipe(
            StageLimits(20000, 2700.0, 60.0),
            batch=16,
            chunks=5,
            held=480,
            at_once=16,
            switch_share=0.7,
            late_share=0.1,
            subject_weight=5.0,
            peak=4e-4,
            decay=0.98,
        ),
        decoder=DecoderRecipe(StageLimits(20000, 4500.0, 60.0), batch=6),
        classifier=ClassifierRecipe(
            StageLimits(20000, 900.0, 60.0), seed=91, batch=64, reuse=3, peak=1e-3, decay=0.98
        ),
    )


def smoke() -> Recipe:
    """Every stage in seconds on a CPU, with widths that learn nothing worth seeing."""
    few = StageLimits(2)
    full = tiny()
    return replace(
        full,
        name="smoke",
        transformer=replace(full.transformer, dim=48, ffn_dim=64, num_heads=2, num_layers=2),
        codec=TaehvConfig(decoder_widths=(8, 8, 8, 8), encoder_width=8),
        text=replace(full.text, num_layers=1),
        width=64,
        height=32,
        autoencoder=AutoencoderRecipe(few, batch=2, frames=5),
        text_start=TextRecipe(few, batch=4),
        data=DataRecipe(held=4, at_once=2, refresh_every=1),
        teacher=TeacherRecipe(
            StageLimits(21), batch=2, opening_share=0.3, opening_batch=3, own_share=0.5
        ),
        initialise=InitialiseRecipe(StageLimits(5), batch=2, ode_steps=4),
        distil=DistilRecipe(StageLimits(3), batch=2, max_chunks=5, critic_updates=1),
        unroll=UnrollRecipe(StageLimits(21), batch=2, chunks=3, held=4, at_once=2),
        decoder=DecoderRecipe(few, batch=2, frames=2, warm=1, crop=32, chunks=2, at_once=2),
        classifier=ClassifierRecipe(few, batch=2, block=1, peak=1e-3),
    )


def wan_dry_run() -> Recipe:
    """The layout of a Wan checkpoint (30 layers, head size 128, 4-step warped schedule), narrow."""
    base = smoke()
    return replace(
        base,
        name="wan-dry-run",
        transformer=replace(
            base.transformer,
            dim=256,
            ffn_dim=512,
            num_heads=2,
            num_layers=30,
            placed=False,
            frame_places=0,
            predicts_x0=False,
        ),
        sampler=Sampler(shift=5.0, steps=(1000.0, 750.0, 500.0, 250.0), warp=True),
    )


RECIPES = {
    "tiny": tiny,
    "first-light": first_light,
    "first-light-gpu": first_light_gpu,
    "first-light-changes": first_light_changes,
    "smoke": smoke,
    "wan-dry-run": wan_dry_run,
}
