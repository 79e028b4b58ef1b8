"""Seeded inputs that look like what real models take: rendered text, scenes, tones, token ids."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RATE = 16000
WORDS = "invoice total signed street number seven orange winter paper doctor yellow market river london".split()
VOCABULARY = 100
"""Token ids are drawn below this, and from 1: valid in all these models."""

Shape = tuple[int, ...]


def noise(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    return 0.5 * rng.normal(size=shape)


def tones(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Four notes with overtones that begin and end, over faint noise. shape: [1, samples] or [1, samples, 1]."""
    t = np.arange(shape[1]) / RATE
    wave = 0.001 * rng.normal(size=t.size)
    for _ in range(4):
        pitch, start = 110 * 2 ** (rng.integers(0, 36) / 12), rng.uniform(0, t[-1])
        fade = (t > start) * np.exp(-3 * np.maximum(t - start, 0))
        wave += sum(0.15 / k * fade * np.sin(2 * np.pi * pitch * k * t) for k in range(1, 5))
    return wave.reshape(shape)


def scene(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Soft backgrounds with ellipses of other colours, 0..1. shape: NCHW or NHWC with three channels."""
    return np.concatenate([_one_scene(shape, rng) for _ in range(shape[0])])


def _one_scene(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    channels_last = shape[-1] == 3
    height, width = shape[1:3] if channels_last else shape[2:]
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    image = np.stack([0.5 + 0.3 * np.sin(rng.uniform(1, 5) * x + rng.uniform(1, 5) * y) for _ in range(3)])
    for _ in range(8):
        centre, radius = rng.uniform(0.1, 0.9, 2), rng.uniform(0.03, 0.2, 2)
        inside = ((x - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2 < 1
        image = np.where(inside, rng.uniform(0, 1, (3, 1, 1)), image)
    image = np.clip(image + 0.03 * rng.normal(size=image.shape), 0, 1)
    return (np.moveaxis(image, 0, -1) if channels_last else image)[None]


def text(shape: Shape, rng: np.random.Generator, lines: int = 1) -> np.ndarray:
    """Dark words on a light ground with a little noise, -1..1, NCHW."""
    from PIL import Image, ImageDraw, ImageFont

    _, channels, height, width = shape
    image = Image.new("L", (width, height), 235)
    draw = ImageDraw.Draw(image)
    step = height // lines
    for line in range(lines):
        words = " ".join(rng.choice(WORDS, 1 if lines == 1 and width < 250 else 2))
        draw.text((6, line * step + step // 8), words, fill=25, font=ImageFont.load_default(size=int(step * 0.6)))
    grey = np.asarray(image, np.float64) + 4 * rng.normal(size=(height, width))
    return np.broadcast_to(grey / 127.5 - 1, (1, channels, height, width))


def spectrum(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """A log-power spectrogram [..., time, bins]: bands that wander slowly in time, over noise."""
    bands = 0.1 * np.cumsum(rng.normal(size=shape), axis=-2)
    return bands - bands.mean() - 4 + 0.3 * rng.normal(size=shape)


def vowel(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """A piece of a voice with a wandering pitch and three formants, or of a pause: [1, samples]."""
    t = np.arange(shape[1]) / RATE
    phase = 2 * np.pi * np.cumsum(rng.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * 3 * t))) / RATE
    formants, wave = rng.uniform((250, 850, 2200), (850, 2200, 3200)), np.zeros(t.size)
    for overtone in range(1, 40):
        distances = (overtone * phase[-1] / (2 * np.pi * t[-1]) - formants) / (80, 120, 200)
        wave += (np.array([1, 0.5, 0.25]) / (1 + distances**2)).sum() * np.sin(overtone * phase + rng.uniform(0, 6))
    loudness = rng.uniform(0.05, 0.3) * (rng.random() < 0.7)
    return (loudness * wave / np.abs(wave).max() + 0.002 * rng.normal(size=t.size))[None]


def voice(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """The power of a voice over faint noise [frames, bands], 10 to 16 ms a frame: syllables of formants, pauses."""
    frames, bands = shape
    place, time = np.linspace(0, 1, bands), np.arange(frames)[:, None]
    power = 10.0 ** rng.uniform(-6, -4) * rng.exponential(size=shape) * np.exp(-2 * place)
    start, pitch = rng.uniform(0, frames / 8), rng.uniform(0.02, 0.05)
    while start < frames:
        length, formants = rng.uniform(8, 25), rng.uniform((0.05, 0.25, 0.5), (0.25, 0.5, 0.9))
        shapes = sum(g * np.exp(-(((place - f) / 0.06) ** 2)) for f, g in zip(formants, (1.0, 0.3, 0.1), strict=True))
        comb = 0.55 + 0.45 * np.cos(2 * np.pi * place / (pitch * (1 + 0.1 * np.sin(time / 9))))
        power = power + rng.uniform(0.1, 1) * np.exp(-(((time - start) / length * 2) ** 2)) * shapes * comb
        start += length * rng.uniform(0.7, 1.5) + (rng.random() < 0.2) * rng.uniform(20, 60)
    return power


def _decibels(power: np.ndarray) -> np.ndarray:
    """-1..1 for -80..0 dB below the largest value."""
    return np.maximum(10 * np.log10(power / power.max() + 1e-12), -80) / 40 + 1


def mel(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Spectrograms of a voice in dB as networks that judge speech take them, -1..1. shape: [N, frames, bands]."""
    return np.stack([_decibels(voice(shape[1:], rng)) for _ in range(shape[0])])


def echo(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """What a loudspeaker plays, what the microphone hears, and that with less echo, as `mel`: [1, 3, frames, bands].
    The last 40 frames say which of both ends speak."""
    frames, bands = shape[2] - 40, shape[3]
    far, near = voice((frames, bands), rng), voice((frames, bands), rng)
    far_speaks, near_speaks = [(1, 1), (1, 0), (0, 1)][rng.integers(3)]
    left, marks = 10.0 ** rng.uniform(-4, -1), np.zeros((3, 40, bands))
    marks[:, :20] = np.array([far_speaks, near_speaks, 1])[:, None, None]
    far, near = far * far_speaks + 1e-7, near * near_speaks + 1e-7
    heard = [far, near + 0.3 * far, near * rng.uniform(0.3, 1) + left * far]
    return np.concatenate([np.stack(list(map(_decibels, heard))), marks], axis=1)[None]


def log_power(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """The natural logarithm of a voice's power with some frames lost. shape: [1, 1, frames, bins]."""
    power = 100 * voice(shape[2:], rng)
    for _ in range(rng.integers(0, 6)):
        start = rng.integers(0, shape[2])
        power[start : start + rng.integers(2, 8)] *= 1e-6
    return np.log(power + 1e-12)[None, None]


def one_hot(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Rows of a single 1. shape: [..., classes]."""
    return np.eye(shape[-1])[rng.integers(0, shape[-1], size=shape[:-1])]


def corners_with_alpha(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Quadrangles with dark outlines 0..255, NHWC, with a fourth channel of ones."""
    from PIL import Image, ImageDraw

    _, height, width, _ = shape
    image = Image.new("RGB", (width, height), tuple(rng.integers(150, 230, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(7):
        left, top, right, bottom = (rng.uniform(0.05, 0.95, 4) * (width, height, width, height)).tolist()
        points = [(left, top), (right, top + rng.normal() * 10), (right + rng.normal() * 10, bottom), (left, bottom)]
        draw.polygon(points, fill=tuple(rng.integers(60, 255, 3).tolist()), outline=(30, 30, 30), width=3)
    return np.concatenate([np.asarray(image, np.float64), np.ones((height, width, 1))], axis=-1)[None]


def atoms(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Carbon, nitrogen and oxygen, the same on both sides of a reaction. Numbers from 2 on, [1, atoms]."""
    half = 2 + rng.choice([6, 6, 6, 7, 8], size=(1, shape[1] // 2))
    return np.concatenate([half, half], axis=1)


def bonds_between(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Bonds between atoms of a chain on each side of a reaction, from 2 on; 1 between the sides. [1, atoms, atoms]."""
    index = np.arange(shape[1])
    apart = np.minimum(2 + np.abs(index[:, None] - index[None]), 11)
    side = index * 2 // shape[1]
    return np.where(side[:, None] == side[None], apart, 1)[None]


def back_cover(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """A bar code on a white field with its number above, on a coloured cover, 0..1, NCHW."""
    from PIL import Image, ImageDraw, ImageFont

    _, _, height, width = shape
    image = Image.new("RGB", (width, height), tuple(rng.integers(60, 200, 3).tolist()))
    draw = ImageDraw.Draw(image)
    wide, high = int(width * rng.uniform(0.4, 0.6)), int(height * rng.uniform(0.25, 0.35))
    left, top = (int(rng.uniform(0, limit)) for limit in (width - wide, height - high))
    draw.rectangle((left, top, left + wide, top + high), fill="white")
    number = "ISBN 978-" + "-".join("".join(map(str, rng.integers(0, 10, n))) for n in (1, 5, 3, 1))
    draw.text((left + wide // 10, top + 4), number, fill="black", font=ImageFont.load_default(size=high // 8))
    for x in range(left + wide // 10, left + wide - wide // 10, 2):
        if rng.random() < 0.5:
            draw.rectangle((x, top + high // 4, x + 1, top + high - high // 8), fill="black")
    return np.moveaxis(np.asarray(image, np.float64) / 255, -1, 0)[None]


def captcha(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """A word 0..1, NHWC."""
    return np.moveaxis((text((1, 3, *shape[1:3]), rng) + 1) / 2, 1, -1)


def sample(kind: str, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """An array of a kind of KINDS, or of one number where `kind` is a number."""
    return KINDS[kind](shape, rng) if kind in KINDS else np.full(shape, float(kind))


KINDS: dict[str, Callable[[Shape, np.random.Generator], np.ndarray]] = {
    "noise": noise,
    "tones": tones,
    "scene": scene,
    "scene255": lambda shape, rng: 255 * scene(shape, rng),
    "text": text,
    "page": lambda shape, rng: text(shape, rng, lines=8),
    "ids": lambda shape, rng: rng.integers(1, VOCABULARY, size=shape),
    "few": lambda shape, rng: rng.integers(1, 5, size=shape),
    "two or three": lambda shape, rng: 2 + (np.arange(np.prod(shape)) * 2 // np.prod(shape)).reshape(shape),
    "shares": lambda shape, rng: rng.random(shape),
    "flags": lambda shape, rng: rng.random(shape) < 0.15,
    "spectrum": spectrum,
    "vowel": vowel,
    "mel": mel,
    "echo": echo,
    "log-power": log_power,
    "loudness": lambda shape, rng: np.maximum(spectrum(shape, rng) + 6, 0),
    "one-hot": one_hot,
    "corners with alpha": corners_with_alpha,
    "captcha": captcha,
    "back cover": back_cover,
    "atoms": atoms,
    "bonds between": bonds_between,
}
"""make(shape, rng) -> an array, which the caller converts to the input's type."""
