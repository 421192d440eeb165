# SPDX-License-Identifier: Apache-2.0
"""The rooms' labels as ADE20K, Pascal Context, Cityscapes and folders of masks store theirs."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dpt_jax.data.sources.rooms import CLASSES, PALETTE
from dpt_jax.data.sources.rooms_layouts.drawing import Drawing, save_jpeg, save_lines, save_png

ADE20K_IDS = {
    "wall": 1, "floor": 4, "ceiling": 6, "door": 15, "window": 9, "picture": 23, "rug": 29,
    "bed": 8, "table": 16, "cabinet": 11, "lamp": 37, "ball": 120, "column": 0, "plant": 18,
}  # fmt: skip
"""What the annotations hold: lines of objectInfo150.txt, and 0 ("other") for one of the classes."""

PASCAL_CONTEXT_IDS = {
    "wall": 56, "floor": 26, "ceiling": 16, "door": 24, "window": 58, "picture": 46, "rug": 18,
    "bed": 3, "table": 50, "cabinet": 13, "lamp": 33, "ball": 0, "column": 11, "plant": 40,
}  # fmt: skip
"""Ids of the 60 classes; a picture is a "sign", a rug "cloth", a column "building", a ball none."""

CITYSCAPES_IDS = {
    "wall": 12, "floor": 7, "ceiling": 23, "door": 4, "window": 1, "picture": 20, "rug": 8,
    "bed": 26, "table": 14, "cabinet": 13, "lamp": 17, "ball": 24, "column": 18, "plant": 21,
}  # fmt: skip
"""labelIds of a street: floors are roads, ceilings sky, beds cars, balls persons. 1 (ego vehicle),
4 (static), 14 (guard rail) and 18 (pole group) are not among the 19 that are evaluated."""

# The names of objectInfo150.txt of CSAILVision/sceneparsing (BSD-3-Clause), a blank too many here
# and there as in the original; synonyms only where the rooms have the class.
_ADE20K_NAMES = (
    "wall|building|sky|floor, flooring|tree|ceiling|road|bed |windowpane, window |grass|cabinet|"
    "sidewalk|person|earth|door, double door|table|mountain|plant, flora, plant life|curtain|chair|"
    "car|water|painting, picture|sofa|shelf|house|sea|mirror|rug, carpet, carpeting|field|armchair|"
    "seat|fence|desk|rock|wardrobe|lamp|bathtub|railing|cushion|base|box|column, pillar|signboard|"
    "chest of drawers|counter|sand|sink|skyscraper|fireplace|refrigerator|grandstand|path|stairs|"
    "runway|case|pool table|pillow|screen door|stairway|river|bridge|bookcase|blind|coffee table|"
    "toilet|flower|book|hill|bench|countertop|stove|palm|kitchen island|computer|swivel chair|boat|"
    "bar|arcade machine|hovel|bus|towel|light|truck|tower|chandelier|awning|streetlight|booth|"
    "television|airplane|dirt track|apparel|pole|land|bannister|escalator|ottoman|bottle|buffet|"
    "poster|stage|van|ship|fountain|conveyer belt|canopy|washer|plaything|swimming pool|stool|"
    "barrel|basket|waterfall|tent|bag|minibike|cradle|oven|ball|food|step|tank|trade name|"
    "microwave|pot|animal|bicycle|lake|dishwasher|screen|blanket|sculpture|hood|sconce|vase|"
    "traffic light|tray|ashcan|fan|pier|crt screen|plate|monitor|bulletin board|shower|radiator|"
    "glass|clock|flag"
).split("|")


def _stored(ids: Mapping[str, int], label: np.ndarray) -> np.ndarray:
    return np.array([ids[name] for name in CLASSES], np.uint8)[label]


def ade20k(directory: Path, train: Drawing, validation: Drawing) -> None:
    """Writes the archive ADEChallengeData2016; 0 is "other" and never a class."""
    root = directory / "ADEChallengeData2016"
    pixels = np.zeros(151, np.int64)
    images, scenes = {}, []
    for folder, prefix, rooms in (("training", "train", train), ("validation", "val", validation)):
        images[folder] = np.zeros(151, np.int64)
        for number, room in enumerate(rooms, start=1):
            stem = f"ADE_{prefix}_{number:08d}"
            ids = _stored(ADE20K_IDS, room.label)
            save_jpeg(root / "images" / folder / f"{stem}.jpg", room.image)
            save_png(root / "annotations" / folder / f"{stem}.png", ids)
            counts = np.bincount(ids.ravel(), minlength=151)
            pixels += counts
            images[folder] += counts > 0
            scenes.append(f"{stem} living_room")
    columns = (pixels[1:] / pixels.sum(), images["training"][1:], images["validation"][1:])
    rows = zip(*columns, _ADE20K_NAMES, strict=True)
    table = [
        f"{idx}\t{ratio:.4f}\t{in_train}\t{in_validation}\t{name}"
        for idx, (ratio, in_train, in_validation, name) in enumerate(rows, start=1)
    ]
    save_lines(root / "objectInfo150.txt", ["Idx\tRatio\tTrain\tVal\tName", *table])
    save_lines(root / "sceneCategories.txt", scenes)


def pascal_context(directory: Path, train: Drawing, validation: Drawing) -> None:
    """Writes VOC2010 with the masks and lists that mmseg's converter adds to it."""
    root = directory / "VOCdevkit" / "VOC2010"
    for split, rooms, first in (("train", train, 1), ("val", validation, len(train) + 1)):
        stems = []
        for number, room in enumerate(rooms, start=first):
            stems.append(f"2008_{number:06d}")
            save_jpeg(root / "JPEGImages" / f"{stems[-1]}.jpg", room.image)
            ids = _stored(PASCAL_CONTEXT_IDS, room.label)
            save_png(root / "SegmentationClassContext" / f"{stems[-1]}.png", ids)
        save_lines(root / "ImageSets" / "SegmentationContext" / f"{split}.txt", stems)
    # Most photographs of VOC2010 belong to other tasks and are in no list.
    save_jpeg(root / "JPEGImages" / "2010_000001.jpg", np.full((375, 500, 3), 128, np.uint8))


def cityscapes(directory: Path, train: Drawing, validation: Drawing) -> None:
    """Writes leftImg8bit and gtFine, each annotation as labelIds, instanceIds and color."""
    cities = {"train": ("aachen", "bochum"), "val": ("frankfurt", "munster")}
    for split, rooms in (("train", train), ("val", validation)):
        for index, room in enumerate(rooms):
            city = cities[split][index % 2]
            frame = f"{split}/{city}/{city}_{index // 2:06d}_000019"
            save_png(directory / f"leftImg8bit/{frame}_leftImg8bit.png", room.image)
            ids = _stored(CITYSCAPES_IDS, room.label)
            opaque = np.full((*ids.shape, 1), 255, np.uint8)
            # Things are numbered (there is one of a kind here); the rest keeps its label.
            instances = np.where(ids < 24, ids, ids.astype(np.uint16) * 1000)
            save_png(directory / f"gtFine/{frame}_gtFine_labelIds.png", ids)
            save_png(directory / f"gtFine/{frame}_gtFine_instanceIds.png", instances)
            color = np.concatenate([PALETTE[room.label], opaque], axis=-1)
            save_png(directory / f"gtFine/{frame}_gtFine_color.png", color)


def folder_masks(directory: Path, train: Drawing, validation: Drawing) -> None:
    """Writes images, 8-bit masks of the rooms' own classes framed by ignored pixels, a list."""
    stems = []
    for room in itertools.chain(train, validation):
        stems.append(f"room_{len(stems) + 1:05d}")
        ids = np.full_like(room.label, 255)
        ids[1:-1, 1:-1] = room.label[1:-1, 1:-1]
        save_jpeg(directory / "images" / f"{stems[-1]}.jpg", room.image)
        save_png(directory / "masks" / f"{stems[-1]}.png", ids)
    save_lines(directory / "validation.txt", stems[len(train) :])
    description = {
        "classes": CLASSES,
        "ignore": [255],
        "validation": {"list": "validation.txt"},
    }
    save_lines(directory / "dataset.json", [json.dumps(description, indent=2)])
