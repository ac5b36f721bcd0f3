"""Large rows stored as changes: lossless for any changes and any cuts into chunks."""

from __future__ import annotations

import contextlib
import itertools
import math

import gymnasium as gym
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from tiers import examples, suite, third_slow

import trajrec
from trajrec.log.pixel_changes import PixelDiff, PixelPacker
from trajrec.log.pixels import FRAMES, STACKS, PixelFrames, PixelStacks
from trajrec.replay import replay_episodes


class PixelRows:
    """A column of large rows."""

    def __init__(self, dtype, shape):
        self.diff = PixelDiff(dtype, shape)
        self.packer = PixelPacker(dtype, shape)
        self.items = []

    def add(self, row):
        self.items.append(self.diff.take(row))

    def pack(self, start, stop):
        return self.packer.pack(self.items[start:stop], start, lambda: self.items[:start])


def unpack(raw, *, n, dtype, shape, filter_):
    """Return the rows of a column of frames or stacks."""
    if filter_[0] == STACKS:
        return PixelStacks(raw, n=n, dtype=dtype, shape=shape, filter_=filter_).dense()
    width = dtype.itemsize * math.prod(shape)
    return PixelFrames(raw, n, width).dense().view(dtype).reshape(n, *shape)


def round_trip(rows, cuts=()):
    """Pack rows in chunks cut at `cuts`; return the unpacked rows, and each chunk's filter and size."""
    dtype = rows[0].dtype
    shape = rows[0].shape
    pixels = PixelRows(dtype, shape)
    read = []
    stored = []
    buffer = np.empty(shape, dtype)
    bounds = [0, *sorted(set(cuts) & set(range(1, len(rows)))), len(rows)]
    for start, stop in itertools.pairwise(bounds):
        for row in rows[start:stop]:
            # Environments often return the same buffer at each step.
            buffer[...] = row
            pixels.add(buffer)
        buffer[...] = 1
        raw, filter_ = pixels.pack(start, stop)
        read.append(unpack(raw, n=stop - start, dtype=dtype, shape=shape, filter_=filter_))
        stored.append((filter_, len(raw)))
    return np.concatenate(read), stored


def stacked(frames, size, axis, resets=()):
    """Return the stacks of the last `size` frames; at a reset all of them are the frame."""
    rows = []
    window = [frames[0]] * size
    for index, frame in enumerate(frames):
        window = [frame] * size if index in resets else [*window[1:], frame]
        rows.append(np.stack(window, axis=axis))
    return rows


def moving(n, shape=(12, 16), dtype=np.uint8, still=0):
    frames = []
    for k in range(n):
        frame = np.full(shape, 7, dtype)
        left = max(0, k - still) % (shape[1] - 3)
        frame[2:5, left : left + 3] = 200
        frames.append(frame)
    return frames


@examples(
    "log",
    st.integers(1, 40),
    st.sampled_from(
        [np.uint8, np.int16, np.float32, np.float64, np.complex128, np.bool_, "datetime64[s]"]
    ),
    st.sampled_from([(7,), (4, 6), (3, 5, 4), (2, 3), (5, 4, 2), (17,)]),
    st.sampled_from(["noise", "some", "still", "stack first", "stack last"]),
    st.sets(st.integers(1, 39)),
    st.integers(0, 2**32 - 1),
    fixed=150,
    drawn=300,
    whole=10_000,
)
@hypothesis.example(17, np.bool_, (2, 3), "some", set(), 36)
def test_rows_come_back_bit_for_bit_from_any_cuts(n, dtype, shape, how, cuts, seed):
    rng = np.random.default_rng(seed)

    def noise(size):
        raw = rng.integers(0, 256, int(np.prod(size)) * np.dtype(dtype).itemsize, np.uint8)
        return (raw & 1 if dtype is np.bool_ else raw).view(dtype).reshape(size)

    rows = [noise(shape) for _ in range(n)]
    if how in ("some", "still"):
        for k in range(1, n):
            old = rows[k - 1].copy()
            if how == "some" or rng.random() < 0.2:
                old.reshape(-1)[rng.integers(old.size)] = rows[k].reshape(-1)[0]
            rows[k] = old
    elif how.startswith("stack"):
        axis = 0 if how == "stack first" else len(shape)
        rows = stacked(rows, 3, axis, resets=set(rng.integers(0, n, n // 8).tolist()))
    read, _ = round_trip(rows, cuts)
    assert read.tobytes() == np.stack(rows).tobytes()


SHAPES = [
    *((k,) for k in range(1, 9)),
    *itertools.product(range(1, 6), repeat=2),
    *itertools.product(range(1, 4), repeat=3),
]
HISTORIES = ["one value changes", "all change", "stack", "stack with resets", "stack with breaks"]


def small_rows(shape, dtype, history, axis, n_still, rng):
    """Return five rows: the first one `n_still` times, then rows that change as `history` says."""

    def noise(size):
        n_bytes = int(np.prod(size)) * np.dtype(dtype).itemsize
        return rng.integers(0, 2, n_bytes, np.uint8).view(dtype).reshape(size)

    rows = [noise(shape)]
    frames = [np.take(rows[0], 0, axis)] * shape[axis]
    for k in range(1, 5):
        row = rows[-1].copy()
        if history == "one value changes":
            row.reshape(-1).view(np.uint8)[rng.integers(row.nbytes)] ^= 1
        elif history == "all change":
            row = noise(shape)
        else:
            frames = [*frames[1:], noise(frames[0].shape)]
            if history == "stack with resets" and rng.random() < 0.3:
                frames = frames[-1:] * shape[axis]
            elif history == "stack with breaks" and rng.random() < 0.3:
                frames = [noise(frames[0].shape) for _ in frames]
            row = np.stack(frames, axis=axis)
        rows.append(rows[0] if k < n_still else row)
    if history.startswith("stack"):
        rows[:n_still] = [np.stack(frames[:1] * shape[axis], axis=axis)] * n_still
    return rows


@suite("log", fixed=200, drawn=2000, whole=None)
def test_small_rows_of_every_shape_come_back_from_all_cuts(share):
    dtypes = ["u1", "?", "u2", "<f4", "<f8", "<c16"]
    cases = itertools.product(SHAPES, dtypes, HISTORIES, (0, -1), range(5))
    for shape, dtype, history, end, n_still in share.of(list(cases)):
        rng = np.random.default_rng(0)
        rows = small_rows(shape, dtype, history, end % len(shape), n_still, rng)
        for n_cuts in range(5):
            for cuts in itertools.combinations(range(1, 5), n_cuts):
                read, _ = round_trip(rows, cuts)
                assert read.tobytes() == np.stack(rows).tobytes(), (shape, dtype, history, cuts)


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("n_still", [1, 2, 5])
def test_stacks_of_odd_frames_may_stand_still_first(axis, n_still):
    # A frame of 42 x 42 bytes divides into words of four bytes, a stack of four into words of eight.
    rows = stacked(moving(30, shape=(42, 42), still=n_still), 4, axis)
    read, [(filter_, _)] = round_trip(rows)
    assert filter_ == (STACKS, axis, 0)
    assert read.tobytes() == np.stack(rows).tobytes()


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("still", [0, 5])
def test_stack_costs_as_much_as_its_newest_frame(axis, dtype, still):
    frames = moving(200, dtype=dtype, still=still)
    rows = stacked(frames, 4, axis, resets=(90, 150))
    read, [(filter_, size)] = round_trip(rows)
    assert read.tobytes() == np.stack(rows).tobytes()
    assert filter_ == (STACKS, axis, 0, 90, 150)
    _, [(plain, plain_size)] = round_trip(frames)
    assert plain == (FRAMES,)
    assert size < plain_size + 5 * frames[0].nbytes


def test_every_chunk_of_stacks_is_stored_as_stacks():
    rows = stacked(moving(60), 4, 2)
    read, stored = round_trip(rows, cuts=(1, 2, 20, 21, 40))
    assert read.tobytes() == np.stack(rows).tobytes()
    assert [filter_[0] for filter_, _ in stored][1:] == [STACKS] * 5


def test_colour_images_are_not_mistaken_for_stacks():
    rows = [np.repeat(frame[..., None], 3, axis=2) for frame in moving(30)]
    read, [(filter_, _)] = round_trip(rows)
    assert read.tobytes() == np.stack(rows).tobytes()
    assert filter_ == (FRAMES,)


@examples(
    "log",
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(0, 2**32 - 1),
    fixed=60,
    drawn=100,
    whole=5000,
)
def test_walk_from_any_row_yields_the_same_frames(start, stop, seed):
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, 2, (5, 9), np.uint8)]
    for _ in range(29):
        rows.append(rows[-1].copy())
        rows[-1][rng.integers(0, 5, 3), rng.integers(0, 9, 3)] = rng.integers(0, 3, 3)
    pixels = PixelRows(rows[0].dtype, rows[0].shape)
    for row in rows:
        pixels.add(row)
    raw, filter_ = pixels.pack(0, 30)
    assert filter_ == (FRAMES,)
    walked = [frame.tobytes() for frame in PixelFrames(raw, 30, 45).walk(start, stop)]
    assert walked == [row.tobytes() for row in rows[start:stop]]


@examples("log", st.data(), fixed=200, drawn=300, whole=10_000)
def test_damaged_frames_raise_or_keep_their_shape(data):
    rows = stacked(moving(20), 4, 0, resets=(7,))
    pixels = PixelRows(rows[0].dtype, rows[0].shape)
    for row in rows:
        pixels.add(row)
    raw, filter_ = pixels.pack(0, 20)
    broken = bytearray(raw)
    broken[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for case, how in (
        (bytes(broken), filter_),
        (raw[:cut], filter_),
        (raw, (STACKS, 1, 0)),
        (raw, (STACKS, 0, 3, 2)),
    ):
        with contextlib.suppress(ValueError):
            unpacked = unpack(case, n=20, dtype=rows[0].dtype, shape=rows[0].shape, filter_=how)
            assert unpacked.shape == (20, *rows[0].shape)


class Screen(gym.Env):
    """Draws into one buffer of stacked frames, and returns the buffer at each step."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, noisy):
        self.noisy = noisy
        self.observation_space = gym.spaces.Dict(
            {
                "camera": gym.spaces.Box(0, 255, (4, 48, 48), np.uint8),
                "speed": gym.spaces.Box(-1, 1, (2,), np.float32),
            }
        )
        self.buffer = np.zeros((4, 48, 48), np.uint8)

    def _observe(self):
        self.buffer[:-1] = self.buffer[1:]
        if self.noisy:
            self.buffer[-1] = self.np_random.integers(0, 256, (48, 48), np.uint8)
        else:
            self.buffer[-1] = 0
            self.buffer[-1, self.k % 40 : self.k % 40 + 4] = 9
        return {"camera": self.buffer, "speed": self.np_random.random(2, np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.k = 0
        return self._observe(), {}

    def step(self, action):
        self.k += 1
        return self._observe(), 0.0, False, self.k == 100, {}


class Picture(Screen):
    """Returns the newest frame. With `is_changed`, the last frame of episodes from 17 on has another pixel."""

    episode = 0

    def __init__(self, is_changed=False):
        super().__init__(noisy=False)
        self.observation_space = gym.spaces.Box(0, 255, (48, 48), np.uint8)
        self.is_changed = is_changed

    def reset(self, *, seed=None, options=None):
        self.episode += 1
        return super().reset(seed=seed, options=options)

    def _observe(self):
        picture = super()._observe()["camera"][-1]
        if self.is_changed and self.episode >= 17 and self.k == 100:
            picture[40, 40] += 1
        return picture


def test_replay_finds_one_changed_pixel_across_chunks(tmp_path):
    env = trajrec.record(Picture(), tmp_path)
    for episode in range(18):
        env.reset(seed=episode)
        while not env.step(0)[3]:
            pass
    env.close()
    episodes = list(trajrec.open(tmp_path).episodes())
    assert any(len(episode.rows.parts) > 1 for episode in episodes)
    for episode in episodes:
        views = [view.tobytes() for view in episode.rows.observation_views()]
        assert views == [row.tobytes() for row in episode.observations]
    assert {report.grade for report in replay_episodes(episodes, env=Picture)} == {"exact"}
    changed = Picture(is_changed=True)
    reports = list(replay_episodes(trajrec.open(tmp_path).episodes(), env=changed, explain=False))
    assert [report.grade for report in reports] == ["exact"] * 16 + ["diverged"] * 2
    divergence = reports[16].divergence
    assert (divergence.step, divergence.field) == (99, "observation/40/40")
    assert (divergence.expected, divergence.actual) == (0, 1)


@pytest.mark.slow
@third_slow("agents")
@pytest.mark.parametrize("noisy", [False, True])
def test_reused_camera_buffer_is_recorded_losslessly_and_compacted(tmp_path, noisy):
    from trajrec.log.compaction import compact

    env = trajrec.record(Screen(noisy), tmp_path)
    seen = []
    for episode in range(8):
        observation, _ = env.reset(seed=episode)
        rows = [observation["camera"].copy()]
        over = False
        while not over:
            observation, _, _, over, _ = env.step(0)
            rows.append(observation["camera"].copy())
        seen.append(np.stack(rows).tobytes())
    env.close()
    for _ in range(2):
        read = sorted(trajrec.open(tmp_path).episodes(), key=lambda e: e.number)
        assert [episode.observations["camera"].tobytes() for episode in read] == seen
        compact(env.path)


@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_frames_that_change_wholly_are_stored_as_others(n_rows: int) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(1, 255, (n_rows, 40, 40), np.uint8)
    diff = PixelDiff(frames.dtype, frames.shape[1:])
    items = [diff.take(frame) for frame in frames]
    packer = PixelPacker(frames.dtype, frames.shape[1:])
    raw, filter_ = packer.pack(items)
    assert filter_ == (1,)
    words = frames.reshape(n_rows, -1).view(np.uint64)
    positions = np.arange(words[1:].size)
    distances = np.diff(positions, prepend=0).astype("<u4")
    planes = distances.view(np.uint8).reshape(-1, 4).T
    assert raw == words[0].tobytes() + planes.tobytes() + words[1:].tobytes()
    # The next chunk begins with the frame that the last item leads to.
    frame = frames[-1].copy()
    frame[3, 3] = 0
    later, _ = packer.pack([diff.take(frame)], n_rows)
    assert later[: frame.nbytes] == frame.tobytes()
