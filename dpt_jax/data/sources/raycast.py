# SPDX-License-Identifier: Apache-2.0
"""Ray casting of simple solids with a pinhole camera, in NumPy alone.

Conventions, for every function of this module:

* Lengths are metres, angles radians, arrays of per-pixel numbers float32.
* World axes: x and y span the floor, z points up and is 0 on the floor. A yaw turns
  counter-clockwise seen from above.
* Camera axes: x to the right of the image, y down the image, z forward along the optical axis.
  A camera with yaw 0 looks along world +y; a positive pitch looks up; a positive roll turns the
  camera's right-hand side down.
* A pixel's ray is (x, y, 1) in camera axes: its third component is 1, not its length. The ray
  parameter at a hit is then directly the z-depth, the distance along the optical axis that a
  depth camera reports, and never the (longer) distance along the ray.
* Per-pixel vectors are stored components first, (3, height, width): one component is contiguous.

Every solid is an affine image of a unit solid, so a hit is found by taking the ray into the unit
solid's frame, where it is an intersection of at most three intervals; an affine map leaves the ray
parameter as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

FIELD_OF_VIEW = math.radians(70.0)
"""Horizontal field of view of every camera, radians."""

ROOM, BOX, SPHERE, CYLINDER = range(4)
"""Kinds of solid. ROOM is a box seen from within; a CYLINDER stands on its round end."""

NEAR = 0.05
"""Nothing closer to the camera than this is looked for when a solid's rectangle is bounded."""

_CORNERS = np.stack(np.meshgrid([-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]), axis=-1).reshape(8, 3)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        position: (3,) centre of projection in the world, metres.
        rotation: (3, 3) camera axes in the world, one per column: right, down, forward.
    """

    position: np.ndarray
    rotation: np.ndarray

    @classmethod
    def looking(
        cls, position: np.ndarray, yaw: float, pitch: float = 0.0, roll: float = 0.0
    ) -> Camera:
        """Places a camera by its heading.

        Args:
            position: (3,) centre of projection, metres.
            yaw: Heading from world +y, counter-clockwise from above, radians.
            pitch: Angle above the horizon, radians.
            roll: Turn about the optical axis, radians.
        """
        forward = np.array(
            [-math.sin(yaw) * math.cos(pitch), math.cos(yaw) * math.cos(pitch), math.sin(pitch)]
        )
        level = np.array([math.cos(yaw), math.sin(yaw), 0.0])
        plumb = np.cross(forward, level)
        right = math.cos(roll) * level + math.sin(roll) * plumb
        down = math.cos(roll) * plumb - math.sin(roll) * level
        return cls(np.asarray(position, np.float64), np.stack([right, down, forward], axis=1))


@dataclass(frozen=True)
class Solids:
    """K solids. The first six are the faces of the room: -x, +x, -y, +y, floor, ceiling.

    Those six rows repeat one and the same box (they differ only in what is painted on them).

    Attributes:
        kind: (K,) ROOM, BOX, SPHERE or CYLINDER.
        centre: (K, 3) centres in the world, metres.
        half: (K, 3) half extents along the solid's own axes, metres.
        yaw: (K,) turn about the vertical axis, radians.
    """

    kind: np.ndarray
    centre: np.ndarray
    half: np.ndarray
    yaw: np.ndarray

    def turns(self) -> np.ndarray:
        """Gives the (K, 3, 3) rotations from each solid's own axes to the world's."""
        cosine, sine = np.cos(self.yaw), np.sin(self.yaw)
        turns = np.zeros((len(self.yaw), 3, 3))
        turns[:, 0, 0] = turns[:, 1, 1] = cosine
        turns[:, 0, 1], turns[:, 1, 0] = -sine, sine
        turns[:, 2, 2] = 1.0
        return turns

    def into_unit(self, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Takes the world into the frame where each solid is a unit solid at the origin.

        Args:
            origin: (3,) a point of the world, metres.

        Returns:
            (K, 3, 3) linear maps for directions, and (K, 3) images of `origin`.
        """
        maps = self.turns().transpose(0, 2, 1) / self.half[:, :, None]
        return maps, np.einsum("kij,kj->ki", maps, origin - self.centre)


def tangents(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Gives the ray slopes of the image's columns and rows, at pixel centres.

    Pixels are square and the principal point is the image's centre.

    Args:
        size: (height, width) in pixels.

    Returns:
        (width,) and (height,) float32 slopes x / z and y / z.
    """
    height, width = size
    focal = 0.5 * width / math.tan(0.5 * FIELD_OF_VIEW)
    columns = (np.arange(width) + 0.5 - 0.5 * width) / focal
    rows = (np.arange(height) + 0.5 - 0.5 * height) / focal
    return columns.astype(np.float32), rows.astype(np.float32)


def pixel_rays(size: tuple[int, int]) -> np.ndarray:
    """Gives every pixel's ray (x, y, 1) in camera axes.

    Args:
        size: (height, width) in pixels.

    Returns:
        (3, height, width) float32. Multiplied by z-depth, it gives points in camera axes, metres.
    """
    columns, rows = tangents(size)
    return _rays(np.eye(3, dtype=np.float32), columns, rows)


def _rays(maps: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    # A linear map of (x, y, 1) is one term per column plus one per row: a single broadcast sum.
    along = maps[:, 0, None] * columns + maps[:, 2, None]
    return along[:, None, :] + (maps[:, 1, None] * rows)[:, :, None]


def _slab(origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # The tiny addend keeps a ray parallel to the slab off 0 * inf and changes no other float32.
    inverse = 1.0 / (directions + np.float32(1e-20))
    middle = inverse * -origin.reshape(-1, *[1] * (directions.ndim - 1))
    reach = np.abs(inverse)
    return middle - reach, middle + reach


def _ball(origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    square = (directions * directions).sum(axis=0)
    across = np.tensordot(origin, directions, axes=1)
    root = np.sqrt(across * across - square * (origin @ origin - np.float32(1.0)))
    return (-across - root) / square, (root - across) / square


def enter(kind: int, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Finds where rays enter a unit solid from outside.

    Args:
        kind: BOX (cube of half extent 1), SPHERE (radius 1) or CYLINDER (radius 1, z in [-1, 1]).
        origin: (3,) float32 common origin of the rays, outside the solid.
        directions: (3, ...) float32 directions.

    Returns:
        (...) ray parameter of the first hit, infinity where the solid is missed.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if kind == SPHERE:
            first, last = _ball(origin, directions)
        elif kind == CYLINDER:
            first, last = _ball(origin[:2], directions[:2])
            low, high = _slab(origin[2:], directions[2:])
            first, last = np.maximum(first, low[0]), np.minimum(last, high[0])
        elif kind == BOX:
            low, high = _slab(origin, directions)
            first, last = low.max(axis=0), high.min(axis=0)
        else:
            raise ValueError(f"no rays enter a solid of kind {kind} from outside")
        # A ray that misses the ball has NaN bounds, which no comparison lets through.
        return np.where((first <= last) & (first > 0.0), first, np.float32(np.inf))


def rectangles(solids: Solids, camera: Camera, size: tuple[int, int]) -> np.ndarray:
    """Bounds each solid's image, so that only the rays that may hit it are cast.

    Args:
        solids: K solids.
        camera: The camera.
        size: (height, width) in pixels.

    Returns:
        (K, 4) integers: first row, past the last row, first column, past the last column. An
        empty range is a solid that is not in the picture.
    """
    height, width = size
    corners = solids.centre[:, None] + np.einsum(
        "kij,kcj->kci", solids.turns(), solids.half[:, None] * _CORNERS
    )
    seen = (corners - camera.position) @ camera.rotation
    sideways, ahead = seen[:, :, :2], seen[:, :, 2:]
    slope = sideways / np.maximum(ahead, NEAR)
    low, high = slope.min(axis=1), slope.max(axis=1)
    # Where an edge crosses the near plane its slope is at most that of its ends taken onto it.
    crosses = (ahead < NEAR).any(axis=1)
    low = np.where(crosses, np.minimum(low, sideways.min(axis=1) / NEAR), low)
    high = np.where(crosses, np.maximum(high, sideways.max(axis=1) / NEAR), high)
    focal = 0.5 * width / math.tan(0.5 * FIELD_OF_VIEW)
    limits = np.array([width, height])
    start = np.clip(np.ceil(low * focal + 0.5 * limits - 0.5 - 1e-3), 0, limits)
    stop = np.clip(np.floor(high * focal + 0.5 * limits + 0.5 + 1e-3), 0, limits)
    stop[(ahead < NEAR).all(axis=1)[:, 0]] = 0
    return np.stack([start[:, 1], stop[:, 1], start[:, 0], stop[:, 0]], axis=1).astype(int)


def trace(solids: Solids, camera: Camera, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest surface in every pixel.

    Args:
        solids: K solids, the six faces of the room first.
        camera: A camera inside the room and outside all other solids.
        size: (height, width) in pixels.

    Returns:
        (height, width) float32 z-depth in metres, and (height, width) indices into `solids`.
    """
    columns, rows = tangents(size)
    maps, origins = solids.into_unit(camera.position)
    maps = (maps @ camera.rotation).astype(np.float32)
    origins = origins.astype(np.float32)

    rays = _rays(maps[0], columns, rows)
    leave = _slab(origins[0], rays)[1]
    axis = leave.argmin(axis=0)
    depth = leave.min(axis=0)
    positive = np.take_along_axis(rays > 0.0, axis[None], axis=0)[0]
    surface = 2 * axis + positive

    for index, (top, bottom, left, right) in enumerate(rectangles(solids, camera, size)[6:], 6):
        if top >= bottom or left >= right:
            continue
        rays = _rays(maps[index], columns[left:right], rows[top:bottom])
        hit = enter(int(solids.kind[index]), origins[index], rays)
        window = depth[top:bottom, left:right]
        nearer = hit < window
        np.copyto(window, hit, where=nearer)
        surface[top:bottom, left:right][nearer] = index
    return depth, surface


def surface_frame(
    solids: Solids, surface: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gives normals and surface coordinates of points that lie on solids.

    The coordinates are a projection along the solid's own axis nearest to the normal, so that a
    pattern drawn from them sticks to the solid and keeps its real size.

    Args:
        solids: K solids.
        surface: (...) the solid of each point.
        points: (3, ...) float32 points in the world, metres.

    Returns:
        (3, ...) unit normals in the world, facing the free side, and (...) and (...) the two
        coordinates on the surface, metres from the solid's centre; on every upright face the second
        is the height.
    """

    def of(table: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(table.T, np.float32).take(surface, axis=-1)

    cosine, sine, half = of(np.cos(solids.yaw)), of(np.sin(solids.yaw)), of(solids.half)
    offset = points - of(solids.centre)
    local = np.stack(
        [cosine * offset[0] + sine * offset[1], cosine * offset[1] - sine * offset[0], offset[2]]
    )
    unit = local / half
    kind = solids.kind.take(surface)
    size = np.abs(unit)
    axis = size.argmax(axis=0)
    normal = np.where(np.arange(3).reshape(3, *[1] * surface.ndim) == axis, np.sign(unit), 0.0)
    normal = normal.astype(np.float32)

    # A cylinder's end is where height outgrows the radius, not where it outgrows x and y singly.
    side = (kind == CYLINDER) & (unit[0] ** 2 + unit[1] ** 2 > size[2] ** 2)
    bent = unit / half
    round_ = kind == SPHERE
    normal[:, round_] = bent[:, round_]
    normal[:2, side] = bent[:2, side]
    normal[2, side] = 0.0
    normal[:, kind == ROOM] *= -1.0
    normal /= np.sqrt((normal * normal).sum(axis=0))

    axis[side & (axis == 2)] = 0
    normal = np.stack(
        [cosine * normal[0] - sine * normal[1], sine * normal[0] + cosine * normal[1], normal[2]]
    )
    along = np.where(axis == 0, local[1], local[0])
    up = np.where(axis == 2, local[1], local[2])
    return normal, along, up


def shadowed(
    solids: Solids, casters: np.ndarray, light: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """Tells which points some solids hide from a light.

    Args:
        solids: K solids.
        casters: Indices of the solids that cast shadows; the light is outside all of them.
        light: (3,) place of the light, metres.
        points: (3, N) float32 points, metres.

    Returns:
        (N,) bool, true in the shadow.
    """
    rays = points - light.astype(np.float32)[:, None]
    dark = np.zeros(points.shape[1], bool)
    lengths = np.sqrt((rays * rays).sum(axis=0))
    maps, origins = solids.into_unit(light)
    maps, origins = maps.astype(np.float32), origins.astype(np.float32)
    toward = solids.centre[casters] - light
    distance = np.sqrt((toward * toward).sum(axis=1))
    radius = np.sqrt((solids.half[casters] ** 2).sum(axis=1))
    edge = np.sqrt(np.maximum(1.0 - (radius / distance) ** 2, 0.0)) * distance
    # Only rays within the cone around a caster's bounding sphere can meet it.
    inside = toward.astype(np.float32) @ rays > edge.astype(np.float32)[:, None] * lengths
    inside |= (radius >= distance)[:, None]
    for index, near in zip(casters, inside, strict=True):
        some = np.flatnonzero(near & ~dark)
        hit = enter(int(solids.kind[index]), origins[index], maps[index] @ rays[:, some])
        # A point's own surface is at 1: stop short of it by more than float32 is off.
        dark[some[hit < 0.998]] = True
    return dark
