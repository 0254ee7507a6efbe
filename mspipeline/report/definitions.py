"""The rows that average a measure over runs: name, unit, and exactly what is counted.

The names are the 2021 report's where they were honest.
"""

from __future__ import annotations

from dataclasses import dataclass

PHASE_WORDS = {"train": "training", "validation": "validation", "evaluate": "evaluation"}
_PHASE_MEANING = {
    "train": "while an epoch's training steps ran",
    "validation": "while the validation after each epoch ran",
    "evaluate": "while the evaluation job scored its cases",
}
_GRID_DICE = (
    "Dice of each case's voxels, 2TP/(2TP+FP+FN), on the training grid, averaged over the cases where it is defined"
)
_PATCH_DICE = "Of a cascade on patches: of the voxels that its last stage was given, chosen so that half are lesion."
_REPORT_DICE = (
    "mean over slices with smooth = 1, so that an empty slice predicted empty scores 1; "
    "never compare it with the Dice above"
)

_COLLAPSED = "Runs whose scored network collapsed are left out."


@dataclass(frozen=True)
class Spec:
    """One row that averages a measure over runs. kind: as in `mean_over_runs`."""

    key: str
    section: str
    name: str
    unit: str
    kind: str
    definition: str


def best_dice(subset: str) -> Spec:
    """The row of the best epoch's Dice in training or validation."""
    word = PHASE_WORDS[subset]
    why = (
        "the weights still change during the epoch"
        if subset == "train"
        else "a maximum over epochs is optimistic: see the held-out cases"
    )
    definition = f"Per run the best epoch's value ({why}). {_GRID_DICE}. {_PATCH_DICE} {_COLLAPSED}"
    return Spec(f"{subset}.best_dice", "Dice", f"Best Dice in {word}", "1", ".3f", definition)


def report_dice(subset: str, form: str, words: str) -> Spec:
    """The row of one of the 2021 report's per-slice forms of Dice, "hard" or "soft", so described in `words`."""
    name = f"Best per-slice Dice in {PHASE_WORDS[subset]}, {words}"
    definition = f"Per run the best epoch's per-slice Dice, {words}: {_REPORT_DICE}. {_COLLAPSED}"
    section = "Dice as the 2021 report counted it"
    return Spec(f"{subset}.best_dice_slice_{form}_smooth1", section, name, "1", ".3f", definition)


def hardware(phase: str) -> list[Spec]:
    """The rows of what the hardware did in one phase."""
    word = PHASE_WORDS[phase]
    readings = [
        ("gpu_percent", f"GPU utilisation in {word} (avg %)", "%", ".1f", "Share of time in which a kernel ran"),
        (
            "gpu_memory_percent",
            f"GPU memory in use in {word} (avg % of total)",
            "%",
            ".1f",
            "Used over total GPU memory",
        ),
        (
            "gpu_memory_busy_percent",
            f"GPU memory-controller busy in {word} (avg %)",
            "%",
            ".1f",
            "Share of time in which the memory controller read or wrote "
            "(what the 2021 report called GPU memory utilisation)",
        ),
        (
            "cpu_percent",
            f"CPU utilisation in {word} (avg %)",
            "%",
            ".1f",
            "As in top: 100 % is one core; whole process tree",
        ),
        (
            "cpu_allocated_percent",
            f"CPU utilisation in {word} (avg % of allocated cores)",
            "%",
            ".1f",
            "100 % is every core that the run was given",
        ),
        (
            "rss_gb",
            f"CPU memory in {word} (avg GB)",
            "GB",
            ".2f",
            "Resident set size of the process tree, 1 GB = 10⁹ bytes",
        ),
        (
            "rss_peak_gb",
            f"CPU memory in {word} (peak GB)",
            "GB",
            ".2f",
            "The largest sample of the process tree's resident set size, 1 GB = 10⁹ bytes",
        ),
    ]
    return [
        Spec(
            f"{phase}.{key}",
            f"Hardware in {word}",
            name,
            unit,
            kind,
            f"{words}; over the samples {_PHASE_MEANING[phase]}.",
        )
        for key, name, unit, kind, words in readings
    ]


NETWORK = [
    Spec("trainable_parameters", "Network", "Trainable parameters", "1", "count", "Numbers that training changes."),
    Spec(
        "non_trainable_parameters",
        "Network",
        "Non-trainable parameters",
        "1",
        "count",
        "Numbers that the network keeps but training does not change by gradient, e.g. running means.",
    ),
]
TRAINING_SPEED = [
    Spec(
        "train.images_per_second",
        "Time",
        "Images per second in training",
        "1/s",
        ".1f",
        "Images of all training epochs over the seconds of those epochs, the first (slower) epoch included.",
    ),
    Spec(
        "energy_per_epoch_kj",
        "Time",
        "GPU energy per training epoch (kJ)",
        "kJ",
        ".3f",
        "Mean power of all GPUs while training (energy counter, else power readings) times the mean epoch's seconds. "
        "CPU and node energy are not in it.",
    ),
]
EVALUATION_TIME = (
    "evaluate_seconds",
    "Evaluation time",
    "Wall time of the run's last evaluation, all its cases: reading, prediction and scoring.",
)
EPOCH_TIME = (
    "train_epoch_seconds",
    "Epoch training time",
    "Wall time of one training epoch, validation and checkpoints left out: the median over a run's epochs.",
)
PEAK_MEMORY = Spec(
    "peak_rss_gb",
    "Hardware in training",
    "Peak CPU memory of the job (GB)",
    "GB",
    ".2f",
    "Largest resident set size of the process tree over the whole job, set-up included, 1 GB = 10⁹ bytes.",
)

HELD_OUT = {
    "test": ("Held-out cases (test): Dice on the scan's own grid", "Test cases were used for nothing else."),
    "validation": (
        "Validation cases: Dice on the scan's own grid",
        "Validation cases chose the checkpoint, so they are not held out.",
    ),
    "train": ("Training cases: Dice on the scan's own grid", "The network was trained on these cases."),
}
"""Subset -> name of its row, and what its cases were used for: held out are those used for nothing."""

CASE_VALUE = (
    "The value is the median over runs of each run's median over its cases. The range over cases is that of each "
    "case's mean over runs, the range over runs that of each run's median; neither is a confidence interval. n counts "
    "defined scores only; runs whose scored network collapsed are left out."
)

HELD_OUT_DEFINITION = (
    f"Voxel Dice, 2TP/(2TP+FP+FN), of the whole case on the grid of the scan as acquired. {CASE_VALUE}"
)

OVER_LABELS = "Of each case it is the mean over its labels ({}) where that is defined."
"""What the Dice of cases of several labels is."""

SUBSET_WORDS = {"test": "Held-out cases (test)", "validation": "Validation cases", "train": "Training cases"}
