"""Pixels are the picture as meant, or a refusal that names the file: any mode, depth, orientation, profile, storage."""

from __future__ import annotations

import base64
import io
import shutil
import struct
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ablations_here
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import (
    ADOBE,
    HEIGHT,
    MAKERS,
    ORIENTATION,
    SRGB,
    WIDTH,
    Picture,
    blocks,
    cmyk_profile,
    encoded,
    exif,
    from_lab,
    gray_profile,
    in_mode,
    on_white,
    picture,
    png,
    rgb,
    rgb_profile,
    saved,
    upright,
)
from PIL import Image, ImageCms, PngImagePlugin

from ablations.data.batches import MicroBatch, mean_and_std
from ablations.data.datasets import DataSet, Split, load
from ablations.data.decode import VERSION, DamagedImageError, as_uint8, decoded, header, shown
from ablations.data.image_files import ImageFiles
from ablations.data.loader import feeds
from ablations.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from ablations.errors import RequestError
from ablations.recipes import TrainingConfig, load_recipe
from ablations.store import read_json, write_json

SIZE = min(HEIGHT, WIDTH)
CPU = torch.device("cpu")
REFUSED = r"^x: .*(is unknown|cannot match|misreads|Pillow can read)"
LOSSLESS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "WEBP": {"lossless": True, "exact": True},
}  # or nearly so


def recipe(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{"max_epochs": 1, "batch_size": 2, "learning_rate": 0.1, "image_size": SIZE, **changes})


def center(shown: np.ndarray) -> np.ndarray:
    """Crop the center of an upright picture to SIZE×SIZE."""
    top, left = ((side - SIZE) // 2 for side in shown.shape[:2])
    return shown[top : top + SIZE, left : left + SIZE]


def assert_shows(found: Any, one: Picture, cropped: bool = False) -> None:
    """Compare pixels (H, W, C) with what a picture shows; gray pixels may have one channel."""
    assert one.shows is not None, f"{one.kind} was not refused"
    wanted = center(one.shows) if cropped else one.shows
    found = np.asarray(found).astype(int)
    assert found.shape[:2] == wanted.shape[:2], one.kind
    assert np.abs(found - wanted).max() <= one.near, one.kind


def pixels_of(images: Sequence[Image.Image | torch.Tensor]) -> Iterator[np.ndarray | str]:
    """Yield the levels (H, W, C) that a network is given of images in memory, or why one is skipped."""
    for image in images:
        data = [(image, 0)]
        batch = next(feeds(data, data, recipe(), CPU).test.evaluation(torch.arange(1), 1))
        if batch.damaged:
            yield batch.damaged[0].reason
            continue
        levels = batch.images[0].permute(1, 2, 0).numpy()
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if levels.shape[-1] == 3 else (0.5, 0.5)
        yield np.rint(255 * (levels * std + mean))


# Every kind of picture ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKERS)
def test_a_file_decodes_to_what_it_shows_in_every_orientation_or_is_refused_by_name(kind: str) -> None:
    for orientation in range(1, 9):
        one = picture(kind, orientation, seed=orientation)
        if one.shows is None:
            with pytest.raises(DamagedImageError, match=REFUSED) as why:
                decoded(one.data, "x")
            assert "\n" not in str(why.value)
            continue
        found = decoded(one.data, kind)
        assert found.mode == "RGB"
        assert_shows(found, one)


def test_16_bit_gray_is_not_white_and_a_turned_photograph_is_upright(tmp_path: Path) -> None:
    """As the public reports have it: 5,000 and 50,000 were both 255; a camera held sideways gave sideways images."""
    deep = np.where(np.arange(WIDTH) < WIDTH // 2, 5_000, 50_000) * np.ones((HEIGHT, 1), int)
    left, right = round(5_000 / 257), round(50_000 / 257)
    gray = Picture("gray", png(deep, 16, 0), ".png", rgb(np.where(deep == 5_000, left, right)))
    sky = np.where(np.arange(HEIGHT)[:, None, None] < HEIGHT // 2, (90, 160, 250), (90, 60, 20)) + np.zeros(
        (1, WIDTH, 1)
    )
    turned = np.rot90(sky).astype(np.uint8)  # as stored by a camera that was turned to its right
    camera = Image.Exif()
    camera[ORIENTATION] = 6
    photograph = saved(Image.fromarray(turned), "JPEG", exif=camera, **LOSSLESS["JPEG"])
    compare_storages(tmp_path, [gray, Picture("photograph", photograph, ".jpg", rgb(sky), 6)])


def test_the_first_readable_image_of_a_dataset_decides_its_kind() -> None:
    class Torn(list):
        def __getitem__(self, index: Any) -> Any:
            if index == 0:
                raise DamagedImageError("image 0 is torn")
            return super().__getitem__(index)

    data = Torn([(in_mode("L", np.random.default_rng(0))[0], 0)] * 3)
    batch = next(feeds(data, data, recipe(), CPU).test.evaluation(torch.arange(3), 3))
    assert batch.images.shape == (2, 1, SIZE, SIZE) and batch.damaged[0].reason == "image 0 is torn"


def stored(place: Path, pictures: Sequence[Picture]) -> None:
    """Write pictures as class folders, and as shards below `shards`."""
    (place / "shards").mkdir()
    for part in ("train", "val"):
        with tarfile.open(place / f"shards/{part}.tar", "w") as shard:
            for index, one in enumerate(pictures):
                path = place / part / "a" / f"{index}{one.suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(one.data)
                for suffix, data in ((one.suffix, one.data), (".cls", b"0")):
                    member = tarfile.TarInfo(f"{index}{suffix}")
                    member.size = len(data)
                    shard.addfile(member, io.BytesIO(data))


def compare_storages(place: Path, pictures: Sequence[Picture]) -> None:
    """Read pictures from folders, shards and memory, and compare them with what they show."""
    stored(place, pictures)
    for where in (place, place / "shards"):
        images = load("imagenet", where, SIZE).train
        assert isinstance(images, ImageFiles)
        for index, one in enumerate(pictures):
            if one.shows is not None:
                assert_shows(images[index][0], one)
                continue
            with pytest.raises(DamagedImageError) as why:
                images[index]
            assert str(why.value).startswith(f"{images.name(index)}: ")
    opened = [Image.open(io.BytesIO(one.data)) for one in pictures if one.kind != "32 bits float rgb.tif"]
    openable = [one for one in pictures if one.kind != "32 bits float rgb.tif"]
    for _ in range(2):  # an image in memory is not changed by being read
        for one, found in zip(openable, pixels_of(opened), strict=True):
            if one.shows is None:
                assert isinstance(found, str) and found.startswith("image 0: ")
            else:
                assert_shows(found, one, cropped=True)
    for index, one in enumerate(pictures):
        if one.shows is None:
            with pytest.raises(RequestError, match=rf"{index}{one.suffix}: "):
                load("folder", place, SIZE)
            for part in ("train", "val"):
                (place / part / "a" / f"{index}{one.suffix}").unlink()
    shown = [one for one in pictures if one.shows is not None]
    if shown:
        split = load("folder", place, SIZE).train
        assert isinstance(split, Split)
        for one, found in zip(shown, split.images, strict=True):
            assert_shows(found.numpy(), one, cropped=True)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.tuples(st.sampled_from(sorted(MAKERS)), st.integers(1, 8)), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_folders_shards_and_memory_give_the_picture_as_meant(
    tmp_path: Path, kinds: list[tuple[str, int]], seed: int
) -> None:
    place = tmp_path / "pictures"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    compare_storages(place, [picture(kind, orientation, seed) for kind, orientation in kinds])


MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
DEEP = ("I;16", "I;16L", "I;16B", "I;16N")


@pytest.mark.parametrize("mode", [*MODES, *DEEP, "I", "F"])
def test_an_image_in_memory_of_any_mode_is_what_it_shows_or_is_refused(mode: str) -> None:
    for orientation in range(1, 9):
        image, shows, near = in_mode(mode, np.random.default_rng(orientation))
        image.info["exif"] = exif(orientation)
        before = image.tobytes()
        (found,) = pixels_of([image])
        if shows is None:
            assert isinstance(found, str) and "range is unknown" in found
            continue
        assert_shows(found, Picture(mode, b"", "", upright(shows, orientation), near), cropped=True)
        assert image.tobytes() == before and image.info == {"exif": exif(orientation)}
        assert np.asarray(found).shape[-1] == (1 if mode in ("1", "L", "LA", "La", *DEEP) else 3)


def test_gray_and_color_images_in_one_set_take_the_kind_of_the_first() -> None:
    gray, color = in_mode("L", np.random.default_rng(0))[0], in_mode("RGB", np.random.default_rng(1))[0]
    mixed = [(color, 0), (gray, 0)]
    batch = next(feeds(mixed, mixed, recipe(), CPU).test.evaluation(torch.arange(2), 2))
    assert batch.images.shape == (2, 3, SIZE, SIZE) and not batch.damaged
    mixed.reverse()
    batch = next(feeds(mixed, mixed, recipe(), CPU).test.evaluation(torch.arange(2), 2))
    assert batch.images.shape == (1, 1, SIZE, SIZE)
    assert (
        batch.damaged[0].reason == "image 1: mode RGB, but the dataset's first image is gray; convert all to one mode"
    )


def test_a_truncated_image_opened_by_a_dataset_is_corrupt_and_named() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), "JPEG")
    data = [(Image.open(io.BytesIO(one)), 0) for one in (whole, whole[:-60])]
    batch = next(feeds(data, data, recipe(), CPU).test.evaluation(torch.arange(2), 2))
    assert batch.indices.tolist() == [0]
    assert batch.damaged[0].index == 1 and batch.damaged[0].reason.startswith("image 1: image file is truncated")


# Arrays and tensors ---------------------------------------------------------------------------------------------------


def test_arrays_and_tensors_of_16_bits_are_rescaled_and_those_of_unknown_range_are_refused() -> None:
    deep = np.array([0, 1, 128, 129, 5_000, 50_000, 65_534, 65_535], np.uint16)
    assert as_uint8(deep).tolist() == np.rint(deep / 257).tolist()
    assert as_uint8(deep > 200).tolist() == (255 * (deep > 200)).tolist()
    assert as_uint8(deep.astype(np.uint8)).tolist() == deep.astype(np.uint8).tolist()
    levels = blocks(np.random.default_rng(0), 3, 2**16).astype(np.uint16)
    (found,) = pixels_of([torch.from_numpy(levels).permute(2, 0, 1)])
    assert_shows(found, Picture("uint16", b"", "", rgb(levels / 257)), cropped=True)
    for kind in ("int64", "int32", "int16", "int8", "float32"):
        with pytest.raises(ValueError, match=f"images of type {kind}, whose range is unknown"):
            as_uint8(deep.astype(kind))
    numbers = [(torch.full((3, SIZE, SIZE), 200), 0)]
    with pytest.raises(ValueError, match="images of type int64, whose range is unknown; convert them to uint8"):
        feeds(numbers, numbers, recipe(), CPU)


# Color profiles and gamma ---------------------------------------------------------------------------------------------


def with_profile(form: str, levels: np.ndarray, profile: bytes) -> bytes:
    """Write levels (H, W) or (H, W, C) with a color profile."""
    if form == "16-bit PNG":
        chunk = b"x\0\0" + zlib.compress(profile)
        return png(levels * 257, 16, 0 if levels.ndim == 2 else 2, (b"iCCP", chunk))
    image = Image.fromarray(levels.astype(np.uint8), "CMYK" if levels.shape[-1:] == (4,) else None)
    options = LOSSLESS.get(form, {})
    return saved(image, form, icc_profile=profile, **options)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "16-bit PNG"])
@pytest.mark.parametrize(
    ("primaries", "gamma"), [(ADOBE, 2.2), (SRGB, 1.0), (SRGB[:, ::-1], 1.8)], ids=["Adobe RGB", "linear", "BGR"]
)
def test_colors_are_converted_from_the_embedded_profile(form: str, primaries: np.ndarray, gamma: float) -> None:
    levels = blocks(np.random.default_rng(5), 3)
    linear = (levels / 255) ** (round(gamma * 256) / 256) @ primaries.T @ np.linalg.inv(SRGB).T
    data = with_profile(form, levels, rgb_profile(primaries, gamma))
    wanted = Picture(form, data, "", rgb(encoded(linear)), 12 if form == "JPEG" else 3)
    assert_shows(decoded(data, form), wanted)
    (found,) = pixels_of([Image.open(io.BytesIO(data)).convert("RGB")])  # as torchvision's loader: info is kept
    assert_shows(found, wanted, cropped=True)
    assert np.abs(rgb(encoded(linear)).astype(int) - levels).max() > 10  # the profile matters


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "16-bit PNG"])
def test_gray_levels_are_converted_from_a_gray_profile(form: str) -> None:
    levels = blocks(np.random.default_rng(5))
    data = with_profile(form, levels, gray_profile(1.0))
    wanted = Picture(form, data, "", rgb(encoded(levels / 255)), 12 if form == "JPEG" else 2)
    assert_shows(decoded(data, form), wanted)
    (found,) = pixels_of([Image.open(io.BytesIO(data))])
    assert np.asarray(found).shape[-1] == 1
    assert_shows(found, wanted, cropped=True)


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_inks_are_converted_from_a_cmyk_profile(form: str) -> None:
    """With the profile's own colors of no and full ink, which are not those of a simple formula."""
    chance = np.random.default_rng(2)
    lab = np.stack([chance.integers(30, 70, (2,) * 4), *chance.integers(-20, 20, (2, 2, 2, 2, 2))], -1)
    lab[0, 0, 0, 0], lab[..., 1, :] = (100, 0, 0), 0  # white paper and black ink: nothing is left to adapt
    inks = blocks(chance, 4, 2)
    data = with_profile(form, inks * 255, cmyk_profile(lab))
    shows = rgb(from_lab(lab[tuple(np.moveaxis(inks, -1, 0))].astype(float)))
    assert_shows(decoded(data, form), Picture(form, data, "", shows, 6))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_srgb_profiles_and_profiles_that_cannot_be_used_leave_every_level(form: str) -> None:
    levels = blocks(np.random.default_rng(3), 3)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    adobe = rgb_profile(ADOBE, 2.2)
    broken = (b"\0", b"not a profile", adobe[:200], adobe[:36] + b"nope" + adobe[40:], adobe.replace(b"rTRC", b"xTRC"))
    plain = decoded(with_profile(form, levels, b""), "plain").tobytes()
    for profile in (srgb, rgb_profile(SRGB, 2.2), gray_profile(1.0), cmyk_profile(np.zeros((2, 2, 2, 2, 3))), *broken):
        near = 12 if profile == rgb_profile(SRGB, 2.2) else 0  # a power function differs from sRGB's in dark colors
        found = decoded(with_profile(form, levels, profile), "some").tobytes()
        difference = np.frombuffer(found, np.uint8).astype(int) - np.frombuffer(plain, np.uint8)
        assert np.abs(difference).max() <= near


def test_transparent_pixels_are_converted_before_they_are_composited() -> None:
    values = blocks(np.random.default_rng(5), 4)
    data = saved(Image.fromarray(values.astype(np.uint8)), "PNG", icc_profile=rgb_profile(SRGB, 1.0))
    shows = rgb(on_white(encoded(values[..., :3] / 255), values[..., 3] / 255))
    assert_shows(decoded(data, "x"), Picture("x", data, ".png", shows, 3))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [0, 3])
def test_a_png_s_gamma_is_applied_unless_it_is_that_of_srgb(depth: int, channels: int) -> None:
    values = blocks(np.random.default_rng(4), channels, 2**depth)
    light = values / (2**depth - 1)
    for gamma, shows in ((100_000, encoded(light)), (62_500, encoded(light**1.6)), (45_455, light * 255)):
        chunk = (b"gAMA", struct.pack(">I", gamma))
        data = png(values, depth, 2 if channels else 0, chunk)
        near = 13 if depth == 16 and channels else 1  # Pillow keeps eight bits, few for dark colors
        assert_shows(decoded(data, "x"), Picture("x", data, ".png", rgb(shows), near))
        data = png(values, depth, 2 if channels else 0, chunk, (b"sRGB", b"\0"))
        assert_shows(decoded(data, "x"), Picture("x", data, ".png", rgb(light * 255), 1))


# Frames, broken metadata, truncated files -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_first_frame_is_taken(form: str) -> None:
    first, *others = (
        Image.fromarray(blocks(np.random.default_rng(seed), 3).astype(np.uint8)).quantize(6).convert("RGB")
        for seed in range(3)
    )
    options = LOSSLESS.get(form, {})
    data = saved(first, form, save_all=True, append_images=others, **options)
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert_shows(decoded(data, form), Picture(form, data, "", np.asarray(first), 3 if form == "AVIF" else 0))


def test_a_transparent_gif_is_composited() -> None:
    values = blocks(np.random.default_rng(0), 0, 4).astype(np.uint8)
    image = Image.frombytes("P", (WIDTH, HEIGHT), values.tobytes())
    palette = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [9, 9, 9]])
    image.putpalette(palette.astype(np.uint8).tobytes())
    data = saved(image, "GIF", transparency=2)
    shows = np.where((values == 2)[..., None], 255, palette[values])
    assert_shows(decoded(data, "x"), Picture("GIF", data, ".gif", rgb(shows)))


def test_a_gif_whose_first_frame_is_smaller_than_its_screen_is_white_around_it() -> None:
    for transparent in (False, True):
        frame = Image.new("P", (8, 6), 1)
        frame.putpalette([200, 0, 0, 0, 200, 0])
        frame.putpixel((2, 3), 0)
        data = bytearray(saved(frame, "GIF", **({"transparency": 0} if transparent else {})))
        data[6:10] = struct.pack("<HH", WIDTH, HEIGHT)
        shows = np.full((HEIGHT, WIDTH, 3), 255)
        shows[:6, :8] = (0, 200, 0)
        shows[3, 2] = 255 if transparent else (200, 0, 0)
        opened = Image.open(io.BytesIO(data))
        for found in (decoded(bytes(data), "x"), shown(opened, "x"), shown(opened, "x")):
            assert_shows(found, Picture("GIF", bytes(data), ".gif", rgb(shows)))


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_without_meaning_is_ignored(orientation: int) -> None:
    one = picture("JPEG RGB.jpg", 1, 0)
    marked = saved(Image.open(io.BytesIO(one.data)), "JPEG", exif=b"Exif\0\0" + exif(orientation), quality="keep")
    assert_shows(decoded(marked, "x"), Picture("x", marked, ".jpg", one.shows, 12))


def test_exif_and_xmp_that_agree_turn_an_image_once() -> None:
    values = blocks(np.random.default_rng(1), 3)
    image = Image.fromarray(values.astype(np.uint8))
    for orientation in range(2, 9):
        xmp = f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()
        wanted = rgb(upright(values, orientation))
        by_exif = Image.Exif()
        by_exif[ORIENTATION] = orientation
        for data in (
            saved(image, "TIFF", tiffinfo={ORIENTATION: orientation, 700: xmp}),
            saved(image, "WEBP", exif=by_exif, xmp=xmp, lossless=True),
        ):
            assert_shows(decoded(data, "x"), Picture("x", data, "", wanted))


def test_broken_exif_does_not_hide_an_image() -> None:
    one = picture("JPEG RGB.jpg", 1, 0)
    for spoiled in (b"", b"II*\0", exif(6)[:15], b"\xff" * 40, b"II*\0\xff\xff\xff\xff" + bytes(range(40))):
        marked = saved(Image.open(io.BytesIO(one.data)), "JPEG", exif=b"Exif\0\0" + spoiled, quality="keep")
        assert_shows(decoded(marked, "x"), Picture("x", marked, ".jpg", one.shows, 12))


def test_a_png_with_more_metadata_than_pillow_allows_is_read() -> None:
    values = blocks(np.random.default_rng(1), 3)
    history = PngImagePlugin.PngInfo()
    history.add_itxt("XML:com.adobe.xmp", "<step/>" * 300_000, zip=True)
    data = saved(Image.fromarray(values.astype(np.uint8)), "PNG", pnginfo=history)
    with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"), Image.open(io.BytesIO(data)) as image:
        image.load()
    assert_shows(decoded(data, "x"), Picture("x", data, ".png", rgb(values)))


# Very large images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG RGB.png", "TIFF RGB.tiff", "WEBP RGBA.webp", "JPEG RGB.jpg"])
def test_pillows_limit_on_large_images_is_named_and_can_be_raised(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, kind: str
) -> None:
    one = picture(kind, 1, 0)
    says = r"^x: 24×16 pixels, more than {}; to decode it, set the environment variable ABLATIONS_MAX_PIXELS=384$"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DamagedImageError, match=says.format(200)):
        decoded(one.data, "x")
    monkeypatch.setenv("ABLATIONS_MAX_PIXELS", "384")
    assert_shows(decoded(one.data, "x"), one)
    assert Image.MAX_IMAGE_PIXELS == 100  # the process's own limit is left alone
    monkeypatch.setenv("ABLATIONS_MAX_PIXELS", "383")
    with pytest.raises(DamagedImageError, match=says.format(383)):
        decoded(one.data, "x")
    monkeypatch.delenv("ABLATIONS_MAX_PIXELS")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert_shows(decoded(one.data, "x"), one)
    assert not recwarn.list


@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_the_limit_on_large_images_is_named_and_checked_by_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for part in ("train", "val"):
        path = tmp_path / part / "a" / "0.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture("PNG RGB.png", 1, 0).data)
    where: tuple[str | Path, ...] = ("data", name, "--data-dir", tmp_path)
    assert ablations_here(*where).returncode == 0
    for text in ("0", "-1", "none", "", "1e9"):
        monkeypatch.setenv("ABLATIONS_MAX_PIXELS", text)
        done = ablations_here(*where)
        said = f"environment variable ABLATIONS_MAX_PIXELS={text!r}: must be a positive integer"
        assert done.returncode == 2 and done.stderr.strip().endswith(said) and done.stderr.count("\n") == 1
    monkeypatch.setenv("ABLATIONS_MAX_PIXELS", "100")
    if name == "folder":
        done = ablations_here(*where)
        assert done.returncode == 2 and "train/a/0.png: 24×16 pixels, more than 100; to decode it, set" in done.stderr


# `folder` and `imagenet` ----------------------------------------------------------------------------------------------


def photographs(place: Path) -> Path:
    """Pictures that are wider or higher than square, in two classes, with subfolders."""
    chance = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for index in range(count):
            shape = (int(chance.integers(20, 60)), int(chance.integers(20, 60)), 3)
            image = Image.fromarray(chance.integers(0, 256, shape, dtype=np.uint8))
            path = place / part / "ab"[index % 2] / ("deep" if index > 4 else "") / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            by_exif = Image.Exif()
            by_exif[ORIENTATION] = 1 + index % 8
            image.save(path, quality=95, exif=by_exif)
    return place


def tensors(data: DataSet, config: TrainingConfig) -> dict[str, torch.Tensor]:
    """Return a dataset's training and test images as a network is given them, as levels from 0 to 255."""
    fed = feeds(data.train, data.test, config, CPU)
    micro_batch = MicroBatch(0, 0, 0, torch.arange(len(data.train)))
    found = {
        "train": next(fed.train.training([micro_batch], config, 3)),
        "test": next(fed.test.evaluation(torch.arange(len(data.test)), 100)),
    }
    if isinstance(data.train, Split):
        mean, std = (statistic[:, None, None] for statistic in mean_and_std(data.train))
    else:
        mean, std = (255 * torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return {part: batch.images * std + mean for part, batch in found.items()}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_folder_and_imagenet_give_the_same_tensors(tmp_path: Path, interpolation: str) -> None:
    place = photographs(tmp_path)
    config = recipe(batch_size=8, interpolation=interpolation)
    folder, imagenet = (load(name, place, SIZE, interpolation=interpolation) for name in ("folder", "imagenet"))
    assert folder.train.labels.tolist() == imagenet.train.labels.tolist()
    one, other = tensors(folder, config), tensors(imagenet, config)
    for part in ("train", "test"):
        assert one[part].shape == other[part].shape
        torch.testing.assert_close(one[part], other[part], rtol=0, atol=1e-3)


def test_random_flips_and_crops_of_folder_and_imagenet_are_of_the_same_images(tmp_path: Path) -> None:
    place = photographs(tmp_path)
    config = recipe(batch_size=8, horizontal_flip=True, crop_padding=2)
    plain = tensors(load("folder", place, SIZE), recipe(batch_size=8))["train"]
    padded = torch.nn.functional.pad(plain, (2, 2, 2, 2))
    for name in ("folder", "imagenet"):
        for index, found in enumerate(tensors(load(name, place, SIZE), config)["train"]):
            crops = [padded[index, :, y : y + SIZE, x : x + SIZE] for y in range(5) for x in range(5)]
            assert any(torch.allclose(found, crop, atol=1e-3) for one in crops for crop in (one, one.flip(-1))), (
                f"{name} {index}"
            )


_JPEG2000 = {  # white images of 8×8, encoded by OpenJPEG; Pillow writes none of these
    "16 bits, RGB": "/0//UQAvAAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAADDwEBDwEBDwEB/1IADAAAAAEA"
    "AAQEAAH/XAAEQID/kAAKAAAAAAApAAH/k8/8MBQUAFyvh8/8MBQUAFyvh8/8MBQUAFyvh//Z",
    "12 bits, LA": "/0//UQAsAAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAACCwEBCwEB/1IADAAAAAEAAAQE"
    "AAH/XAAEQGD/kAAKAAAAAAAeAAH/k8/kFBQAXK+Hz+QUFABcr4f/2Q==",
    "signed": "/0//UQApAAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABjwEB/1IADAAAAAEAAAQEAAH/"
    "XAAEQID/kAAKAAAAAAAXAAH/k8/8MBQUAFyvh//Z",
    "12 bits, L": "/0//UQApAAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABCwEB/1IADAAAAAEAAAQEAAH/"
    "XAAEQGD/kAAKAAAAAAAWAAH/k8/kFBQAXK+H/9k=",
}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("16 bits, RGB", "it has 16 bits per channel, which Pillow misreads"),
        ("12 bits, LA", "it has 12 bits per channel, which Pillow misreads"),
        ("signed", "its values are signed integers"),
    ],
)
def test_jpeg_2000_whose_white_would_be_black_is_refused(kind: str, reason: str) -> None:
    data = base64.b64decode(_JPEG2000[kind])
    for read in (lambda: decoded(data, "x"), lambda: header(io.BytesIO(data), "x")):
        with pytest.raises(DamagedImageError, match=f"^x: {reason}"):
            read()
    (found,) = pixels_of([Image.open(io.BytesIO(data))])
    assert isinstance(found, str) and reason in found


@pytest.mark.parametrize("form", ["BMP", "PPM"])
def test_a_truncated_image_that_is_opened_but_not_yet_decoded_is_unreadable(form: str) -> None:
    whole = saved(Image.new("RGB", (SIZE, SIZE)), form)
    (found,) = pixels_of([Image.open(io.BytesIO(whole[: len(whole) // 2]))])
    assert isinstance(found, str) and "truncated" in found


def test_deep_gray_jpeg_2000_is_rescaled() -> None:
    assert decoded(base64.b64decode(_JPEG2000["12 bits, L"]), "x").getextrema() == ((255, 255),) * 3


def test_folder_refuses_a_recipe_that_crops_whole_images_and_points_to_imagenet(tmp_path: Path) -> None:
    place, out = photographs(tmp_path / "data"), tmp_path / "out"
    small = ("--set", f"image_size={SIZE}", "--set", "batch_size=4", "--data-dir", place, "--out", out)
    train, study = ("train", "pocket"), ("run", "one-in", "--base", "pocket")
    plain = ("--set", "crop_padding=0")
    commands: list[tuple[tuple[str, ...], str, str]] = [
        ((*train, "--recipe", "paper_enhanced"), "paper_enhanced", "crop_scale"),
        ((*train, *plain, "--set", "crop_scale=[0.5, 1]"), "quick", "crop_scale"),
        ((*train, *plain, "--set", "evaluation_crop=0.875"), "quick", "evaluation_crop"),
        ((*train, *plain, "--set", "evaluation_size=9"), "quick", "evaluation_size"),
        ((*study, "--recipe", "paper_original"), "paper_original", "crop_scale"),
    ]
    for command, name, setting in commands:
        done = ablations_here(*command, "--data", "folder", *small)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        said = f"recipe {name} crops whole images ({setting}); use --data imagenet, which reads the same folders"
        assert said in done.stderr
    assert not out.exists()


def test_the_papers_crops_from_imagenet_reach_the_sides_of_wide_images(tmp_path: Path) -> None:
    """A square crop of the center would hide the red and blue sides."""
    wide = np.zeros((20, 80, 3), np.uint8)
    wide[:, :20, 0] = wide[:, 60:, 2] = 255
    for part in ("train", "val"):
        for index in range(2):
            path = tmp_path / part / "a" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(wide).save(path)
    off = {"randaugment": "null", "randaugment_std": "null", "erasing": "0"}
    config = load_recipe("paper_enhanced", {"image_size": str(SIZE), "batch_size": "2", **off})
    seen = set()
    for seed in range(30):
        data = load("imagenet", tmp_path, SIZE)
        training = feeds(data.train, data.test, config, CPU).train
        batch = next(training.training([MicroBatch(0, 0, 0, torch.arange(2))], config, seed))
        levels = batch.images * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]
        seen |= {channel for channel in (0, 2) if (levels[:, channel] > 0.9).any()}
    assert seen == {0, 2}


# Runs of earlier versions ---------------------------------------------------------------------------------------------


def forget_decoder(run: Path) -> None:
    """Make an unfinished run's folder as an earlier version made it."""
    (run / "result.json").unlink()
    sessions = read_json(run / "environment.json")["sessions"]
    for session in sessions:
        assert session.pop("decoder") == VERSION
    write_json(run / "environment.json", {"sessions": sessions})


def resumes_and_says_so(run: Path, *command: str | Path) -> None:
    """Train, make the run's folder an earlier version's, and resume it: one line says that pixels differ."""
    small = [word for one in (f"image_size={SIZE}", "batch_size=4", "max_epochs=1") for word in ("--set", one)]
    command = (*command, "--data", "imagenet", *small, "--device", "cpu")
    assert ablations_here(*command).returncode == 0
    forget_decoder(run)
    done = ablations_here(*command)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "began with an earlier version" in line]
    assert "1 run began" in line and "orientation" in line and "Choose another --out" in line
    assert read_json(run / "result.json")["status"] == "done"


def test_a_run_that_began_with_other_pixels_says_so_and_resumes(tmp_path: Path) -> None:
    run, place = tmp_path / "run", photographs(tmp_path / "data")
    design = "pocket,depths=1-1,width=4"
    resumes_and_says_so(run, "train", design, "--data-dir", place, "--threads", "1", "--out", run)


@pytest.mark.slow
def test_a_study_that_began_with_other_pixels_says_so_and_resumes(tmp_path: Path) -> None:
    study, place = tmp_path / "study", photographs(tmp_path / "data")
    rows = ("--base", "pocket,depths=1-1,width=4", "--flags", "kernel_size=3:5", "--seeds", "0", "--jobs", "1")
    run = study / "runs/kernel_size=3-s0"
    resumes_and_says_so(run, "run", "sweep", *rows, "--data-dir", place, "--out", study)


def test_a_folder_whose_pixels_have_changed_is_other_data(tmp_path: Path) -> None:
    """Its checksum covers the pixels."""
    place = photographs(tmp_path / "data")
    before = load("folder", place, SIZE).checksum
    path = place / "train/a/0.jpg"
    with Image.open(path) as image:
        image.load()
    turned = Image.Exif()
    turned[ORIENTATION] = 3
    image.save(path, quality="keep", exif=turned)
    assert load("folder", place, SIZE).checksum != before


# Headers --------------------------------------------------------------------------------------------------------------


def test_a_header_has_mode_and_upright_size_without_decoding_pixels() -> None:
    kinds = {"JPEG L.jpg": "L", "PNG RGB.png": "RGB", "TIFF CMYK.tiff": "CMYK", "WEBP RGBA.webp": "RGBA"}
    for kind, mode in kinds.items():
        for orientation in range(1, 9):
            one = picture(kind, orientation, 0)
            assert one.shows is not None
            found = header(io.BytesIO(one.data), "x")
            assert (found.mode, found.height, found.width) == (mode, *one.shows.shape[:2])
    for data in (b"", b"words", picture("32 bits float.tif", 1, 0).data):
        with pytest.raises(DamagedImageError, match=r"^x: "):
            header(io.BytesIO(data), "x")


def test_a_tiff_with_xmp_is_turned_once() -> None:
    """Pillow turns TIFF itself, but keeps the orientation of the header where there is XMP."""
    values = blocks(np.random.default_rng(0), 3, 256).astype(np.uint8)
    for orientation in range(1, 9):
        buffer = io.BytesIO()
        tags = {ORIENTATION: orientation, 700: b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"}
        Image.fromarray(values).save(buffer, "TIFF", tiffinfo=tags)
        wanted = upright(values, orientation)
        assert np.array_equal(np.asarray(decoded(buffer.getvalue(), "x")), wanted)
        found = header(buffer, "x")
        assert (found.height, found.width) == wanted.shape[:2]
