# SPDX-License-Identifier: Apache-2.0
"""The ray caster against scalar geometry in plain Python, and the promises of `rooms`."""

import math

import numpy as np
import pytest

from dpt_jax.data.sources import raycast
from dpt_jax.data.sources.raycast import BOX, CYLINDER, ROOM, SPHERE, Camera, Solids
from dpt_jax.data.sources.rooms import CLASSES, PALETTE, Rooms, render, sample_scene

ROOM_HALF = (3.0, 4.0, 1.3)


def solids_of(*extra: tuple) -> Solids:
    """A 6 x 8 x 2.6 m room with (kind, centre, half, yaw) solids in it."""
    rows = [(ROOM, (0.0, 0.0, ROOM_HALF[2]), ROOM_HALF, 0.0)] * 6 + list(extra)
    return Solids(*(np.array(column) for column in zip(*rows, strict=True)))


def scalar_ray(size, row, column, yaw, pitch, roll):
    """A pixel's ray in the world, turned by one elementary rotation after the other."""
    height, width = size
    pitch_of_pixels = 2 * math.tan(math.radians(35)) / width
    x = (column + 0.5 - width / 2) * pitch_of_pixels
    y = (row + 0.5 - height / 2) * pitch_of_pixels
    x, y = x * math.cos(roll) - y * math.sin(roll), x * math.sin(roll) + y * math.cos(roll)
    ahead = math.cos(pitch) + y * math.sin(pitch)
    up = math.sin(pitch) - y * math.cos(pitch)
    return (
        x * math.cos(yaw) - ahead * math.sin(yaw),
        x * math.sin(yaw) + ahead * math.cos(yaw),
        up,
    )


def scalar_hit(kind, centre, half, yaw, origin, ray):
    """Ray parameter at one solid: every candidate crossing, kept if it lies on the solid."""

    def local(vector):
        x, y, z = vector
        turned = (x * math.cos(yaw) + y * math.sin(yaw), y * math.cos(yaw) - x * math.sin(yaw), z)
        return [float(t) for t in turned]

    o, d = local([a - b for a, b in zip(origin, centre, strict=True)]), local(ray)
    a, b, c = half
    found = []

    def planes(axes):
        for axis in axes:
            for side in (-half[axis], half[axis]):
                t = (side - o[axis]) / d[axis] if d[axis] else -1.0
                if t > 0:
                    yield t, axis, [o[k] + t * d[k] for k in range(3)]

    def quadratic(weights):
        qa = sum(w * v * v for w, v in zip(weights, d, strict=True))
        qb = 2 * sum(w * u * v for w, u, v in zip(weights, o, d, strict=True))
        qc = sum(w * u * u for w, u in zip(weights, o, strict=True)) - 1
        if qb * qb >= 4 * qa * qc:
            yield from ((s * math.sqrt(qb * qb - 4 * qa * qc) - qb) / (2 * qa) for s in (-1, 1))

    if kind in (BOX, ROOM):
        for t, axis, p in planes(range(3)):
            if all(abs(p[k]) <= half[k] for k in range(3) if k != axis):
                found.append(t)
    elif kind == SPHERE:
        found += [t for t in quadratic((a**-2, b**-2, c**-2)) if t > 0]
    else:
        found += [t for t in quadratic((a**-2, b**-2, 0)) if t > 0 and abs(o[2] + t * d[2]) <= c]
        found += [t for t, _, p in planes([2]) if (p[0] / a) ** 2 + (p[1] / b) ** 2 <= 1]
    return min(found, default=math.inf)


def scalar_trace(solids, position, angles, size):
    """Depth and index of the solid per pixel; all six faces of the room count as solid 5."""
    depth, index = np.zeros(size), np.zeros(size, int)
    rows = list(zip(solids.kind, solids.centre, solids.half, solids.yaw, strict=True))
    for r in range(size[0]):
        for c in range(size[1]):
            ray = scalar_ray(size, r, c, *angles)
            hits = [scalar_hit(*row, position, ray) for row in rows[5:]]
            depth[r, c] = min(hits)
            index[r, c] = 5 + hits.index(min(hits))
    return depth, index


def test_a_wall_ahead_has_one_depth_and_the_floor_a_depth_per_row():
    size = (31, 41)
    camera = Camera.looking(np.array([0.5, -2.0, 1.2]), yaw=0.0)
    depth, surface = raycast.trace(solids_of(), camera, size)
    assert set(np.unique(surface)) >= {0, 1, 3}, "left, right and far wall are all in view"
    # z-depth: the wall at y = 4 is 6 m ahead in every pixel, though its corners are further away.
    np.testing.assert_allclose(depth[surface == 3], 6.0, rtol=1e-6)

    steep = Camera.looking(np.array([0.5, -1.0, 1.2]), yaw=0.0, pitch=-0.9)
    depth, surface = raycast.trace(solids_of(), steep, size)
    rows = np.nonzero(surface == 4)[0]
    slope = (rows + 0.5 - 15.5) * 2 * math.tan(math.radians(35)) / 41
    expected = 1.2 / (math.sin(0.9) + slope * math.cos(0.9))
    np.testing.assert_allclose(depth[surface == 4], expected, rtol=1e-5)


def test_axes_point_the_way_they_are_documented():
    x, y, z = raycast.pixel_rays((20, 30))
    assert x[0, 0] < 0 < x[0, -1] and y[0, 0] < 0 < y[-1, 0] and np.all(z == 1)
    edge = x[0, -1] * 30 / 29  # from the outermost pixel's centre to its rim
    assert math.degrees(2 * math.atan(edge)) == pytest.approx(70, abs=1e-3)
    assert y[1, 0] - y[0, 0] == pytest.approx(x[0, 1] - x[0, 0]), "square pixels"
    right, down, forward = Camera.looking(np.zeros(3), math.pi / 2, pitch=0.1).rotation.T
    np.testing.assert_allclose(right, [0, 1, 0], atol=1e-12)
    assert forward[0] < -0.9 and forward[2] > 0 and down[2] < -0.9
    assert Camera.looking(np.zeros(3), 0.0, roll=0.1).rotation[2, 0] < 0, "right side down"


def test_a_sphere_is_nearest_at_its_front():
    ball = (SPHERE, (0.0, 2.0, 1.0), (0.4, 0.4, 0.4), 0.7)
    camera = Camera.looking(np.array([0.0, -1.0, 1.0]), yaw=0.0)
    depth, surface = raycast.trace(solids_of(ball), camera, (33, 45))
    depth[surface != 6] = np.inf
    assert np.unravel_index(depth.argmin(), depth.shape) == (16, 22)
    assert depth.min() == pytest.approx(3.0 - 0.4, rel=1e-6)


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (0.3, -0.25, 0.1), (-0.35, 0.1, -0.2)])
def test_every_solid_agrees_with_scalar_geometry(angles):
    solids = solids_of(
        (BOX, (0.9, 2.0, 0.5), (0.6, 0.3, 0.5), 0.6),
        (CYLINDER, (-0.9, 1.6, 0.9), (0.3, 0.3, 0.5), 0.0),
        (SPHERE, (0.1, 1.5, 1.7), (0.5, 0.3, 0.4), 0.5),
        (BOX, (0.0, 2.6, 0.3), (1.5, 0.2, 0.3), -0.2),
    )
    size, position = (25, 33), np.array([0.1, -1.5, 1.25])
    depth, surface = raycast.trace(solids, Camera.looking(position, *angles), size)
    expected, index = scalar_trace(solids, position, angles, size)
    assert len(np.unique(index)) == 5, "all four solids and the room are in view"
    np.testing.assert_array_equal(np.maximum(surface, 5), index)
    np.testing.assert_allclose(depth, expected, rtol=2e-5)


def test_no_solid_is_cut_off_by_its_rectangle(monkeypatch):
    rng = np.random.default_rng(0)
    eye = np.array([0.0, 0.0, 1.2])
    scenes = []
    for _ in range(150):
        # A long bar that passes the camera closely, so that most reach behind it.
        yaw, away = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 0.4)
        out = np.array([math.cos(yaw), math.sin(yaw), 0.0]) * away
        along = np.array([-math.sin(yaw), math.cos(yaw), 0.0]) * rng.uniform(-1, 1)
        kind = int(rng.choice([BOX, SPHERE]))
        bar = (kind, eye + out + along, (0.1, rng.uniform(0.3, 2), rng.uniform(0.1, 1.0)), yaw)
        camera = Camera.looking(eye, *rng.normal(0, 0.3, 3))
        scenes.append((solids_of(bar), camera, (24, 32)))
    bounded = [raycast.trace(*scene) for scene in scenes]
    assert 40 < sum((surface == 6).any() for _, surface in bounded) < 150
    everywhere = np.array([[0, 24, 0, 32]] * 7)
    monkeypatch.setattr(raycast, "rectangles", lambda *_: everywhere)
    for scene, (depth, surface) in zip(scenes, bounded, strict=True):
        # What is in front of the near plane is all that a rectangle promises to hold.
        full_depth, full_surface = raycast.trace(*scene)
        seen = full_depth > raycast.NEAR
        np.testing.assert_array_equal(surface[seen], full_surface[seen])
        np.testing.assert_array_equal(depth[seen], full_depth[seen])


@pytest.mark.parametrize("index", range(4))
def test_sampled_scenes_agree_with_scalar_geometry(index):
    # Also covers what only real scenes have: solids half behind the camera, and dozens of them.
    scene = sample_scene(np.random.default_rng(index))
    right, _, forward = scene.camera.rotation.T
    pitch = math.asin(forward[2])
    yaw = math.atan2(-forward[0], forward[1])
    roll = math.asin(-right[2] / math.cos(pitch))
    size = (18, 24)
    _, depth, label = render(scene, size)
    expected, solid = scalar_trace(scene.solids, scene.camera.position, (yaw, pitch, roll), size)
    same = np.isclose(depth, expected, rtol=1e-3)
    assert same.mean() > 0.99, "a silhouette may fall on a pixel's centre, no more"
    things = solid > 5
    assert (scene.label[solid] == label)[things & same].mean() > 0.99
    assert np.all(label[~things & same] <= 2)


def test_normals_face_the_camera_and_fit_the_shape():
    solids = solids_of(
        (BOX, (0.8, 1.5, 0.5), (0.6, 0.3, 0.5), 0.6),
        (SPHERE, (-0.8, 1.5, 1.0), (0.4, 0.4, 0.4), 0.3),
        (CYLINDER, (0.0, 2.5, 0.5), (0.3, 0.3, 0.5), 0.2),
    )
    camera = Camera.looking(np.array([0.0, -1.5, 1.4]), 0.0, pitch=-0.2)
    size = (48, 64)
    depth, surface = raycast.trace(solids, camera, size)
    rays = np.tensordot(camera.rotation, raycast.pixel_rays(size), axes=1).astype(np.float32)
    points = rays * depth + camera.position.astype(np.float32)[:, None, None]
    normal, _, up = raycast.surface_frame(solids, surface, points)
    np.testing.assert_allclose((normal**2).sum(0), 1.0, atol=1e-5)
    assert np.all((normal * rays).sum(0) < 1e-4)
    for face, axis, sign in ((0, 0, 1), (1, 0, -1), (3, 1, -1), (4, 2, 1)):
        assert np.all(normal[axis, surface == face] == sign)
    box, ball, post = (surface == k for k in (6, 7, 8))
    front = np.array([math.sin(0.6), -math.cos(0.6), 0.0])
    assert np.isclose(normal[:, box].T @ front, 1.0, atol=1e-5).any()
    outward = (points[:, ball] - np.array([[-0.8], [1.5], [1.0]])) / 0.4
    np.testing.assert_allclose(normal[:, ball], outward, atol=1e-4)
    lid = points[2, post] > 0.999
    assert lid.any() and np.all((normal[2, post] > 0.99) == lid)
    np.testing.assert_allclose(normal[2, post][~lid], 0.0, atol=1e-6)
    np.testing.assert_allclose(up[surface == 3], points[2, surface == 3] - 1.3, atol=1e-5)


def test_shadows_agree_with_scalar_geometry():
    solids = solids_of(
        (BOX, (0.6, 0.5, 0.5), (0.5, 0.3, 0.5), 0.4),
        (SPHERE, (-0.8, -0.6, 0.9), (0.3, 0.3, 0.3), 0.0),
        (CYLINDER, (-0.5, 1.2, 0.6), (0.2, 0.2, 0.6), 0.0),
    )
    light = np.array([0.1, -0.2, 2.4])
    x, y = np.meshgrid(np.linspace(-2.5, 2.5, 25), np.linspace(-2.5, 2.5, 25))
    points = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()]).astype(np.float32)
    dark = raycast.shadowed(solids, np.array([6, 7, 8]), light, points)
    rows = list(zip(solids.kind, solids.centre, solids.half, solids.yaw, strict=True))[6:]
    expected = [any(scalar_hit(*row, light, p - light) < 0.998 for row in rows) for p in points.T]
    np.testing.assert_array_equal(dark, expected)
    assert 0.05 < dark.mean() < 0.5


def test_examples_have_the_promised_form():
    rooms = Rooms(split="validation", size=(40, 56), length=3)
    assert len(rooms) == 3 and rooms.classes is CLASSES and rooms.palette is PALETTE
    assert rooms.name(2) == "rooms/validation/00000002"
    assert PALETTE.shape == (len(CLASSES), 3) and PALETTE.dtype == np.uint8
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == len(CLASSES) >= 10
    for index in range(3):
        example = rooms[index]
        assert {k: (v.shape, v.dtype.name) for k, v in example.items()} == {
            "image": ((40, 56, 3), "uint8"),
            "depth": ((40, 56), "float32"),
            "label": ((40, 56), "uint8"),
        }
        assert example["label"].max() < len(CLASSES)
        assert all(v.flags.c_contiguous for v in example.values())


def test_an_example_depends_on_seed_split_and_index_alone():
    def same(a, b):
        return all(np.array_equal(a[key], b[key]) for key in ("image", "depth", "label"))

    few = Rooms(split="train", size=(24, 32), length=4)
    many = Rooms(split="train", size=(24, 32), length=1000)
    backwards = [many[index] for index in reversed(range(4))][::-1]
    examples = [few[index] for index in range(4)]
    assert all(same(a, b) for a, b in zip(examples, backwards, strict=True))
    other_split = Rooms(split="validation", size=(24, 32), length=4)
    other_seed = Rooms(split="train", size=(24, 32), length=4, seed=1)
    everything = [e["depth"].tobytes() for e in (*examples, *other_split, *other_seed)]
    assert len(set(everything)) == 12


def test_a_scene_is_the_same_at_any_size():
    for index in range(3):
        small = Rooms(split="train", size=(30, 40), length=3)[index]
        large = Rooms(split="train", size=(90, 120), length=3)[index]
        # At three times the size, every third pixel's centre is a pixel centre of the small one.
        assert np.mean(small["label"] == large["label"][1::3, 1::3]) > 0.995
        close = np.isclose(small["depth"], large["depth"][1::3, 1::3], rtol=1e-3)
        assert close.mean() > 0.995


def test_things_stand_in_the_room_and_clear_of_the_camera():
    for seed in range(40):
        scene = sample_scene(np.random.default_rng(seed))
        solids = scene.solids
        across, along, height = 2 * solids.half[0]
        turn = np.abs(solids.turns())
        reach = np.einsum("kij,kj->ki", turn, solids.half)
        low, high = (solids.centre - reach)[6:], (solids.centre + reach)[6:]
        assert low[:, 2].min() > -1e-6 and high[:, 2].max() < height + 1e-6
        assert np.all(np.abs([low[:, 0], high[:, 0]]) < across / 2 + 1e-3)
        assert np.all(np.abs([low[:, 1], high[:, 1]]) < along / 2 + 1e-3)
        for name in ("bed", "table", "cabinet", "lamp", "ball", "column", "plant", "rug", "door"):
            own = scene.label[6:] == CLASSES.index(name)
            assert not own.any() or low[own, 2].min() == pytest.approx(0.0, abs=1e-6)
        assert 0.8 <= scene.camera.position[2] <= 1.9
        _, depth, _ = render(scene, (24, 32))
        assert 0.3 < depth.min() and depth.max() < 13


@pytest.fixture(scope="module")
def sample():
    def stack(split, length):
        examples = list(Rooms(split=split, size=(48, 64), length=length))
        return {key: np.stack([e[key] for e in examples]) for key in examples[0]}

    return stack("train", 160), stack("validation", 60)


def test_every_class_is_common_and_never_a_speck(sample):
    sizes = np.stack([(sample[0]["label"] == k).sum((1, 2)) for k in range(len(CLASSES))])
    for name, size in zip(CLASSES, sizes, strict=True):
        share = np.mean(size >= 12)
        assert share > 0.15, f"{name} is in {share:.0%} of the images"
        assert np.median(size[size > 0]) > 40, f"{name} is too small to be learnt"


def test_exposure_is_readable(sample):
    image = sample[0]["image"]
    means = image.mean((1, 2, 3))
    # A fixed exposure and a flash: large rooms are darker, none is black or burnt out.
    assert 40 < means.min() and means.max() < 230 and means.std() > 5
    assert np.all(image.std((1, 2, 3)) > 5) and np.mean(image == 255) < 0.05


def test_neither_place_nor_colour_gives_the_answer_away(sample):
    train, validation = sample
    mean = train["depth"].mean(0)
    assert np.mean(np.abs(mean - validation["depth"]) / validation["depth"]) > 0.4

    def key(part):  # row in sixths, colour in eighths per channel: 3072 cells
        rows = np.arange(48)[None, :, None] // 8
        red, green, blue = np.moveaxis(part["image"].astype(int) // 32, -1, 0)
        return np.broadcast_to(((rows * 8 + red) * 8 + green) * 8 + blue, red.shape).ravel()

    cells = key(train)
    counts = np.bincount(cells, minlength=3072)
    log_depth = np.log(train["depth"]).ravel()
    average = log_depth.mean()
    table = (np.bincount(cells, log_depth, 3072) + 5 * average) / (counts + 5)
    truth = np.log(validation["depth"]).ravel()
    explained = 1 - np.mean((table[key(validation)] - truth) ** 2) / truth.var()
    assert explained < 0.4, f"row and colour explain {explained:.0%} of log depth"

    votes = np.zeros((3072, len(CLASSES)), int)
    np.add.at(votes, (cells, train["label"].ravel()), 1)
    guess, label = votes.argmax(1)[key(validation)], validation["label"].ravel()
    ious = [
        np.sum((guess == k) & (label == k)) / np.sum((guess == k) | (label == k))
        for k in range(len(CLASSES))
    ]
    assert np.mean(ious) < 0.45, f"row and colour reach mIoU {np.mean(ious):.2f}"


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"'train' or 'validation', not 'test'"):
        Rooms(split="test", size=(32, 32), length=1)
    with pytest.raises(ValueError, match="at least 16"):
        Rooms(split="train", size=(15, 64), length=1)
    with pytest.raises(ValueError, match="length"):
        Rooms(split="train", size=(16, 16), length=0)
    with pytest.raises(ValueError, match="seed"):
        Rooms(split="train", size=(16, 16), length=1, seed=-1)
    rooms = Rooms(split="train", size=(16, 16), length=2)
    for index in (-1, 2):
        with pytest.raises(IndexError, match="outside"):
            rooms[index]
