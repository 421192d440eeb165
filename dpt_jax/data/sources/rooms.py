# SPDX-License-Identifier: Apache-2.0
"""`rooms`: an endless, seeded set of ray-cast furnished rooms, in NumPy alone.

An example is drawn in three steps: a scene is sampled (room, camera, furniture, paints, lights),
`raycast.trace` finds what each pixel sees, and the visible points are shaded.

Geometry follows `raycast`: metres, z up from the floor, the room centred on x = y = 0, angles in
radians. Furniture has real-world sizes, so that the metric scale of a picture can be told from what
is in it.

Depth is z-depth, the distance along the optical axis; it is not the length of the ray.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dpt_jax.data.sources import raycast
from dpt_jax.data.sources.base import SPLITS
from dpt_jax.data.sources.furniture import (
    BRICKS,
    CHECKER,
    DECOR,
    FURNITURE,
    MOTTLE,
    PLANKS,
    RUG,
    STRIPES,
    Paint,
    Part,
    draw_paint,
)
from dpt_jax.data.sources.raycast import ROOM

CLASSES: tuple[str, ...] = (
    "wall", "floor", "ceiling", "door", "window", "picture", "rug",
    "bed", "table", "cabinet", "lamp", "ball", "column", "plant",
)  # fmt: skip
"""Names of the classes; a label is an index into them."""

PALETTE: np.ndarray = np.array(
    [
        (174, 199, 232), (140, 86, 75), (240, 240, 240), (214, 39, 40), (23, 190, 207),
        (148, 103, 189), (247, 182, 210), (31, 119, 180), (255, 127, 14), (196, 156, 148),
        (255, 221, 51), (227, 60, 170), (127, 127, 127), (44, 160, 44),
    ],
    np.uint8,
)  # fmt: skip
"""(len(CLASSES), 3) colours to draw label maps with."""

# A lattice that every scene shares: the hash behind mottled paint and unequal planks.
_LATTICE = np.random.default_rng(2020).random((64, 64), np.float32)


class Scene(NamedTuple):
    """What is needed to draw one picture; `label` and `paints` have one entry per solid."""

    solids: raycast.Solids
    label: np.ndarray
    paints: list[Paint]
    camera: raycast.Camera
    lights: np.ndarray  # (2, 3) metres: the ceiling's, which casts shadows, and the camera's flash
    power: np.ndarray  # (2,)
    ambient: float
    tone: np.ndarray  # (3,) exposure times white balance


Plan = tuple[float, float, float, float]  # What a piece covers: low x, low y, high x, high y.


def _stand(
    rng: np.random.Generator, parts: list[Part], room: list[float], backed: bool
) -> tuple[float, tuple[float, float], Plan]:
    """Draws a yaw and a place on the floor, against a wall or anywhere, and its plan."""
    wide = max(abs(part.centre[0]) + part.half[0] for part in parts)
    deep = max(abs(part.centre[1]) + part.half[1] for part in parts)
    quarter, turn, *spots = rng.random(4).tolist()
    quarter = int(4 * quarter)
    yaw = quarter * math.pi / 2 if backed else turn * 2 * math.pi
    cosine, sine = abs(math.cos(yaw)), abs(math.sin(yaw))
    reach = (cosine * wide + sine * deep, sine * wide + cosine * deep)
    free = [room[k] / 2 - reach[k] for k in range(2)]
    place = [(2 * spots[k] - 1) * max(free[k], 0.0) for k in range(2)]
    if backed:
        axis = 1 - quarter % 2
        place[axis] = -free[axis] if quarter in (0, 3) else free[axis]
    plan = (place[0] - reach[0], place[1] - reach[1], place[0] + reach[0], place[1] + reach[1])
    return yaw, (place[0], place[1]), plan


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draws a scene; the generator is left where per-pixel noise may be drawn from it."""
    room = [*np.exp(rng.uniform(math.log(3.0), math.log(9.0), 2)).tolist(), rng.uniform(2.4, 3.3)]
    half = np.array(room) / 2
    eye = np.append(rng.uniform(-1, 1, 2) * (half[:2] - 0.55), rng.uniform(0.8, 1.9))
    lamp = np.append(rng.uniform(-0.7, 0.7, 2) * half[:2], room[2] - 0.15)

    middle = (0.0, 0.0, half[2])
    wall, accent = draw_paint(rng, "wall"), draw_paint(rng, "wall")
    walls = [wall] * 4
    walls[int(rng.integers(4))] = accent
    faces = [*walls, draw_paint(rng, "floor"), draw_paint(rng, "ceiling")]
    rows: list[tuple] = [(ROOM, middle, tuple(half), 0.0, paint) for paint in faces]
    labels = [0, 0, 0, 0, 1, 2]

    def add(name: str, parts: list[Part], yaw: float, place: tuple[float, float]) -> None:
        cosine, sine = math.cos(yaw), math.sin(yaw)
        for kind, (x, y, z), extent, paint in parts:
            centre = (place[0] + cosine * x - sine * y, place[1] + sine * x + cosine * y, z)
            rows.append((kind, centre, extent, yaw, paint))
            labels.append(CLASSES.index(name))

    # The camera and the light need room as furniture does.
    taken: list[Plan] = [
        (x - gap, y - gap, x + gap, y + gap) for (x, y, _), gap in ((eye, 0.45), (lamp, 0.05))
    ]
    hung: list[Plan] = []
    targets: list[tuple[float, float]] = []

    for name, (build, least, most) in DECOR.items():
        for _ in range(rng.integers(least, most + 1)):
            parts = build(rng, room[2])
            for _ in range(4):
                yaw, place, plan = _stand(rng, parts, room, backed=True)
                if not _overlaps(plan, hung, 0.15):
                    add(name, parts, yaw, place)
                    hung.append(plan)
                    targets.append(place)
                    if name == "door":  # A door must open: keep its front clear.
                        taken.append((plan[0] - 0.4, plan[1] - 0.4, plan[2] + 0.4, plan[3] + 0.4))
                    break
    if rng.random() < 0.8:
        parts = RUG(rng, room[2])
        yaw, place, plan = _stand(rng, parts, room, backed=False)
        if _inside(plan, room):
            add("rug", parts, yaw, place)
            targets.append(place)
    names = [name for name, (_, copies, _) in FURNITURE.items() for _ in range(copies)]
    for k in np.sort(rng.permutation(len(names))[: rng.integers(5, 8)]):
        name = names[k]
        build, _, backing = FURNITURE[name]
        parts = build(rng, room[2])
        backed = rng.random() < backing
        for _ in range(12):
            yaw, place, plan = _stand(rng, parts, room, backed)
            if _inside(plan, room) and not _overlaps(plan, taken, 0.05):
                add(name, parts, yaw, place)
                taken.append(plan)
                targets += [place, place]
                break

    yaws = rng.uniform(0, 2 * math.pi, 6)
    offsets = np.array(targets) - eye[:2]
    bearing = np.arctan2(-offsets[:, 0], offsets[:, 1])
    off = np.abs((bearing - yaws[:, None] + math.pi) % (2 * math.pi) - math.pi)
    busiest = int((off < 0.5).sum(axis=1).argmax())
    # Mostly look where there is something to see, but leave blank walls in the set.
    yaw = yaws[busiest] if rng.random() < 0.8 else yaws[0]
    pitch = float(np.clip(rng.normal(-0.15, 0.2), -0.7, 0.35))
    camera = raycast.Camera.looking(eye, yaw, pitch, rng.normal(0, 0.035))

    lights = np.stack([lamp, eye + rng.uniform(-0.1, 0.1, 3)])
    # A fixed exposure, as with a flash: how bright a known thing is tells how far it is.
    tone = rng.uniform(0.33, 0.43) * rng.uniform(0.9, 1.1, 3)
    kinds, centres, halves, turns, paints = zip(*rows, strict=True)
    solids = raycast.Solids(np.array(kinds), np.array(centres), np.array(halves), np.array(turns))
    power = np.array([rng.uniform(0.3, 0.8), rng.uniform(2.0, 3.0)])
    ambient = rng.uniform(0.08, 0.2)
    return Scene(
        solids, np.array(labels, np.uint8), list(paints), camera, lights, power, ambient, tone
    )


def _inside(plan: Plan, room: list[float]) -> bool:
    edge = 1e-6  # What stands against a wall touches it, up to rounding.
    return all(abs(end) <= room[k % 2] / 2 + edge for k, end in enumerate(plan))


def _overlaps(plan: Plan, others: list[Plan], gap: float) -> bool:
    return any(
        plan[0] < o[2] + gap and o[0] < plan[2] + gap and plan[1] < o[3] + gap
        and o[1] < plan[3] + gap
        for o in others
    )  # fmt: skip


def _lattice(column: np.ndarray, row: np.ndarray) -> np.ndarray:
    return _LATTICE[column.astype(np.int32) & 63, row.astype(np.int32) & 63]


def _pattern(kind: int, along: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Gives the share of the second colour, from coordinates in units of the pattern's scale."""
    column, row = np.floor(along), np.floor(up)
    if kind == CHECKER:
        return (column + row) % 2
    if kind == STRIPES:
        return column % 2
    if kind == PLANKS:
        board = _lattice(np.floor(along / 6 + row / 3), row)
        return np.where(up - row < 0.06, np.float32(1.0), 0.6 * board)
    if kind == BRICKS:
        brick = along / 2 + (row % 2) / 2
        joint = (up - row < 0.12) | (brick - np.floor(brick) < 0.06)
        return np.where(joint, np.float32(1.0), 0.4 * _lattice(np.floor(brick), row))
    x, y = along - column, up - row
    x, y = x * x * (3 - 2 * x), y * y * (3 - 2 * y)
    low = _lattice(column, row) * (1 - x) + _lattice(column + 1, row) * x
    high = _lattice(column, row + 1) * (1 - x) + _lattice(column + 1, row + 1) * x
    return low * (1 - y) + high * y


def render(scene: Scene, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws a scene without sensor noise.

    Args:
        scene: The scene.
        size: (height, width) in pixels.

    Returns:
        (3, height, width) float32 linear radiance, 1 being white after exposure; (height, width)
        float32 z-depth, metres; (height, width) uint8 labels.
    """
    solids, camera = scene.solids, scene.camera
    depth, seen = raycast.trace(solids, camera, size)
    rays = camera.rotation.astype(np.float32) @ raycast.pixel_rays(size).reshape(3, -1)
    surface = seen.ravel()
    points = rays * depth.ravel() + camera.position.astype(np.float32)[:, None]
    normal, along, up = raycast.surface_frame(solids, surface, points)

    firsts, seconds, patterns, scales, glows = zip(*scene.paints, strict=True)
    scale = np.array(scales, np.float32).take(surface)
    pattern = np.array(patterns).take(surface)
    mix = np.full(surface.shape, 0.5, np.float32)
    for kind in range(CHECKER, MOTTLE + 1):
        some = np.flatnonzero(pattern == kind)
        mix[some] = _pattern(kind, along[some] / scale[some], up[some] / scale[some])
    # Patterns finer than the pixel grid would alias: let them fade into their mean.
    fade = np.minimum(0.35 * size[1] * scale / depth.ravel(), 1.0)
    mix = 0.5 + (mix - 0.5) * fade
    first = np.array(firsts, np.float32)
    step = np.array(seconds, np.float32) - first
    albedo = first.T.take(surface, axis=1) + step.T.take(surface, axis=1) * mix

    # Where two faces of the room meet, less of the light that comes from everywhere arrives. The
    # distance to the meeting line is the second smallest of those to the nearest face per axis.
    middle, half = (table[0].astype(np.float32) for table in (solids.centre, solids.half))
    x, y, z = half[:, None] - np.abs(points - middle[:, None])
    corner = np.maximum(np.minimum(x, y), np.minimum(np.maximum(x, y), z))
    light = scene.ambient * (1.0 - 0.5 * np.exp(corner * -4.0)) * (0.85 + 0.15 * normal[2])
    # Thin legs and poles are left out: their shadows cost much and show little.
    casters = np.flatnonzero(
        (np.sort(solids.half, axis=1)[:, 1] > 0.1) & (scene.label >= CLASSES.index("bed"))
    )
    for index, (place, power) in enumerate(zip(scene.lights, scene.power, strict=True)):
        toward = place.astype(np.float32)[:, None] - points
        square = (toward * toward).sum(axis=0)
        facing = np.maximum((toward * normal).sum(axis=0), 0.0)
        lit = facing * np.float32(power) / (np.sqrt(square) * (0.5 + 0.12 * square))
        if index == 0:
            some = np.flatnonzero(lit > 0.02)
            dark = raycast.shadowed(solids, casters, place, points.take(some, axis=1))
            lit[some[dark]] *= 0.15
        light += lit
    light += np.array(glows, np.float32).take(surface)
    radiance = albedo * light
    image = (radiance * scene.tone.astype(np.float32)[:, None]).reshape(3, *size)
    return image, depth, scene.label.take(seen)


class Rooms:
    """The data set: example `index` of a split is a function of seed, split and index alone.

    An example's scene does not depend on the size it is drawn at, nor on the data set's length.

    Attributes:
        classes: Class names; labels index them.
        palette: (len(classes), 3) uint8 colours to draw labels with.
    """

    classes: tuple[str, ...] = CLASSES
    palette: np.ndarray = PALETTE

    def __init__(self, *, split: str, size: tuple[int, int], length: int, seed: int = 0):
        """Makes a data set.

        Args:
            split: "train" or "validation"; the two share no scene.
            size: (height, width) in pixels, each at least 16.
            length: Number of examples, at least 1.
            seed: Non-negative seed of all scenes.

        Raises:
            ValueError: For a split, size, length or seed out of range.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be 'train' or 'validation', not {split!r}")
        if min(size) < 16:
            raise ValueError(f"size must be at least 16 pixels each way, not {size}")
        if length < 1:
            raise ValueError(f"length must be at least 1, not {length}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, not {seed}")
        self.split = split
        self.size = (int(size[0]), int(size[1]))
        self.length = length
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Draws one example.

        Args:
            index: In [0, len).

        Returns:
            "image": (height, width, 3) uint8 sRGB-like; "depth": (height, width) float32 z-depth,
            metres, positive everywhere; "label": (height, width) uint8 class indices.

        Raises:
            IndexError: Outside [0, len).
        """
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} is outside [0, {self.length})")
        rng = np.random.default_rng((self.seed, SPLITS.index(self.split), int(index)))
        scene = sample_scene(rng)
        radiance, depth, label = render(scene, self.size)
        image = np.sqrt(radiance)  # A display gamma of 2.
        image += 0.012 * rng.standard_normal(image.shape, np.float32)
        image = np.clip(image * 255.0 + 0.5, 0.0, 255.0).astype(np.uint8)
        return {
            "image": np.ascontiguousarray(image.transpose(1, 2, 0)),
            "depth": depth,
            "label": label,
        }

    def name(self, index: int) -> str:
        """Gives the name that an example is stored and reported under."""
        return f"rooms/{self.split}/{index:08d}"
